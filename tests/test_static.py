"""What is checked without running the code: its style."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def check(tool, *arguments):
    """Runs a module on the repository; fails with what it says."""
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f'{tool} is not installed')
    found = subprocess.run([sys.executable, '-m', tool, *arguments], cwd=ROOT,
                           capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_style():
    check('ruff', 'check', '--no-cache', '--config', '.ci/ruff.toml', '.')
