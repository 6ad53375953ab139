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
import pandas as pd
import policies


def _result(name, kind):
    row = dict(experiment=name, kind=kind, seed=0, quick=True)
    return {**row, **policies.run(row)}


def test_a_tiny_run_of_each_kind(tmp_path):
    results = [_result('sparse reward', 'flow below'),
               _result('four goals, pillars between', policies.SPLINE),
               _result('cloning two ways', policies.FLOW)]
    assert np.isfinite(results[0]['last']) and len(results[0]['steps']) == len(
        results[0]['returns'])
    assert results[1]['crashed'] + results[1]['none'] + sum(
        results[1]['counts']) == pytest.approx(1.)
    assert all(0. <= results[2][mode] <= 1. for mode in ('sample', 'zero', 'densest'))
    text = policies.write(tmp_path, results, [
        dict(experiment='speed', kind='x', seed=0, why='no such package')])
    for name in ('## sparse reward', '## four goals, pillars between',
                 'Not measured: speed, x: no such package'):
        assert name in text
    assert (tmp_path / 'policies.md').read_text() == text
    assert (tmp_path / 'policies.png').stat().st_size > 5000


def test_the_table_has_means_and_spreads():
    text = '\n'.join(policies.lines(pd.DataFrame([
        dict(experiment='a', kind='flow', last=1.), dict(experiment='a', kind='flow', last=3.),
        dict(experiment='a', kind='b', zero=0.5)])))
    assert '| return, last evaluation | 2 ± 1.4 | – |' in text
    assert '| latents 0, or the mean | – | 0.5 |' in text
    assert 'Seeds: flow 2, b 1.' in text
