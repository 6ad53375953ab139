"""Every python block in docstrings runs."""

import ast

import pytest

from tests import blocks


def _examples():
    for path in sorted(blocks.PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                name = f'{path.stem}.{getattr(node, "name", "")}'
                for i, block in enumerate(blocks.of(ast.get_docstring(node) or '')):
                    yield pytest.param(block, id=f'{name}-{i}')


@pytest.mark.parametrize('block', list(_examples()))
def test_example_runs(block, tmp_path, monkeypatch):
    blocks.make_defaults_small(monkeypatch)
    blocks.run(block, tmp_path, monkeypatch)
