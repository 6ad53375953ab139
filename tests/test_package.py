"""The public names, and the one-way arrows between the modules."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import tfp_conditional as tfpc

ROOT = pathlib.Path(tfpc.__file__).parent

# Each room, and each module in it, may import those before it, never one after it.
ORDER = {
    '_version': (),
    'core': ('_tfp', 'types', 'seeds', 'dropout', 'progress', 'compiled', 'one_pass',
             'conditions', 'bijector', 'serving', 'distribution', 'ensemble'),
    'transformers': ('transformer', 'affine', 'spline'),
    'networks': ('network', 'mlp', 'residual', 'made', 'custom', 'template'),
    'embeddings': ('masks', 'embedding', 'deep_set', 'set_transformer', 'time_series',
                   'image'),
    'bijectors': ('settings', 'coupling', 'autoregressive', 'unconditional', 'mixing',
                  'squash', 'bounds', 'tails', 'gaussianization', 'steps', 'adapt',
                  'chain', 'regression', 'standardize', 'embedding', 'angles',
                  'support'),
    'flows': ('stack', 'real_nvp', 'masked_autoregressive', 'density',
              'cell_noise', 'quantized'),
    'export': (), 'config': (), 'weights': (),
    'fitting': ('hooks', 'data', 'optimizer', 'training', 'programs', 'workers', 'validation',
                'checkpoint', 'fit'),
    'posterior': ('conditioned', 'mode', 'regions', 'truncation', 'resampling', 'mcmc'),
    'calibration': ('uniformity', 'ranks', 'conformal', 'classifiers', 'diagnostics'),
    'plot': (),
    'testing': ('subject', 'check', 'values', 'state', 'densities', 'checks',
                'strategies'),
    'keras': ('layer', 'model', 'tf_keras'),
    'rl': ('spaces', 'features', 'actor', 'policy', 'replay', 'soft_actor_critic',
           'environments', 'training', 'hierarchy', 'point_mass'),
}
PLACES = [(room, *module) for room, modules in ORDER.items()
          for module in [(), *zip(modules)]]

PUBLIC = {
    'ActNorm', 'Additive', 'Affine', 'Circular', 'CircularRationalQuadratic',
    'ConditionalAutoregressive',
    'ConditionalBijector', 'ConditionalChain', 'ConditionalCoupling',
    'ConditionalElementwise', 'ConditionalEmbedding', 'ConditionalEnsemble',
    'ConditionalMaskedAutoregressiveFlow', 'ConditionalRealNVP',
    'ConditionalRealNVPTemplate', 'ConditionalTransformedDistribution', 'Exportable',
    'Gaussianization', 'InvertibleLinear',
    'MLP', 'Quantized', 'RationalQuadratic', 'ResidualNetwork', 'Simplex', 'SoftBounds',
    'Squash',
    'Standardized', 'Tails', 'Transformer',
    'conditional_density', 'conditional_real_nvp_template', 'embeddings',
    'exportable', 'fit',
    'from_config', 'given', 'load_weights', 'support_bijector', 'to_config',
    'training',
}


def test_public_names():
    assert set(tfpc.__all__) == PUBLIC
    assert all(hasattr(tfpc, name) for name in tfpc.__all__)
    assert tfpc.__all__ == sorted(tfpc.__all__)
    assert all(getattr(tfpc, name).__doc__ for name in tfpc.__all__)


def _place(names):
    """Where a module stands in `PLACES`, of its dotted name without the package's."""
    place = tuple(names)
    while place and place not in PLACES:    # What is imported may be no module.
        place = place[:-1]
    return PLACES.index(place)


def _imports(path):
    """Places of what a file imports from the package when it is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == (
                'tfp_conditional'):
            for alias in node.names:
                yield _place([*node.module.split('.')[1:], alias.name])


@pytest.mark.parametrize('path', sorted(
    path for path in ROOT.rglob('*.py') if path != ROOT / '__init__.py'),
    ids=lambda path: '.'.join(path.relative_to(ROOT).parts))
def test_imports_point_one_way(path):
    names = path.relative_to(ROOT).with_suffix('').parts
    if names[-1] == '__init__':
        # It is where the names of the room come together, after all of its modules.
        here = PLACES.index(names[:-1]) + 1 + len(ORDER[names[0]])
    else:
        assert names in PLACES, f'add {".".join(names)} to ORDER'
        here = PLACES.index(names)
    assert all(place < here for place in _imports(path))


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


OTHER_BACKEND = '''
import sys
import tfp_conditional
assert tfp_conditional.__version__
extra = sys.modules.keys() & {
    'hypothesis', 'gymnasium', 'tfp_conditional.testing', 'tfp_conditional.calibration',
    'tfp_conditional.plot', 'tfp_conditional.posterior', 'tfp_conditional.rl',
    'tfp_conditional.keras'}
assert not extra, extra

import tfp_conditional.keras.tf_keras as tfpk
tfpk.LearnableConditionalRealNVP(2, 3, num_coupling_layers=1, hidden_layers=(4,))
try:
    from tfp_conditional.keras import FlowLayer
except ImportError as error:
    assert 'Set KERAS_BACKEND=tensorflow' in str(error), error
else:
    raise AssertionError
'''


def test_import_needs_no_extra_and_no_backend_of_keras():
    """No optional part comes with the package; Keras 3 of another backend is refused."""
    subprocess.run([sys.executable, '-c', OTHER_BACKEND], check=True, env={
        **os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3', 'KERAS_BACKEND': 'numpy'},
                   cwd=ROOT.parent)
