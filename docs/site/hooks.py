"""Pages of the repository that do not lie in docs/: the site has them as well."""

import pathlib
import re

from mkdocs.structure import files as files_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
ELSEWHERE = ('CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'benchmarks/results/*.md',
             'benchmarks/results/*.png', 'examples/*.py', 'examples/*.png')


def on_files(files, config):
    """Adds them, at the paths that they have in the repository."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(files_lib.File.generated(
                config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """On the site docs/ is the root, so that a link out of it or into it goes nowhere else."""
    if '/' not in page.file.src_uri:
        return markdown.replace('](../', '](').replace('](docs/', '](')
    return markdown


def on_page_content(html, page, **_):
    """Takes from the reference what says nothing."""
    if not page.file.src_uri.startswith('api/'):
        return html
    # A signature that is but a name, and a dash before which there is no type.
    html = re.sub(r'<div class="doc-signature highlight"><pre><span></span><code>'
                  r'<span class="nf?">\w+</span>\s*</code></pre></div>', '', html)
    html = re.sub(r'(<li class="doc-section-item field-body">)\s*–', r'\1', html)
    if page.file.src_uri == 'api/keras.md':
        # Both Kerases have classes of one parent each, under whose names they are found.
        html = html.replace('Mixin', '')
    return html
