"""benchmarks/structured.py: its posteriors are exact; it runs in a tiny form."""

import pathlib
import sys

import numpy as np
import pytest

pytest.importorskip('matplotlib', reason='the reports of the benchmarks need matplotlib')

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'benchmarks'))

# pylint: disable=wrong-import-position
import structured

each_task = pytest.mark.parametrize('task', structured.TASKS.values(), ids=lambda task: task.name)


@each_task
def test_posteriors_are_densities_that_tell_the_truth(task):
    """They integrate to 1, and the parameters are as far from them as they say."""
    size, step = task.sizes[1], 0.1 if task.event_size == 2 else 0.01
    theta, one = task.simulate(np.array([size]), np.random.default_rng(0))
    axis = np.arange(-5., 5., step) + step / 2.
    if isinstance(task, structured.Blobs):
        axis, step = np.linspace(-0.98, 0.98, 50), 0.04
    grid = np.stack(np.meshgrid(*[axis] * task.event_size), -1).reshape(
        -1, task.event_size)
    many = {key: np.broadcast_to(x, [len(grid), *x.shape[1:]]) for key, x in one.items()}
    density = np.exp(task.log_posterior(grid, many)) * step**task.event_size
    np.testing.assert_allclose(np.sum(density), 1., rtol=1e-2)
    # A posterior of the right parameters, and of those of other simulations.
    theta, c = task.simulate(np.full(200, size), np.random.default_rng(1))
    gain = task.log_posterior(theta, c) - task.log_posterior(np.roll(theta, 1, 0), c)
    assert np.mean(gain) > 0.2


@pytest.mark.parametrize('size', structured.GaussianSets.sizes)
def test_the_optimum_of_sets_has_a_closed_form(size):
    """log(2 pi e / (1 + n)) / 2: 1.072, 0.614, 0.002 and -0.329 nats."""
    task = structured.GaussianSets()
    losses = -task.log_posterior(*task.simulate(
        np.full(4000, size), np.random.default_rng(0)))
    error = losses.std() / np.sqrt(len(losses))
    assert abs(losses.mean() - np.log(2. * np.pi * np.e / (1. + size)) / 2.) < 4. * error


def test_sizes_are_mixed():
    task = structured.GaussianSets()
    _, c = structured.mixed(task, 1000, np.random.default_rng(0))
    sizes = c['mask'].sum(1)
    assert sizes.min() == 1 and sizes.max() == 32 and 4 < np.median(sizes) < 8


def test_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [
        'structured.py', '--out', str(tmp_path), '--tasks', 'blobs in images', '--simulations',
        '200', '--draws', '20', '--epochs', '1'])
    structured.main()
    text = (tmp_path / 'structured.md').read_text(encoding='utf-8')
    rows = [line.strip('| ').split(' | ') for line in text.strip().split('\n')[-3:]]
    for (name, kind, size, exact, fit, gap), want in zip(
            rows, structured.Blobs.sizes, strict=True):
        assert (name, kind, int(size)) == ('blobs in images', '`ImageNetwork`', want)
        assert np.isfinite(float(fit)) and '±' in gap
        np.testing.assert_allclose(float(fit) - float(exact), float(gap.split()[0]), atol=2e-3)
    assert '| '.join(rows[0][:2]) in capsys.readouterr().out.replace(' | ', '| ')
