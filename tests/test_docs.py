"""Every python block of README.md and docs/ runs; the site builds."""

import importlib.util
import re
import subprocess
import sys

import pytest

import tfp_conditional as tfpc
from tests import blocks

PAGES = {path.name: path.read_text() for path in [
    blocks.REPOSITORY / 'README.md', *sorted((blocks.REPOSITORY / 'docs').glob('*.md'))]}


@pytest.mark.parametrize('page', [name for name, text in PAGES.items() if blocks.of(text)])
def test_examples_run(page, tmp_path, monkeypatch):
    if page != 'README.md':      # There defaults are as they are.
        blocks.make_defaults_small(monkeypatch)
    # Blocks of one page are one story.
    blocks.run('\n'.join(blocks.of(PAGES[page])), tmp_path, monkeypatch)


# Blocks that name a peer run where it is installed, each in a process of its own.
_PAGE = PAGES['coming_from.md']
_PEERS = dict(re.findall(r'```py title="(\w+)"\n(.*?)```', _PAGE, re.S))


@pytest.mark.parametrize('peer', ['bayesflow', 'flowjax', 'nflows', 'zuko'])
def test_peers_example_runs(peer, tmp_path):
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f'{peer} is not installed')
    data = blocks.of(_PAGE)[0]
    subprocess.run([sys.executable, '-c', data + _PEERS[peer]], check=True, cwd=tmp_path)


def test_reference_has_every_public_name():
    text = ''.join(path.read_text() for path in (blocks.REPOSITORY / 'docs/api').glob('*.md'))
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
                    '--config-file', str(blocks.REPOSITORY / 'docs/site/mkdocs.yml'),
                    '--site-dir', str(tmp_path / 'site')], check=True)
    assert (tmp_path / 'site/api/flows/index.html').exists()
