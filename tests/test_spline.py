"""`RationalQuadratic` against TFP's own spline, and at its edges."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional.testing import values

tfb, tfd = tfp.bijectors, tfp.distributions

BOUND, BINS = 3., 5


def _spline(**kwargs):
    return tfpc.RationalQuadratic(num_bins=BINS, bound=BOUND, **kwargs)


def _stock(parameters):
    """TFP's spline with the bins that our parameters mean."""
    widths, heights, multiples = np.split(
        np.moveaxis(parameters, -2, -1), [BINS, 2 * BINS], axis=-1)

    def sizes(logits):
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return 2 * BOUND * (0.01 + (1 - 0.01 * BINS) * weights)

    widths, heights = sizes(widths), sizes(heights)
    slopes = heights / widths
    return tfb.RationalQuadraticSpline(
        widths, heights, np.sqrt(slopes[..., 1:] * slopes[..., :-1]) * (
            0.01 + np.log1p(np.exp(multiples + np.log(np.expm1(0.99))))),
        range_min=-BOUND)


@pytest.mark.parametrize('spread', [0.1, 1., 3.])
def test_equals_stock_spline_with_gradients(spread):
    parameters = spread * flows.normal([50, 3 * BINS - 1, 4], 1)
    x = 2. * flows.normal([50, 4], 2)
    stock = _stock(parameters.numpy())
    ours = _spline()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, parameters])
        y, fldj = ours.forward_and_log_det(x, parameters)
        back, ildj = ours.inverse_and_log_det(tf.identity(y), parameters)
        there, _ = ours.inverse_and_log_det(x, parameters)
    inside = np.abs(x) < BOUND
    assert inside.any() and (~inside).any()
    np.testing.assert_allclose(y, stock.forward(x), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(fldj, stock.forward_log_det_jacobian(x, 0),
                               rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(there, stock.inverse(x), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fldj, -ildj, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(tape.gradient(y, x), np.exp(fldj), rtol=1e-9)
    for output in (y, fldj, there, ildj):
        for gradient in (tape.gradient(output, x), tape.gradient(output, parameters)):
            assert gradient is None or np.all(np.isfinite(gradient))


@pytest.mark.parametrize('name', ['forward_and_log_det', 'inverse_and_log_det'])
def test_first_and_second_derivatives_are_those_of_differences(name):
    arguments = [tf.constant([[0.4], [BOUND + 1.]], tf.float64),
                 flows.normal([2, 3 * BINS - 1, 1], 1)]

    def total(*arguments):
        value, log_det = getattr(_spline(), name)(*arguments)
        return tf.reduce_sum(tf.sin(value) + log_det)

    def slopes(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            loss = total(*arguments)
        return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(
            loss, arguments)], 0)

    for function in (total, slopes):
        for exact, numeric in zip(*tf.test.compute_gradient(
                tf.function(function), arguments, delta=1e-6)):
            np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('name', ['forward_and_log_det', 'inverse_and_log_det'])
def test_gradients_of_what_is_broadcast_are_sums(name):
    one, parameters = flows.normal([1, 2], 2), flows.normal([4, 3 * BINS - 1, 2], 1)
    for few, many in [([one, parameters], [tf.repeat(one, 4, 0), parameters]),
                      ([tf.repeat(one, 4, 0), parameters[:1]],
                       [tf.repeat(one, 4, 0), tf.repeat(parameters[:1], 4, 0)])]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([few, many])
            losses = [tf.reduce_sum(tf.sin(tf.stack(getattr(_spline(), name)(*inputs))))
                      for inputs in (few, many)]
        for x, a, b in zip(few, tape.gradient(losses[0], few),
                           tape.gradient(losses[1], many)):
            assert a.shape == x.shape
            np.testing.assert_allclose(
                tf.reduce_sum(a, 0), tf.reduce_sum(b, 0), rtol=1e-12)


def test_zero_parameters_are_the_identity():
    x = 2. * flows.normal([50, 4])
    zeros = tf.zeros([50, 3 * BINS - 1, 4], tf.float64)
    for method in ('forward_and_log_det', 'inverse_and_log_det'):
        y, log_det = getattr(_spline(), method)(x, zeros)
        np.testing.assert_allclose(y, x, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(log_det, 0, atol=1e-13)


@pytest.mark.parametrize('dtype', [tf.float32, tf.float64])
def test_finite_at_knots_bounds_and_beyond(dtype):
    """Values and gradients, at every edge of the maths, for mild and wild parameters."""
    edges = np.array([-BOUND, BOUND, 0., 1e6, -1e30, np.nextafter(BOUND, 0),
                      np.nextafter(-BOUND, 0), np.nextafter(BOUND, 9), 1.2, -0.6])
    x = tf.constant(np.repeat(edges[:, None], 2, 1), dtype)
    for scale in (0., 1., 30., 1e6):
        parameters = tf.cast(scale * flows.normal([10, 3 * BINS - 1, 2], 3), dtype)
        for method in ('forward_and_log_det', 'inverse_and_log_det'):
            with tf.GradientTape() as tape:
                tape.watch([x, parameters])
                y, log_det = getattr(_spline(), method)(x, parameters)
                loss = tf.reduce_sum(tf.tanh(y)) + tf.reduce_sum(log_det)
            assert y.dtype == log_det.dtype == dtype
            for tensor in (y, log_det, *tape.gradient(loss, [x, parameters])):
                assert np.all(np.isfinite(tensor)), (scale, method)
            outside = np.abs(x) >= BOUND
            np.testing.assert_array_equal(y.numpy()[outside], x.numpy()[outside])


@pytest.mark.parametrize('dtype,mode', [
    *((dtype, mode) for dtype in (tf.bfloat16, tf.float16, tf.float32, tf.float64)
      for mode in ('eager', 'graph')), (tf.bfloat16, 'xla'), (tf.float32, 'xla')])
def test_batches_of_any_rank(dtype, mode):
    """Values and gradients are those of the same batch in one axis."""
    x, parameters = flows.normal([32, 2], 2), .3 * flows.normal([32, 3 * BINS - 1, 2])

    def run(x, parameters):
        with tf.GradientTape() as tape:
            tape.watch([x, parameters])
            y, fldj = _spline().forward_and_log_det(x, parameters)
            back, ildj = _spline().inverse_and_log_det(y, parameters)
            loss = tf.reduce_sum(y * y + back + fldj * fldj + ildj)
        return [y, fldj, back, ildj, *tape.gradient(loss, [x, parameters])]

    want = run(x, parameters)
    if mode != 'eager':
        run = tf.function(run, autograph=False, jit_compile=mode == 'xla')
    tolerance = {'bfloat16': .3, 'float16': .05, 'float32': 1e-4}.get(dtype.name, 1e-9)
    for rank in (0, 3, 4, 5) if mode == 'eager' else (5,):
        batch = [2] * rank
        got = run(*(tf.cast(tf.reshape(tensor[:2**rank], [*batch, *tensor.shape[1:]]),
                            dtype) for tensor in (x, parameters)))
        for a, b in zip(got, want):
            assert a.dtype == dtype and a.shape == [*batch, *b.shape[1:]]
            a = tf.reshape(tf.cast(a, tf.float64), [-1, *b.shape[1:]])
            # Of an edge of a bin, a rounded value may see the other side.
            error = np.abs(a - b[:2**rank]) / (1. + np.abs(b[:2**rank]))
            assert np.all(np.isfinite(a)) and np.quantile(error, .9) < tolerance


def test_monotone_and_continuous():
    parameters = tf.repeat(2. * flows.normal([1, 3 * BINS - 1, 1], 4), 2001, 0)
    x = tf.constant(np.linspace(-4, 4, 2001)[:, None])
    y = _spline().forward_and_log_det(x, parameters)[0].numpy()[:, 0]
    steps = np.diff(y)
    assert np.all(steps > 0) and steps.max() < 100 * 8 / 2000


def test_float32_round_trip():
    """To 1e-5 inside and outside; where the map is flat, of what y can resolve."""
    x = 4. * flows.normal([5000, 4], 2, tf.float32)
    for spread in (0.3, 1.):
        parameters = spread * flows.normal([5000, 3 * BINS - 1, 4], 1, tf.float32)
        y, fldj = _spline().forward_and_log_det(x, parameters)
        assert np.max(np.abs(y - x)) > 0.1
        error = np.abs(_spline().inverse_and_log_det(y, parameters)[0] - x)
        if spread == 0.3:
            assert np.max(error) <= 1e-5
        assert np.max(error * np.minimum(1., np.exp(fldj))) <= 1e-5


def test_float32_inverse_is_as_exact_as_its_argument():
    """However derivatives at the ends of a bin differ: its root does not cancel."""
    slopes = 300. * flows.normal([20000, BINS - 1, 1], 1, tf.float32)
    parameters = tf.concat([tf.zeros([20000, 2 * BINS, 1]), slopes], -2)
    y = flows.normal([20000, 1], 2, tf.float32)
    spline = _spline(min_derivative=1e-3)
    x, _ = spline.inverse_and_log_det(y, parameters)
    back, fldj = spline.forward_and_log_det(*(
        tf.cast(tensor, tf.float64) for tensor in (x, parameters)))
    error = np.abs(back - tf.cast(y, tf.float64)) / np.maximum(1., np.exp(fldj))
    assert np.max(error) < 1e-6


def test_float32_round_trip_in_a_flow():
    flow = flows.flow(3, 3, 4, dtype=tf.float32, scale=0.15,
                      transformer='rational_quadratic')
    x = tf.concat([flows.normal([500, 3], dtype=tf.float32),
                   7. * flows.normal([500, 3], 1, dtype=tf.float32)], 0)
    c = flows.normal([1000, 3], 2, dtype=tf.float32)
    y, fldj = flow.forward_and_log_det(x, conditions=c)
    assert np.max(np.abs(y - x)) > 0.05
    back, ildj = flow.inverse_and_log_det(y, conditions=c)
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fldj, -ildj, atol=1e-4)


class TestAngles:
    """`CircularRationalQuadratic`."""

    @staticmethod
    @functools.cache
    def _dist(dtype=tf.float64):
        flow = tfpc.ConditionalRealNVP(
            2, 1, num_coupling_layers=2, hidden_layers=(8,), dtype=dtype, seed=0,
            transformer='circular_rational_quadratic')
        flows.perturb(flow, scale=0.5)
        bound = tf.constant(np.pi, dtype) * tf.ones(2, dtype)
        return flow(tfd.Independent(tfd.Uniform(-bound, bound), 1))

    def test_is_the_identity_at_0(self):
        x = tf.constant(np.linspace(-np.pi, 3.14, 50))[:, tf.newaxis]
        for method in ('forward_and_log_det', 'inverse_and_log_det'):
            y, log_det = getattr(tfpc.CircularRationalQuadratic(5), method)(
                x, tf.zeros([50, 18, 1], tf.float64))
            np.testing.assert_allclose(y, x, atol=1e-12)
            np.testing.assert_allclose(log_det, 0., atol=1e-12)

    def test_density_is_periodic_and_goes_on_across_the_cut(self):
        given = self._dist().given([[0.3]])
        y = tf.constant(np.random.default_rng(1).uniform(-np.pi, np.pi, [50, 2]))
        log_prob = given.log_prob(y).numpy()
        assert np.std(log_prob) > 0.1
        for turn in ([2. * np.pi, 0.], [-2. * np.pi, 4. * np.pi]):
            np.testing.assert_allclose(given.log_prob(y + turn), log_prob, rtol=1e-9)
        for axis in (0, 1):
            step = 1e-7 * np.eye(2)[axis]
            edge = np.where(np.eye(2)[axis] > 0., np.pi, y)
            np.testing.assert_allclose(given.log_prob(edge - step),
                                       given.log_prob(edge + step), atol=1e-4)

    def test_density_is_normalised(self):
        grid = np.linspace(-np.pi, np.pi, 400, endpoint=False)
        points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        prob = self._dist().given([0.3]).prob(points)
        np.testing.assert_allclose(np.mean(prob) * 4. * np.pi**2, 1., rtol=1e-4)

    @pytest.mark.parametrize('dtype,tolerance', [(tf.float64, 1e-9), (tf.float32, 1e-4)])
    def test_round_trip_in_range_with_the_log_det_of_autodiff(self, dtype, tolerance):
        dist = self._dist(dtype)
        flow, c = dist.bijector, tf.constant([[0.3]], dtype)
        x = tf.cast(tf.constant(np.random.default_rng(1).uniform(-np.pi, np.pi, [50, 2])), dtype)
        y, fldj = flow.forward_and_log_det(x, 1, conditions=c)
        assert np.all((y >= -np.pi) & (y < np.pi))
        back, ildj = flow.inverse_and_log_det(tf.identity(y), 1, conditions=c)
        np.testing.assert_allclose(np.cos(back - x), 1., atol=tolerance)
        np.testing.assert_allclose(fldj, -ildj, atol=100. * tolerance)
        matrix = values.jacobian(lambda x: flow.forward(x, conditions=c), x)
        np.testing.assert_allclose(np.linalg.slogdet(matrix)[1], fldj,
                                   atol=100. * tolerance)

    def test_of_the_cut_itself_everything_is_finite(self):
        for dtype in (tf.float64, tf.float32):
            pi = dtype.as_numpy_dtype(np.pi)
            dist = self._dist(dtype)
            y = tf.constant(np.array([pi, -pi, np.nextafter(pi, pi * 2),
                                      1e6 * pi, 0.])[:, np.newaxis] * [1., 1.], dtype)
            with tf.GradientTape() as tape:
                tape.watch(y)
                log_prob = dist.given([[0.3]]).log_prob(y)
            assert np.all(np.isfinite(log_prob))
            assert np.all(np.isfinite(tape.gradient(log_prob, y)))

    def test_fits_a_von_mises(self):
        rng = np.random.default_rng(0)
        loc = rng.uniform(-np.pi, np.pi, [4000, 1])
        exact = tfd.VonMises(loc, np.float64(2.))
        y = exact.sample(seed=0).numpy()
        flow = tfpc.ConditionalElementwise(
            1, 2, (32,), 'silu', tfpc.CircularRationalQuadratic(), seed=0)
        dist = flow(tfd.Independent(tfd.Uniform([-np.float32(np.pi)],
                                                [np.float32(np.pi)]), 1))
        c = np.concatenate([np.cos(loc), np.sin(loc)], -1)
        tfpc.fit(dist, y[:3000], c[:3000], epochs=15, seed=0, verbose=False)
        gap = np.mean(exact.log_prob(y)[3000:, 0].numpy() - dist.given(
            c[3000:]).log_prob(y[3000:].astype(np.float32)).numpy())
        assert gap < 0.05
