"""Every python block in docstrings, README.md and docs/ runs."""

import ast
import pathlib
import re
import textwrap

import pytest

import tfp_conditional as tfpc

PACKAGE = pathlib.Path(tfpc.__file__).parent
REPOSITORY = pathlib.Path(__file__).parent.parent


def _blocks(text):
    return [textwrap.dedent(block) for block in
            re.findall(r'^[ ]*```python\n(.*?)^[ ]*```', text, re.S | re.M)]


def _examples():
    for path in sorted(PACKAGE.rglob('*.py')):
        # `keras` and its page have a test of their own, under both Kerases.
        if 'keras' in str(path.relative_to(PACKAGE)):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                name = f'{path.stem}.{getattr(node, "name", "")}'
                for i, block in enumerate(_blocks(ast.get_docstring(node) or '')):
                    yield pytest.param(block, id=f'{name}-{i}')
    for path in [REPOSITORY / 'README.md',
                 *sorted((REPOSITORY / 'docs').glob('*.md'))]:
        if path.stem != 'keras':
            # Blocks of one page are one story.
            blocks = _blocks(path.read_text())
            if blocks:
                yield pytest.param('\n'.join(blocks), id=path.name)


@pytest.mark.parametrize('block', list(_examples()))
def test_example_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, '<example>', 'exec'), {'__name__': 'example'})
