"""Conformal regions hold what they say, whatever the density is."""

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import calibration, posterior
from tfp_conditional.calibration import conformal

tfd = tfp.distributions

LEVELS = [0.1, 0.5, 0.9, 0.99]


def pairs(count, seed):
    rng = np.random.default_rng(seed)
    conditions = rng.normal(size=[count, 2])
    return (conditions @ flows.GAIN.T + rng.normal(size=[count, 2]) @ flows.CHOL.T,
            conditions)


def wrong(scale, shift=0., base=None):
    """The posterior of the pairs, but for its width and its place."""
    flow = flows.LinearGaussian(chol=scale * flows.CHOL, shift=shift)
    return flow(flows.base() if base is None else base)


@pytest.mark.parametrize('scale, shift', [(1., 0.), (0.02, 0.), (5., 1.)])
def test_coverage_is_that_of_the_beta_distribution(scale, shift):
    dist, rows, fresh = wrong(scale, shift), 499, 4000
    regions = calibration.conformal_regions(
        dist, *pairs(rows, 0), levels=LEVELS, num_samples=299, seed=0, verbose=False)
    held = regions.contains(*pairs(fresh, 1)).sum(0)
    places = np.ceil((rows + 1) * np.array(LEVELS) - 1e-9)
    exact = stats.betabinom(fresh, places, rows + 1 - places)
    assert np.all((exact.ppf(1e-3) <= held) & (held <= exact.ppf(1 - 1e-3)))
    # What it corrects.
    own = posterior.highest_density_regions(
        dist, pairs(500, 2)[1], [0.5, 0.9], 299, seed=0, verbose=False).contains(
            pairs(500, 2)[0]).mean(0)
    assert np.all(np.sign(own - [0.5, 0.9]) == np.sign(scale - 1.)) or scale == 1.
    if scale == 1.:
        assert np.all(np.abs(regions.credibilities - LEVELS) < 0.06)
    if scale == 0.02:       # Far beyond all samples, the region is a region still.
        assert regions.credibilities[-1] == 1.
        assert not regions.contains([100., 100.], [0., 0.]).any()


def test_thresholds_are_where_the_score_is():
    rng = np.random.default_rng(0)
    of_samples, of_events = rng.normal(size=[9, 50]), 2. * rng.normal(size=[50])
    scores = conformal._scores(of_events, of_samples)
    assert np.array_equal(scores <= 3, of_events >= -np.sort(-of_samples, 0)[3])
    assert np.array_equal(scores > 9, of_events < of_samples.min(0))
    np.testing.assert_allclose(conformal._scores(np.min(of_samples, 0) - 1.5, of_samples),
                               10.5)


def test_ties_hold_more_and_the_shape_of_events_is_kept():
    box = tfd.Independent(tfd.Uniform(tf.constant([-5., -5.], tf.float64), 5.), 1)
    dist = wrong(1., base=box)          # Of one density wherever it has any.
    regions = calibration.conformal_regions(dist, *pairs(50, 0), levels=0.5,
                                            num_samples=20, seed=0, verbose=False)
    targets, conditions = pairs(6, 1)
    assert regions.contains(targets, conditions).all()
    assert regions.thresholds(conditions.reshape(2, 3, 2)).shape == (2, 3, 1)
    assert regions.contains(np.zeros([7, 1, 1, 2]),
                            conditions.reshape(2, 3, 2)).shape == (7, 2, 3, 1)


def test_rows_must_be_enough_for_the_level():
    def regions(rows, level):
        return calibration.conformal_regions(
            dist, *pairs(rows, 0), levels=level, num_samples=10, seed=0, verbose=False)

    dist = wrong(1.)
    assert regions(9, 0.9).num_rows == 9
    with pytest.raises(ValueError, match='at least 9 rows for a level of 0.9; got 8'):
        regions(8, 0.9)
    for levels in (0., 1., [0.5, 1.1], [], [[0.5]]):
        with pytest.raises(ValueError, match='`levels` must be numbers in'):
            regions(9, levels)


def test_misuse():
    narrow = tfd.Independent(tfd.Uniform(tf.constant([-.5, -.5], tf.float64), .5), 1)
    with pytest.raises(ValueError, match='A level of 0.9 needs targets where the densit'):
        calibration.conformal_regions(wrong(1., base=narrow), *pairs(50, 0),
                                      levels=[0.01, 0.9], num_samples=10, verbose=False)
    with pytest.raises(TypeError, match='must be a tfd.TransformedDistribution over'):
        calibration.conformal_regions(flows.base(), *pairs(50, 0))
    with pytest.raises(ValueError, match='must be no NaN|must be finite'):
        targets, conditions = pairs(50, 0)
        calibration.conformal_regions(wrong(1.), targets * np.nan, conditions)


def test_an_ensemble_has_regions():
    ensemble = tfpc.ConditionalEnsemble([wrong(0.5, 0.1), wrong(0.5, -0.1)])
    regions = calibration.conformal_regions(
        ensemble, *pairs(199, 0), levels=0.9, num_samples=99, seed=0, verbose=False)
    held = regions.contains(*pairs(1000, 1)).mean()
    assert abs(held - 0.9) < 0.08 and regions.credibilities[0] > 0.95
