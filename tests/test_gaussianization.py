"""`Gaussianization`: what it finds, its maths, and that it leaves Gaussians alone."""

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf

from tfp_conditional import testing
from tfp_conditional.bijectors import gaussianization

RNG = np.random.default_rng(0)
MIXTURE = np.concatenate([RNG.normal(-2., 0.5, 1000), RNG.normal(2., 0.5, 1000)])
# Skewed, of two modes, Gaussian, constant; far from 0 and of other scales.
Y = np.stack([1e3 * RNG.exponential(size=2000), 5. + MIXTURE,
              RNG.normal(-3., 1e-3, 2000), np.ones(2000)], axis=-1)


def adapted(data=Y, dtype=tf.float64):
    bijector = gaussianization.Gaussianization(data.shape[-1], dtype=dtype)
    bijector.adapt(data)
    return bijector


def gain(bijector, y):
    """Nats by which columns are likelier than under Gaussians of their moments."""
    parts = []
    for unit in range(y.shape[1]):
        alone = gaussianization.Gaussianization(1, dtype=tf.float64)
        for mine, theirs in zip(alone.variables, bijector.variables):
            mine.assign(tf.cast(theirs if theirs.shape.rank == 0 else
                                theirs[..., unit:unit + 1], mine.dtype))
        x, ildj = alone.inverse_and_log_det(y[:, unit:unit + 1])
        log_prob = np.mean(stats.norm.logpdf(x[:, 0]) + ildj)
        parts.append(log_prob - np.mean(stats.norm.logpdf(
            y[:, unit], alone.loc[0], alone.scale[0])))
    return np.array(parts)


def test_it_finds_shapes_and_leaves_gaussians_alone():
    bijector = adapted()
    np.testing.assert_array_equal(np.any(bijector.shape != 0., axis=0), [1, 1, 0, 0])
    x = bijector.inverse(Y).numpy()
    assert stats.kstest(x[:, 0], 'norm').statistic < 0.05
    assert stats.kstest(x[:, 1], 'norm').statistic < 0.08


@pytest.mark.parametrize('rows, least', [(300, 0.25), (1000, 0.3), (30_000, 0.35)])
def test_rows_that_it_has_not_seen_are_likelier(rows, least):
    rng = np.random.default_rng(rows)
    # The best that there is: the entropy of a Gaussian of that variance less its own.
    best = 0.5 * np.log(2. * np.pi * np.e) - 1.
    fresh = gain(adapted(rng.exponential(size=[rows, 1])),
                 rng.exponential(size=[20_000, 1]))
    assert least < fresh[0] < best + 0.02


@pytest.mark.parametrize('rows', [20, 127, 128, 300, 1000, 5000])
def test_gaussian_columns_are_left_as_they_are(rows):
    y = np.random.default_rng(rows).normal(size=[rows, 200])
    np.testing.assert_array_equal(gaussianization.find_shape(y), 0.)


def test_many_rows_are_thinned_and_many_columns_taken_in_turns(monkeypatch):
    whole = adapted()
    monkeypatch.setattr(gaussianization, 'MAX_NUMBERS', 2001)
    np.testing.assert_array_equal(adapted().shape, whole.shape)
    monkeypatch.setattr(gaussianization, 'MAX_ROWS', 1000)
    fewer = adapted(np.repeat(Y, 2, axis=0))
    np.testing.assert_allclose(fewer.loc, whole.loc)
    np.testing.assert_array_equal(fewer.shape.shape, whole.shape.shape)


@pytest.mark.parametrize('values', [
    np.round(RNG.normal(size=[2000, 1])), RNG.choice(2, [2000, 1]).astype(float),
    RNG.standard_t(1, [2000, 1]), np.where(RNG.uniform(size=[2000, 1]) < 0.7, 0., Y[:, :1]),
    1e30 * Y[:, 1:2], 1e-25 * Y[:, 1:2]], ids=[
        'rounded', 'binary', 'Cauchy', 'zero-inflated', 'great', 'small'])
@pytest.mark.parametrize('dtype', [tf.float32, tf.float64], ids=['float32', 'float64'])
def test_odd_data_give_finite_maps_and_gradients(values, dtype):
    bijector = adapted(values, dtype)
    y = tf.constant(values, dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        x, ildj = bijector.inverse_and_log_det(y)
        loss = tf.reduce_sum(ildj - x[:, 0]**2 / 2.)
    assert np.all(np.isfinite(x)) and np.all(np.isfinite(ildj))
    assert np.all(np.isfinite(tape.gradient(loss, y)))
    back = bijector.forward(tf.identity(x))
    scale = float(bijector.scale[0])
    np.testing.assert_allclose(back / scale, y / scale, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64], ids=['float32', 'float64'])
def test_properties(dtype):
    # The grid that integrates is too coarse for a density of many pieces.
    y = np.stack([MIXTURE, RNG.gumbel(size=2000)], axis=-1)
    testing.check_bijector(
        adapted(y, dtype), event_size=2, skip=['normalisation'],
        checks=testing.CHECKS if dtype == tf.float64 else ['round_trip', 'log_det', 'dtype'])


def test_it_is_the_identity_until_it_adapts_and_adapts_once():
    bijector = gaussianization.Gaussianization(4, dtype=tf.float64)
    np.testing.assert_array_equal(bijector.forward(Y), Y)
    assert not bijector.adapted
    bijector.adapt(Y)
    shape = bijector.shape.numpy()
    bijector.adapt(Y[::-1]**2)
    np.testing.assert_array_equal(bijector.shape, shape)


def test_more_rows_than_it_is_to_look_at_are_left_to_networks():
    for max_rows, found in [(1999, False), (2000, True)]:
        bijector = gaussianization.Gaussianization(4, max_rows, tf.float64)
        bijector.adapt(Y)
        assert bijector.adapted and np.any(bijector.shape != 0.) == found
