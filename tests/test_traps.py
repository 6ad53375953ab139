"""The traps of TFP: each fails on stock TFP (kept as an expected failure) and holds here.

`stock` tests are `xfail(strict=True)`: when TFP mends one, they say so.
"""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions
given, normal = flows.given, flows.normal

STOCK = pytest.mark.xfail(strict=True, reason='stock TFP falls into this trap')
C = normal([5, 3], 1)


def update(module, by=0.1):
    for variable in module.trainable_variables:
        variable.assign_add(by * tf.ones_like(variable))


def near(a, b, **kwargs):
    np.testing.assert_allclose(a, b, **{'rtol': 1e-9, 'atol': 1e-9, **kwargs})


def scale_by_variable():
    """Stock TFP's simplest bijector with a variable."""
    return tfb.Scale(tf.Variable(tf.constant([1.5, 0.5], tf.float64)))


def stock_dist():
    return tfd.TransformedDistribution(flows.base(), scale_by_variable())


# 1. Stock RealNVP takes no conditions and tracks no variables.

@STOCK
def test_trap_1_stock_takes_conditions():
    tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=tfb.real_nvp_default_template(
        (4,))).forward(tf.ones([5, 2]), conditions=tf.ones([5, 3]))


@STOCK
def test_trap_1_stock_tracks_variables():
    bijector = tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=tfb.real_nvp_default_template((4,)))
    bijector.forward(tf.ones([5, 2]))
    assert bijector.trainable_variables


def test_trap_1_conditions_are_taken_and_variables_tracked():
    flow = tfpc.ConditionalRealNVP(2, 3, 2, (4,))
    assert len(flow.trainable_variables) == 2 * 5
    assert flow.forward(tf.ones([5, 2]), conditions=tf.ones([5, 3])).shape == [5, 2]


# 2. Keywords that a stock Chain or a distribution drops.

@STOCK
def test_trap_2_stock_chain_does_not_drop_keywords():
    with pytest.raises((TypeError, ValueError)):
        tfb.Chain([tfb.Tanh()]).forward(tf.ones([5, 2]), conditions=C)


def test_trap_2_dropped_conditions_are_an_error_and_our_chain_routes_them():
    flow = flows.flow()
    with pytest.raises(TypeError, match='are required'):
        tfb.Chain([tfb.Tanh(), flow]).forward(normal([5, 2]), conditions=C)
    with pytest.raises(TypeError, match='bijector_kwargs'):
        flows.dist(flow).sample(5, conditions=C)
    chain = tfpc.ConditionalChain([tfb.Tanh(), flow])
    near(chain.forward(normal([5, 2]), conditions=C),
         tf.tanh(flow.forward(normal([5, 2]), conditions=C)))


# 3. The cache.

@STOCK
def test_trap_3_stock_log_prob_after_an_update():
    dist = stock_dist()
    y = dist.sample(5)
    update(dist)
    near(dist.log_prob(y), dist.log_prob(tf.identity(y)))


def _stock(bijector):
    return tfd.TransformedDistribution(flows.base(), bijector)


def _chain(flow):
    return tfpc.ConditionalChain([tfb.Tanh(), flow, scale_by_variable()])


# Distributions over a flow, and whether they take conditions as a keyword.
WRAPS = {
    'flow(base)': lambda flow: (flow(flows.base()), True),
    'chain(base)': lambda flow: (_chain(flow)(flows.base()), True),
    'given': lambda flow: (flow(flows.base()).given(C), False),
    'condition(base)': lambda flow: (flow.condition(C)(flows.base()), False),
    'stock over flow': lambda flow: (_stock(flow), True),
    'stock over chain': lambda flow: (_stock(_chain(flow)), True),
    'stock over Invert': lambda flow: (_stock(tfb.Invert(flow)), True),
    'stock over condition': lambda flow: (_stock(flow.condition(C)), False),
}


def coupling():
    """A flow of one layer, since a trap is no matter of how many there are."""
    return flows.flow(num_coupling_layers=1, hidden_layers=(4,))


@pytest.fixture(params=WRAPS)
def wrapped(request):
    """A distribution, its bijector's keywords, and the sample shape for [5, 2]."""
    dist, takes_conditions = WRAPS[request.param](coupling())
    return dist, {'conditions': C} if takes_conditions else {}, (
        5 if takes_conditions else [])


# What `flow(base)` is, and TFP's own class over the same flow.
DISTRIBUTIONS = pytest.mark.parametrize('make', [
    lambda flow: flow(flows.base()), _stock], ids=['flow(base)', 'stock'])


def test_trap_3_values_after_an_update(wrapped):
    dist, kwargs, n = wrapped
    bijector = dist.bijector
    keywords = {'bijector_kwargs': kwargs} if kwargs else {}
    x = 0.3 * normal([5, 2])
    y = dist.sample(n, **keywords)
    before = dist.log_prob(y, **keywords)
    used = {'forward': x, 'forward_log_det_jacobian': x, 'inverse': y,
            'inverse_log_det_jacobian': y}
    for method, value in used.items():
        getattr(bijector, method)(value, **kwargs)
    update(bijector)
    for density in (dist.log_prob, dist.prob):
        near(density(y, **keywords), density(tf.identity(y), **keywords), rtol=1e-7)
    assert np.any(np.abs(dist.log_prob(y, **keywords) - before) > 1e-3)
    for method, value in used.items():
        near(getattr(bijector, method)(value, **kwargs),
             getattr(bijector, method)(tf.identity(value), **kwargs))


@STOCK
def test_trap_3_stock_gradient_at_a_sample():
    dist = stock_dist()
    y = dist.sample(5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(dist.log_prob(y))
    assert all(g is not None for g in tape.gradient(loss, dist.trainable_variables))
    near(tape.gradient(loss, y), 0)


def test_trap_3_gradients_at_a_sample(wrapped):
    """Sampled outside the tape, used in two tapes in a row, and equal to a copy's."""
    dist, kwargs, n = wrapped
    bijector = dist.bijector
    c = tf.identity(C)
    if kwargs:
        keywords = {'bijector_kwargs': {'conditions': c}}
        sources = [c]
    else:
        keywords, sources = {}, []
    y = dist.sample(n, **keywords)
    sources = [y, *sources, *bijector.trainable_variables]

    def gradients(value):
        with tf.GradientTape() as tape:
            tape.watch([value, c])
            loss = tf.reduce_sum(dist.log_prob(value, **keywords))
        return tape.gradient(loss, [value, *sources[1:]])

    first, second, copied = gradients(y), gradients(y), gradients(tf.identity(y))
    for a, b, want in zip(first, second, copied):
        assert a is not None and b is not None
        near(a, want, rtol=1e-6)
        near(b, want, rtol=1e-6)


def test_trap_3_gradients_of_direct_calls_see_what_is_watched():
    """A log-det at a value from the same tape is differentiable in that value."""
    flow = coupling()
    with tf.GradientTape(persistent=True) as tape:
        y = normal([5, 2])
        x = flow.inverse(y, conditions=C)
        tape.watch(x)
        fldj = flow.forward_log_det_jacobian(x, conditions=C)
    gradient = tape.gradient(fldj, x)
    assert gradient is not None and np.any(gradient != 0)
    y = flow.forward(x, conditions=C)
    with tf.GradientTape() as tape:
        fldj = flow.forward_log_det_jacobian(x, conditions=C)
    assert all(g is not None for g in tape.gradient(fldj, flow.trainable_variables)[:5])


@DISTRIBUTIONS
def test_trap_3_sample_and_log_prob_within_one_tape(make):
    """The reparameterised gradient equals that of straight-line code."""
    flow, noise = coupling(), normal([5, 2])
    dist = make(flow)

    class Fixed(tfd.Normal):
        """A base that always draws the same noise."""

        def _sample_n(self, n, seed=None):
            return noise

    fixed = tfd.TransformedDistribution(
        tfd.Independent(Fixed(tf.zeros([2], tf.float64), tf.ones([], tf.float64)), 1),
        flow)
    with tf.GradientTape() as tape:
        y = fixed.sample(5, **given(C))
        loss = tf.reduce_sum(tf.sin(dist.log_prob(y, **given(C))))
    got = tape.gradient(loss, flow.trainable_variables)
    with tf.GradientTape() as tape:
        y = flow.forward(noise, conditions=C)
        x, ildj = flow.inverse_and_log_det(y, conditions=C)
        loss = tf.reduce_sum(tf.sin(flows.base().log_prob(x) + ildj))
    for a, b in zip(got, tape.gradient(loss, flow.trainable_variables)):
        near(a, b, rtol=1e-6)


def _fit_scale(dist, log_prob, compiled, steps=40):
    """Maximum likelihood on one and the same tensor; the final nats per event."""
    data = 3. * normal([200, 2], 7)
    optimizer = tf.keras.optimizers.Adam(0.2)
    variables = dist.trainable_variables
    optimizer.build(variables)

    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(log_prob(data))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    step = tf.function(step) if compiled else step
    for _ in range(steps):
        step()
    return float(-tf.reduce_mean(log_prob(tf.identity(data))))


@STOCK
def test_trap_3_stock_full_batch_fit():
    eager, compiled = stock_dist(), stock_dist()
    near(_fit_scale(eager, eager.log_prob, False),
         _fit_scale(compiled, compiled.log_prob, True), rtol=1e-3)


@DISTRIBUTIONS
def test_trap_3_eager_full_batch_fit_reaches_the_compiled_optimum(make):
    c = normal([200, 3], 8)
    results = []
    for compiled in (False, True):
        dist = make(flows.flow(hidden_layers=(4,)))
        results.append(_fit_scale(
            dist, lambda y: dist.log_prob(y, **given(c)), compiled))
    near(*results, rtol=1e-5)
    assert results[0] < 5.2      # the entropy of N(0, 9 I) in 2-D is 5.03 nats


@DISTRIBUTIONS
def test_trap_3_arrays_and_variables_changed_in_place_are_seen(make):
    flow = coupling()
    dist, y = make(flow), normal([5, 2])
    array, variable = C.numpy().copy(), tf.Variable(C)
    fixed = flow.condition(array), flow.condition(variable)
    for conditions in (array, variable):
        dist.log_prob(y, **given(conditions))
    for bijector in fixed:
        bijector.forward(y)
    assert array.flags.writeable
    array += 1.
    variable.assign_add(tf.ones_like(variable))
    want = dist.log_prob(y, **given(C + 1.))
    for conditions in (array, variable):
        near(dist.log_prob(y, **given(conditions)), want)
    for bijector in fixed:
        near(bijector.forward(y), flow.forward(y, conditions=C + 1.))
        near(make(bijector).log_prob(y), want)


def test_trap_3_events_changed_in_place_are_seen():
    flow, y = coupling(), normal([5, 2]).numpy()
    flow.inverse(y, conditions=C)
    y += 1.
    near(flow.inverse(y, conditions=C), flow.inverse(tf.constant(y), conditions=C))


@STOCK
def test_trap_3_stock_cond():
    dist = stock_dist()

    @tf.function
    def run(flag):
        y = dist.sample(5)
        return tf.cond(flag, lambda: dist.log_prob(y), lambda: 2. * dist.log_prob(y))

    y = dist.sample(5)
    del y
    bijector, x = scale_by_variable(), normal([5, 2])

    @tf.function
    def both(flag):
        one = tf.cond(flag, lambda: bijector.inverse(x), lambda: -bijector.inverse(x))
        return one + bijector.inverse(x)

    run(tf.constant(True)), both(tf.constant(True))


@DISTRIBUTIONS
def test_trap_3_control_flow(make):
    dist = make(coupling())

    @tf.function
    def run(flag, c):
        y = dist.sample(5, seed=1, **given(c))
        one = tf.cond(flag, lambda: dist.log_prob(y, **given(c)),
                      lambda: 2. * dist.log_prob(y, **given(c)))
        _, total = tf.while_loop(
            lambda i, _: i < 3,
            lambda i, total: (i + 1, total + dist.log_prob(y, **given(c))),
            [0, tf.zeros_like(one)])
        after = dist.log_prob(y, **given(c))
        return y, one, total, after

    for flag in (True, False):
        y, one, total, after = run(tf.constant(flag), C)
        want = dist.log_prob(tf.identity(y), **given(C))
        near(one, want if flag else 2. * want)
        near(total, 3. * want)
        near(after, want)


@DISTRIBUTIONS
def test_trap_3_sample_assign_log_prob_in_one_function(make):
    flow = coupling()
    dist = make(flow)

    @tf.function
    def run(c):
        y = dist.sample(5, seed=1, **given(c))
        x = flow.inverse(y, conditions=c)
        flow.forward_log_det_jacobian(x, conditions=c)
        update(flow)
        return y, x, dist.log_prob(y, **given(c)), flow.forward_log_det_jacobian(
            x, conditions=c)

    y, x, log_prob, fldj = run(C)
    near(log_prob, dist.log_prob(tf.identity(y), **given(C)))
    near(fldj, flow.forward_log_det_jacobian(tf.identity(x), conditions=C))


@STOCK
def test_trap_3_stock_memory():
    _, conditions = _hold(_stock(tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=tfpc.conditional_real_nvp_template(
            (4,), input_size=1, output_units=1, condition_size=3, dtype=tf.float64))),
        fixed='y', calls=20)
    assert not conditions


def _hold(dist, fixed, calls):
    """Inputs still alive after many calls with one fixed and one fresh input."""
    bijector = dist.bijector
    y0, c0 = normal([5, 2]), tf.identity(C)
    events, conditions = [], []
    for _ in range(calls):
        y = y0 if fixed == 'y' else tf.identity(y0)
        c = c0 if fixed == 'c' else tf.identity(c0)
        dist.log_prob(y, **given(c))
        sample = dist.sample(5, **given(c))
        dist.experimental_sample_and_log_prob(5, **given(c))
        bijector.forward_log_det_jacobian(y, conditions=c)
        events += [] if fixed == 'y' else [weakref.ref(y)]
        events.append(weakref.ref(sample))
        conditions += [] if fixed == 'c' else [weakref.ref(c)]
    del y, c, sample
    gc.collect()
    return ([r for r in events if r() is not None],
            [r for r in conditions if r() is not None])


@DISTRIBUTIONS
@pytest.mark.parametrize('fixed', ['y', 'c'])
def test_trap_3_memory_does_not_grow(make, fixed):
    events, conditions = _hold(make(coupling()), fixed, calls=10)
    assert not events and not conditions


@pytest.mark.parametrize('cls', [
    tfpc.ConditionalTransformedDistribution, tfd.TransformedDistribution])
def test_trap_3_nothing_is_held_after_an_error(cls):
    flow = coupling()

    class Failing(tfd.Normal):
        def _log_prob(self, x):
            raise RuntimeError

    dist = cls(tfd.Independent(
        Failing(tf.zeros(2, tf.float64), tf.ones([], tf.float64)), 1), flow)
    y = tf.identity(normal([5, 2]))
    with pytest.raises(RuntimeError):
        dist.log_prob(y, **given(C))
    ref = weakref.ref(y)
    del y
    gc.collect()
    assert ref() is None


# 4. Equality.

@STOCK
def test_trap_4_stock_equal_hyperparameters_are_different_bijectors():
    def make(seed):
        return tfb.MaskedAutoregressiveFlow(tfb.AutoregressiveNetwork(
            2, event_shape=[2], hidden_units=[4]), name='maf')
    # Equal parameters and different weights, as of a subclass that builds its own.

    class Own(tfb.Shift):
        def __init__(self, size):
            parameters = dict(locals())
            super().__init__(tf.Variable(tf.random.normal([size])))
            self._parameters = {'size': size}
    assert Own(2) != Own(2)


def test_trap_4_equality_is_identity():
    a = tfpc.ConditionalRealNVP(2, 3, 2, (4,), dtype=tf.float64)
    b = tfpc.ConditionalRealNVP(2, 3, 2, (4,), dtype=tf.float64)
    flows.perturb(a, 1, 1.), flows.perturb(b, 2, 1.)
    assert a == a and a != b and len({a, b, a}) == 2
    assert a.condition(C) != a.condition(C)
    y = normal([5, 2])
    x = a.inverse(y, conditions=C)
    assert np.all(np.abs(b.inverse(y, conditions=C) - x) > 1e-6)
    chains = tfb.Chain([tfb.Tanh(), a]), tfb.Chain([tfb.Tanh(), b])
    assert chains[0] != chains[1] and tfb.Invert(a) != tfb.Invert(b)
    with pytest.raises(NotImplementedError):
        tfd.kl_divergence(flows.dist(a), flows.dist(b))
    near(tfd.kl_divergence(flows.dist(a), flows.dist(a)), 0)


# 5. Copies: see also test_copies.py.

@STOCK
def test_trap_5_stock_deepcopy_is_independent():
    bijector = tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=tfpc.conditional_real_nvp_template(
            (4,), input_size=1, output_units=1, condition_size=3, dtype=tf.float64))
    target = copy.deepcopy(bijector)
    before = target.forward(normal([5, 2]), conditions=C)
    flows.perturb(bijector, scale=1.)
    near(target.forward(normal([5, 2]), conditions=C), before)


@STOCK
def test_trap_5_stock_pickle():
    pickle.dumps(tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=tfpc.conditional_real_nvp_template(
            (4,), input_size=1, output_units=1, condition_size=3)))


def test_trap_5_a_deep_copy_is_a_target_network():
    flow = flows.flow(hidden_layers=(4,))
    target = copy.deepcopy(flow)
    x = normal([5, 2])
    before = target.forward(x, conditions=C)
    update(flow)
    np.testing.assert_array_equal(target.forward(x, conditions=C), before)
    assert np.all(np.abs(flow.forward(x, conditions=C) - before) > 1e-6)


# 6. Shared noise.

class StockShift(tfb.Bijector):
    """How one would write a conditional bijector on stock TFP."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, parameters={})

    def _forward(self, x, conditions):
        return x + conditions[..., :2]

    def _inverse(self, y, conditions):
        return y - conditions[..., :2]

    def _forward_log_det_jacobian(self, x, conditions):
        return tf.zeros([], x.dtype)


@STOCK
def test_trap_6_stock_noise_is_not_shared():
    y = tfd.TransformedDistribution(flows.base(), StockShift()).sample(**given(C))
    noise = y - C[:, :2]
    assert np.ptp(noise[:, 0]) > 1e-6


@DISTRIBUTIONS
def test_trap_6_noise_is_never_shared(make):
    flow = coupling()
    for n in ([], 1):
        with pytest.raises(ValueError, match='share the same noise'):
            make(flow).sample(n, **given(C))
    samples = make(flow.condition(C)).sample(7)
    noise = flow.inverse(samples, conditions=C)
    assert len(np.unique(np.round(noise, 6))) == 7 * 5 * 2


# 7. TFP that passes no keywords: `test_real_nvp.py::TestDistribution` holds it all.

@STOCK
def test_trap_7_stock_independent_passes_keywords():
    tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros(5, tf.float64)),
        tfd.TransformedDistribution(flows.base(batch_shape=[5]), StockShift())
    ).log_prob(normal([2]), bijector_kwargs={'conditions': C})


def test_trap_7_condition_needs_no_keywords():
    mixture = tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros(5, tf.float64)),
        flows.dist(coupling().condition(C)))
    assert np.isfinite(mixture.log_prob(normal([2])))


# 8. Two passes for one density: `test_one_pass.py` holds it all.

@STOCK
def test_trap_8_stock_log_prob_is_one_pass():
    conditioner = flows.CountingConditioner(1, 3, 2)

    def shift_and_log_scale(x, units, conditions):
        return tf.split(conditioner(x, conditions), 2, axis=-1)

    dist = tfd.TransformedDistribution(flows.base(), tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=shift_and_log_scale))
    dist.log_prob(normal([5, 2]), **given(C))
    assert conditioner.taken() == 1


# 9. Units that are never transformed.

@STOCK
@pytest.mark.parametrize('event_size', [3, 7, 11])
def test_trap_9_stock_two_layers_transform_every_unit(event_size):
    def layer(fraction):
        return tfb.RealNVP(fraction_masked=fraction, shift_and_log_scale_fn=(
            lambda x, units: (tf.ones([*x.shape[:-1], units], x.dtype), None)))

    x = normal([4, event_size])
    y = layer(0.5).forward(layer(-0.5).forward(x))
    assert np.all(np.abs(y - x) > 0.1)


@pytest.mark.parametrize('event_size', [1, 3, 7, 11])
def test_trap_9_two_layers_transform_every_unit(event_size):
    x = normal([4, event_size])
    y = flows.flow(event_size, 3, 2).forward(x, conditions=normal([4, 3]))
    assert np.all(np.max(np.abs(y - x), 0) > 1e-3)


# 10. Overflow.

@STOCK
def test_trap_10_stock_log_scale_is_bounded():
    bijector = tfb.Chain([tfb.RealNVP(
        num_masked=(-1)**i, shift_and_log_scale_fn=(
            lambda x, units: (-x, 10. + 0. * x))) for i in range(32)])
    assert np.all(np.isfinite(bijector.forward(tf.ones([4, 2]))))


@pytest.mark.parametrize('num_coupling_layers, hidden_layers, transformer', [
    (64, (4,), 'affine'), (8, (16, 16), 'affine'), (8, (16, 16), 'additive')])
def test_trap_10_finite_in_finite_out(num_coupling_layers, hidden_layers, transformer):
    """Events, conditions and weights of size 1e-6 to 1e6; values and gradients."""
    flow = tfpc.ConditionalRealNVP(4, 3, num_coupling_layers, hidden_layers,
                                   transformer=transformer, seed=0)
    flows.perturb(flow, scale=1.)
    weights = [v.numpy() for v in flow.trainable_variables]

    @tf.function
    def run(y, c):
        with tf.GradientTape() as tape:
            tape.watch([y, c])
            x, ildj = flow.inverse_and_log_det(y, conditions=c)
            loss = tf.reduce_mean(ildj + tf.reduce_sum(tf.tanh(x), -1))
        gradients = tape.gradient(loss, [y, c, *flow.trainable_variables])
        return [x, ildj, *flow.forward_and_log_det(y, conditions=c), *gradients]

    for factor in (1e-6, 1., 1e6):
        for variable, weight in zip(flow.trainable_variables, weights):
            variable.assign(factor * weight)
        for y_factor in (1e-6, 1., 1e6):
            for c_factor in (1e-6, 1., 1e6):
                y = y_factor * normal([16, 4], dtype=tf.float32)
                c = c_factor * normal([16, 3], 1, dtype=tf.float32)
                assert all(np.all(np.isfinite(t)) for t in run(y, c)), (
                    factor, y_factor, c_factor)


def test_trap_10_many_units():
    flow = flows.flow(512, 3, 4, (16, 16), dtype=tf.float32)
    for factor in (1e-6, 1., 1e6):
        x = factor * normal([4, 512], dtype=tf.float32)
        y, fldj = flow.forward_and_log_det(x, conditions=normal([4, 3], 1, tf.float32))
        assert np.all(np.isfinite(y)) and np.all(np.isfinite(fldj))


# 11. Keras 3 and a `tf.Module`: `test_keras.py` holds the glue.

@STOCK
def test_trap_11_stock_keras_3_sees_a_modules_variables():
    import keras

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.bijector = scale_by_variable()

    assert Model().trainable_variables


def test_trap_11_keras_3_optimizers_train_a_flow():
    import keras
    flow = coupling()
    before = [v.numpy() for v in flow.trainable_variables]
    optimizer = keras.optimizers.Adam(0.01)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flows.dist(flow).log_prob(normal([5, 2]), **given(C)))
    optimizer.apply_gradients(zip(tape.gradient(loss, flow.trainable_variables),
                                  flow.trainable_variables))
    assert all(np.any(v.numpy() != b) for v, b in zip(flow.trainable_variables, before))


# 12. SavedModel.

@STOCK
def test_trap_12_stock_distribution_survives_saved_model(tmp_path):
    dist = stock_dist()
    tf.saved_model.save(dist, str(tmp_path))
    tf.saved_model.load(str(tmp_path)).log_prob(normal([5, 2]))


@pytest.mark.parametrize('save', [
    lambda flow: flow(flows.base()), lambda flow: tfpc.exportable(_stock(flow))],
                         ids=['flow(base)', 'exportable'])
def test_trap_12_a_distribution_survives_saved_model(save, tmp_path):
    flow = flows.flow(2, {'a': 1, 'b': 2}, 1)
    c = {'a': C[:, :1], 'b': C[:, 1:]}
    module = save(flow)
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    y = loaded.sample(7, c)
    assert y.shape == [7, 5, 2] and np.any(loaded.sample(7, c) != y)
    fixed = flow(flows.base()).given(c)
    for events in (y, y[0]):
        near(loaded.log_prob(events, c), fixed.log_prob(events))
    z, log_prob = loaded.sample_and_log_prob(7, c)
    near(log_prob, fixed.log_prob(z))
    near(loaded.forward(loaded.inverse(y, c), c), y)
