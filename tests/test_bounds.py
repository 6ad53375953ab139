"""`SoftBounds`: what edges it finds, its maths, and that nothing leaks across them."""

import copy

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import bounds
from tfp_conditional import testing

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


@pytest.mark.parametrize('name,values', [
    ('normal', RNG.normal(size=1000)), ('Student t', RNG.standard_t(3, size=5000)),
    ('logistic', RNG.logistic(size=1000)), ('Beta(3, 3)', RNG.beta(3, 3, size=20_000)),
    ('few', RNG.uniform(size=999)), ('constant', np.ones(5000))],
                         ids=lambda x: x if isinstance(x, str) else '')
def test_it_finds_none_where_there_is_none(name, values):
    del name
    assert bounds.find_bounds(values) == (-np.inf, np.inf)


def test_it_finds_those_of_whole_numbers_and_of_clipped_data():
    for values in (RNG.integers(0, 10, 5000), np.clip(RNG.normal(size=5000), -1., 1.)):
        low, high = bounds.find_bounds(values.astype(float))
        assert values.min() - 0.05 < low < values.min()
        assert values.max() < high < values.max() + 0.05


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
    dist = tfpc.conditional_density(2, 1, num_coupling_layers=2, hidden_layers=(4,))
    y = RNG.uniform(size=[2000, 2])
    c = y[:, :1] + 0.1 * RNG.normal(size=[2000, 1])
    dist.bijector.adapt(y, c)
    flows.perturb(dist.bijector, scale=1.)
    samples = dist.sample(2000, **flows.given(tf.cast(c, tf.float32))).numpy()
    assert samples.min() > -0.02 and samples.max() < 1.02
    assert (samples > 0.9).mean() > 0.02   # They reach them.
