"""`Squash`: a tanh whose densities are finite at the bounds."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import testing
from tfp_conditional.bijectors import squash

tfb, tfd = tfp.bijectors, tfp.distributions

MOST = float(np.finfo(np.float32).max)
BOUNDS = {'unit': ([-1.], [1.]), 'from 0': ([0.], [1.]), 'to 0': ([-2.], [0.]),
          'away': ([10.], [13.]), 'wide': ([-1e30], [2e30]), 'narrow': ([1.], [1.001]),
          'all': ([-MOST], [MOST]), 'two': ([-2., 0.], [2., 1.])}
DTYPES = [tf.float64, tf.float32, tf.float16, tf.bfloat16]


def make(name, dtype=tf.float32, **kwargs):
    return squash.Squash(*BOUNDS[name], dtype=dtype, **kwargs)


def ulp(value):
    """The unit in the last place, of the greatest number too."""
    return 2. * np.spacing(np.abs(np.asarray(value, np.float32)) / 2).astype(float)


def finite(*values):
    return all(np.all(np.isfinite(np.asarray(value, np.float64))) for value in values)


def test_properties():
    testing.check_bijector(squash.Squash([10.] * 2, [13.] * 2, dtype=tf.float64),
                           event_size=2, support=(10., 13.))


@pytest.mark.parametrize('dtype,jit_compile', [
    *((dtype, False) for dtype in DTYPES), (tf.float64, True), (tf.float32, True)])
def test_latents_of_any_size_are_finite_there_and_back(dtype, jit_compile):
    bijector = squash.Squash(*(np.concatenate([BOUNDS[name][i] for name in (
        'unit', 'from 0', 'to 0', 'away', 'two')]) for i in range(2)), dtype=dtype)
    x = tf.cast(tf.fill([1, bijector.event_size], 1.), dtype) * tf.cast(
        tf.constant([-1000., -100., -9., -1., -1e-3, 0., 1e-3, 1., 9., 100., 1000.]),
        dtype)[:, tf.newaxis]

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(x):
        y, fldj = bijector.forward_and_log_det(x)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([x, y])
            again = bijector.forward_and_log_det(x)
            back = bijector.inverse_and_log_det(y)
        return (y, fldj, *back, *(tape.gradient(r, x) for r in again),
                *(tape.gradient(r, y) for r in back))

    y, _, back, _, *gradients = results = run(x)
    assert finite(*results[:4])
    # Slopes at a bound that is 0 are more than half precision has numbers for.
    assert finite(*gradients[:2]) and (dtype.size == 2 or finite(*gradients))
    assert np.all(y >= bijector.low) and np.all(y <= bijector.high)
    assert np.all(np.diff(np.asarray(y, np.float64), axis=0) >= 0)
    middle = np.abs(np.asarray(x, np.float64)) <= 1
    error = np.abs(np.asarray(back - x, np.float64)[middle[:, 0]])
    assert np.all(error <= 1e-7 + 10. * EPS[dtype] * np.float64(
        np.maximum(np.abs(bijector.low), np.abs(bijector.high))))


EPS = {tf.float64: 2e-16, tf.float32: 1.2e-7, tf.float16: 1e-3, tf.bfloat16: 8e-3}


@pytest.mark.parametrize('name', BOUNDS)
def test_densities_of_samples_agree_with_float64(name):
    """To what the rounding of the sample leaves of its distance from the bound."""
    single = make(name)
    double = squash.Squash(single.low, single.high, tf.float64)
    size = single.event_size
    x = 3. * flows.normal([2000, size])
    y = single.forward(tf.cast(x, tf.float32))
    spacing = ulp(y) + np.maximum(ulp(single.low), ulp(single.high))
    gap = np.minimum(np.float64(y) - single.low, single.high - np.float64(y))
    error = 1e-5 + np.sum(4. * spacing / np.maximum(gap, spacing / 2), -1)
    exact = flows.base(size).log_prob(x) - double.forward_log_det_jacobian(x)
    np.testing.assert_array_less(np.abs(
        tf.cast(single.forward_log_det_jacobian(tf.cast(x, tf.float32)), tf.float64)
        - double.forward_log_det_jacobian(x)), 1e-4)
    latents, log_det = single.inverse_and_log_det(y)
    log_prob = tf.cast(flows.base(size, tf.float32).log_prob(latents) + log_det,
                       tf.float64)
    assert finite(log_prob)
    scale = 1. + np.abs(x).max(-1)
    assert np.all(np.abs(log_prob - exact) < scale * error)
    far = np.all(gap > 1e3 * spacing, axis=-1)
    assert far.mean() > (.1 if name == 'narrow' else .5)


@pytest.mark.parametrize('name', BOUNDS)
def test_the_bounds_and_their_rounding_have_a_density_and_beyond_it_is_none(name):
    bijector = make(name)
    # Steps of the greater bound, as rescaling makes them.
    step = np.maximum(ulp(bijector.low), ulp(bijector.high))
    most = np.float64(MOST)
    for bound, sign in ((bijector.low, -1.), (bijector.high, 1.)):
        for count, inside in ((0, True), (1, True), (3, True), (100, False),
                              (1e30, False), (np.inf, False)):
            with np.errstate(all='ignore'):
                y = bound.astype(np.float64) + sign * count * step
            if inside and np.any(np.abs(y) > most):
                continue
            y = tf.constant(np.where(np.abs(y) > most, sign * np.inf, y), tf.float32)
            with tf.GradientTape() as tape:
                tape.watch(y)
                x, log_det = bijector.inverse_and_log_det(y)
            assert finite(x) and np.all(sign * x > 0)
            assert finite(log_det) if inside else log_det == -np.inf
            assert finite(tape.gradient(log_det, y))


def test_a_row_outside_does_not_spoil_the_others():
    flow = tfpc.ConditionalChain([make('two'), flows.flow(dtype=tf.float32)])
    dist = flows.dist(flow)
    y = tf.constant([[0., .5], [2., 0.], [0., 1.5], [np.inf, .5]])
    with tf.GradientTape() as tape:
        log_prob = dist.log_prob(y, **flows.given(tf.ones([4, 3])))
        loss = tf.reduce_sum(tf.where(tf.math.is_finite(log_prob), log_prob, 0.))
    assert finite(log_prob[:2], *tape.gradient(loss, flow.trainable_variables))
    np.testing.assert_array_equal(log_prob[2:], [-np.inf, -np.inf])


def test_nan_and_infinite_latents():
    assert np.isnan(make('two').inverse_and_log_det([0., np.nan])[1])
    y, log_det = make('unit').forward_and_log_det([[np.nan], [np.inf], [-np.inf]])
    np.testing.assert_array_equal(y, [[np.nan], [1.], [-1.]])
    np.testing.assert_array_equal(log_det, [np.nan, -np.inf, -np.inf])


def test_validate_args_refuses_what_is_outside():
    bijector = make('two', validate_args=True)
    bijector.inverse([[2., 0.], [-2., 1.]])
    for bad in ([2.1, 0.], [0., -np.inf]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="'squash' must lie"):
            bijector.inverse([[0., .5], bad])


def test_policies_have_finite_log_probs_of_their_own_saturated_samples():
    flow = tfpc.ConditionalChain([make('two'), flows.flow(dtype=tf.float32, scale=3.)])
    dist = flows.dist(flow)
    given = tfpc.given(dist, 30. * flows.normal([50, 3], dtype=tf.float32))
    y, log_prob = given.experimental_sample_and_log_prob(20)
    assert np.mean(np.any((y == flow.bijectors[0].low)
                          | (y == flow.bijectors[0].high), -1)) > .05
    assert finite(log_prob, given.log_prob(y))


@pytest.mark.parametrize('clone', [
    copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b)),
    lambda b: b.copy(name='other')])
def test_copies(clone):
    bijector = make('two')
    x = flows.normal([5, 2], dtype=tf.float32)
    np.testing.assert_array_equal(clone(bijector).forward(x), bijector.forward(x))


def test_a_checkpoint_of_other_bounds_is_refused(tmp_path):
    path = tf.train.Checkpoint(b=make('unit')).write(str(tmp_path / 'ckpt'))
    tf.train.Checkpoint(b=make('unit')).read(path).assert_consumed()
    with pytest.raises(ValueError, match=r'low\[0\]` was -1.0, and is 0.0 here'):
        tf.train.Checkpoint(b=make('from 0')).read(path)


@pytest.mark.parametrize('low,high,error,match', [
    ([0.], [0.], ValueError, 'must be less than `high`.*for unit 0'),
    ([0., 3.], [1., 2.], ValueError, 'for unit 1'),
    ([1e8], [1e8 + 1], ValueError, 'as numbers of float32'),
    ([-np.inf], [0.], ValueError, 'support_bijector'),
    ([-1e39], [1e39], ValueError, 'both finite, as numbers of float32'),
    ([np.nan], [0.], ValueError, 'for unit 0'),
    (0., 1., ValueError, r'vectors \[D\] of one length; got shapes \[\] and \[\]'),
    ([[0.]], [[1.]], ValueError, r'got shapes \[1, 1\]'),
    ([0., 0.], [1.], ValueError, r'got shapes \[2\] and \[1\]'),
    ([], [], ValueError, r'vectors \[D\]'),
    (['a'], ['b'], TypeError, 'must be numbers'),
    (None, [1.], (TypeError, ValueError), 'must be'),
])
def test_misuse(low, high, error, match):
    with pytest.raises(error, match=match):
        squash.Squash(low, high)
    with pytest.raises(TypeError, match='must be floating'):
        squash.Squash([0.], [1.], dtype=tf.int32)
