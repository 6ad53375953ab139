"""The benchmarks run, in a tiny form, on what is installed; no time is asserted."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
TENSORFLOW = ('hand-written TensorFlow', 'tfp_conditional', 'stock TFP')
PEERS = ('zuko', 'nflows', 'FlowJAX', 'normflows')


def _run(script, out, *arguments):
    path = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    return subprocess.run(
        [sys.executable, str(ROOT / 'benchmarks' / script), '--out', str(out),
         *arguments],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
        capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    """The report and raw numbers of a quick run, and their directory."""
    out = tmp_path_factory.mktemp('speed')
    process = _run('speed.py', out, '--quick')
    assert process.returncode == 0, process.stderr
    return ((out / 'speed.md').read_text(encoding='utf-8'),
            json.loads((out / 'speed.json').read_text(encoding='utf-8')), out)


def _sections(text):
    """Title of a section -> its rows, as lists of cells."""
    sections = {}
    for line in text.splitlines():
        if line.startswith('#'):
            rows = sections.setdefault(line.lstrip('# '), [])
        elif line.startswith('|') and '---' not in line:
            rows.append([cell.strip() for cell in line.strip('|').split('|')])
    return sections


def test_every_row_is_there(report):
    text, raw, _ = report
    sections = _sections(text)
    for operation in ('log_prob', 'sample', 'sample_and_log_prob', 'train'):
        rows = {tuple(row[:2]) for row in sections[f'`{operation}`']}
        assert rows >= {(name, mode) for name in TENSORFLOW
                        for mode in ('eager', 'graph', 'XLA')}
    for title in ('Yardsticks of eager calls', 'Units D', 'Couplings',
                  'Width of the conditions', 'Import', 'Memory',
                  'Construction and first calls'):
        assert len(sections[title]) >= 2, title
    assert all(cell not in ('', 'nan') for rows in sections.values()
               for row in rows for cell in row)
    for peer in PEERS:
        assert peer in raw['absent'] or peer in raw['parameters']
        assert f'Not measured: {peer}' in text or peer in raw['parameters']


def test_implementations_are_the_same_flow(report):
    raw = report[1]
    assert raw['parameters'].keys() >= set(TENSORFLOW)
    assert len(set(raw['parameters'].values())) == 1
    assert raw['agreement'] <= 1e-5


def test_pictures_are_written(report):
    for name in ('speed.png', 'sweeps.png'):
        assert (report[2] / name).stat().st_size > 10_000


def test_round_trip_runs(tmp_path):
    process = _run('round_trip.py', tmp_path, '--steps', '2', '--batch-size', '8',
                   '--draws', '32')
    assert process.returncode == 0, process.stderr
    rows = _sections((tmp_path / 'round_trip.md').read_text(encoding='utf-8'))[
        'Round trip at extreme conditions']
    ours = [row for row in rows if row[0].startswith('tfp_conditional')]
    assert len(ours) == 3
    for _, there_and_back, back_and_there, *_ in ours:
        assert float(there_and_back) < 0.1
        assert float(back_and_there) < 0.1
