"""`SoftBounds`: what edges it finds, its maths, and that nothing leaks across them."""

import copy

import numpy as np
import pytest
from scipy import special
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import testing
from tfp_conditional.bijectors import bounds

tfb, tfd = tfp.bijectors, tfp.distributions

RNG = np.random.default_rng(0)
# Bounded on both sides, below, above, and not at all.
Y = np.stack([RNG.uniform(-2., 2., 3000), RNG.exponential(size=3000),
              -RNG.exponential(size=3000), RNG.normal(size=3000)], axis=-1)


def soft(dtype=tf.float64):
    bijector = tfpc.SoftBounds(4, dtype)
    bijector.adapt(Y)
    return bijector


def test_it_finds_the_edges_of_data():
    low, high, inf = soft().low, soft().high, np.inf
    np.testing.assert_allclose(low, [-2., 0., -inf, -inf], atol=0.02)
    np.testing.assert_allclose(high, [2., inf, 0., inf], atol=0.02)
    assert np.all(low < Y.min(0)) and np.all(high > Y.max(0))
    np.testing.assert_allclose(soft().softness, bounds.SOFTNESS * Y.std(0))


def order_statistics(quantile, count, k, columns, rng):
    """The k + 1 greatest of `count` draws, `[columns, k + 1]`, descending."""
    sums = np.cumsum(rng.standard_exponential([columns, k + 1]), axis=-1)
    rest = rng.gamma(count - k, size=[columns, 1])
    return quantile(sums / (sums[:, -1:] + rest))


# From the probability of greater values: those whose end looks most like an edge, and
# the ends of the others.
SMOOTH = {
    'normal': lambda p: -special.ndtri(p), 'Laplace': lambda p: -np.log(p),
    'Gumbel': lambda p: np.log(-np.log(p)), 'Student t': lambda p: p**-0.5,
    'lognormal': lambda p: -np.exp(special.ndtri(p)),
    'Gamma(2)': lambda p: -special.gammaincinv(2., p),
    'Beta(2, 2)': lambda p: -special.betaincinv(2., 2., p),
    'cluster': lambda p: -np.where(p < 0.05, 0.02 * special.ndtri(
        np.clip(p / 0.05, 1e-12, 1 - 1e-12)) - 4., special.ndtri((p - 0.05) / 0.95))}


@pytest.mark.parametrize('count', [1000, 3000, 100_000])
@pytest.mark.parametrize('name', SMOOTH)
def test_no_smooth_end_is_taken_for_an_edge(name, count):
    k = min(count // 5, 1000)
    rng = np.random.default_rng(0)
    columns = 20_000 if k == 200 else 3000
    mean = np.concatenate([bounds.mean_log(order_statistics(
        SMOOTH[name], count, k, 1000, rng)) for _ in range(columns // 1000)])
    assert np.sum(mean > max(0.74 + 52. / k, 0.87)) == 0
    # Both ends at once: never by chance where one has this probability.
    if name == 'Beta(2, 2)':
        assert np.mean(mean > 0.8) < 2e-3


@pytest.mark.parametrize('count', [50, 300, 999, 1000, 1001, 1500, 5000])
def test_columns_without_edges_have_no_bounds(count):
    rng = np.random.default_rng(count)
    draws = [rng.normal, rng.laplace, rng.gumbel, rng.lognormal,
             lambda size: rng.standard_t(2, size), lambda size: rng.gamma(2, size=size),
             lambda size: rng.choice([-3., 3.], size) + 0.2 * rng.normal(size=size),
             lambda size: np.where(rng.uniform(size=size) < 0.05, 9., 0.)
             + rng.normal(size=size), lambda size: np.round(rng.normal(size=size), 1),
             lambda size: np.round(3. * rng.normal(size=size)),
             lambda size: rng.poisson(8., size).astype(float)]
    for draw in draws:
        for _ in range(20):
            assert bounds.find_bounds(draw(size=count)) == (-np.inf, np.inf)


def test_the_normal_column_that_had_a_bound_once_has_none():
    y = np.random.default_rng(9).normal(size=1000)
    assert bounds.find_bounds(y) == (-np.inf, np.inf)


@pytest.mark.parametrize('values', [
    np.zeros(5000), np.tile([0., 1.], 5000), RNG.integers(1, 6, 5000),
    RNG.uniform(size=999)], ids=['constant', 'binary', 'ratings', 'few'])
def test_what_has_few_values_has_no_bounds(values):
    assert bounds.find_bounds(values.astype(float)) == (-np.inf, np.inf)


@pytest.mark.parametrize('count', [1000, 1500, 10_000, 100_000])
def test_true_edges_are_found(count):
    rng = np.random.default_rng(count)
    runs, reach = 50, 30. / count
    for draw, low, high in [
            (rng.uniform, 0., 1.), (rng.exponential, 0., np.inf),
            (lambda size: rng.beta(0.5, 0.5, size), 0., 1.),
            (lambda size: rng.triangular(0., 0., 1., size), 0., np.inf),
            (lambda size: -np.abs(rng.normal(size=size)), -np.inf, 0.)]:
        found = np.array([bounds.find_bounds(draw(size=count)) for _ in range(runs)])
        both = np.isfinite(low) and np.isfinite(high)
        for got, edge in zip(found.T, (low, high)):
            known = np.isfinite(got)
            if not np.isfinite(edge):
                assert not known.any()
                continue
            assert known.mean() > (0.9 if both or count > 1000 else 0.3)
            np.testing.assert_allclose(got[known], edge, atol=reach)


def test_it_finds_those_of_whole_numbers_and_of_clipped_data():
    for values in (RNG.integers(0, 10, 5000), RNG.integers(0, 101, 5000),
                   np.clip(RNG.normal(size=5000), -1., 1.),
                   np.clip(RNG.normal(size=5000), -2., 2.)):
        low, high = bounds.find_bounds(values.astype(float))
        assert values.min() - 0.2 < low < values.min()
        assert values.max() < high < values.max() + 0.2


def test_no_bound_where_a_few_rows_lie_beyond_the_edge():
    values = np.concatenate([RNG.uniform(size=27_000), [2., -1.5]])
    assert bounds.find_bounds(values) == (-np.inf, np.inf)


def test_properties():
    testing.check_bijector(soft(), event_size=4, skip=['broadcasting'])


def test_one_bound_is_a_soft_clip_of_tfp():
    bijector = tfpc.SoftBounds(1, tf.float64)
    bijector.adapt(Y[:, 2:3])
    stock = tfb.SoftClip(high=bijector.high, hinge_softness=bijector.softness)
    y = np.linspace(-1., float(bijector.high[0]) - 0.01, 50)[:, np.newaxis]
    np.testing.assert_allclose(bijector.inverse(y), stock.inverse(y), rtol=1e-9)
    np.testing.assert_allclose(bijector.inverse_log_det_jacobian(y, 1),
                               stock.inverse_log_det_jacobian(y, 1), atol=1e-9)


def test_far_from_an_edge_it_is_the_identity():
    y = tf.constant([[0.5, 1., -1., 100.], [-1., 5., -9., -100.]], tf.float64)
    np.testing.assert_allclose(soft().inverse(y), y, rtol=1e-12)
    new = tfpc.SoftBounds(4, tf.float64)
    for got in (new.inverse(y), new.forward(y)):
        np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(new.inverse_log_det_jacobian(y, 1), [0., 0.])


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64], ids=lambda d: d.name)
def test_beyond_an_edge_all_is_finite_and_goes_back(dtype):
    bijector = soft(dtype)
    y = tf.cast([[1.99, 0.01, -0.01, 0.], [2.5, -0.5, 0.5, 1.], [-2.5, 0., 0., 0.],
                 [50., -50., 50., 1e6], [-2., 1e-9, -1e-9, 0.]], dtype)
    with tf.GradientTape() as tape:
        tape.watch(y)
        x = bijector.inverse(y)
    log_det = bijector.inverse_log_det_jacobian(tf.identity(y), 1)
    gradient = tape.gradient(x, y)
    assert np.all(np.isfinite(x)) and np.all(np.isfinite(gradient))
    np.testing.assert_allclose(np.log(gradient).sum(-1), log_det, rtol=1e-4)
    np.testing.assert_allclose(bijector.forward(tf.identity(x)), y, rtol=1e-5,
                               atol=1e-5)


@pytest.mark.parametrize('distance', [0.01, 0.3, 1.5, 10.])
def test_beyond_an_edge_the_density_is_that_of_a_tail(distance):
    """Of a flow that has learnt nothing, no more than where there is no bound."""
    y = RNG.uniform(size=[2000, 1])
    bijector = tfpc.SoftBounds(1, tf.float64)
    bijector.adapt(y)
    dist = tfd.TransformedDistribution(tfd.Independent(tfd.Normal(
        tf.constant([0.5], tf.float64), np.std(y)), 1), bijector)
    beyond = float(bijector.high[0]) + distance
    got = dist.log_prob([[beyond], [1. - beyond]])
    shift = 0.71 * np.std(y)
    least = dist.distribution.log_prob([[beyond + shift], [1. - beyond - shift]])
    assert np.all(got >= least) and np.all(np.isfinite(got))
    # And it falls all the way.
    path = tf.constant(np.linspace(1.03, 3., 100)[:, np.newaxis])
    assert np.all(np.diff(dist.log_prob(path)) < 0.)


def test_it_learns_once_and_copies_know():
    bijector = soft()
    clone = copy.deepcopy(bijector)
    for one in (bijector, clone):
        assert one.adapted
        one.adapt(Y + 1.)
        np.testing.assert_array_equal(one.high, soft().high)
    with pytest.raises(ValueError, match='`y` must.*1 of them not finite'):
        tfpc.SoftBounds(1).adapt([[0.], [np.nan]])


def test_samples_of_a_density_stay_within_the_edges():
    y = RNG.uniform(size=[2000, 2])
    c = y[:, :1] + 0.1 * RNG.normal(size=[2000, 1])
    outside = []
    for support in (None, tfb.Identity()):
        dist = tfpc.conditional_density(2, 1, support, num_coupling_layers=1,
                                        hidden_layers=(16,), seed=0)
        tfpc.fit(dist, y, c, epochs=10, seed=0, verbose=False)
        samples = dist.sample(2000, **flows.given(tf.cast(c, tf.float32))).numpy()
        assert (samples > 0.9).mean() > 0.02   # They reach them.
        outside.append(np.mean((samples < -0.02) | (samples > 1.02)))
    assert outside[0] < 0.005 and outside[0] < outside[1] / 3.
