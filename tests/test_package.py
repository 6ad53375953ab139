"""The public names, and the one-way arrows between the modules."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import tfp_conditional as tfpc

ROOT = pathlib.Path(tfpc.__file__).parent

# Each module may import those before it, never one after it.
ORDER = ['_version', '_tfp', 'dropout', 'compiled', 'one_pass', 'conditions',
         'bijector', 'distribution', 'transformers', 'spline', 'networks', 'settings',
         'coupling', 'mixing', 'squash', 'bounds', 'tails', 'chain', 'real_nvp',
         'autoregressive', 'standardize', 'embedding', 'support', 'density', 'template',
         'export', 'fit', 'calibration', 'plot', 'testing', 'keras']

PUBLIC = {
    'ActNorm', 'Additive', 'Affine', 'ConditionalAutoregressive',
    'ConditionalBijector', 'ConditionalChain', 'ConditionalCoupling',
    'ConditionalElementwise', 'ConditionalEmbedding',
    'ConditionalMaskedAutoregressiveFlow', 'ConditionalRealNVP',
    'ConditionalTransformedDistribution', 'InvertibleLinear',
    'MLP', 'RationalQuadratic', 'ResidualNetwork', 'SoftBounds', 'Squash',
    'Standardized', 'Tails', 'Transformer',
    'conditional_density', 'conditional_real_nvp_template', 'exportable', 'fit',
    'given', 'support_bijector', 'training',
}


def test_public_names():
    assert set(tfpc.__all__) == PUBLIC
    assert all(hasattr(tfpc, name) for name in tfpc.__all__)
    assert tfpc.__all__ == sorted(tfpc.__all__)
    assert all(getattr(tfpc, name).__doc__ for name in tfpc.__all__)


def _imports(path):
    """Modules of the package that a file imports when it is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == 'tfp_conditional':
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith(
                'tfp_conditional.'):
            yield node.module.split('.')[1]


@pytest.mark.parametrize('path', sorted(ROOT.rglob('*.py')), ids=lambda p: p.name)
def test_imports_point_one_way(path):
    module = path.relative_to(ROOT).parts[0].removesuffix('.py')
    if module == '__init__':
        return
    assert module in ORDER, f'add {module} to ORDER'
    allowed = set(ORDER[:ORDER.index(module) + (path.parent != ROOT)])
    assert set(_imports(path)) <= allowed


def test_private_parts_are_used_in_one_file_only():
    for path in ROOT.rglob('*.py'):
        text = path.read_text()
        assert 'tensorflow_probability.python' not in text, path
        assert 'tensorflow.python' not in text or path.name == '_tfp.py', path


def test_nothing_looks_at_the_call_stack():
    for path in ROOT.rglob('*.py'):
        text = path.read_text()
        for name in ('_getframe', 'currentframe', 'inspect.stack', 'f_back'):
            assert name not in text, (path, name)


def test_import_needs_no_extra():
    """Neither hypothesis nor an optional part comes with the package."""
    code = ('import sys, tfp_conditional as t; extra = [m for m in sys.modules if '
            'm in ("hypothesis", "gymnasium", '
            '"tfp_conditional.testing", "tfp_conditional.calibration", '
            '"tfp_conditional.plot", "tfp_conditional.keras")]; '
            'assert not extra, extra; assert t.__version__')
    subprocess.run([sys.executable, '-c', code], check=True,
                   env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'},
                   cwd=ROOT.parent)
