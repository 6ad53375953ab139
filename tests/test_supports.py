"""Supports of single columns, and `Quantized`."""

import copy
import json
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import calibration, posterior
from tfp_conditional.bijectors import angles as angles_lib

tfb, tfd = tfp.bijectors, tfp.distributions

SMALL = dict(num_coupling_layers=1, hidden_layers=(8,), dtype=tf.float64, seed=0)
C = flows.normal([5, 2])


def density(event_size, support=None, **kwargs):
    """A small one, not at its initial weights."""
    return flows.perturb(tfpc.conditional_density(
        event_size, 2, support=support, **{**SMALL, **kwargs}), scale=0.4)


def plain(event_size=1, support=None, dtype=tf.float64):
    """A density of few parts, quick to trace."""
    flow = flows.flow(event_size, 2, 2, (4,), dtype, transformer=tfpc.RationalQuadratic(4))
    if support is not None:
        flow = tfpc.ConditionalChain([support, flow])
    return flow(flows.base(event_size, dtype))


def again(dist, path):
    """What comes back of a config and a checkpoint, a deep copy and a pickle."""
    restored = tfpc.from_config(json.loads(json.dumps(tfpc.to_config(dist))))
    tf.train.Checkpoint(dist=dist).write(path)
    tfpc.load_weights(path, dist=restored)
    return restored, copy.deepcopy(dist), pickle.loads(pickle.dumps(dist))


@pytest.fixture(scope='module')
def mixed():
    return density(9, [
        None, (0., 1.), tfpc.Circular(0., 360.), (None, 5.), tfpc.Simplex(3),
        tfpc.Circular(), tfb.Identity()])


@pytest.fixture(scope='module')
def cylinder():
    return density(2, [(0., 2.), tfpc.Circular(0., 24.)])


class TestColumns:
    """`conditional_density` of a list of supports."""

    def test_samples_are_on_the_support_and_have_their_density(self, mixed):
        y, log_prob = mixed.given(C).experimental_sample_and_log_prob(200, seed=1)
        low = [-np.inf, 0., 0., -np.inf, 0., 0., 0., -np.pi, -np.inf]
        high = [np.inf, 1., 360., 5., 1., 1., 1., np.pi, np.inf]
        assert np.all((y >= low) & (y < high))
        np.testing.assert_allclose(np.sum(y[..., 4:7], -1), 1.)
        assert np.std(y[..., 2]) > 10. and np.std(log_prob) > 0.1
        np.testing.assert_allclose(mixed.given(C).log_prob(tf.identity(y)), log_prob,
                                   rtol=1e-6, atol=1e-6)

    def test_log_det_is_that_of_differences(self, mixed):
        """Of a simplex, with respect to all of its numbers but the last."""
        x = mixed.distribution.sample(5, seed=1)[:, tf.newaxis]
        steps = 1e-6 * np.concatenate([np.eye(8), -np.eye(8), np.zeros([1, 8])])
        y, log_det = mixed.bijector.forward_and_log_det(
            tf.reshape(x + steps, [-1, 8]), 1, conditions=np.repeat(C, 17, axis=0))
        y = np.delete(np.reshape(y, [5, 17, 9]), 6, axis=-1)
        jacobian = (y[:, :8] - y[:, 8:16]) / 2e-6
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1],
                                   np.reshape(log_det, [5, 17])[:, -1], rtol=1e-5)

    def test_density_and_slope_go_on_across_the_seam(self, mixed):
        y = mixed.given(C).sample(200, seed=1)[0]
        for column, end, period in [(2, 360., 360.), (7, np.pi, 2. * np.pi)]:
            h = period * 1e-5
            at = end + h * np.array([-2., -1., 1., 2.])
            rows = np.repeat(y.numpy()[np.newaxis], 6, axis=0)
            rows[:, :, column] = np.array([*at, *(at[2:] - period)])[:, np.newaxis]
            log_prob = mixed.given(C).log_prob(rows).numpy()
            slopes = np.diff(log_prob, axis=0)[[0, 1, 2, 4]] / [[h], [2. * h], [h], [h]]
            assert np.max(np.abs(slopes)) * period > 0.1
            for i in (1, 2, 3):
                np.testing.assert_allclose(slopes[i] * period, slopes[0] * period,
                                           rtol=5e-3, atol=0.02)
            np.testing.assert_allclose(log_prob[2], log_prob[4], rtol=1e-9)

    def test_density_is_normalised_on_a_cylinder(self, cylinder):
        angles = np.arange(0., 24., 0.25)
        numbers = np.linspace(0., 2., 2001)[1:-1]
        points = np.stack(np.meshgrid(numbers, angles), -1).reshape(-1, 2)
        total = np.sum(cylinder.given(C[0]).prob(points)) * 0.25 * 2. / 2000.
        np.testing.assert_allclose(total, 1., atol=2e-3)

    @pytest.mark.parametrize('dtype', [np.float32, np.float64])
    def test_rounding_leaves_samples_in_the_interval(self, dtype):
        wrapped = angles_lib.Wrapped([-180., np.nan], [180., np.nan], dtype)
        most = np.nextafter(dtype(np.pi), dtype(0.))
        y = wrapped.forward(np.array([[most, 7.], [-most, 7.], [-np.pi, 7.]], dtype))
        assert np.all((y[:, 0] >= -180.) & (y[:, 0] < 180.)) and np.all(y[:, 1] == 7.)
        x = wrapped.inverse(np.array([[180., 7.], [-180., 7.], [900., 7.]], dtype))
        np.testing.assert_allclose(x, [[-np.pi, 7.]] * 3, rtol=1e-6)

    def test_a_turn_follows_a_vector_around_the_circle(self):
        """And its gradient is finite where that vector is 0."""
        turns = np.linspace(-3., 3., 7)
        parameters = np.zeros([7, 15, 1])
        parameters[:, -2, 0], parameters[:, -1, 0] = np.sin(turns), np.cos(turns) - 1.
        circular = tfpc.CircularRationalQuadratic(4)
        y, _ = circular.forward_and_log_det(
            tf.zeros([7, 1], tf.float64), tf.constant(parameters))
        np.testing.assert_allclose(y[:, 0], turns, atol=1e-9)
        parameters[:, -2:, 0] = 0., -1.
        parameters = tf.constant(parameters)
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            y, _ = circular.forward_and_log_det(tf.zeros([7, 1], tf.float64), parameters)
        assert np.all(np.isfinite(tape.gradient(y, parameters)))

    def test_angles_are_never_scaled_and_other_columns_are(self):
        dist = density(3, [(0., np.inf), tfpc.Circular(), None])
        rng = np.random.default_rng(0)
        y = np.stack([rng.gamma(2., size=1500), rng.uniform(-3., 3., 1500),
                      rng.uniform(size=1500)], -1)
        dist.bijector.adapt(y, rng.normal(size=[1500, 2]) + 5.)
        parts = [part for part in dist.bijector.submodules
                 if isinstance(part, tfpc.Standardized)]
        angles, = [part for part in parts if part.event_size == 1]
        assert angles.adapted
        np.testing.assert_array_equal(angles.event_loc, [0.])
        np.testing.assert_array_equal(angles.event_scale, [1.])
        np.testing.assert_allclose(angles.condition_loc, [5., 5.], atol=0.2)
        soft, = [part for part in dist.bijector.submodules
                 if isinstance(part, tfpc.SoftBounds)]
        np.testing.assert_allclose(soft.high, [np.inf, np.inf, 1.], atol=0.02)
        # Cosines and sines of angles are all that other networks see of them.
        assert all(part.condition_size == (2, 2) for part in parts if part is not angles)

    def test_all_copies_have_the_same_density(self, cylinder, tmp_path):
        y = np.random.default_rng(0).uniform(0., 2., [5, 2])
        expected = cylinder.given(C).log_prob(y)
        for dist in again(cylinder, str(tmp_path / 'w')):
            np.testing.assert_array_equal(dist.given(C).log_prob(y), expected)

    def test_a_checkpoint_of_another_circle_is_refused(self, tmp_path):
        one, other = (tfpc.conditional_density(1, 2, [tfpc.Circular(0., end)], **SMALL)
                      for end in (24., 12.))
        tf.train.Checkpoint(dist=one).write(str(tmp_path / 'w'))
        with pytest.raises(ValueError, match=r'`high\[0\]` was 24'):
            tfpc.load_weights(str(tmp_path / 'w'), dist=other)

    def test_an_embedding_of_conditions(self):
        dist = tfpc.conditional_density(
            2, tf.TensorSpec([None, 2]), support=[None, tfpc.Circular()],
            embedding=tfpc.embeddings.DeepSet(2, 4), **{**SMALL, 'dtype': tf.float32})
        assert dist.given(tf.zeros([3, 7, 2])).sample().shape == [3, 2]

    def test_a_fit_comes_near_the_exact_density(self):
        """An angle, and a number that depends on it."""
        rng = np.random.default_rng(0)
        c = rng.normal(size=[4000, 1])
        theta = rng.vonmises(c[:, 0], 3.)
        loc = 2. * np.cos(theta - 1.)
        # Angles of [0, 2 pi) are those of [-pi, pi).
        y = np.stack([theta % (2. * np.pi), loc + 0.5 * rng.normal(size=4000)], -1)
        dist = tfpc.conditional_density(2, 1, support=[tfpc.Circular(), None],
                                        num_coupling_layers=1, seed=0)
        y, c = (x.astype(np.float32) for x in (y, c))
        tfpc.fit(dist, y[:3000], c[:3000], epochs=10, seed=0, verbose=False)
        exact = (tfd.VonMises(c[:, 0].astype(float), np.float64(3.)).log_prob(theta)
                 + tfd.Normal(loc, np.float64(0.5)).log_prob(y[:, 1].astype(float)))
        gap = np.mean(exact[3000:] - dist.given(c[3000:]).log_prob(y[3000:]).numpy())
        assert gap < 0.07


class TestQuantized:
    """Cells of a density."""

    def test_probabilities_of_counts_are_exact(self):
        dist = tfpc.Quantized(plain(), step=1., low=0.)
        given, n = dist.given(C[0]), np.arange(300.)[:, np.newaxis]
        probabilities = given.prob(n).numpy()
        assert np.sum(probabilities > 0.02) > 2
        np.testing.assert_allclose(np.sum(probabilities), 1., rtol=1e-6)
        counts = given.sample(20_000, seed=1).numpy()
        found = np.bincount(counts[:, 0].astype(int), minlength=300)[:300] / 20_000.
        np.testing.assert_allclose(found, probabilities, atol=0.015)
        fine = np.linspace(0.5, 1.5, 2001)[:, np.newaxis]
        np.testing.assert_allclose(np.mean(dist.density.given(C[0]).prob(fine)),
                                   probabilities[1], rtol=1e-3)
        np.testing.assert_array_equal(given.prob([[0.5], [-1.]]), [0., 0.])
        assert np.all(np.isnan(given.prob([[np.nan]])))
        with pytest.raises(NotImplementedError, match='is that of `density`'):
            given.log_cdf(n)

    def test_zeros_and_ones_are_point_masses(self):
        given = tfpc.Quantized(plain(), low=0., high=1.).given(C[0])
        inside = np.linspace(0., 1., 3001)[1:-1, np.newaxis]
        masses = given.prob([[0.], [1.]])
        assert np.all(masses > 2e-3)
        np.testing.assert_allclose(
            np.sum(masses) + np.sum(given.prob(inside)) / 3000., 1., rtol=1e-3)
        y = given.sample(20_000, seed=1)
        np.testing.assert_allclose(np.mean(y == 0.), masses[0], atol=0.015)
        np.testing.assert_array_equal(given.prob([[-0.1], [1.1]]), [0., 0.])

    @pytest.mark.parametrize('low,high,step', [
        (None, 3.2, 1.), (-1., 1., 0.5)])
    def test_cells_that_a_support_cuts(self, low, high, step):
        """Of either direction; such a cell has what is inside of the support."""
        support = tfpc.support_bijector(*(
            [default if end is None else end] for end, default in
            [(low, -np.inf), (high, np.inf)]), dtype=tf.float64)
        dist = tfpc.Quantized(plain(1, support), step=step)
        n = np.arange(-2000., 2000.)[:, np.newaxis] * step
        np.testing.assert_allclose(np.sum(dist.given(C[0]).prob(n)), 1., rtol=1e-6)

    def test_cells_go_round_a_circle(self):
        dist = tfpc.Quantized(density(1, [tfpc.Circular(0., 8.)]), step=1.)
        probabilities = dist.given(C[0]).prob(np.arange(9.)[:, np.newaxis])
        assert np.std(probabilities) > 1e-3
        np.testing.assert_allclose(np.sum(probabilities[:8]), 1., rtol=1e-6)
        np.testing.assert_allclose(probabilities[8], probabilities[0])
        y = dist.given(C[0]).sample(500, seed=1)
        assert set(np.unique(y)) <= set(range(8))

    def test_far_and_narrow_cells_have_logarithms_and_gradients(self):
        inner = plain(dtype=tf.float32)
        dist = tfpc.Quantized(inner, step=[1e-3])
        y, c = tf.constant([[0.], [4.], [-30.], [300.]]), tf.zeros([4, 2])
        with tf.GradientTape() as tape:
            log_prob = dist.given(c).log_prob(y)
        np.testing.assert_allclose(
            log_prob, inner.given(c).log_prob(y) + np.log(1e-3), rtol=0.02, atol=1e-2)
        assert all(np.all(np.isfinite(gradient)) for gradient in tape.gradient(
            log_prob, dist.trainable_variables))

    def test_the_bound_is_below_and_more_points_bring_it_near(self):
        inner = plain(2)
        many = tfpc.Quantized(inner, step=[1., None], low=[-1., None],
                              noise='variational', num_samples=2000, seed=0)
        few = many.copy(num_samples=1)
        flows.perturb(many._noise, scale=0.2)
        y = np.array([[n, 0.3] for n in range(-1, 3)])
        # The exact one is an integral.
        edges = np.array([-40., -0.5, 0.5, 1.5, 2.5])
        grids = np.linspace(edges[:-1], edges[1:], 10_001)
        exact = np.log(np.mean(inner.given(C[0]).prob(np.stack(
            [grids, np.full_like(grids, 0.3)], -1)), 0) * np.diff(edges))
        np.testing.assert_allclose(many.given(C[0]).log_prob(y), exact, atol=0.25)
        rows = np.repeat(y[1:2], 500, axis=0)
        bounds = few.given(C[0]).log_prob(rows)
        assert np.mean(bounds) < exact[1] + 2. * np.std(bounds) / np.sqrt(500.)
        np.testing.assert_array_equal(few.given(C[0]).log_prob(rows), bounds)
        with tfpc.training(seed=[1, 2]):
            assert np.any(few.given(C[0]).log_prob(rows) != bounds)

    def test_columns_of_all_kinds_fit_and_come_back(self, tmp_path):
        rng = np.random.default_rng(0)
        c = rng.normal(size=[600, 2])
        hours = np.floor(rng.vonmises(c[:, 0], 2.) * 12. / np.pi) % 24.
        amounts = np.maximum(np.round(c[:, 1] + 0.3 * rng.normal(size=600), 1), 0.)
        y = np.stack([amounts, hours, rng.normal(size=600)], -1)
        dist = tfpc.Quantized(
            tfpc.conditional_density(3, 2, [None, tfpc.Circular(0., 24.), None], **SMALL),
            step=[0.1, 1., None], low=[0., None, None], noise='variational',
            num_samples=4, seed=0)
        history = tfpc.fit(dist, y, c, epochs=2, validation_split=0.2, seed=0,
                           verbose=False)
        assert history['val_loss'][-1] < history['val_loss'][0]
        drawn, log_prob = dist.given(c[:50]).experimental_sample_and_log_prob(seed=1)
        assert np.all(np.isfinite(log_prob))
        # As they are written, to the last digit.
        np.testing.assert_array_equal(drawn[:, 0], np.round(drawn[:, 0], 1))
        assert np.any(drawn[:, 0] == 0.) and np.all(drawn[:, 0] >= 0.)
        assert set(np.unique(drawn[:, 1])) <= set(range(24))
        np.testing.assert_allclose(dist.given(c[:50]).log_prob(drawn + [0., 24., 0.]),
                                   log_prob, rtol=1e-9)
        for other in again(dist, str(tmp_path / 'w')):
            for variable, expected in zip(other.variables, dist.variables, strict=True):
                np.testing.assert_array_equal(variable, expected)

    def test_graph_and_eager_and_copies_agree(self, tmp_path):
        dist = tfpc.Quantized(plain(), step=1., low=0.)
        y = tf.constant([[2.]], tf.float64)
        expected = dist.given(C).log_prob(y)
        assert expected.shape == [5] and dist.given(C).batch_shape == [5]
        for value in (tf.function(lambda: dist.given(C).log_prob(y))(),
                      dist.log_prob(y, **flows.given(C)), dist.copy().given(C).log_prob(y),
                      dist.given(C).copy().log_prob(y),
                      *[other.given(C).log_prob(y)
                        for other in again(dist, str(tmp_path / 'w'))]):
            np.testing.assert_allclose(value, expected, rtol=1e-12)
        drawn = tf.function(lambda: dist.given(C).sample(7, seed=[1, 2]))()
        np.testing.assert_array_equal(drawn, dist.given(C).sample(7, seed=[1, 2]))


ROWS = np.tile([[1.], [2.]], [30, 1])
ONES = np.ones([60, 2])


def fit(dist, y):
    return tfpc.fit(dist, y, ONES, validation_split=0.2, epochs=1, verbose=False)


REFUSALS = {
    'too few entries': (lambda: tfpc.conditional_density(3, 2, [None, (0., 1.)]),
                        ValueError, 'entries for 3 columns'),
    'an entry that is none': (lambda: tfpc.conditional_density(1, 2, ['circular']),
                              TypeError, r'`support\[0\]` must be \(low, high\)'),
    'bounds in disorder': (lambda: tfpc.conditional_density(1, 2, [(1., 0.)]),
                           ValueError, '`low` less than `high`'),
    'a bijector of vectors': (
        lambda: tfpc.conditional_density(2, 2, [tfb.IteratedSigmoidCentered(), None]),
        ValueError, 'must map single numbers'),
    'no circle': (lambda: tfpc.Circular(1., 1.), ValueError, '`low` must be less'),
    'no simplex': (lambda: tfpc.Simplex(1), ValueError, '`size` must be'),
    'circular layers of columns that are not': (
        lambda: tfpc.conditional_density(2, 2, transformer='circular_rational_quadratic'),
        ValueError, r'support=\[Circular\(\), ...\]'),
    'a regression of angles': (
        lambda: tfpc.Standardized(tfpc.ConditionalRealNVP(2, 2), True, events=False),
        ValueError, 'needs `events=True`'),
    'degrees for radians': (
        lambda: fit(density(1, [tfpc.Circular()]), 100. * ROWS), ValueError,
        'column 0 has 100 for .*for degrees'),
    'no cells': (lambda: tfpc.Quantized(plain()), ValueError, 'got none of them'),
    'no density': (lambda: tfpc.Quantized(flows.base(), 1.), TypeError, '`density` must'),
    'no step': (lambda: tfpc.Quantized(plain(), 0.), ValueError, '`step` must be'),
    'steps of other columns': (lambda: tfpc.Quantized(plain(), [1., 1.]), ValueError,
                               '`step` must be a number, or one'),
    'an end between steps': (lambda: tfpc.Quantized(plain(), 1., low=0.5), ValueError,
                             'must be a multiple of `step`'),
    'ends in disorder': (lambda: tfpc.Quantized(plain(), low=1., high=0.), ValueError,
                         '`low` must be less'),
    'an end of a circle': (
        lambda: tfpc.Quantized(density(1, [tfpc.Circular()]), low=0.), ValueError,
        'for columns with ends'),
    'steps that do not go round': (
        lambda: tfpc.Quantized(density(1, [tfpc.Circular()]), 1.), ValueError,
        'multiple of its `step`'),
    'a mixture': (
        lambda: tfpc.Quantized(tfpc.ConditionalEnsemble([plain()]), 1.), TypeError,
        'got ConditionalEnsemble'),
    'noise of another name': (lambda: tfpc.Quantized(plain(), 1., noise='normal'),
                              ValueError, '`noise` must be one of'),
    'fractions for counts': (
        lambda: fit(tfpc.Quantized(plain(), 1., low=0.), ROWS + 0.5), ValueError,
        r'row 0, \[1.5\], are no values'),
    'numbers below the least': (
        lambda: fit(tfpc.Quantized(plain(), low=1.5), ROWS), ValueError, 'no values'),
    'noise on cells': (
        lambda: tfpc.fit(tfpc.Quantized(plain(), 1.), ROWS, ONES, target_noise=0.1),
        ValueError, '`target_noise` must be 0'),
    'more digits than there are': (
        lambda: fit(tfpc.Quantized(plain(dtype=tf.float32), 1.), 1e6 * ROWS),
        ValueError, 'leave float32 64 numbers in a step'),
    'cells beyond the support': (
        lambda: fit(tfpc.Quantized(plain(2, tfpc.support_bijector(
            [0.8, -np.inf], dtype=tf.float64)), 1.), np.tile(ROWS, 2)), ValueError,
        'must lie in the support'),
    'a keyword of another name': (
        lambda: tfpc.Quantized(plain(), 1.).log_prob(
            ROWS, bijector_kwargs={'condition': ONES}), TypeError, 'Did you mean `conditions`'),
    'conditions twice': (
        lambda: tfpc.Quantized(plain(), 1.).given(ONES).log_prob(
            ROWS, bijector_kwargs={'conditions': ONES}), TypeError, 'conditions already'),
    'the mode of cells': (
        lambda: posterior.mode(tfpc.Quantized(plain(), 1.), ONES, verbose=False), TypeError,
        'a density everywhere'),
    'latents of cells': (
        lambda: calibration.local_classifier_two_sample_test(
            tfpc.Quantized(plain(), 1.), ROWS, ONES, ONES[:1], verbose=False), TypeError,
        'a density everywhere'),
}


@pytest.mark.parametrize('name', REFUSALS)
def test_misuse(name):
    call, error, match = REFUSALS[name]
    with pytest.raises(error, match=match):
        call()
