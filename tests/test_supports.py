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

tfb, tfd = tfp.bijectors, tfp.distributions

SMALL = dict(num_coupling_layers=2, hidden_layers=(8,), dtype=tf.float64, seed=0)
C = flows.normal([5, 2])


def density(event_size, support=None, **kwargs):
    """A small one, not at its initial weights."""
    return flows.perturb(tfpc.conditional_density(
        event_size, 2, support=support, **{**SMALL, **kwargs}), scale=0.4)


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


class TestColumns:
    """`conditional_density` of a list of supports."""

    def test_samples_are_on_the_support_and_come_back(self, mixed):
        y, log_prob = mixed.given(C).experimental_sample_and_log_prob(200, seed=1)
        low = [-np.inf, 0., 0., -np.inf, 0., 0., 0., -np.pi, -np.inf]
        high = [np.inf, 1., 360., 5., 1., 1., 1., np.pi, np.inf]
        assert np.all((y >= low) & (y < high))
        np.testing.assert_allclose(np.sum(y[..., 4:7], -1), 1.)
        assert np.std(y[..., 2]) > 10. and np.std(log_prob) > 0.1
        np.testing.assert_allclose(mixed.given(C).log_prob(tf.identity(y)), log_prob,
                                   rtol=1e-7)
        x = mixed.bijector.inverse(y, conditions=C)
        np.testing.assert_allclose(
            mixed.bijector.forward(tf.identity(x), conditions=C), y, rtol=1e-7)

    def test_log_det_is_that_of_autodiff(self, mixed):
        """Of a simplex, with respect to all of its numbers but the last."""
        x = mixed.distribution.sample(5, seed=1)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = mixed.bijector.forward_and_log_det(x, 1, conditions=C)
        jacobian = np.delete(tape.batch_jacobian(y, x), 6, axis=1)
        np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, rtol=1e-7)

    def test_density_and_gradient_go_on_across_the_seam(self, mixed):
        y = mixed.given(C).sample(seed=1)
        for column, end, period in [(2, 360., 360.), (7, np.pi, 2. * np.pi)]:
            rows = np.repeat(y.numpy()[np.newaxis], 3, axis=0)
            rows[:, :, column] = np.array(
                [end - 1e-7, end + 1e-7, end + 1e-7 - period])[:, np.newaxis]
            rows = tf.constant(rows)
            with tf.GradientTape() as tape:
                tape.watch(rows)
                log_prob = mixed.given(C).log_prob(rows)
            gradient = tape.gradient(log_prob, rows)
            assert np.max(np.abs(gradient[0, :, column])) * period > 0.01
            for i in (1, 2):
                np.testing.assert_allclose(log_prob[i], log_prob[0], atol=1e-4)
                np.testing.assert_allclose(gradient[i], gradient[0], rtol=1e-3, atol=1e-4)

    def test_density_is_normalised_on_a_cylinder(self):
        dist = density(2, [(0., 2.), tfpc.Circular(0., 24.)], seed=3)
        angles = np.arange(0., 24., 0.2)
        numbers = np.linspace(0., 2., 4001)[1:-1]
        points = np.stack(np.meshgrid(numbers, angles), -1).reshape(-1, 2)
        total = np.sum(dist.given(C[0]).prob(points)) * 0.2 * 2. / 4000.
        np.testing.assert_allclose(total, 1., atol=2e-3)

    def test_float32_samples_stay_in_the_interval(self):
        dist = density(1, [tfpc.Circular(-180., 180.)], dtype=tf.float32)
        wrapped, = [part for part in dist.bijector.bijectors if part.name == 'wrapped']
        x = np.nextafter(np.float32([[np.pi], [-np.pi]]), np.float32(0.))
        y = wrapped.forward(np.concatenate([x, -np.float32([[np.pi]])]))
        assert np.all((y >= -180.) & (y < 180.))
        assert np.all(np.isfinite(dist.given(np.zeros([4, 2])).log_prob(
            np.float32([[180.], [-180.], [540.], [179.99999]]))))

    def test_angles_are_never_scaled_and_other_columns_are(self, mixed):
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
        others = [part for part in parts if part.event_size == 2]
        assert all(part.condition_size == (2, 2) for part in others)

    def test_all_copies_have_the_same_density(self, mixed, tmp_path):
        y = mixed.given(C).sample(seed=1)
        expected = mixed.given(C).log_prob(y)
        for dist in again(mixed, str(tmp_path / 'w')):
            np.testing.assert_array_equal(dist.given(C).log_prob(y), expected)

    def test_a_checkpoint_of_another_circle_is_refused(self, tmp_path):
        one, other = (density(1, [tfpc.Circular(0., end)]) for end in (24., 12.))
        tf.train.Checkpoint(dist=one).write(str(tmp_path / 'w'))
        with pytest.raises(ValueError, match=r'`high\[0\]` was 24'):
            tfpc.load_weights(str(tmp_path / 'w'), dist=other)

    def test_an_embedding_of_conditions(self):
        dist = tfpc.conditional_density(
            2, tf.TensorSpec([None, 2]), support=[None, tfpc.Circular()],
            embedding=tfpc.embeddings.DeepSet(2, 4, dtype=tf.float64), **SMALL)
        assert dist.given(tf.zeros([3, 7, 2], tf.float64)).sample().shape == [3, 2]

    def test_a_fit_comes_near_the_exact_density(self):
        """An angle, and a number that depends on it."""
        rng = np.random.default_rng(0)
        c = rng.normal(size=[6000, 1])
        theta = rng.vonmises(c[:, 0], 3.)
        loc = 2. * np.cos(theta - 1.)
        y = np.stack([theta % (2. * np.pi), loc + 0.5 * rng.normal(size=6000)], -1)
        # Angles of [0, 2 pi) are those of [-pi, pi).
        dist = tfpc.conditional_density(2, 1, support=[tfpc.Circular(), None],
                                        num_coupling_layers=2, seed=0)
        y, c = (x.astype(np.float32) for x in (y, c))
        tfpc.fit(dist, y[:4000], c[:4000], epochs=20, seed=0, verbose=False)
        exact = (tfd.VonMises(c[:, 0].astype(float), np.float64(3.)).log_prob(theta)
                 + tfd.Normal(loc, np.float64(0.5)).log_prob(y[:, 1].astype(float)))
        gap = np.mean(exact[4000:] - dist.given(c[4000:]).log_prob(y[4000:]))
        assert gap < 0.06


class TestQuantized:
    """Cells of a density."""

    def test_probabilities_of_counts_are_exact(self):
        dist = tfpc.Quantized(density(1), step=1., low=0.)
        given, n = dist.given(C[0]), np.arange(300.)[:, np.newaxis]
        probabilities = given.prob(n).numpy()
        np.testing.assert_allclose(np.sum(probabilities), 1., rtol=1e-6)
        counts = given.sample(20_000, seed=1).numpy()
        found = np.bincount(counts[:, 0].astype(int), minlength=300)[:300] / 20_000.
        np.testing.assert_allclose(found, probabilities, atol=0.015)
        fine = np.linspace(1.5, 2.5, 2001)[:, np.newaxis]
        np.testing.assert_allclose(np.mean(dist.density.given(C[0]).prob(fine)),
                                   probabilities[2], rtol=1e-3)
        np.testing.assert_array_equal(given.prob([[0.5], [-1.]]), [0., 0.])
        assert np.isnan(given.log_prob([np.nan]))

    def test_zeros_and_ones_are_point_masses(self):
        dist = tfpc.Quantized(density(1), low=-0.5, high=1.)
        given = dist.given(C[0])
        inside = np.linspace(-0.5, 1., 3001)[1:-1, np.newaxis]
        masses = given.prob([[-0.5], [1.]])
        assert np.all(masses > 0.05)
        np.testing.assert_allclose(
            np.sum(masses) + np.sum(given.prob(inside)) * 1.5 / 3000., 1., rtol=1e-3)
        y = given.sample(20_000, seed=1)
        np.testing.assert_allclose(np.mean(y == -0.5), masses[0], atol=0.015)
        np.testing.assert_array_equal(given.prob([[-0.6], [1.1]]), [0., 0.])

    def test_cells_on_supports_with_ends(self):
        """Of any direction; a cell that the support cuts has what is inside of it."""
        for support, step in [([(None, 3.2)], 1.), ([(-0.5, None)], 1.), ([(-1., 1.)], 0.5),
                              ([tfpc.Circular(0., 8.)], 1.)]:
            dist = tfpc.Quantized(density(1, support), step=step)
            low = 0. if isinstance(support[0], tfpc.Circular) else -3000.
            n = np.arange(low, 8. if low == 0. else 3000.)[:, np.newaxis] * step
            np.testing.assert_allclose(np.sum(dist.given(C[0]).prob(n)), 1., rtol=1e-6)
            y = dist.given(C).sample(200, seed=1)
            assert np.all(np.isfinite(dist.given(C).log_prob(y)))

    def test_far_and_narrow_cells_have_logarithms_and_gradients(self):
        dist = tfpc.Quantized(density(1, dtype=tf.float32), step=1e-3)
        y = tf.constant([[0.], [8.], [-40.], [3e2]])
        with tf.GradientTape() as tape:
            tape.watch(y)
            log_prob = dist.given(tf.zeros([4, 2])).log_prob(y)
        np.testing.assert_allclose(
            log_prob, dist.density.given(tf.zeros([4, 2])).log_prob(y) + np.log(1e-3),
            rtol=2e-3)
        gradients = tape.gradient(log_prob, y)
        assert gradients is None or np.all(np.isfinite(gradients))

    @pytest.mark.parametrize('noise', ['uniform', 'variational'])
    def test_the_bound_is_below_and_more_points_bring_it_near(self, noise):
        inner = density(2)
        few, many = (tfpc.Quantized(inner, step=[1., None], low=[-1., None], noise=noise,
                                    num_samples=count, seed=0) for count in (1, 2000))
        flows.perturb(many._noise, scale=0.2)
        given = many.given(C[:1])
        y = np.array([[n, 0.3] for n in range(-1, 4)])
        # The exact one is an integral.
        edges = np.array([-60., *np.arange(-0.5, 4.)])
        grids = [np.linspace(a, b, 20_001) for a, b in zip(edges[:-1], edges[1:])]
        exact = [np.log(np.mean(inner.given(C[0]).prob(
            np.stack([grid, np.full_like(grid, 0.3)], -1))) * (grid[-1] - grid[0]))
                 for grid in grids]
        np.testing.assert_allclose(given.log_prob(y), exact, atol=0.1)
        rows = np.repeat(y[2:3], 500, axis=0)
        bounds = few.given(C[:1]).log_prob(rows)
        error = np.std(bounds) / np.sqrt(500.)
        assert np.mean(bounds) < exact[2] + 2. * error
        np.testing.assert_array_equal(few.given(C[:1]).log_prob(rows), bounds)
        with tfpc.training(seed=[1, 2]):
            assert np.any(few.given(C[:1]).log_prob(rows) != bounds)

    def test_columns_of_all_kinds_fit_and_come_back(self, tmp_path):
        rng = np.random.default_rng(0)
        c = rng.normal(size=[600, 2])
        counts = rng.poisson(np.exp(1. + c[:, 0] / 2.))
        rounded = np.round(counts + c[:, 1] + 0.3 * rng.normal(size=600), 1)
        hours = np.floor(rng.vonmises(c[:, 0], 2.) * 12. / np.pi) % 24.
        y = np.stack([counts, rounded, rng.normal(size=600), hours], -1)
        dist = tfpc.Quantized(
            tfpc.conditional_density(4, 2, support=[None] * 3 + [tfpc.Circular(0., 24.)],
                                     **SMALL),
            step=[1., 0.1, None, 1.], low=[0., None, None, None], noise='variational',
            num_samples=4, seed=0)
        history = tfpc.fit(dist, y, c, epochs=3, validation_split=0.2, seed=0,
                           verbose=False)
        assert history['val_loss'][-1] < history['val_loss'][0]
        drawn, log_prob = dist.given(c[:50]).experimental_sample_and_log_prob(seed=1)
        assert np.all(np.isfinite(log_prob))
        assert np.all(drawn[:, 0] == np.round(drawn[:, 0])) and np.all(drawn[:, 0] >= 0.)
        # As they are written, to the last digit.
        np.testing.assert_array_equal(drawn[:, 1], np.round(drawn[:, 1], 1))
        assert np.all((drawn[:, 3] >= 0.) & (drawn[:, 3] < 24.))
        np.testing.assert_allclose(dist.given(c[:50]).log_prob(
            drawn + [0., 0., 0., 24.]), log_prob, rtol=1e-9)
        for other in again(dist, str(tmp_path / 'w')):
            np.testing.assert_array_equal(other.given(c[:50]).log_prob(drawn), log_prob)

    def test_graph_and_eager_and_given_agree(self):
        dist = tfpc.Quantized(density(1), step=1., low=0.)
        y = tf.constant([[2.]], tf.float64)
        expected = dist.given(C).log_prob(y)
        assert expected.shape == [5] and dist.given(C).batch_shape == [5]
        for value in (tf.function(lambda: dist.given(C).log_prob(y))(),
                      dist.log_prob(y, **flows.given(C)), dist.copy().given(C).log_prob(y),
                      dist.given(C).copy().log_prob(y)):
            np.testing.assert_allclose(value, expected, rtol=1e-12)
        drawn = tf.function(lambda: dist.given(C).sample(7, seed=[1, 2]))()
        np.testing.assert_array_equal(drawn, dist.given(C).sample(7, seed=[1, 2]))
        with pytest.raises(NotImplementedError, match='is that of `density`'):
            dist.given(C).log_cdf(y)


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
    'no cells': (lambda: tfpc.Quantized(density(1)), ValueError, 'got none of them'),
    'no density': (lambda: tfpc.Quantized(flows.base(), 1.), TypeError, '`density` must'),
    'no step': (lambda: tfpc.Quantized(density(1), 0.), ValueError, '`step` must be'),
    'steps of other columns': (lambda: tfpc.Quantized(density(1), [1., 1.]), ValueError,
                               '`step` must be a number, or one'),
    'an end between steps': (lambda: tfpc.Quantized(density(1), 1., low=0.5), ValueError,
                             'must be a multiple of `step`'),
    'ends in disorder': (lambda: tfpc.Quantized(density(1), low=1., high=0.), ValueError,
                         '`low` must be less'),
    'an end of a circle': (
        lambda: tfpc.Quantized(density(1, [tfpc.Circular()]), low=0.), ValueError,
        'for columns with ends'),
    'steps that do not go round': (
        lambda: tfpc.Quantized(density(1, [tfpc.Circular()]), 1.), ValueError,
        'multiple of its `step`'),
    'noise of another name': (lambda: tfpc.Quantized(density(1), 1., noise='normal'),
                              ValueError, '`noise` must be one of'),
    'fractions for counts': (
        lambda: fit(tfpc.Quantized(density(1), 1., low=0.), ROWS + 0.5), ValueError,
        r'row 0, \[1.5\], are no values'),
    'numbers below the least': (
        lambda: fit(tfpc.Quantized(density(1), low=1.5), ROWS), ValueError, 'no values'),
    'more digits than there are': (
        lambda: fit(tfpc.Quantized(density(1, dtype=tf.float32), 1.), 1e6 * ROWS),
        ValueError, 'leave float32 64 numbers in a step'),
    'cells beyond the support': (
        lambda: fit(tfpc.Quantized(density(2, [(0.8, None), None]), 1.),
                    np.tile(ROWS, 2)), ValueError, 'must lie in the support'),
}


@pytest.mark.parametrize('name', REFUSALS)
def test_misuse(name):
    call, error, match = REFUSALS[name]
    with pytest.raises(error, match=match):
        call()
