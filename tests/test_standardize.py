"""`Standardized`: its maths, what it learns, and that it stays learnt."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import catalogue
from tests import flows
from tfp_conditional import testing
from tfp_conditional.bijectors import mixing
from tfp_conditional.bijectors import regression
from tfp_conditional.bijectors import standardize

tfb, tfd = tfp.bijectors, tfp.distributions

X = flows.normal([100, 2])
Y = np.array([1e6, -3.]) + flows.normal([100, 2], 2) * [1e3, 1e-6]
C = {'a': 5. + 1e-3 * flows.normal([100, 1], 3),
     'b': 1e6 * flows.normal([100, 2], 4)}
SIZE = {'a': 1, 'b': 2}


def elementwise(seed=0, dtype=tf.float64):
    return flows.perturb(tfpc.ConditionalElementwise(
        2, SIZE, hidden_layers=(4,), activation='tanh', dtype=dtype, seed=seed))


def standardized(**kwargs):
    flow = standardize.Standardized(elementwise(**kwargs))
    cast = lambda x: tf.cast(x, flow.dtype)
    flow.adapt(cast(Y), tf.nest.map_structure(cast, C))
    return flow


def moderate():
    """A flow for noise of size 1, as the checks draw it."""
    flow = standardize.Standardized(elementwise())
    flow.adapt(.3 + 2. * X, {'a': .5 + 3. * X[:, :1], 'b': 2. * X})
    return flow


def deep(seed=0):
    """All that adapts, in one flow."""
    return standardize.Standardized(tfpc.ConditionalChain([
        mixing.ActNorm(2, tf.float64), mixing.InvertibleLinear(2, tf.float64, seed),
        elementwise(seed), mixing.ActNorm(2, tf.float64)]))


def standardized_conditions():
    return tf.nest.map_structure(
        lambda c: (c - np.mean(c, 0)) / np.std(c, 0), C)


def test_properties():
    """Of values; the rest is that of the linear part."""
    testing.check_bijector(moderate(), checks=catalogue.VALUES)


def test_properties_within_a_chain():
    testing.check_bijector(
        tfpc.ConditionalChain([tfb.Tanh(), moderate(), tfb.Permute([1, 0])]),
        support=(-1., 1.), checks=['variables_tracked', 'round_trip'])


def test_it_is_what_it_says():
    flow, inner = standardized(), elementwise()
    y, log_det = inner.forward_and_log_det(X, conditions=standardized_conditions())
    got, got_log_det = flow.forward_and_log_det(X, conditions=C)
    np.testing.assert_allclose(got, np.mean(Y, 0) + np.std(Y, 0) * y, rtol=1e-12)
    np.testing.assert_allclose(got_log_det, log_det + np.sum(np.log(np.std(Y, 0))),
                               rtol=1e-9)


def test_before_it_has_adapted_it_is_the_bijector_within():
    inner = elementwise()
    flow = standardize.Standardized(inner)
    for one, other in zip(flow.forward_and_log_det(X, conditions=C),
                          inner.forward_and_log_det(X, conditions=C)):
        np.testing.assert_array_equal(one, other)


def test_it_learns_moments_once():
    flow = standardized()
    assert flow.adapted
    np.testing.assert_allclose(flow.event_loc, np.mean(Y, 0), rtol=1e-12)
    np.testing.assert_allclose(flow.event_scale, np.std(Y, 0), rtol=1e-9)
    for key in C:
        np.testing.assert_allclose(flow.condition_loc[key], np.mean(C[key], 0))
        np.testing.assert_allclose(flow.condition_scale[key], np.std(C[key], 0))
    before = [v.numpy() for v in flow.variables]
    flow.adapt(Y + 1., C)
    assert all(np.array_equal(a, b) for a, b in zip(before, flow.variables))
    assert len(flow.trainable_variables) == len(elementwise().trainable_variables)


def test_what_is_within_adapts_to_standardized_values():
    flow = deep()
    assert not flow.adapted
    flow.adapt(Y, C)
    assert flow.adapted
    outer, *_, last = flow.bijector.bijectors
    np.testing.assert_allclose(outer.loc, 0., atol=1e-9)
    np.testing.assert_allclose(outer.log_scale, 0., atol=1e-9)
    x = flow.inverse(Y, conditions=C).numpy()
    np.testing.assert_allclose([x.mean(0), x.std(0)], [[0, 0], [1, 1]], atol=1e-8)
    assert np.any(last.log_scale)


def test_an_adapted_one_still_lets_the_inside_adapt():
    inner = mixing.ActNorm(2, tf.float64)
    flow = standardize.Standardized(tfpc.ConditionalChain([inner, elementwise()]))
    inner._adapted.assign(True)
    flow.adapt(Y, C)
    inner._adapted.assign(False)
    assert not flow.adapted
    before = flow.event_loc.numpy()
    flow.adapt(Y + 10. * np.std(Y, 0), C)
    np.testing.assert_array_equal(flow.event_loc, before)
    np.testing.assert_allclose(inner.loc, [10., 10.], rtol=1e-6)


@pytest.mark.parametrize('rows', [1, 100])
def test_constant_features_keep_their_scale(rows):
    flow = standardize.Standardized(elementwise(dtype=tf.float32))
    y = np.tile(np.float32([[1e6, 0.]]), [rows, 1])
    c = {'a': np.full([rows, 1], 7., np.float32),
         'b': np.tile(np.float32([[1e-42, 0.1]]), [rows, 1])}
    c['b'][0, 1] = np.nextafter(c['b'][0, 1], np.float32(1.))
    flow.adapt(y, c)
    for scale in tf.nest.flatten([flow.event_scale, flow.condition_scale]):
        np.testing.assert_array_equal(scale, tf.ones_like(scale))
    assert np.all(np.isfinite(flow.inverse(y + 1., conditions=c)))


@pytest.mark.parametrize('conditions', [
    1e-12 * C['b'], 1e-25 * C['b'], 1e30 * C['b']], ids=['1e-6', '1e-19', '1e36'])
def test_conditions_do_not_overflow(conditions):
    """Neither do gradients: the largest numbers, for the smallest deviations."""
    flow = standardize.Standardized(flows.flow(2, 2, 1, dtype=tf.float32))
    flow.adapt(X.numpy(), conditions.numpy())
    most = np.finfo(np.float32).max
    c = tf.Variable([[most, -most], [-most, most], [1e6, -1e6], [0., most]])
    x = tf.Variable(X[:4].numpy().astype(np.float32))
    dist = flows.dist(flow)
    for ask in (lambda: flow.forward(x, conditions=c),
                lambda: dist.log_prob(x, **flows.given(c))):
        with tf.GradientTape() as tape:
            result = ask()
        assert np.all(np.isfinite(result))
        for gradient in tape.gradient(result, [x, c, *flow.trainable_variables]):
            assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize('how', ['deepcopy', 'pickle', 'checkpoint', 'saved_model'])
def test_copies_have_adapted(how, tmp_path):
    flow = deep()
    flow.adapt(Y, C)
    expected = flows.dist(flow).log_prob(Y, **flows.given(C))
    if how == 'saved_model':
        tf.saved_model.save(tfpc.exportable(flows.dist(flow)), str(tmp_path))
        loaded = tf.saved_model.load(str(tmp_path))
        np.testing.assert_array_equal(loaded.log_prob(Y, C), expected)
        return
    if how == 'checkpoint':
        path = tf.train.Checkpoint(flow=flow).write(str(tmp_path / 'ckpt'))
        clone = deep(seed=1)
        tf.train.Checkpoint(flow=clone).read(path).assert_consumed()
    else:
        clone = {'deepcopy': copy.deepcopy, 'pickle': lambda b: pickle.loads(
            pickle.dumps(b))}[how](flow)
    assert clone.adapted
    clone.adapt(Y + 1., C)
    np.testing.assert_array_equal(
        flows.dist(clone).log_prob(Y, **flows.given(C)), expected)
    # The copy's variables are its own.
    clone.event_loc.assign_add([1., 1.])
    np.testing.assert_array_equal(
        flows.dist(flow).log_prob(tf.identity(Y), **flows.given(C)), expected)


def test_given_conditions():
    flow = standardized()
    given = flows.dist(flow.condition(C))
    assert given.batch_shape == [100]
    np.testing.assert_array_equal(given.log_prob(Y), flows.dist(flow).log_prob(
        Y, **flows.given(C)))


def test_name_and_checks_follow_the_bijector():
    inner = flows.flow(validate_args=True, name='inner')
    flow = standardize.Standardized(inner)
    assert flow.name == 'inner_standardized' and flow.validate_args
    assert flow.bijector is inner and flow.condition_size == 3
    with pytest.raises(tf.errors.InvalidArgumentError, match='must be finite'):
        flow.forward(X / 0., conditions=flows.normal([100, 3]))
    assert standardize.Standardized(inner, name='mine').name == 'mine'


def linear(seed=0):
    """One of three correlated targets that depend on conditions, and its data."""
    rng = np.random.default_rng(seed)
    c = rng.normal(size=[2000, 2]) * [1., 5.] + 3.
    noise = rng.normal(size=[2000, 3]) @ np.linalg.cholesky(CORRELATION).T
    y = 10. * (c @ [[1., 0., 2.], [0., 0.1, 0.]] + [[1., 2., 3.]] * noise)
    flow = standardize.Standardized(flows.perturb(tfpc.ConditionalElementwise(
        3, 2, hidden_layers=(4,), activation='tanh', dtype=tf.float64, seed=seed)),
        linear=True)
    return flow, y, c


CORRELATION = np.array([[1., -0.9, 0.], [-0.9, 1., 0.], [0., 0., 1.]])


def test_properties_of_the_linear_part():
    flow, y, c = linear()
    flow.adapt(y / 30., c)
    testing.check_bijector(flow, skip=[
        'broadcasting', 'independent_noise', 'releases_tensors'])


def test_the_linear_part_leaves_white_residuals():
    flow, y, c = linear()
    residuals = flow._residuals(tf.constant(y), flow._standardize(tf.constant(c)))
    assert np.std(residuals[:, 2]) > 2.   # Before it has adapted.
    flow.adapt(y, c)
    residuals = flow._residuals(tf.constant(y), flow._standardize(tf.constant(c)))
    np.testing.assert_allclose(np.cov(residuals.numpy().T), np.eye(3), atol=0.05)
    np.testing.assert_array_equal(flow.mixing, np.tril(flow.mixing))
    np.testing.assert_array_equal(np.diag(flow.mixing), np.ones(3))
    assert flow.mixing[1, 0] < -0.5 and abs(flow.mixing[2, 1]) < 0.02
    # And `_forward` goes back over the same.
    x, log_det = flow.inverse_and_log_det(y, conditions=c)
    np.testing.assert_allclose(flow.forward(x, conditions=c), y, rtol=1e-9, atol=1e-9)
    inner = flow.bijector.inverse_and_log_det(
        residuals, conditions=flow._standardize(tf.constant(c)))
    np.testing.assert_allclose(inner[0], x)
    np.testing.assert_allclose(
        log_det, inner[1] - np.sum(np.log(flow.event_scale * flow.residual_scale)))


@pytest.mark.parametrize('rows,size', [(300, 5), (10_000, 10), (1080, 100)])
def test_targets_that_do_not_correlate_stay_on_their_axes(rows, size):
    rng = np.random.default_rng(rows)
    for draw in (rng.normal, rng.uniform, rng.laplace):
        x = draw(size=[rows, size]) * (1. + np.arange(size))
        factor = regression.cholesky(x - np.mean(x, axis=0))
        own = np.diag(factor)[:, np.newaxis]
        assert np.all(np.abs(np.tril(factor, -1)) < 0.1 * own)
    factor = regression.cholesky(rng.normal(size=[rows, size]))
    np.testing.assert_array_equal(factor, np.diag(np.diag(factor)))


@pytest.mark.parametrize('rows,size,shared', [
    (540, 250, 0.3), (10_000, 2, 0.999), (300, 5, 0.5),
    (100, 50, 0.3), (20, 3, 0.), (5, 4, 0.5)])
def test_the_covariance_is_as_likely_as_those_of_scikit_learn(rows, size, shared):
    covariance = pytest.importorskip('sklearn.covariance')
    rng = np.random.default_rng(0)
    draw = lambda n: (np.sqrt(1. - shared) * rng.normal(size=[n, size])
                      + np.sqrt(shared) * rng.normal(size=[n, 1]))
    train, test = draw(rows), draw(1000)

    def loss(matrix):
        return np.mean(np.sum(np.linalg.solve(np.linalg.cholesky(matrix), test.T)**2, 0)
                       ) / 2. + np.linalg.slogdet(matrix)[1] / 2.

    factor = regression.cholesky(train)
    best = min(loss(method(train, assume_centered=True)[0])
               for method in (covariance.ledoit_wolf, covariance.oas))
    assert loss(factor @ factor.T) < best + 0.003 * size + 3. * size / rows


def test_collinear_and_constant_targets():
    rng = np.random.default_rng(0)
    x = rng.normal(size=[500, 1])
    factor = regression.cholesky(np.concatenate([x, 2. * x, 0. * x], axis=1))
    assert np.all(np.isfinite(factor)) and np.all(np.diag(factor) >= 1e-4)
    np.testing.assert_allclose(factor[1, 0], 2. * factor[0, 0], rtol=1e-3)
    assert factor[1, 1] < 0.01


def test_misuse():
    grows = tfpc.ConditionalChain([tfb.IteratedSigmoidCentered(), elementwise()])
    for argument, error, match in (
            (tfb.Tanh(), TypeError, 'must be a ConditionalBijector; got Tanh'),
            (elementwise().condition(C), TypeError, 'ConditionedBijector'),
            (grows, ValueError, 'maps 2 units to 3')):
        with pytest.raises(error, match=match):
            standardize.Standardized(argument)
    flow = deep()
    before = [v.numpy() for v in flow.variables]
    for arguments, error, match in (
            ((Y,), TypeError, '`conditions` are required'),
            ((Y[:, :1], C), ValueError, '`y` must have last dimension 2'),
            ((Y, {'a': C['a']}), ValueError, 'missing'),
            ((Y / 0., C), ValueError, '`y` must.*100 of them not finite'),
            ((Y, {**C, 'a': C['a'] * np.nan}), ValueError, '`conditions` must'),
            ((Y[:0], tf.nest.map_structure(lambda c: c[:0], C)), ValueError,
             'at least one row')):
        with pytest.raises(error, match=match):
            flow.adapt(*arguments)
    assert all(np.array_equal(a, b) for a, b in zip(before, flow.variables))
