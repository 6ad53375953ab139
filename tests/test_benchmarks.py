"""The benchmarks run, in a tiny form, on what is installed; no time is asserted."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('pandas', reason='the reports of the benchmarks need pandas')

ROOT = pathlib.Path(__file__).resolve().parents[1]
TENSORFLOW = ('hand-written TensorFlow', 'tfp_conditional',
              'stock class over the flow', 'stock TFP')
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


@pytest.fixture(scope='module')
def modules():
    """Those of the benchmark, from a directory that is no package."""
    sys.path.insert(0, str(ROOT / 'benchmarks'))
    try:
        import measure
        import speed_report
        yield measure, speed_report
    finally:
        sys.path.remove(str(ROOT / 'benchmarks'))


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
    for title in ('Targets', 'Summary', 'Units D', 'Couplings',
                  'Width of the conditions', 'Import', 'Memory', 'Memory after fits',
                  'Construction and first calls'):
        assert len(sections[title]) >= 2, title
    assert [row[0] for row in sections['Eager calls'][1:]] == [
        f'`{prefix}{call}`' for prefix in ('', 'given(c).')
        for call in ('log_prob', 'sample', 'sample_and_log_prob')]
    assert {row[1] for row in sections['Hot loop']} >= {
        'an empty function, XLA', '`given(c)`, eager',
        *(f'`compiled`, {mode}{end}' for mode in ('graph', 'XLA')
          for end in ('', ', frozen'))}
    assert all(cell not in ('', 'nan') for rows in sections.values()
               for row in rows for cell in row)
    for peer in PEERS:
        assert f'Not measured: {peer}' in text or peer in raw['parameters']


def test_implementations_are_the_same_flow(report):
    raw = report[1]
    assert raw['parameters'].keys() >= set(TENSORFLOW)
    assert len(set(raw['parameters'].values())) == 1
    assert raw['agreement'] <= 1e-5


def test_pictures_are_written(report):
    for name in ('speed.png', 'sweeps.png'):
        assert (report[2] / name).stat().st_size > 10_000


def test_targets_follow_the_numbers(report, modules):
    """Each target is met by a fast package, and missed by a slow one."""
    targets = modules[1].targets

    def verdicts(factor):
        results = json.loads(json.dumps(report[1]))
        records = [record for record in results['records'] if record['section'] != 'memory'
                   and record['name'] not in PEERS]
        calls = ('log_prob', 'sample', 'sample_and_log_prob', 'train')
        records += [dict(section='memory', name=name, mode='graph') for name in TENSORFLOW[:2]]
        records += [dict(section=section, operation=call, batch=4, name=peer, mode=mode)
                    for section in ('calls', 'hot') for call in calls
                    for peer, mode in (('zuko', 'eager'), ('nflows', 'eager'),
                                       ('FlowJAX', 'jit'))]
        for record in records:
            if record['section'] == 'hot':
                record.pop('batch', None)
            ours = record['name'] == 'tfp_conditional'
            time = factor if ours else 1.
            # Eager calls are held against those that are compiled.
            if record['section'] == 'calls' and record.get('mode') == 'eager':
                time *= time
            first = time
            if record.get('sweep') == 'num_layers' and ours:
                first *= record['value'] ** (1.5 if factor > 1. else 0.5)
            record.update(median=time, first=first, again=time)
            if record['section'] == 'fits':
                record.update(taken=[1., factor], graphs=int(factor))
        return {row['target']: row['met'] == 'yes' for row in targets(
            dict(results, records=records))}

    fast, slow = verdicts(0.01), verdicts(100.)
    assert len(fast) >= 16
    assert all(fast.values()) and not any(slow.values())
    assert {row['target'] for row in targets(report[1])} <= fast.keys()


def test_the_worst_case_counts(modules):
    def record(batch, median, name):
        return dict(section='calls', operation='sample', batch=batch, mode='graph',
                    name=name, median=median)
    rows = modules[1].targets({'settings': {'samples': [1]}, 'records': [
        record(batch, median, name) for batch, ours in ((1, 0.9), (256, 1.2))
        for name, median in (('hand-written TensorFlow', 1.),
                             ('tfp_conditional', ours))]})
    assert rows == [{'target': 'compiled, graph: at most 1.1 times hand-written TensorFlow',
                     'measured': '1.2 (`sample`, batch 256)', 'met': 'NO'}]


def test_slow_functions_are_called_less_and_all_in_turn(modules, monkeypatch):
    measure, _ = modules
    clock, calls = [0.], []
    monkeypatch.setattr(measure.time, 'perf_counter', lambda: clock[0])

    def cell(key, seconds):
        def function():
            clock[0] += seconds if key in calls else 7.     # The first takes longer.
            calls.append(key)
        return function

    found = measure.by_turns([(dict(key=key), cell(key, seconds)) for key, seconds in (
        ('fast', 0.01), ('middling', 0.1), ('slow', 10.))], 2., rounds=10, least=5)
    assert [(row['key'], row['calls'], row['first']) for row in found] == [
        ('fast', 200, 7.), ('middling', 20, 7.), ('slow', 5, 7.)]
    np.testing.assert_allclose([row['median'] for row in found], [0.01, 0.1, 10.])
    # Spread over the rounds: between two calls of the slow one are all the others.
    where = [i for i, key in enumerate(calls) if key == 'slow'][2:]
    assert all({'fast', 'middling'} <= set(calls[a:b])
               for a, b in zip(where, where[1:]))


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


def test_serving_runs(tmp_path):
    process = _run('serving.py', tmp_path, '--layers', '1', '--seconds', '0.1')
    assert process.returncode == 0, process.stderr
    lines = (tmp_path / 'serving.md').read_text(encoding='utf-8').splitlines()
    rows = [[float(cell) for cell in line.split('|')[2:-1]] for line in lines
            if line.startswith(('| log_prob', '| sample_and_log_prob'))]
    assert [batch for batch, *_ in rows] == [1, 256] * 2
    assert all(time > 0. for _, *times in rows for time in times)
