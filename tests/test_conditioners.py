"""Networks, embeddings, mixing and `conditional_density`, as users put them together."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tfp_conditional.bijectors import regression
from tfp_conditional.core import dropout
from tfp_conditional.testing.subject import op_by_op

from . import catalogue
from . import flows

tfb, tfd = tfp.bijectors, tfp.distributions


def real_nvp(event_size=3, **kwargs):
    return flows.perturb(tfpc.ConditionalRealNVP(
        event_size, 3, 2, (6,), 'tanh', dtype=tf.float64, seed=0, **kwargs))


@pytest.mark.parametrize('name', catalogue.CONDITIONERS)
def test_a_new_conditioner_gives_the_identity(name):
    flow = tfpc.ConditionalRealNVP(
        3, 3, 1, conditioner=catalogue.CONDITIONERS[name], seed=0)
    x = flows.normal([5, 3], dtype=tf.float32)
    y = flow.forward(x, conditions=flows.normal([5, 3], 1, tf.float32))
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize('conditioning,expected', [
    ('film', lambda h, p: h * (1. + p[0]) + p[1]),
    ('glu', lambda h, p: h / (1. + np.exp(-p[0])))])
def test_conditions_enter_hidden_layers_as_the_formula_says(conditioning, expected):
    layer = flows.perturb(tfpc.ConditionalCoupling(
        2, 3, conditioner=tfpc.MLP((4, 5), 'tanh', conditioning), dtype=tf.float64,
        seed=0))
    net = layer._conditioner
    u, c = flows.normal([7, 1]), flows.normal([7, 3], 1)
    hidden = np.tanh(10. * np.arcsinh(u / 10.) @ net._unit_kernel.numpy()
                     + c @ net._condition_kernel.numpy() + net._biases[0])
    hidden = hidden @ net._kernels[0].numpy() + net._biases[1]
    modulation = net._modulations[0]
    parts = [c @ k.numpy() + b.numpy()
             for k, b in zip(modulation._kernels, modulation._biases)]
    parts[0] = parts[0] if conditioning == 'glu' else 10. * np.arcsinh(parts[0] / 10.)
    want = np.tanh(expected(hidden, parts)) @ net._kernels[1].numpy() + net._biases[2]
    np.testing.assert_allclose(net(u, c), want, rtol=1e-12)


def test_dropout_depends_on_the_seed_and_is_off_outside_training():
    flow = real_nvp(conditioner=catalogue.CONDITIONERS['mlp_glu_dropout'])
    y, c = flows.normal([64, 3]), flows.normal([64, 3], 1)

    @tf.function
    def inverse(seed):
        with tfpc.training(seed):
            return flow.inverse(y, conditions=c)

    plain = flow.inverse(y, conditions=c)
    one, same, other = inverse([1, 2]), inverse([1, 2]), inverse([1, 3])
    assert np.array_equal(one, same)
    assert not np.allclose(one, other) and not np.allclose(one, plain)
    with tfpc.training([1, 2]):
        np.testing.assert_allclose(flow.inverse(y, conditions=c), one)
    with tfpc.training():
        drawn = flow.inverse(y, conditions=c)
        assert not np.allclose(drawn, flow.inverse(y, conditions=c))
    assert np.array_equal(flow.inverse(y, conditions=c), plain)


def test_dropout_keeps_means():
    with tfpc.training([0, 1]):
        dropped = dropout.dropout(tf.ones([100000]), .2)
    assert abs(np.mean(dropped) - 1.) < .01
    assert abs(np.mean(dropped == 0.) - .2) < .01


def test_two_random_couplings_transform_every_unit():
    flow = real_nvp(5, mixing='random')
    x, c = flows.normal([4, 5]), flows.normal([4, 3], 1)
    assert np.all(np.abs(flow.forward(x, conditions=c) - x) > 1e-9)


def test_random_halves_depend_on_the_seed():
    def order(seed):
        flow = tfpc.ConditionalRealNVP(16, 3, 6, (2,), mixing='random', seed=seed)
        return [tuple(v.numpy()) for v in flow.variables if 'permutation' in v.name]

    assert order(0) == order(0) != order(1)
    # Before each pair of couplings, and back at the end.
    assert len(set(order(0))) == 4


def test_conditional_base_is_a_base_with_that_location_and_scale():
    flow = real_nvp(conditional_base=True)
    base_layer = flow.bijectors[-1]
    c = flows.normal([5, 3], 1)
    shift = base_layer.forward(tf.zeros([5, 3], tf.float64), conditions=c)
    scale = base_layer.forward(tf.ones([5, 3], tf.float64), conditions=c) - shift
    rest = tfpc.ConditionalChain(flow.bijectors[:-1])
    moved = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(shift, scale), 1), rest)
    y = flows.normal([5, 3], 2)
    np.testing.assert_allclose(
        flows.dist(flow, 3).log_prob(y, **flows.given(c)),
        moved.log_prob(y, **flows.given(c)), rtol=1e-10)


def test_a_factory_builds_a_conditioner_for_each_layer():
    sizes = []

    def factory(input_size, output_size):
        sizes.append((input_size, output_size))
        return flows.CountingConditioner(input_size, 3, output_size)

    flow = tfpc.ConditionalRealNVP(5, 3, 2, conditioner=factory, dtype=tf.float64)
    assert sizes == [(2, 6), (3, 4)] and len(flow.trainable_variables) == 2


@pytest.mark.parametrize('make,error,match', [
    (lambda: tfpc.MLP(conditioning='add'), ValueError, "one of .*'film'"),
    (lambda: tfpc.MLP(dropout=1.), ValueError, 'less than 1'),
    (lambda: tfpc.MLP(activation='mish'), ValueError, 'activation'),
    (lambda: tfpc.ResidualNetwork(0), ValueError, '`width`'),
    (lambda: tfpc.ResidualNetwork(4, num_blocks=1.5), TypeError, '`num_blocks`'),
    (lambda: real_nvp(mixing='shuffle'), ValueError, "one of .*'random'"),
    (lambda: real_nvp(conditioner='mlp'), TypeError, '`conditioner` must be'),
    (lambda: tfpc.ConditionalEmbedding(tfb.Tanh(), tf.identity, 3), TypeError,
     '`bijector` must be a ConditionalBijector'),
    (lambda: tfpc.ConditionalEmbedding(real_nvp(), None, 3), TypeError,
     '`embedding` must be a callable'),
    (lambda: tfpc.ConditionalEmbedding(real_nvp(), lambda c: c, 4), ValueError,
     r'`embedding` must return.*last dimension 3; got shape \[1, 4\]'),
    (lambda: tfpc.ConditionalRealNVP(2, tf.TensorSpec([4, 4])), ValueError,
     'ConditionalEmbedding'),
    (lambda: tfpc.ConditionalEmbedding(real_nvp(), tf.identity, tf.TensorSpec(None)),
     ValueError, 'known rank'),
    (lambda: Images().flow.forward(np.zeros([5, 2]), conditions=np.zeros([5, 4, 3])),
     ValueError, r'shape \[..., \*\[4, 4\]\]'),
    (lambda: tfpc.support_bijector(), ValueError, 'got none'),
    (lambda: tfpc.support_bijector([0.], [1.], simplex=True), ValueError, 'got both'),
    (lambda: tfpc.support_bijector([0., 2.], [1., 1.]), ValueError, 'less than'),
    (lambda: tfpc.support_bijector([0., 2.], [1.] * 3), ValueError, 'same length'),
    (lambda: tfpc.conditional_density(2, 3, embedding=tf.identity), ValueError,
     'both'),
    (lambda: tfpc.given(tfd.Normal(0., 1.), tf.ones([1])), TypeError,
     'over a ConditionalBijector; got Normal'),
])
def test_misuse_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


class Images(tf.Module):
    """A flow given images [4, 4] and lists of tokens, whose embedding is counted."""

    def __init__(self):
        super().__init__()
        self.table = tf.Variable(flows.normal([10, 3], 5))
        self.kernel = tf.Variable(flows.normal([16, 3], 6))
        self.count = tf.Variable(0, trainable=False)
        self.flow = tfpc.ConditionalEmbedding(
            flows.flow(num_coupling_layers=3), self._embed,
            tf.TensorSpec([4, 4], tf.float64))
        self.both = tfpc.ConditionalEmbedding(
            flows.flow(), self._embed_both,
            {'image': tf.TensorSpec([4, 4], tf.float64),
             'tokens': tf.TensorSpec([None], tf.int32)})
        self.count.assign(0)

    def _embed(self, image):
        self.count.assign_add(1)
        return tf.tanh(tf.reshape(image, [-1, 16]) @ self.kernel)

    def _embed_both(self, conditions):
        return self._embed(conditions['image']) + tf.reduce_mean(
            tf.gather(self.table, conditions['tokens']), axis=1)


@pytest.mark.parametrize('compiled', [False, True])
def test_an_embedding_runs_once_in_a_call(compiled):
    images = Images()
    dist = images.flow(flows.base())
    c, y = flows.normal([5, 4, 4]), flows.normal([5, 2], 1)
    for call in (lambda: dist.log_prob(y, **flows.given(c)),
                 lambda: dist.sample(5, **flows.given(c)),
                 lambda: dist.experimental_sample_and_log_prob(5, **flows.given(c)),
                 lambda: dist.given(c).sample(100)):
        call = tf.function(call) if compiled else call
        call()
        images.count.assign(0)
        call()
        assert images.count.numpy() == 1


def test_structured_conditions_of_any_batch_shape_and_length():
    images = Images()
    for length in (2, 5):
        c = {'image': flows.normal([3, 1, 4, 4]),
             'tokens': np.arange(3 * length).reshape(3, 1, length) % 10}
        y = flows.normal([7, 3, 5, 2], 1)
        x, log_det = images.both.inverse_and_log_det(y, conditions=c)
        assert x.shape == [7, 3, 5, 2] and log_det.shape == [7, 3, 5]
        one = images.both.inverse(y[1, 2, 4], conditions=tf.nest.map_structure(
            lambda leaf: leaf[2, 0], c))
        np.testing.assert_allclose(x[1, 2, 4], one, rtol=1e-10)
        given = images.both.condition(c)
        assert tfpc.given(flows.dist(images.both), c).batch_shape == [3, 1]
        np.testing.assert_allclose(given.inverse(y), x)


def test_a_keras_embedding_is_trained_saved_and_exported(tmp_path):
    network = tf_keras.Sequential([tf_keras.layers.Flatten(),
                                   tf_keras.layers.Dense(3, dtype='float64')])
    flow = tfpc.ConditionalEmbedding(flows.flow(), network,
                                     tf.TensorSpec([4, 4], tf.float64))
    dist = flows.dist(flow)
    c, y = flows.normal([64, 4, 4]), flows.normal([64, 2], 1)
    before = [v.numpy() for v in network.variables]
    tfpc.fit(dist, y, c, epochs=2, verbose=False, seed=0)
    assert all(np.any(a != b.numpy()) for a, b in zip(before, network.variables))
    want = dist.log_prob(y, **flows.given(c))
    path = str(tmp_path / 'saved')
    tf.saved_model.save(tfpc.exportable(dist), path)
    loaded = tf.saved_model.load(path)
    np.testing.assert_allclose(loaded.log_prob(y, c), want, rtol=1e-12)
    clone = copy.deepcopy(flow)
    flows.perturb(clone)
    np.testing.assert_array_equal(dist.log_prob(y, **flows.given(c)), want)


def linear_data(count=400, seed=0):
    c = 3. + flows.normal([count, 3], seed).numpy()
    e = flows.normal([count, 2], seed + 1).numpy() @ [[1., .9], [0., .1]]
    return c @ [[1., 2.], [0., 3.], [4., 0.]] + e - 7., c, e


def adapted_density(**kwargs):
    dist = tfpc.conditional_density(2, 3, num_coupling_layers=2, hidden_layers=(8,),
                                    dtype=tf.float64, seed=0, **kwargs)
    y, c, _ = linear_data()
    dist.bijector.adapt(y, c)
    return dist


def test_linear_standardization_leaves_white_residuals_and_their_density():
    y, c, _ = linear_data()
    dist = adapted_density()
    x = dist.bijector.inverse(y, conditions=c).numpy()
    np.testing.assert_allclose(np.cov(x.T), np.eye(2), atol=.03)
    np.testing.assert_allclose(np.corrcoef(x.T, c.T)[:2, 2:], 0, atol=.01)
    # The new flow within is the identity: the density is that of the regression.
    slope = np.linalg.lstsq(np.c_[np.ones(len(c)), c], y, rcond=None)[0]
    errors = y - np.c_[np.ones(len(c)), c] @ slope
    normal = tfd.MultivariateNormalFullCovariance(
        tf.zeros(2, tf.float64), np.cov(errors.T))
    np.testing.assert_allclose(
        np.mean(dist.log_prob(y, **flows.given(tf.constant(c)))),
        np.mean(normal.log_prob(errors)), atol=.01)


def test_linear_standardization_survives_copies(tmp_path):
    y, c, _ = linear_data(20)
    flow = adapted_density().bijector
    want = flow.inverse(y, conditions=c)
    other = tfpc.conditional_density(2, 3, num_coupling_layers=2, hidden_layers=(8,),
                                     dtype=tf.float64, seed=1).bijector
    path = tf.train.Checkpoint(flow=flow).save(str(tmp_path / 'c'))
    tf.train.Checkpoint(flow=other).restore(path).assert_consumed()
    for clone in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), other):
        np.testing.assert_array_equal(clone.inverse(y, conditions=c), want)


def test_ridge_chooses_the_penalty_by_leaving_out_each_row():
    rng = np.random.default_rng(0)
    c, y = rng.normal(size=[30, 10]), rng.normal(size=[30, 2])
    y += c[:, :2]
    c, y = c - c.mean(0), y - y.mean(0)
    _, errors = regression.ridge(c, y)

    def left_out(penalty):
        found = []
        for i in range(30):
            keep = np.arange(30) != i
            mean_c, mean_y = c[keep].mean(0), y[keep].mean(0)
            a, b = c[keep] - mean_c, y[keep] - mean_y
            # The penalty counts against all rows, and the mean is not penalized.
            w = np.linalg.solve(a.T @ a + penalty * np.eye(10), a.T @ b)
            found.append(y[i] - mean_y - (c[i] - mean_c) @ w)
        return np.array(found)

    brute = [np.mean(left_out(p)**2) for p in np.logspace(3, -6, 10) * 30]
    best = np.argmin(brute)
    np.testing.assert_allclose(errors, left_out((np.logspace(3, -6, 10) * 30)[best]),
                               rtol=1e-6)
    assert not np.any(regression.ridge(rng.normal(size=[12, 3]),
                                        rng.normal(size=[12, 2]))[0] == np.nan)


def test_exact_and_degenerate_dependence_stays_finite():
    c = flows.normal([50, 3]).numpy()
    for y in (c[:, :2], np.c_[c[:, 0], c[:, 0]], np.ones([50, 2]), c[:1, :2]):
        dist = tfpc.conditional_density(2, 3, num_coupling_layers=1,
                                        hidden_layers=(8,), seed=0)
        dist.bijector.adapt(y, c[:len(y)])
        given = dist.given(tf.cast(c[:len(y)], tf.float32))
        assert np.all(np.isfinite(op_by_op(given.log_prob, tf.cast(y, tf.float32))))


@pytest.mark.parametrize('low,high', [
    ([0., 0., -np.inf, -np.inf], [1., np.inf, 2., np.inf]), ([-1., 2.], [1., 7.]),
    ([3.], None), (None, [3., 3.]), ([-np.inf], None)])
def test_supports_are_kept_and_counted(low, high):
    support = tfpc.support_bijector(low, high, dtype=tf.float64)
    size = len(low or high)
    x = 3. * flows.normal([50, size])
    y = support.forward(x)
    assert np.all(y > (-np.inf if low is None else low))
    assert np.all(y < (np.inf if high is None else high))
    np.testing.assert_allclose(support.inverse(tf.identity(y)), x, rtol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = support.forward(tf.identity(x))
    jacobian = tape.batch_jacobian(y, x)
    np.testing.assert_allclose(support.forward_log_det_jacobian(x, 1),
                               np.linalg.slogdet(jacobian)[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('support,size', [
    (tfpc.support_bijector([0., -1.], [np.inf, 1.]), 2),
    (tfpc.support_bijector(simplex=True), 3)], ids=['bounds', 'simplex'])
def test_density_on_a_support_fits_and_stays_inside(support, size):
    c = flows.normal([128, 3], dtype=tf.float32)
    y = support.forward(flows.normal([128, 2], 1, tf.float32) + c[:, :1])
    dist = tfpc.conditional_density(size, 3, support=support, num_coupling_layers=1,
                                    hidden_layers=(8,), seed=0)
    history = tfpc.fit(dist, y, c, epochs=2, verbose=False, seed=0)
    assert np.all(np.isfinite(history['loss']))
    samples, log_probs = tfpc.given(dist, c[:4]).experimental_sample_and_log_prob(9)
    assert samples.shape == [9, 4, size] and log_probs.shape == [9, 4]
    assert np.all(np.isfinite(support.inverse(tf.identity(samples))))
