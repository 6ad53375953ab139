"""Diagnostics of calibration, under exact posteriors and biased ones."""

import numpy as np
import pytest
import tensorflow as tf

from tests import flows
from tests.flows import CHOL, GAIN, LinearGaussian
from tfp_conditional import calibration

RNG = np.random.default_rng(0)
C = RNG.normal(size=[1000, 2])
NOISE = RNG.normal(size=[1000, 2]) @ CHOL.T
Y = C @ GAIN.T + NOISE
QUIET = dict(seed=0, verbose=False)


def model(**kwargs):
    return LinearGaussian(**kwargs)(flows.base()) if kwargs else EXACT


EXACT = LinearGaussian()(flows.base())      # Traced once for all.


# The local two-sample test.


def _local(dist, targets, conditions, observed, seed, **kwargs):
    discriminant = pytest.importorskip('sklearn.discriminant_analysis')
    return calibration.local_classifier_two_sample_test(
        dist, targets, conditions, observed,
        **{**dict(classifier=discriminant.QuadraticDiscriminantAnalysis(),
                  num_permutations=39, num_samples=200, seed=seed, verbose=False),
           **kwargs})


def test_local_test_alarms_as_often_as_it_says():
    dist, p_values = model(), []
    for seed in range(40):
        rng = np.random.default_rng(100 + seed)
        c = rng.normal(size=[200, 2])
        y = c @ GAIN.T + rng.normal(size=[200, 2]) @ CHOL.T
        p_values.append(_local(dist, y, c, C[:1], seed, num_permutations=19)[1][0])
    # Of 40 uniform ones 8 are below 0.2, +- 2.5.
    assert 1 <= np.sum(np.array(p_values) <= 0.2) <= 16
    assert 0.3 < np.mean(p_values) < 0.7


def test_local_test_finds_where_the_density_is_wrong():
    # Right for c1 = 0, too high by c1 / 4 elsewhere.
    dist = model(gain=GAIN + [[0.25, 0.], [0., 0.]])
    statistic, p_value = _local(dist, Y, C, [[-1.5, 0.], [0., 0.], [1.5, 0.]], 0)
    assert statistic.shape == p_value.shape == (3,)
    assert np.all(p_value[[0, 2]] <= 0.025)
    assert statistic[1] < 0.2 * min(statistic[0], statistic[2])


@pytest.mark.parametrize('wrong', [dict(chol=0.7 * CHOL), dict(shift=[0.25, 0.]),
                                   dict(gain=0. * GAIN)],
                         ids=['over-confident', 'biased', 'ignorant'])
def test_local_test_has_power(wrong):
    assert _local(model(**wrong), Y, C, [[1., 1.]], 1)[1][0] <= 0.025


def test_default_classifier_of_the_local_test():
    pytest.importorskip('sklearn')
    runs = [_local(model(shift=[1., 0.]), Y[:300], C[:300], C[:2], 0, classifier=None,
                   num_permutations=19) for _ in range(2)]
    assert np.array_equal(runs[0], runs[1])       # The seed is also the network's.
    assert np.all(runs[0][1] == 0.05)


# Scores, contraction, predictions.


def test_z_scores_and_contraction_of_the_exact_posterior():
    z, contraction = calibration.z_scores_and_contraction(model(), Y, C, 1999, **QUIET)
    assert z.shape == contraction.shape == (1000, 2)
    assert np.all(np.abs(z.mean(0)) < 0.13) and np.all(np.abs(z.std(0) - 1) < 0.1)
    covariance = CHOL @ CHOL.T
    prior = np.diag(GAIN @ GAIN.T + covariance)
    np.testing.assert_allclose(contraction.mean(0), 1 - np.diag(covariance) / prior,
                               atol=0.03)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(z, -NOISE / sd, atol=0.25)


@pytest.mark.parametrize('wrong, mean, square', [
    (dict(chol=0.5 * CHOL), 0., 4.), (dict(shift=[0.5, 0.5]), 1., 2.)],
    ids=['over-confident', 'biased'])
def test_z_scores_tell_the_error(wrong, mean, square):
    z, _ = calibration.z_scores_and_contraction(model(**wrong), Y, C, 199, **QUIET)
    assert z[:, 1].mean() == pytest.approx(mean, abs=0.15)
    assert (z[:, 1]**2).mean() == pytest.approx(square, rel=0.15)


# Parameters N(0, I), data N(theta, I): the posterior is N(c / 2, I / 2).
HALF = model(gain=0.5 * np.eye(2), chol=0.5**0.5 * np.eye(2))


def _predictive(observed, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    return calibration.posterior_predictive_check(
        HALF, observed, lambda y: y + rng.normal(size=y.shape), seed=seed, **kwargs)


def test_predictive_checks():
    replications, p_values = _predictive([0.4, 6.])
    assert replications.shape == (999, 2)
    # The predictive is N(c / 2, 1.5): its standard deviation is 1.22.
    np.testing.assert_allclose(replications.mean(0), [0.2, 3.], atol=0.15)
    np.testing.assert_allclose(replications.std(0), 1.5**0.5, atol=0.12)
    assert p_values[0] > 0.7
    assert p_values[1] == pytest.approx(0.0143, abs=0.015)     # 2 P(N > 3 / 1.22).
    # No more alarms than they say, over data of the model.
    few = [_predictive(2**0.5 * RNG.normal(size=2), seed)[1] for seed in range(20)]
    assert np.mean(np.array(few) < 0.1) <= 0.1
    # The least and the greatest data: both tails, of statistics of one's own.
    replications, p_values = _predictive([-6., 6.], statistics=lambda data: np.ptp(
        data, axis=1, keepdims=True))
    assert replications.shape == (999, 1) and p_values[0] < 0.02


def test_predictive_check_of_a_dict():
    flow = flows.flow(2, {'a': 2, 'b': 1})
    c = {'a': np.zeros(2), 'b': np.zeros(1)}
    replications, p_values = calibration.posterior_predictive_check(
        flow(flows.base()), c, lambda y: {'b': y[:, :1], 'a': y}, num_samples=50, seed=0)
    assert replications.shape == (50, 3) and p_values.shape == (3,)


# Misspecification.


def test_misspecification_test_alarms_as_often_as_it_says():
    rng = np.random.default_rng(0)
    p_values = np.array([calibration.misspecification_test(
        rng.normal(size=[m, 2]), rng.normal(size=[100, 2]), num_permutations=99)[1]
        for m in [1, 10] * 50])
    assert 2 <= np.sum(p_values <= 0.1) <= 20          # Of 100: 10 +- 3.
    assert abs(np.mean(p_values) - 0.5) < 0.12


@pytest.mark.parametrize('change', [
    lambda x: x + [0.8, 0.], lambda x: 2 * x, lambda x: x[:, ::-1] * [1., 0.] + x * [1., 0.]],
    ids=['shifted', 'wide', 'of a line'])
def test_misspecification_test_has_power(change):
    simulated, observed = C[:400], C[500:540]
    alike, p_alike = calibration.misspecification_test(observed, simulated)
    distance, p_value = calibration.misspecification_test(change(observed), simulated)
    assert p_alike > 0.05 and p_value <= 0.01 and distance > 2 * alike


def test_misspecification_of_one_observation_and_by_what_an_embedding_sees():
    assert calibration.misspecification_test([[5., 0.]], C[:400])[1] < 0.01

    def embedding(images):
        return tf.reduce_mean(images, [1])

    images = np.repeat(C[:220, np.newaxis], 4, axis=1)
    far = images[:20] + [5., 5.]
    assert calibration.misspecification_test(far, images[20:], embedding)[1] < 0.01
    far = images[:20] + 9. * np.array([1., -1., 1., -1.])[:, np.newaxis]
    assert calibration.misspecification_test(far, images[20:], embedding)[1] > 0.01


REFUSALS = {
    'permutations': (lambda: _local(model(), Y[:50], C[:50], C[:1], 0,
                                    num_permutations=18), ValueError,
                     '`num_permutations` must be at least 19'),
    'one observed': (lambda: _local(model(), Y[:50], C[:50], C[0], 0), ValueError,
                     r'`observed` must have shape \[M, S\]; got \[2\]'),
    'one row': (lambda: calibration.z_scores_and_contraction(model(), Y[:1], C[:1]),
                ValueError, 'at least 2 rows, for their variance; got 1'),
    'conditions': (lambda: _predictive(C[:3]), ValueError, r'must be one, \[S\]; got'),
    'data': (lambda: calibration.posterior_predictive_check(
        model(), C[0], lambda y: y[:, :1]), ValueError,
        r'must have shape \[999, K\].*got \[999, 1\] and \[1, 2\]'),
    'sizes': (lambda: calibration.misspecification_test(C, C[:, :1]), ValueError,
              r'vectors of one size.*got \[1000, 2\] and \[1000, 1\]'),
    'embedded': (lambda: calibration.misspecification_test(C, C, lambda x: x[:, 0]),
                 ValueError, r'\[1000\] and \[1000\] from `embedding`'),
    'NaN': (lambda: calibration.misspecification_test([[np.nan, 0.]], C), ValueError,
            '`observed` must be finite'),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_misuse_is_refused(case):
    call, error, message = REFUSALS[case]
    with pytest.raises(error, match=message):
        call()
