"""The python blocks of docstrings and pages, and how they are run."""

import ctypes
import gc
import pathlib
import re
import sys
import textwrap

import tfp_conditional as tfpc
from tfp_conditional.flows import density

PACKAGE = pathlib.Path(tfpc.__file__).parent
REPOSITORY = pathlib.Path(__file__).parent.parent


def of(text):
    return [textwrap.dedent(block) for block in
            re.findall(r'^[ ]*```python\n(.*?)^[ ]*```', text, re.S | re.M)]


def make_defaults_small(monkeypatch):
    """A default flow takes seconds to trace: those of the examples have two couplings."""
    init = tfpc.ConditionalRealNVP.__init__
    monkeypatch.setattr(init, '__defaults__', (2, (8,), *init.__defaults__[2:]))
    monkeypatch.setitem(density.DEFAULTS, 'num_coupling_layers', 2)


def run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        exec(compile(block, '<example>', 'exec'), {'__name__': 'example'})
    finally:
        # A page leaves what it made in cycles, and the C library keeps what is freed.
        gc.collect()
        if sys.platform == 'linux':
            getattr(ctypes.CDLL(None), 'malloc_trim', lambda _: None)(0)
