"""What is checked without running the code: its style, its types, the list of fast tests."""

import importlib
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

from tests import fast

ROOT = pathlib.Path(__file__).parent.parent

MODULES = ('', '.calibration', '.embeddings', '.keras', '.keras.tf_keras', '.plot',
           '.posterior', '.rl', '.rl.hierarchy', '.rl.point_mass', '.testing')


def check(tool, *arguments):
    """Runs a module on the repository; fails with what it says."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f'{tool} is not installed')
    found = subprocess.run([sys.executable, '-m', tool, *arguments], cwd=ROOT,
                           capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_style():
    check('ruff', 'check', '--no-cache', '--config', '.ci/ruff.toml', '.')


def test_types(tmp_path):
    if not (ROOT / 'tfp_conditional').exists():
        pytest.skip('the package is not beside its tests')
    check('mypy', '--config-file', '.ci/mypy.ini', '--cache-dir', str(tmp_path))


def _is_own(value):
    return getattr(value, '__module__', '').startswith('tfp_conditional')


def _functions(name, value):
    """Name -> function, of what users call of a public name."""
    if inspect.isclass(value):
        for base in filter(_is_own, value.__mro__):
            for key, member in vars(base).items():
                member = getattr(member, 'fget', getattr(member, '__func__', member))
                if inspect.isfunction(member) and _is_own(member) and (
                        not key.startswith('_') or key == '__call__'
                        or key == '__init__' and not base.__name__.startswith('_')):
                    yield f'{name}.{key}', member
    elif callable(value) and _is_own(value):
        yield name, value


def _without_types(name, function):
    signature = inspect.signature(function)
    for argument in signature.parameters.values():
        if argument.annotation is inspect.Parameter.empty and argument.name not in (
                'cls', 'self'):
            yield f'{name}({argument.name})'
    if signature.return_annotation is inspect.Signature.empty and not name.endswith(
            '.__init__'):
        yield f'{name} -> ?'


@pytest.mark.parametrize('module', MODULES)
def test_public_names_have_types(module):
    module = importlib.import_module(f'tfp_conditional{module}')
    names = getattr(module, '__all__', None) or [
        name for name, value in vars(module).items()
        if not name.startswith('_') and getattr(value, '__module__', '') == module.__name__]
    functions = [pair for name in names for pair in _functions(name, getattr(module, name))]
    assert functions
    missing = [label for pair in functions for label in _without_types(*pair)]
    assert not missing, missing


def test_fast_tests_exist():
    for file, names in fast.FAST.items():
        text = (ROOT / f'tests/{file}.py').read_text()
        for name in names:
            for part in name.partition('[')[0].split('::'):
                assert re.search(rf'(def|class) {part}', text) or not part, (file, name)
