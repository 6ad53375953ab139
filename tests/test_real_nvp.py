"""Values, log-dets, shapes and variables of the flow and its parts."""

import itertools

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions


# Of many layers and far out; few layers have an entry of the catalogue.
@pytest.mark.parametrize('event_size,layers,transformer', [
    (1, 5, 'affine'), (3, 7, 'additive'), (8, 8, 'affine')])
def test_float64_round_trip_and_log_det(event_size, layers, transformer):
    flow = flows.flow(event_size, 3, layers, transformer=transformer)

    @tf.function(input_signature=[tf.TensorSpec([None, event_size], tf.float64),
                                  tf.TensorSpec([None, 3], tf.float64)])
    def pass_(x, c):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, fldj = flow.forward_and_log_det(x, conditions=c)
        back, ildj = flow.inverse_and_log_det(y, conditions=c)
        there, _ = flow.forward_and_log_det(
            flow.inverse(x, conditions=c), conditions=c)
        return y, fldj, back, ildj, there, tape.batch_jacobian(y, x)

    for seed, spread in itertools.product(range(3), (0.1, 1., 10.)):
        x = spread * flows.normal([16, event_size], seed)
        c = flows.normal([16, 3], seed + 10)
        y, fldj, back, ildj, there, jacobian = pass_(x, c)
        assert not np.allclose(y, x, atol=1e-3), 'the flow is at its identity'
        np.testing.assert_allclose(back, x, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(there, x, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(fldj, np.linalg.slogdet(jacobian)[1],
                                   rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(fldj, -ildj, rtol=1e-10, atol=1e-10)
        if transformer == 'additive':
            np.testing.assert_array_equal(fldj, 0)


def test_float32_round_trip():
    flow = flows.flow(2, 3, 8, dtype=tf.float32, scale=0.5)
    x = flows.normal([64, 2], dtype=tf.float32)
    c = flows.normal([64, 3], 1, dtype=tf.float32)
    y, fldj = flow.forward_and_log_det(x, conditions=c)
    back, ildj = flow.inverse_and_log_det(y, conditions=c)
    assert np.max(np.abs(y - x)) > 0.1
    np.testing.assert_allclose(back, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fldj, -ildj, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('transformer', ['affine', 'additive'])
@pytest.mark.parametrize('event_size', [1, 2, 7])
def test_two_layers_transform_every_unit(event_size, transformer):
    flow = flows.flow(event_size, 2, 2, transformer=transformer)
    x = flows.normal([4, event_size])
    moved = np.abs(flow.forward(x, conditions=flows.normal([4, 2], 1)) - x)
    assert np.all(moved.max(0) > 1e-3)
    # And every unit depends on the conditions.
    other = flow.forward(x, conditions=flows.normal([4, 2], 2))
    assert np.all(np.abs(flow.forward(x, conditions=flows.normal([4, 2], 1))
                         - other).max(0) > 1e-4)


@pytest.mark.parametrize('event_size,transformer', [
    (1, 'affine'), (5, 'affine'), (5, 'additive')])
def test_a_new_flow_is_the_identity_for_every_condition(event_size, transformer):
    flow = tfpc.ConditionalRealNVP(event_size, 3, 2, transformer=transformer,
                                   dtype=tf.float64)
    x, c = flows.normal([6, event_size]), 100. * flows.normal([6, 3], 1)
    y, fldj = flow.forward_and_log_det(x, conditions=c)
    np.testing.assert_allclose(y, x, rtol=1e-15)
    np.testing.assert_array_equal(fldj, 0)


def test_seeds():
    def weights(seed):
        return [v.numpy() for v in tfpc.ConditionalRealNVP(
            4, 3, num_coupling_layers=4, seed=seed).trainable_variables]

    for a, b in zip(weights(5), weights(5)):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(weights(5), weights(6)))
    # Layers of one flow differ.
    layers = tfpc.ConditionalRealNVP(4, 3, num_coupling_layers=4, seed=5).bijectors
    kernels = [layer.trainable_variables for layer in layers]
    for first, second in itertools.combinations(kernels, 2):
        assert any(a.shape == b.shape and np.any(a != b)
                   for a, b in zip(first, second))
    # Without a seed, TensorFlow's global one holds.
    tf.random.set_seed(3)
    first, second = weights(None), weights(None)
    tf.random.set_seed(3)
    again = weights(None)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(first, second))


def test_trainable_variables_are_counted_before_any_call_and_stay():
    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=4, dtype=tf.float64)
    count = 4 * 7
    module = tf.Module()
    module.flow = flow
    module.again = [flow]
    dist = flows.dist(flow)
    owners = [flow, tfb.Chain([tfb.Tanh(), flow]), tfb.Invert(flow), dist, module,
              tfpc.ConditionalChain([tfb.Tanh(), flow]),
              flow.condition(flows.normal([3]))]
    for owner in owners:
        assert len(owner.trainable_variables) == count
        assert len({v.ref() for v in owner.trainable_variables}) == count
    for _ in range(10):
        dist.log_prob(dist.sample(5, **flows.given(flows.normal([5, 3]))),
                      **flows.given(flows.normal([5, 3])))
    for owner in owners:
        assert len(owner.trainable_variables) == count
        assert len(owner.variables) == count


@hypothesis.given(
    sample=st.lists(st.integers(1, 3), max_size=2),
    batch=st.lists(st.integers(1, 3), max_size=2),
    ones=st.integers(0, 3))
@hypothesis.settings(max_examples=25)
def test_batch_shapes_broadcast(sample, batch, ones):
    """`[sample..., batch..., D]` with `[batch..., S]`, some of them 1."""
    flow, event_size = _SHAPE_FLOW, 2      # Traced once for each pair of ranks.
    condition_batch = [1 if ones >> i & 1 else n for i, n in enumerate(batch)]
    x = flows.normal([*sample, *batch, event_size])
    c = flows.normal([*condition_batch, 3], 1)
    full = [*sample, *batch]
    y, fldj = flow.forward_and_log_det(x, conditions=c)
    assert y.shape == [*full, event_size] and fldj.shape == full
    # Equal to each event by itself.
    xs = np.reshape(x, [-1, event_size])
    cs = np.reshape(np.broadcast_to(c, [*full, 3]), [-1, 3])
    for i in {0, len(xs) - 1}:
        one, one_fldj = flow.forward_and_log_det(xs[i], conditions=cs[i])
        assert one_fldj.shape == []
        np.testing.assert_allclose(one, np.reshape(y, [-1, event_size])[i], rtol=1e-12)
        np.testing.assert_allclose(one_fldj, np.reshape(fldj, [-1])[i],
                                   rtol=1e-10, atol=1e-13)
    back, ildj = flow.inverse_and_log_det(y, conditions=c)
    np.testing.assert_allclose(back, x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(ildj, -fldj, rtol=1e-10, atol=1e-13)
    # `inverse` may expand y to the conditions.
    small = flows.normal([event_size], 2)
    wide, wide_ildj = flow.inverse_and_log_det(small, conditions=c)
    assert wide.shape == [*condition_batch, event_size]
    assert wide_ildj.shape == condition_batch


_SHAPE_FLOW = flows.flow(hidden_layers=(4,))


def test_event_ndims_sums_log_dets():
    flow = flows.flow()
    x, c = flows.normal([4, 5, 2]), flows.normal([5, 3])
    each = flow.forward_log_det_jacobian(x, conditions=c)
    total = flow.forward_log_det_jacobian(x, event_ndims=2, conditions=c)
    np.testing.assert_allclose(total, tf.reduce_sum(each, -1))
    assert flow.inverse_log_det_jacobian(x, event_ndims=3, conditions=c).shape == []


def test_eager_passes_are_traced_once_for_all_batch_sizes():
    traces = []

    def conditioner(units, conditions):
        traces.append(None)
        return tf.concat([units, conditions], -1)

    layer = tfpc.ConditionalCoupling(2, 1, conditioner=conditioner)
    traces.clear()
    for batch in range(1, 20):
        layer.forward(tf.ones([batch, 2]), conditions=tf.ones([batch, 1]))
    assert len(traces) == 1


class TestDistribution:
    """Through `tfd.TransformedDistribution`, with keywords."""

    flow = flows.flow(scale=0.5)
    dist = flows.dist(flow)
    c = flows.normal([5, 3], 1)

    def test_stock_chain_takes_them_nested_by_name(self):
        flow = flows.flow(scale=0.1)      # mild, lest tanh round to 1
        chain = tfb.Chain([tfb.Tanh(), flow])
        dist = tfd.TransformedDistribution(flows.base(), chain)
        kwargs = {'bijector_kwargs': {flow.name: {'conditions': self.c}}}
        y, log_prob = dist.experimental_sample_and_log_prob(5, seed=1, **kwargs)
        assert np.all(np.abs(y) < 1)
        np.testing.assert_allclose(dist.log_prob(tf.identity(y), **kwargs), log_prob,
                                   rtol=1e-8, atol=1e-8)
        ours = tfd.TransformedDistribution(
            flows.base(), tfpc.ConditionalChain([tfb.Tanh(), flow]))
        np.testing.assert_allclose(
            ours.log_prob(tf.identity(y), **flows.given(self.c)), log_prob,
            rtol=1e-8, atol=1e-8)

    def test_condition_has_a_batch_shape_and_independent_noise(self):
        dist = flows.dist(self.flow.condition(self.c))
        assert dist.batch_shape == [5] and dist.event_shape == [2]
        assert dist.sample().shape == [5, 2]
        y = dist.sample(7, seed=1)
        assert y.shape == [7, 5, 2] and dist.log_prob(y).shape == [7, 5]
        latents = self.flow.inverse(y, conditions=self.c)
        for i, j in itertools.combinations(range(5), 2):
            assert np.all(np.abs(latents[:, i] - latents[:, j]) > 1e-6)
        np.testing.assert_allclose(
            dist[3].log_prob(y[:, 3]), dist.log_prob(y)[:, 3], rtol=1e-10)

    def test_conditions_of_two_batch_dimensions(self):
        c = flows.normal([4, 1, 3])
        dist = flows.dist(self.flow.condition(c))
        assert dist.batch_shape == [4, 1]
        assert dist.sample([2, 3]).shape == [2, 3, 4, 1, 2]
        assert dist.log_prob(flows.normal([6, 2])).shape == [4, 6]

    def test_tfp_that_passes_no_keywords(self):
        dist = flows.dist(self.flow.condition(self.c))
        y = flows.normal([5, 2])
        each = dist.log_prob(y)
        np.testing.assert_allclose(tfd.Independent(dist, 1).log_prob(y),
                                   tf.reduce_sum(each), rtol=1e-12)
        np.testing.assert_allclose(
            tfd.BatchReshape(dist, [5, 1]).log_prob(y[:, tf.newaxis])[:, 0], each,
            rtol=1e-12)
        one = flows.dist(self.flow.condition(self.c[0]))
        np.testing.assert_allclose(
            tfd.BatchBroadcast(one, [5]).log_prob(y), one.log_prob(y), rtol=1e-12)
        mixture = tfd.MixtureSameFamily(
            tfd.Categorical(logits=tf.zeros(5, tf.float64)), dist)
        np.testing.assert_allclose(
            mixture.log_prob(y[0]),
            tf.reduce_logsumexp(dist.log_prob(y[0])) - np.log(5.), rtol=1e-12)

        @tfd.JointDistributionCoroutineAutoBatched
        def joint():
            state = yield tfd.Sample(tfd.Normal(tf.zeros([], tf.float64), 1.), 3,
                                     name='state')
            yield tfd.TransformedDistribution(
                flows.base(), self.flow.condition(state), name='action')

        draw = joint.sample(seed=1)
        assert draw.action.shape == [2]
        np.testing.assert_allclose(
            joint.log_prob(draw) - tf.reduce_sum(
                tfd.Normal(tf.zeros([], tf.float64), 1.).log_prob(draw.state)),
            self.dist.log_prob(draw.action, **flows.given(draw.state)), rtol=1e-9)

    def test_mcmc_and_vi_run_on_it(self):
        dist = flows.dist(self.flow.condition(self.c[0]))
        states = tfp.mcmc.sample_chain(
            3, tf.zeros([4, 2], tf.float64), kernel=tfp.mcmc.HamiltonianMonteCarlo(
                dist.log_prob, np.float64(0.1), 2), trace_fn=None, seed=[0, 1])
        assert states.shape == [3, 4, 2] and np.all(np.isfinite(states))
        loss = tfp.vi.monte_carlo_variational_loss(
            lambda z: flows.base().log_prob(z), dist, sample_size=8, seed=[0, 1])
        assert np.isfinite(loss)


class TestChain:

    def test_stock_and_conditional_parts_mix(self):
        parts = [
            tfb.Softplus(), flows.flow(3, 2, 2), tfb.Permute([2, 0, 1]),
            tfb.Invert(flows.flow(3, 2, 2, seed=5, name='inner')),
            tfb.Chain([tfb.Shift(flows.normal([3])), flows.flow(3, 2, 2, seed=7)]),
            tfb.Scale(tf.constant(1.5, tf.float64))]
        chain = tfpc.ConditionalChain(parts)
        x, c = flows.normal([4, 3]), flows.normal([4, 2], 1)
        y, want = x, 0.
        for part in (parts[5], parts[4].bijectors[1], parts[4].bijectors[0], *parts[3::-1]):
            conditional = isinstance(getattr(part, 'bijector', part),
                                     tfpc.ConditionalBijector)
            kwargs = {'conditions': c} if conditional else {}
            y = tf.identity(y)
            want += part.forward_log_det_jacobian(y, 1, **kwargs)
            y = part.forward(y, **kwargs)
        value, fldj = chain.forward_and_log_det(x, conditions=c)
        np.testing.assert_allclose(value, y, rtol=1e-12)
        np.testing.assert_allclose(fldj, want, rtol=1e-12)
        np.testing.assert_allclose(
            chain.inverse(tf.identity(value), conditions=c), x, rtol=1e-7, atol=1e-8)

    def test_event_size_may_change(self):
        flow = flows.flow(2, 3)
        chain = tfpc.ConditionalChain([tfb.SoftmaxCentered(), flow])
        y, fldj = chain.forward_and_log_det(flows.normal([4, 2]),
                                            conditions=flows.normal([4, 3]))
        np.testing.assert_allclose(tf.reduce_sum(y, -1), 1., rtol=1e-12)
        assert fldj.shape == [4]
        assert chain.inverse(y, conditions=flows.normal([4, 3])).shape == [4, 2]
        dist = flows.dist(chain)
        assert dist.event_shape == [3]
        again = tfpc.ConditionalChain([flow, tfb.Invert(tfb.SoftmaxCentered())])
        assert again.event_size == 3 and again.forward_event_shape([3]) == [2]
        given = dist.log_prob(tf.identity(y), **flows.given(flows.normal([4, 3])))
        assert np.all(np.isfinite(given))

    def test_a_conditioned_part_keeps_its_own_conditions(self):
        inner = flows.flow(2, 3)
        chain = tfpc.ConditionalChain(
            [inner.condition(flows.normal([3], 5)), flows.flow(2, 4)])
        assert chain.forward(flows.normal([6, 2]),
                             conditions=flows.normal([6, 4])).shape == [6, 2]

    def test_what_is_not_affine_does_not_say_so(self):
        """TFP calls it a constant Jacobian, and gives a mean and a covariance."""
        for transformer in ('additive', 'affine'):
            flow = tfpc.ConditionalRealNVP(2, 3, transformer=transformer)
            assert not flow.is_constant_jacobian
            assert not tfpc.ConditionalChain([tfb.Shift(1.), flow]).is_constant_jacobian


class TestOwnParts:

    @pytest.mark.parametrize('kind', ['module', 'closure', 'keras', 'tf_keras'])
    def test_variables_of_an_own_conditioner_are_tracked(self, kind):
        if kind == 'module':
            network = flows.CountingConditioner(1, 3, 2, tf.float32)
            conditioner = network
        elif kind == 'closure':
            kernel = tf.Variable(tf.ones([4, 2]))
            conditioner = lambda u, c: tf.concat([u, c], -1) @ kernel
        else:
            keras = __import__(kind)
            net = keras.Sequential([keras.layers.Dense(8, activation='tanh'),
                                    keras.layers.Dense(2)])
            conditioner = lambda u, c: net(tf.concat([u, c], -1))
        layer = tfpc.ConditionalCoupling(2, 3, conditioner=conditioner)
        expected = 4 if 'keras' in kind else 1
        assert len(layer.trainable_variables) == expected
        dist = flows.dist(layer)
        assert len(dist.trainable_variables) == expected
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(dist.log_prob(
                tf.ones([6, 2]), **flows.given(tf.ones([6, 3]))))
        assert all(g is not None
                   for g in tape.gradient(loss, layer.trainable_variables))

    def test_an_own_conditioner_sees_conditions_of_the_units_batch_shape(self):
        shapes = []

        def conditioner(units, conditions):
            shapes.append((units.shape, conditions['a'].shape))
            return tf.concat([units, conditions['a']], -1)

        layer = tfpc.ConditionalCoupling(2, {'a': 1}, conditioner=conditioner)
        y = layer.forward(tf.ones([7, 5, 2]), conditions={'a': tf.ones([5, 1])})
        assert y.shape == [7, 5, 2]
        assert all(units[:-1].is_compatible_with(conditions[:-1])
                   for units, conditions in shapes)

    @pytest.mark.parametrize('mask', [
        [False, True, True, False], [True, True, True, False]])
    def test_any_mask(self, mask):
        layer = flows.perturb(tfpc.ConditionalCoupling(
            4, 2, mask=mask, hidden_layers=(8,), dtype=tf.float64), scale=1.)
        x, c = flows.normal([5, 4]), flows.normal([5, 2])
        y = layer.forward(x, conditions=c)
        np.testing.assert_array_equal(tf.reduce_all(y == x, 0), mask)
        np.testing.assert_allclose(layer.inverse(tf.identity(y), conditions=c), x,
                                   rtol=1e-12, atol=1e-12)
