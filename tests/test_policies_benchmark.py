"""benchmarks/policies.py runs in a tiny form, and its report says what it measured."""

import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip('gymnasium')
pytest.importorskip('matplotlib')
pytest.importorskip('pandas', reason='the report needs pandas')

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'benchmarks'))

# pylint: disable=wrong-import-position
import policies
import policies_report


def _result(name, kind, seed=0):
    return dict(experiment=name, kind=kind, seed=seed, **policies.EXPERIMENTS[name][0](
        kind=kind, seed=seed, quick=True))


def test_a_tiny_run_of_each_kind(tmp_path):
    results = [_result('sparse reward', 'flow below'),
               _result('four goals, pillars between', policies.GAUSSIAN),
               _result('cloning two ways', policies.FLOW)]
    assert np.isfinite(results[0]['last']) and len(results[0]['steps']) == len(
        results[0]['returns'])
    assert results[1]['crashed'] + results[1]['none'] + sum(
        results[1]['counts']) == pytest.approx(1.)
    assert all(0. <= results[2][mode] <= 1. for mode in ('sample', 'zero', 'densest'))
    text = policies_report.write(tmp_path, results, {('speed', 'x'): 'no such package'})
    for name in ('## sparse reward', '## four goals, pillars between',
                 'Failed: speed, x: no such package'):
        assert name in text
    assert (tmp_path / 'policies.md').read_text() == text
    assert (tmp_path / 'policies.png').stat().st_size > 5000


def test_the_table_has_means_and_spreads():
    text = policies_report._table([
        dict(kind='flow', last=1.), dict(kind='flow', last=3.), dict(kind='b', zero=0.5)])
    assert '| return, last evaluation | 2 ± 1.4 | – |' in text
    assert '| latents 0, or the mean | – | 0.5 |' in text
