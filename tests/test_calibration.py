"""Each test of calibration passes the true density, and fails the wrong ones."""

import builtins
import math

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tests.flows import CHOL, GAIN, LinearGaussian
from tfp_conditional import calibration
from tfp_conditional.posterior import conditioned
from tfp_conditional.core import distribution

tfd = tfp.distributions

# c ~ N(0, I), y | c ~ N(GAIN c, CHOL CHOL^T).
RNG = np.random.default_rng(0)
C = RNG.normal(size=[1500, 2])
Y = C @ GAIN.T + RNG.normal(size=[1500, 2]) @ CHOL.T
SAMPLES = 99


MODELS = {
    'exact': dict(),
    'over-confident': dict(chol=0.7 * CHOL),
    'under-confident': dict(chol=1.4 * CHOL),
    'biased': dict(shift=[0.25, 0.]),
    # The right marginals of another joint density.
    'uncorrelated': dict(chol=np.diag(np.sqrt(np.diag(CHOL @ CHOL.T)))),
    # The right density of all targets, for any condition.
    'ignorant': dict(gain=0. * GAIN,
                     chol=np.linalg.cholesky(GAIN @ GAIN.T + CHOL @ CHOL.T)),
}
# What each test is made to find: ranks of y1, y2 and the log-prob, levels.
FOUND_BY = {
    'exact': set(),
    'over-confident': {'y1', 'y2', 'log_prob', 'hpd', 'tarp', 'tarp(c)'},
    'under-confident': {'y1', 'y2', 'log_prob', 'hpd', 'tarp', 'tarp(c)'},
    'biased': {'y1', 'log_prob', 'hpd', 'tarp(c)'},
    'uncorrelated': {'log_prob', 'hpd'},
    'ignorant': {'tarp(c)'},
}


def p_values(model):
    dist = flows.dist(LinearGaussian(**MODELS[model]))
    ranks = calibration.simulation_based_calibration(
        dist, Y, C, SAMPLES, log_prob=True, seed=1, verbose=False)
    found = dict(zip(['y1', 'y2', 'log_prob'],
                     calibration.uniformity_test(ranks, SAMPLES)[1]))
    for name, levels in [
            ('hpd', calibration.expected_coverage(
                dist, Y, C, SAMPLES, seed=2, verbose=False)),
            ('tarp', calibration.tarp(
                dist, Y, C, SAMPLES, seed=3, verbose=False)),
            ('tarp(c)', calibration.tarp(
                dist, Y, C, SAMPLES, references=C @ GAIN.T + [1., 0.], seed=4,
                verbose=False))]:
        found[name] = calibration.uniformity_test(levels)[1]
    return found


# What it is blind to, though the density is wrong.
BLIND = {
    'exact': {'y1', 'y2', 'log_prob', 'hpd', 'tarp', 'tarp(c)'},
    'biased': {'y2'},
    'uncorrelated': {'y1', 'y2'},
    'ignorant': {'y1', 'y2', 'log_prob', 'hpd', 'tarp'},
}


@pytest.mark.parametrize('model', MODELS)
def test_each_error_is_found_by_the_tests_made_for_it(model):
    found = p_values(model)
    assert {name for name in FOUND_BY[model] if found[name] > 1e-4} == set()
    assert {name for name in BLIND.get(model, ()) if found[name] < 0.01} == set()


class Ladder:
    """In place of a conditioned distribution: sample l is c + l, density by norm."""

    rows = []

    def __init__(self, _, conditions):
        self.conditions = conditions

    def sample(self, count, seed):
        def record(conditions):
            Ladder.rows.append(len(conditions))
            return conditions
        c = tf.numpy_function(record, [self.conditions], tf.float64)
        c.set_shape(self.conditions.shape)
        return c + tf.range(count, dtype=tf.float64)[:, None, None]

    def log_prob(self, y):
        return -tf.reduce_sum(y**2, -1)

    def experimental_sample_and_log_prob(self, count, seed):
        samples = self.sample(count, seed)
        return samples, self.log_prob(samples)


@pytest.fixture
def ladder(monkeypatch):
    monkeypatch.setattr(distribution, 'given', Ladder)
    monkeypatch.setattr(conditioned, 'EVENTS', 3 * 9)
    monkeypatch.setattr(Ladder, 'rows', [])
    return flows.dist(LinearGaussian())


def test_ranks_by_hand(ladder):
    # The 9 samples of row n are n, n + 1, ..., n + 8, in both coordinates.
    c = np.repeat(np.arange(5.)[:, None], 2, axis=1)
    y = c + [[-1., 0.5], [2.5, 8.5], [7.5, 3.5], [0.5, 0.5], [1.5, -0.5]]
    ranks = calibration.simulation_based_calibration(
        ladder, y, c, 9, log_prob=True, seed=0, verbose=False)
    assert ranks.dtype == np.int64
    assert ranks[:, :2].tolist() == [[0, 1], [3, 9], [8, 4], [1, 1], [2, 0]]
    # Sample l has -2 (n + l)^2; the targets -(1.25, 102.5, 120.5, 24.5, 42.5):
    # as many are below as have (n + l)^2 > 0.625, 51.25, 60.25, 12.25, 21.25.
    assert ranks[:, 2].tolist() == [8, 2, 3, 8, 8]
    levels = calibration.expected_coverage(ladder, y, c, 9, seed=0, verbose=False)
    assert np.floor(levels * 10).tolist() == [1, 7, 6, 1, 1]


def test_tarp_by_hand(ladder):
    # Targets of standard deviations 2 and 1, while samples differ from references
    # by (l, l), whose squared length is then 1.25 l^2.
    y = np.array([[-2., 1.], [-2., -1.], [2., 1.], [2., -1.]])
    c = y - [[6., 0.], [0., 6.], [2., 2.], [-1., 0.]]
    levels = calibration.tarp(ladder, y, c, 9, references=c, seed=0, verbose=False)
    # Squared lengths 9, 36, 5, 0.25: longer than that of l < 2.7, 5.4, 2, 0.4.
    ranks = np.floor(levels * 10)
    assert ranks[[0, 1, 3]].tolist() == [3, 6, 1]
    assert ranks[2] in (2, 3)                   # A tie.


def test_memory_is_that_of_some_rows_at_a_time(ladder):
    calibration.simulation_based_calibration(
        ladder, Y[:8], C[:8], 9, seed=0, verbose=False)
    assert Ladder.rows == [3, 3, 2]


def test_ties_are_broken_evenly(ladder):
    # Every target is also sample 4 in the first coordinate, below all in the other.
    c = C[:300]
    ranks = calibration.simulation_based_calibration(
        ladder, c + [4., -1.], c, 9, seed=0, verbose=False)
    assert np.all(ranks[:, 1] == 0)
    counts = np.bincount(ranks[:, 0], minlength=10)
    assert counts[4] + counts[5] == 300 and abs(counts[4] - 150) < 35


def test_samples_differ_between_rows_and_repeat_with_the_seed(monkeypatch):
    monkeypatch.setattr(conditioned, 'EVENTS', 9 * 100)
    dist = flows.dist(LinearGaussian())
    y, c = np.zeros([400, 2]), np.zeros([400, 2])
    first, again, other = [calibration.simulation_based_calibration(
        dist, y, c, 9, seed=seed, verbose=False) for seed in (0, 0, 1)]
    assert np.array_equal(first, again)
    assert np.mean(first == other) < 0.5
    assert np.mean(first[:100] == first[100:200]) < 0.5
    assert np.bincount(first[:, 0], minlength=10).max() < 200


def test_takes_a_dict_of_conditions_in_float32_and_one_dimension():
    flow = flows.flow(1, {'a': 2, 'b': 1}, dtype=tf.float32)
    dist = flows.dist(flow, 1)
    rng = np.random.default_rng(0)
    c = {'a': rng.normal(size=[300, 2]), 'b': rng.normal(size=[300, 1])}
    c = {key: value.astype(np.float32) for key, value in c.items()}
    y = tfpc.given(dist, c).sample(seed=[0, 6]).numpy()
    ranks = calibration.simulation_based_calibration(
        dist, y, c, 99, log_prob=True, seed=0, verbose=False)
    assert ranks.shape == (300, 2)
    assert np.all(calibration.uniformity_test(ranks, 99)[1] > 0.01)


def test_levels_of_few_samples_are_uniform_all_the_same():
    dist = flows.dist(LinearGaussian())
    levels = calibration.expected_coverage(dist, Y, C, 3, seed=0, verbose=False)
    assert calibration.uniformity_test(levels)[1] > 0.01
    assert len(np.unique(levels)) == len(levels)


def test_progress_bar_counts_rows(monkeypatch, ladder):
    tqdm = pytest.importorskip('tqdm')
    bars = []

    class Bar(tqdm.tqdm):
        def close(self):
            bars.append((self.total, self.n))
            super().close()

    monkeypatch.setattr(tqdm, 'tqdm', Bar)
    calibration.simulation_based_calibration(ladder, Y[:7], C[:7], 9, seed=0)
    assert bars[0] == (7, 7)


# Uniformity, curves and bands.


def test_kolmogorov_smirnov_by_hand():
    levels = (np.arange(10) + 0.5) / 10
    distance, p_value = calibration.uniformity_test(levels)
    assert distance == pytest.approx(0.05) and p_value > 0.999
    levels = np.r_[np.full(9, 0.3), 1.]
    assert calibration.uniformity_test(levels)[0] == pytest.approx(0.6)
    two = calibration.uniformity_test(np.stack([levels, levels], -1))
    assert two[0].shape == two[1].shape == (2,)
    assert two[0] == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize('count', [10, 40, 1000])
def test_p_values_are_those_of_the_exact_distribution(count):
    rng = np.random.default_rng(count)
    levels = rng.uniform(size=[count, 50])**np.linspace(0.7, 1.5, 50)
    distance, p_value = calibration.uniformity_test(levels)
    exact = [stats.kstest(column, 'uniform', method='exact') for column in levels.T]
    np.testing.assert_allclose(distance, [x.statistic for x in exact], atol=1e-12)
    np.testing.assert_allclose(p_value, [x.pvalue for x in exact], atol=1e-12)


def test_p_values_are_uniform_for_ranks_of_few_samples():
    ranks = np.random.default_rng(0).integers(0, 4, size=[500, 2000])
    p_value = calibration.uniformity_test(ranks, 3)[1]
    assert calibration.uniformity_test(p_value)[1] > 0.01


def test_coverage_curve_by_hand():
    alphas, coverage = calibration.coverage_curve([0.25, 0.5, 0.5, 1.], 5)
    assert alphas.tolist() == [0., 0.25, 0.5, 0.75, 1.]
    assert coverage.tolist() == [0., 0.25, 0.75, 0.75, 1.]


def _binomial_interval(n, p, level):
    mass = [math.comb(n, k) * p**k * (1 - p)**(n - k) for k in range(n + 1)]
    tail = (1 - level) / 2
    return (next(k for k in range(n + 1) if sum(mass[:k + 1]) >= tail),
            next(k for k in range(n, -1, -1) if sum(mass[k:]) >= tail))


@pytest.mark.parametrize('count', [1, 7, 60])
def test_pointwise_bands_are_binomial_intervals(count):
    alphas, lower, upper = calibration.coverage_band(
        count, 0.9, simultaneous=False, num_points=5)
    expected = [_binomial_interval(count, p, 0.9) for p in alphas[1:-1]]
    np.testing.assert_allclose(lower * count, [0, *[x for x, _ in expected], count])
    np.testing.assert_allclose(upper * count, [0, *[x for _, x in expected], count])
    edges, low, high = calibration.histogram_band(
        count, num_samples=9, num_bins=4, band_probability=0.9, simultaneous=False)
    assert edges.tolist() == [0, 2, 5, 8, 10]
    assert list(zip(low, high)) == [
        _binomial_interval(count, p, 0.9) for p in (0.2, 0.3, 0.3, 0.2)]


@pytest.mark.parametrize('count', [25, 400])
def test_simultaneous_bands_hold_as_many_as_they_say(count):
    rng = np.random.default_rng(1)
    levels = rng.uniform(size=[4000, count])
    _, lower, upper = calibration.coverage_band(count, 0.9)
    curves = np.stack([calibration.coverage_curve(row)[1] for row in levels])
    held = np.mean(np.all((lower <= curves) & (curves <= upper), axis=1))
    # The counts of few rows take large steps.
    assert 0.88 < held < (0.92 if count > 100 else 0.96)
    edges, lower, upper = calibration.histogram_band(count, 99, 10, 0.9)
    counts = np.stack([np.histogram(np.floor(100 * row), edges)[0]
                       for row in levels])
    held = np.mean(np.all((lower <= counts) & (counts <= upper), axis=1))
    assert 0.88 < held < (0.92 if count > 100 else 0.96)
    pointwise = calibration.coverage_band(count, 0.9, simultaneous=False)
    assert np.all(pointwise[1] >= calibration.coverage_band(count, 0.9)[1])


# The classifier.


def test_classifier_tells_apart_what_differs():
    pytest.importorskip('sklearn')
    rng = np.random.default_rng(0)
    x, same, far = rng.normal(size=[3, 300, 2])
    scale, shift = np.array([1., 1e3]), np.array([0., 1e6])   # Units are no matter.
    equal, folds = calibration.classifier_two_sample_test(
        x * scale + shift, same * scale + shift)
    assert abs(equal - 0.5) < 0.06
    assert folds.shape == (5,) and folds.mean() == pytest.approx(equal)
    distinct, _ = calibration.classifier_two_sample_test(
        x * scale + shift, (far + 5.) * scale + shift)
    assert distinct > 0.98


def test_classifier_repeats_and_says_what_it_lacks(monkeypatch):
    pytest.importorskip('sklearn')
    x, y = np.random.default_rng(0).normal(size=[2, 40, 1])
    first, again = [calibration.classifier_two_sample_test(x, y, num_folds=2)[1]
                    for _ in range(2)]
    assert np.array_equal(first, again)

    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith('sklearn'):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(ImportError, match=r'scikit-learn.*\[calibration\]'):
        calibration.classifier_two_sample_test(x, y)


# Refusals.


def _sbc(y=Y[:20], c=C[:20], dist=None, num_samples=9, **kwargs):
    dist = dist or flows.dist(LinearGaussian())
    return calibration.simulation_based_calibration(
        dist, y, c, num_samples, seed=0, verbose=False, **kwargs)


def _tarp(y=Y[:20], **kwargs):
    return calibration.tarp(flows.dist(LinearGaussian()), y, C[:len(y)], 9,
                            verbose=False, **kwargs)


REFUSALS = {
    'no flow': (lambda: _sbc(dist=flows.base()), TypeError,
                'over a ConditionalBijector; got'),
    'conditioned already': (
        lambda: _sbc(dist=tfd.TransformedDistribution(
            flows.base(), LinearGaussian().condition(C[:20]))), TypeError,
        'over a ConditionalBijector; got'),
    'batch': (lambda: _sbc(dist=flows.dist(LinearGaussian(), batch_shape=[20])),
              ValueError, r'batch shape \[\]; got \(20,\)'),
    'targets': (lambda: _sbc(Y[:20, :1]), ValueError,
                r'`targets` must have shape .*got \(20, 1\)'),
    'one target': (lambda: _sbc(Y[0]), ValueError, '`targets` must have shape'),
    'no rows': (lambda: _sbc(Y[:0], C[:0]), ValueError, 'at least one row'),
    'rows': (lambda: _sbc(Y[:19]), ValueError, 'as many rows'),
    'conditions': (lambda: _sbc(c=None), TypeError, '`conditions` are required'),
    'width': (lambda: _sbc(c=C[:20, :1]), ValueError, 'last dimension 2'),
    'rank of conditions': (lambda: _sbc(c=np.zeros([20, 3, 2])), ValueError,
                           r'a row for each target, \[N, S\]; got shape \[20, 3'),
    'NaN': (lambda: _sbc(np.full([20, 2], np.nan)), ValueError,
            '`targets` must be finite; 20 of 20'),
    'Dataset': (lambda: _sbc(tf.data.Dataset.from_tensors((Y, C))), TypeError,
                'got a Dataset'),
    'num_samples': (lambda: _sbc(num_samples=0), ValueError, '`num_samples`'),
    'one row': (lambda: _tarp(Y[:1]), ValueError, 'at least 2 rows'),
    'references': (lambda: _tarp(references=Y[:19]), ValueError,
                   r'`references` must have the shape of `targets`, \[20, 2\]'),
    'references NaN': (lambda: _tarp(references=np.full([20, 2], np.inf)),
                       ValueError, '`references` must be finite'),
    'few levels': (lambda: calibration.uniformity_test([0.5] * 9), ValueError,
                   'at least 10 rows; got 9'),
    'levels of ranks': (lambda: calibration.uniformity_test(np.arange(20)),
                        ValueError, r'in \[0, 1\].*`num_samples`'),
    'levels NaN': (lambda: calibration.uniformity_test([np.nan] * 20), ValueError,
                   r'in \[0, 1\]'),
    'levels 3-D': (lambda: calibration.uniformity_test(np.zeros([20, 1, 1])),
                   ValueError, r'\[N\] or \[N, K\]; got \[20, 1, 1\]'),
    'ranks of levels': (lambda: calibration.uniformity_test([0.5] * 20, 9),
                        TypeError, 'integers; got float64'),
    'ranks too large': (lambda: calibration.uniformity_test([10] * 20, 9),
                        ValueError, 'from 0 to `num_samples`, 9; got some from 10'),
    'curve': (lambda: calibration.coverage_curve([[0.5]]), ValueError,
              r'shape \[N\]; got \[1, 1\]'),
    'points': (lambda: calibration.coverage_curve([0.5], 1), ValueError,
               '`num_points` must be at least 2'),
    'probability': (lambda: calibration.coverage_band(10, band_probability=95),
                    ValueError, r'`band_probability` must be in \(0, 1\); got 95'),
    'band rows': (lambda: calibration.coverage_band(0), ValueError, '`num_rows`'),
    'bins': (lambda: calibration.histogram_band(10, 9, 11), ValueError,
             'at most the number of ranks, 10; got 11'),
    'two sets': (lambda: calibration.classifier_two_sample_test(Y[:20], Y[:21]),
                 ValueError, r'one shape \[n, D\]; got \[20, 2\] and \[21, 2\]'),
    'few of a set': (lambda: calibration.classifier_two_sample_test(Y[:9], Y[:9]),
                     ValueError, 'at least 10 rows, two a fold; got 9'),
    'set NaN': (lambda: calibration.classifier_two_sample_test(
        Y[:20], np.full([20, 2], np.nan)), ValueError, '`y` must be finite'),
    'folds': (lambda: calibration.classifier_two_sample_test(Y, Y, 1), ValueError,
              '`num_folds` must be at least 2'),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_misuse_is_refused(case):
    if case in ('two sets', 'few of a set', 'set NaN', 'folds'):
        pytest.importorskip('sklearn')
    call, error, message = REFUSALS[case]
    with pytest.raises(error, match=message):
        call()


def test_samples_that_are_not_finite_are_named():
    dist = flows.dist(LinearGaussian(gain=1e308 * np.eye(2)))
    c = np.zeros([20, 2])
    c[[7, 11]] = 1e3
    with pytest.raises(FloatingPointError, match='2 of 20 rows.*first .* row 7'):
        _sbc(c=c, dist=dist)
