"""Every python block in docstrings, README.md and docs/ runs; the site builds."""

import ast
import importlib.util
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

import tfp_conditional as tfpc
from tfp_conditional.flows import density

PACKAGE = pathlib.Path(tfpc.__file__).parent
REPOSITORY = pathlib.Path(__file__).parent.parent


def _blocks(text):
    return [textwrap.dedent(block) for block in
            re.findall(r'^[ ]*```python\n(.*?)^[ ]*```', text, re.S | re.M)]


def _examples():
    for path in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                name = f'{path.stem}.{getattr(node, "name", "")}'
                for i, block in enumerate(_blocks(ast.get_docstring(node) or '')):
                    yield pytest.param(block, id=f'{name}-{i}')
    for path in [REPOSITORY / 'README.md',
                 *sorted((REPOSITORY / 'docs').glob('*.md'))]:
        # Blocks of one page are one story.
        blocks = _blocks(path.read_text())
        if blocks:
            yield pytest.param('\n'.join(blocks), id=path.name)


def _make_defaults_small(monkeypatch):
    """A default flow takes seconds to trace: those of the examples have two couplings."""
    init = tfpc.ConditionalRealNVP.__init__
    monkeypatch.setattr(init, '__defaults__', (2, (8,), *init.__defaults__[2:]))
    monkeypatch.setitem(density.DEFAULTS, 'num_coupling_layers', 2)


@pytest.mark.parametrize('block', list(_examples()))
def test_example_runs(block, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if 'README' not in request.node.name:      # There defaults are as they are.
        _make_defaults_small(monkeypatch)
    exec(compile(block, '<example>', 'exec'), {'__name__': 'example'})


# Blocks that name a peer run where it is installed, each in a process of its own.
_PAGE = (REPOSITORY / 'docs' / 'coming_from.md').read_text()
_PEERS = dict(re.findall(r'```py title="(\w+)"\n(.*?)```', _PAGE, re.S))


@pytest.mark.parametrize('peer', ['bayesflow', 'flowjax', 'nflows', 'zuko'])
def test_peers_example_runs(peer, tmp_path):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f'{peer} is not installed')
    data = _blocks(_PAGE)[0]
    subprocess.run([sys.executable, '-c', data + _PEERS[peer]], check=True, cwd=tmp_path)


def test_reference_has_every_public_name():
    text = ''.join(path.read_text() for path in (REPOSITORY / 'docs/api').glob('*.md'))
    listed = set(re.findall(r'^::: tfp_conditional\.(\w+)$', text, re.M))
    # First names of what is there by its last one.
    aliases = {'conditional_real_nvp_template', 'exportable'}
    assert listed == set(tfpc.__all__) - aliases - {'embeddings'}
    listed = re.findall(r'^::: tfp_conditional\.embeddings\.(\w+)$', text, re.M)
    assert set(listed) == set(tfpc.embeddings.__all__)


def test_site_builds_without_warnings(tmp_path):
    for module in ('black', 'material', 'mkdocs', 'mkdocstrings'):
        pytest.importorskip(module)
    subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet',
                    '--config-file', str(REPOSITORY / 'docs/site/mkdocs.yml'),
                    '--site-dir', str(tmp_path / 'site')], check=True)
    assert (tmp_path / 'site/api/flows/index.html').exists()
