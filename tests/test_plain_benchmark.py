"""benchmarks/plain.py: its data are what they claim; it runs in a tiny form."""

import pathlib
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'benchmarks'))

# pylint: disable=wrong-import-position
import plain


@pytest.mark.parametrize('kind', plain.KINDS)
def test_exact_densities_are_no_worse_than_least_squares(kind):
    y, c, exact = plain.simulate(kind, 2, 5000, np.random.default_rng(0))
    assert y.shape == (5000, 2) and c.shape == (5000, plain.CONDITIONS)
    *test, _ = plain.simulate(kind, 2, 5000, np.random.default_rng(1))
    regression = np.mean(plain.log_probs('least squares', (y, c), test))
    assert np.isfinite(regression)
    if kind in ('Gaussian', 'tiny'):
        assert abs(exact - regression) < 0.05
    elif exact is not None:
        assert exact > regression + 0.02


def test_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        'plain.py', '--out', str(tmp_path), '--kinds', 'rounded', '--rows', '300',
        '--sizes', '1', '--epochs', '1'])
    plain.main()
    text = (tmp_path / 'plain.md').read_text(encoding='utf-8')
    *_, row = text.strip().split('\n')
    kind, size, rows, ours, free, regression, exact, lost, worst = row.strip(
        '| ').split(' | ')
    assert (kind, size, rows, exact) == ('rounded', '1', '300', '–')
    assert np.all(np.isfinite(np.array([ours, free, regression, lost, worst], float)))
    assert row in capsys.readouterr().out
