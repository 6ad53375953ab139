"""`Tails`: what it finds, its maths, and that it leaves light tails alone."""

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tfp_conditional import testing
from tfp_conditional.bijectors import tails

tfd = tfp.distributions

RNG = np.random.default_rng(0)
# Heavy on both sides, above, below, and not at all.
T = RNG.standard_t(1, [3000, 1])
Y = np.concatenate([T, np.exp(1.5 * RNG.normal(size=[3000, 1])), -np.abs(T),
                    RNG.normal(size=[3000, 1])], axis=-1)


def adapted(dtype=tf.float64, data=Y):
    bijector = tails.Tails(data.shape[-1], dtype)
    bijector.adapt(data)
    return bijector


def test_it_finds_heavy_tails():
    bijector = adapted()
    np.testing.assert_array_equal(np.isfinite(bijector.high), [1, 1, 0, 0])
    np.testing.assert_array_equal(np.isfinite(bijector.low), [1, 0, 1, 0])
    x = bijector.inverse(Y).numpy()
    assert np.abs(Y).max() > 500. and np.abs(x / np.std(x, axis=0)).max() < 12.


@pytest.mark.parametrize('rows', [20, 299, 300, 1000, 10_000])
def test_light_tails_are_left_as_they_are(rows):
    rng = np.random.default_rng(rows)
    for draw in (rng.normal, rng.uniform, rng.logistic, rng.laplace, rng.exponential,
                 lambda size: rng.choice([-2., 2.], size) + 0.5 * rng.normal(size=size),
                 lambda size: np.round(rng.normal(size=size)),
                 lambda size: np.ones(size),
                 lambda size: np.round(2. * rng.normal(size=size)) / 2.):
        columns = 30
        found = [np.isfinite(tails.find_tail(draw(size=rows))[0])
                 for _ in range(columns)]
        assert np.sum(found) <= 1


def test_excesses_of_a_power_become_those_of_a_gaussian():
    # Index 1 / 2 above 1, where x^-2 is left.
    y = np.random.default_rng(0).uniform(size=20_000)**-0.5
    start, scale, bend = tails.find_tail(y)
    np.testing.assert_allclose(scale / start, 1., rtol=0.3)
    x = scale * np.log1p((y[y > start] - start) / scale)
    assert stats.kstest(x / np.mean(x), 'expon').pvalue > 1e-3
    bijector = adapted(data=y[:, np.newaxis])
    x = (bijector.inverse(y[:, np.newaxis])[:, 0] - start).numpy() / np.sqrt(
        bend * np.mean(x))
    normal = stats.truncnorm(stats.norm.ppf(0.9), np.inf, loc=-stats.norm.ppf(0.9))
    assert stats.kstest(x[x > 0.], normal.cdf).statistic < 0.04


def test_properties():
    testing.check_bijector(adapted(), event_size=4, skip=['broadcasting'])


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64], ids=lambda d: d.name)
def test_far_out_all_is_finite_and_goes_back(dtype):
    bijector = adapted(dtype)
    most = dtype.max**0.5
    y = tf.constant([[1e4, 3e3, -1e5, 0.], [-1e9, 1e-3, 0., 1.],
                     [most, most, -most, most], [0.] * 4], dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        x, log_det = bijector.inverse_and_log_det(y)
        total = tf.reduce_sum(log_det)
    for value in (x, log_det, *tape.gradient([tf.reduce_sum(x), total], [y])):
        assert np.all(np.isfinite(value))
    np.testing.assert_allclose(bijector.forward(tf.identity(x)), y, rtol=1e-4,
                               atol=1e-5)
    x = tf.constant([[300.] * 4, [-300.] * 4], dtype)
    assert np.all(np.isfinite(bijector.forward(x)))
    new = tails.Tails(4, dtype)
    np.testing.assert_array_equal(new.inverse(y), y)
    np.testing.assert_array_equal(
        new.inverse_log_det_jacobian(tf.identity(y), 1), [0.] * 4)


@pytest.mark.parametrize('degrees,most', [(1, 0.12), (3, 0.1)])
def test_a_density_of_heavy_tails(degrees, most):
    """Its mean and its worst row, where a Gaussian's tail costs hundreds of nats."""
    rng = np.random.default_rng(degrees)
    y, c = rng.standard_t(degrees, [3000, 1]), rng.normal(size=[3000, 1])
    test = rng.standard_t(degrees, [5000, 1])
    dist = tfpc.conditional_density(1, 1, num_coupling_layers=1, hidden_layers=(16,),
                                    seed=0)
    tfpc.fit(dist, y, c, validation_split=0.1, epochs=20, seed=0, verbose=False)
    lost = stats.t(degrees).logpdf(test)[:, 0] - dist.log_prob(
        tf.constant(test, tf.float32),
        bijector_kwargs={'conditions': tf.zeros([5000, 1])}).numpy()
    assert np.mean(lost) < most and np.max(lost) < 20.


def test_misuse():
    with pytest.raises(ValueError, match='`y` must.*1 of them not finite'):
        tails.Tails(1).adapt([[0.], [np.nan]])
