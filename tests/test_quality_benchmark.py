"""The tasks of benchmarks/quality.py are what they claim; it runs in a tiny form."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('sklearn', reason='the benchmark of quality needs scikit-learn')
pytest.importorskip('matplotlib', reason='the benchmark of quality needs matplotlib')
pd = pytest.importorskip('pandas', reason='the benchmark of quality needs pandas')

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'benchmarks'))

# pylint: disable=wrong-import-position
import c2st
from peers import LINEAR, MODELS
import processes
import published
import quality
import quality_report
import tasks
from tfp_conditional import calibration

pytestmark = pytest.mark.filterwarnings(
    'ignore::sklearn.exceptions.ConvergenceWarning')
SIMULATED = [task for task in tasks.TASKS.values() if isinstance(task, tasks.Simulated)]
each_simulated = pytest.mark.parametrize('task', SIMULATED,
                                         ids=lambda task: task.name)


@pytest.mark.parametrize('task', [task for task in SIMULATED if task not in tasks.FAMILY],
                         ids=lambda task: task.name)
def test_optimum_is_the_mean_loss_of_the_exact_posterior(task):
    losses = -task.log_posterior(*task.simulate(20_000, np.random.default_rng(1)))
    error = losses.std() / math.sqrt(len(losses))
    assert abs(losses.mean() - task.optimum) < 4. * error


def test_optimum_of_two_moons():
    # The crescent's entropy in closed form leaves little to chance.
    task = tasks.TASKS['two moons']
    rng = np.random.default_rng(2)
    entropy = (math.log(math.pi) + np.mean(np.log(rng.normal(0.1, 0.01, 10**6)))
               + 0.5 * math.log(2. * math.pi * math.e) + math.log(0.01))
    log_ratios = np.log(2. * task._acceptance(task.simulate(40_000, rng)[1], 64))
    error = log_ratios.std() / math.sqrt(len(log_ratios))
    assert abs(entropy + log_ratios.mean() - task.optimum) < 4. * error < 0.01


def test_optimum_of_gaussian_linear():
    entropy = 5. * math.log(2. * math.pi * math.e * 0.05)
    assert abs(entropy - tasks.TASKS['Gaussian linear'].optimum) < 1e-3


def _small(task):
    """A task of the family of no more than 2 axes, of which all are alike."""
    return dataclasses.replace(task, event_size=min(task.event_size, 2)) if (
        task in tasks.FAMILY) else task


@each_simulated
def test_reference_samples_have_the_posterior_of_the_simulator(task):
    # Ranks of the true parameter among draws given its observation are uniform
    # (Talts et al. 2018).
    rng = np.random.default_rng(3)
    task, count, draws = _small(task), 500, 9
    theta, x = task.simulate(count, rng)
    samples = np.stack([task.sample_posterior(row, draws, rng) for row in x])
    for statistic in (lambda t: t[..., 0], lambda t: t[..., -1],
                      lambda t: np.abs(t[..., 0] + t[..., -1]),
                      lambda t: np.abs(t[..., 0] - t[..., -1]) if t.shape[-1] > 1
                      else np.abs(t[..., 0])):
        ranks = np.sum(statistic(samples) < statistic(theta)[:, None], axis=1)
        counts = np.bincount(ranks, minlength=draws + 1)
        expected = count / (draws + 1)
        # 9 degrees of freedom: beyond 33 in one of 10^4.
        assert np.sum((counts - expected)**2 / expected) < 33.


@each_simulated
@pytest.mark.parametrize('where', ['inside', 'at the edge'])
def test_reference_samples_match_the_normalised_density(task, where):
    task, rng = _small(task), np.random.default_rng(4)
    theta, x = task.simulate(1000, rng)
    # There a prior with bounds cuts the posterior most.
    size = np.max(np.abs(theta), axis=-1)
    x = x[np.argmin(size) if where == 'inside' else np.argmax(size)]
    samples = task.sample_posterior(x, 20_000, rng)
    if task.event_size <= 2:
        low, high = samples.min(axis=0), samples.max(axis=0)
        points = rng.uniform(low, high, [200_000, task.event_size])
        log_proposal = -np.sum(np.log(high - low))
    else:
        scale = 1.2 * samples.std(axis=0)
        normal = rng.normal(size=[200_000, task.event_size])
        points = samples.mean(axis=0) + scale * normal
        log_proposal = np.sum(-0.5 * normal**2 - np.log(scale)
                              - 0.5 * math.log(2. * math.pi), axis=-1)
    weights = np.exp(task.log_posterior(points, x[None]) - log_proposal)
    for statistic in (lambda t: np.ones(len(t)), lambda t: t[:, 0],
                      lambda t: t[:, -1], lambda t: t[:, 0]**2,
                      lambda t: t[:, 0] * t[:, -1]):
        expected, got = weights * statistic(points), statistic(samples)
        error = math.hypot(expected.std() / math.sqrt(len(expected)),
                           got.std() / math.sqrt(len(got)))
        assert abs(expected.mean() - got.mean()) < 4.5 * error


@each_simulated
def test_draws_to_test_on_are_the_same_for_every_seed(task):
    first, second = (task.data(seed, 50, 20) for seed in (0, 1))
    for one, other in zip(first.test, second.test):
        np.testing.assert_array_equal(one, other)
    assert not np.isin(first.train[0], second.train[0]).any()
    assert not np.isin(first.test[0], first.train[0]).any()


@each_simulated
def test_simulations_are_the_own_number_by_default(task):
    data = task.data(0, test_count=10)
    count = task.simulations
    assert len(data.validation[0]) == max(30, count // 10)
    assert len(data.train[0]) == count - len(data.validation[0])


@pytest.mark.parametrize('name', [
    name for name, task in tasks.TASKS.items() if isinstance(task, tasks.Measured)])
def test_folds_cover_the_table_once(name):
    task = tasks.TASKS[name]
    try:
        table = np.concatenate(task.table(), axis=-1)
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert np.isfinite(table).all() and len(table) >= 150
    assert (table.std(axis=0) > 0.).all()

    def rows(pairs):
        joined = np.concatenate([np.concatenate(pair, axis=-1) for pair in pairs])
        return joined[np.lexsort(joined.T)]

    folds = [task.data(seed) for seed in range(tasks.NUM_FOLDS)]
    table = rows([(table,)])
    np.testing.assert_array_equal(rows([fold.test for fold in folds]), table)
    for fold in folds:
        np.testing.assert_array_equal(
            rows([fold.train, fold.validation, fold.test]), table)
        assert fold.test[0].shape[1:] == (task.event_size,)
        assert fold.test[1].shape[1:] == (task.condition_size,)


def _result(model, task, seed, **protocol):
    row = quality.row(MODELS[model], tasks.TASKS[task], seed, quality.Protocol(**protocol))
    return {**row, **quality.run(row)}


def test_losses_are_in_the_units_of_the_targets():
    # The right family, so standardisation undone in the wrong way would show.
    result = _result(LINEAR, 'Gaussian linear', 0, simulations=4000, test_draws=4000,
                     observations=1, samples=100)
    assert 0. < result['gap'] < 0.05
    assert result['c2st'][0] < 0.65


def test_measured_data_are_reported():
    found = [_result(LINEAR, 'diabetes', seed) for seed in range(2)]
    losses = [result['loss'] for result in found]
    text = '\n'.join(quality_report.section(tasks.TASKS['diabetes'], pd.DataFrame(found)))
    row, = (line for line in text.splitlines() if line.startswith('| linear Gaussian |'))
    assert row.startswith(f'| linear Gaussian | {np.mean(losses):.3f} ± ')
    assert '| 0.000 ± 0.000 | 2 |' in row


def _text(found):
    return '\n'.join(quality_report.lines(quality.Protocol(), found))


def test_family_and_tables_share_a_table_each():
    def of(name, model, seed, loss):
        task = tasks.TASKS[name]
        more = dict(gap=loss, c2st=[0.5], optimum=0.) if isinstance(
            task, tasks.Simulated) else {}
        return dict(task=name, model=model, seed=seed, loss=loss, seconds=1.,
                    cpu_seconds=1., epochs=1, parameters=1, **more)

    prior, ours, zuko = tasks.FAMILY[0].name, 'tfp_conditional', 'zuko, its defaults'
    text = _text([
        of(name, model, seed, loss + seed)
        for name, model, loss in [(prior, ours, 1.), (prior, zuko, 2.),
                                  ('iris', ours, 3.), ('iris', zuko, 4.),
                                  ('Engel', ours, 5.), ('Engel', zuko, 4.5)]
        for seed in (0, 1)] + [of('iris', ours, 2, 0.)])
    assert f'| {prior} | 1.500 ± 0.707 | 2.500 ± 0.707 |' in text
    assert '| iris | -2.333 | -4.500 |' in text
    assert "against 'zuko, its defaults', fold by fold: 2 wins, 2 losses" in text
    assert text.count('## ') == 2


def test_simulator_of_the_published_bernoulli_glm_has_its_reference_posterior():
    # Draws of a posterior have a mean score of 0 (Stein's identity).
    task = published.TASKS['sbibm: Bernoulli GLM raw, N = 1000']
    try:
        observed = list(task.observed(10, 10_000, None))
    except ImportError as error:
        pytest.skip(str(error))
    glm = task.simulator
    for x, theta in observed:
        rates = 1. / (1. + np.exp(-theta @ glm._design.T))
        scores = (x - rates) @ glm._design - theta @ np.linalg.inv(glm._prior)
        # Of a chain, if a thinned one.
        assert (np.abs(scores.mean(axis=0)) < 6. * scores.std(axis=0) / 100.).all()


def test_draws_outside_of_a_published_prior_are_drawn_again():
    task = published.TASKS['sbibm: two moons, N = 1000']
    theta = np.array([[0., 1.1], [0.5, -1.], [-1.2, 0.], [0.1, 0.2]])
    np.testing.assert_array_equal(
        task.accepted(lambda n: theta[:n], 2), theta[[1, 3]])
    with pytest.raises(ValueError, match='of 4 draws only 0 lie within'):
        task.accepted(lambda n: theta[:n] + 5., 2)


def test_classifiers_trained_at_once_find_what_those_of_scikit_learn_find():
    rng = np.random.default_rng(0)
    true = rng.normal(size=[3, 600, 2])
    others = rng.normal(size=[3, 600, 2]) * [[[1., 1.]], [[1., 1.]], [[1., 2.]]]
    others[1] += 1.
    pairs = np.stack([true, others], axis=1)
    found = c2st.accuracies(pairs)
    wanted = [calibration.classifier_two_sample_test(*pair, seed=1)[0] for pair in pairs]
    # Of 1200 rows the standard error of an accuracy is 0.014.
    np.testing.assert_allclose(found, wanted, atol=0.03)
    assert found[1] > 0.7
    with pytest.raises(ValueError, match='finite'):
        c2st.accuracies(np.where(pairs > 2., np.nan, pairs))


def test_published_tasks_have_a_table_beside_what_was_published():
    name = 'sbibm: two moons, N = 10000'
    text = _text([dict(
        task=name, model='zuko', seed=0, loss=1., c2st=[0.5, 0.6], seconds=1.,
        cpu_seconds=2., epochs=1, parameters=1)])
    assert f'| {name} | 0.550 (2.0 s) | 0.606 | 0.522 |' in text


@pytest.mark.parametrize('seed, again', [(0, False), (1, True)])
def test_only_what_is_stored_of_an_equal_row_is_not_run_again(
        seed, again, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, 'call', lambda where, row, **_: dict(new=True))
    row = dict(a='x', b='y y', c=0, seed=0)
    (tmp_path / 'x,_y_y,_0.json').write_text(json.dumps(dict(row, seed=seed, new=False)))
    (found,), failed = processes.run_all('of.it', [row], tmp_path, 1)
    assert found == dict(row, new=again) and not failed


def test_what_fails_is_told(tmp_path):
    found, (failed,) = processes.run_all('no_such.run', [dict(a=0, b=1, c=2)], tmp_path, 1)
    assert not found and "No module named 'no_such'" in failed['why']
    assert not list(tmp_path.iterdir())


def _run(out, *arguments):
    # A PyTorch that is not there.
    (out / 'torch.py').write_text('raise ImportError("not here")', encoding='utf-8')
    path = [str(ROOT), str(out), *filter(None, [os.environ.get('PYTHONPATH')])]
    process = subprocess.run(
        [sys.executable, str(ROOT / 'benchmarks' / 'quality.py'), '--quick', '--out',
         str(out), '--packages', 'tfp_conditional', 'hand-written TFP', 'zuko',
         '--tasks', 'two moons', '--seeds', '0', *arguments],
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
        capture_output=True, text=True, check=False, timeout=600)
    assert process.returncode == 0, process.stderr
    return {file: file.stat().st_mtime_ns for file in (out / 'runs').iterdir()}


def test_report_is_written_and_runs_are_not_repeated(tmp_path):
    files = _run(tmp_path)
    text = (tmp_path / 'quality.md').read_text(encoding='utf-8')
    raw = json.loads((tmp_path / 'quality.json').read_text(encoding='utf-8'))
    for name in ('tfp_conditional', 'hand-written TFP'):
        assert f'| {name} |' in text.split('## Two moons')[1]
    assert '| two moons, gap |' in text.split('## Two moons')[0]
    assert 'Expected coverage of tfp_conditional, on 40 fresh draws each: ' in text
    assert 'Not measured: zuko: ImportError: not here' in text
    for picture in ('quality.png', 'coverage.png'):
        assert (tmp_path / picture).stat().st_size > 10_000
    assert len(files) == len(raw['runs']) == 2
    for run in raw['runs']:
        assert np.isfinite([run['gap'], run['seconds'], *run['c2st']]).all()
        assert run['parameters'] > 0
    assert _run(tmp_path) == files
