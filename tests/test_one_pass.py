"""Each network runs once for a density, a sample, both, and a training step."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions

C = flows.normal([5, 3], 1)


def _counting():
    conditioner = flows.CountingConditioner(1, 3, 2)
    layer = tfpc.ConditionalCoupling(2, 3, conditioner=conditioner, dtype=tf.float64)
    conditioner.taken()
    return conditioner, layer


OPERATIONS = ('log_prob', 'prob', 'sample', 'sample_and_log_prob', 'training step')
ONE = dict.fromkeys(OPERATIONS, 1)
# TFP's own class asks `forward` and then `forward_log_det_jacobian`, with nothing to
# tell its two questions from two of a user's. Where a stock bijector stands between it
# and the flow, so it does for a density; `ConditionalChain` is the way out.
STOCK = {**ONE, 'sample_and_log_prob': 2}
STOCK_INVERT = {**dict.fromkeys(OPERATIONS, 2), 'sample': 1}
STOCK_CHAIN = {**dict.fromkeys(OPERATIONS, 3), 'sample': 1}


def _flow_of_base(bijector):
    return bijector(flows.base(2))


def _stock(bijector):
    return tfd.TransformedDistribution(flows.base(2), bijector)


def _chain(layer):
    return tfpc.ConditionalChain([tfb.Shift(tf.ones(2, tf.float64)), layer,
                                  tfb.Scale(tf.constant(2., tf.float64))])


# Distribution of a layer, its keyword arguments, and the passes of each operation.
KINDS = {
    'flow(base)': (_flow_of_base, {'conditions': C}, ONE),
    'chain(base)': (lambda layer: _flow_of_base(_chain(layer)), {'conditions': C}, ONE),
    'inverted(base)': (lambda layer: _flow_of_base(
        tfpc.ConditionalChain([tfb.Invert(layer)])), {'conditions': C}, ONE),
    'given': (lambda layer: _flow_of_base(layer).given(C), {}, ONE),
    'given of a chain': (lambda layer: _flow_of_base(_chain(layer)).given(C), {}, ONE),
    'condition(base)': (lambda layer: _flow_of_base(layer.condition(C)), {}, ONE),
    'stock': (_stock, {'conditions': C}, STOCK),
    'stock over a chain': (lambda layer: _stock(_chain(layer)), {'conditions': C}, STOCK),
    'stock over condition': (lambda layer: _stock(layer.condition(C)), {}, STOCK),
    'stock over Invert': (
        lambda layer: _stock(tfb.Invert(layer)), {'conditions': C}, STOCK_INVERT),
    'stock over Chain': (
        lambda layer: _stock(tfb.Chain([tfb.Tanh(), layer])),
        {'conditional_coupling': {'conditions': C}}, STOCK_CHAIN),
}


@pytest.mark.parametrize('kind, mode', [
    *((kind, mode) for kind in KINDS for mode in ('eager', 'graph')),
    *((kind, 'xla') for kind in ('flow(base)', 'given of a chain', 'stock'))])
def test_passes_of_the_conditioner(kind, mode):
    conditioner, layer = _counting()
    make, kwargs, want = KINDS[kind]
    dist = make(layer)
    n = 5 if kwargs else []
    kwargs = {'bijector_kwargs': kwargs} if kwargs else {}

    def y():
        """A new tensor, which no cache of TFP's knows."""
        return 0.5 * tf.tanh(flows.normal([5, 2]))

    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(y(), **kwargs))
        return loss, tape.gradient(loss, conditioner.kernel)

    def run():
        """The result of each operation, lest it be pruned, and the count after it."""
        return [(operation(), conditioner.count.read_value()) for operation in (
            lambda: dist.log_prob(y(), **kwargs), lambda: dist.prob(y(), **kwargs),
            lambda: dist.sample(n, **kwargs),
            lambda: dist.experimental_sample_and_log_prob(n, **kwargs), step)]

    run = {'eager': lambda f: f, 'graph': tf.function(autograph=False), 'xla': tf.function(
        autograph=False, jit_compile=True)}[mode](run)
    run()      # What is traced counts, too.
    conditioner.taken()
    counts = [0, *(int(count) for _, count in run())]
    assert dict(zip(OPERATIONS, np.diff(counts), strict=True)) == want


def test_a_stock_log_prob_leaves_nothing_behind():
    """What answers TFP's second question lies on a tensor of TFP's own call."""
    _, layer = _counting()
    alive = []

    class Watched(tfd.Normal):
        def _log_prob(self, x):
            alive.append(weakref.ref(x))
            return super()._log_prob(x)

    base = tfd.Independent(Watched(tf.zeros(2, tf.float64), tf.ones([], tf.float64)), 1)
    c = tf.identity(C)
    tfd.TransformedDistribution(base, layer).log_prob(
        flows.normal([5, 2]), **flows.given(c))
    alive.append(weakref.ref(c))
    del c
    gc.collect()
    assert len(alive) == 2 and not any(ref() is not None for ref in alive)


@pytest.mark.parametrize('change', ['weights', 'conditions', 'flow'])
def test_the_density_correction_of_something_else_is_a_pass_of_its_own(change):
    """The answer is for the very flow and conditions that `inverse` was asked with."""
    conditioner, layer = _counting()
    _, other = _counting()
    other.trainable_variables[0].assign_add(flows.normal([4, 2], 5))
    y, c = flows.normal([5, 2]), C
    space = flows.base(2).experimental_local_measure(y, backward_compat=True)[1]
    x = layer.inverse(y, conditions=c)

    def correction(layer, x, c):
        return layer.experimental_compute_density_correction(
            x, space, backward_compat=True, event_ndims=1, conditions=c)[0]

    if change == 'conditions':
        c = C + 1.
    elif change == 'flow':
        layer = other
    else:
        # Once answered, a question is asked anew.
        correction(layer, x, c)
        conditioner.kernel.assign_add(tf.ones_like(conditioner.kernel))
    np.testing.assert_allclose(
        correction(layer, x, c), layer.forward_log_det_jacobian(
            tf.identity(x), conditions=c), rtol=1e-12)


def test_forward_and_log_det_is_one_pass():
    conditioner, layer = _counting()
    x = flows.normal([5, 2])
    y, fldj = layer.forward_and_log_det(x, conditions=C)
    assert conditioner.taken() == 1
    x2, ildj = layer.inverse_and_log_det(y, conditions=C)
    assert conditioner.taken() == 1
    tf.debugging.assert_near(x, x2, 1e-12, 1e-12)
    tf.debugging.assert_near(fldj, -ildj, 1e-12, 1e-12)


def test_a_users_own_two_calls_are_two_passes():
    """Between them anything may change, so nothing is shared."""
    conditioner, layer = _counting()
    x = layer.inverse(flows.normal([5, 2]), conditions=C)
    layer.forward_log_det_jacobian(x, conditions=C)
    assert conditioner.taken() == 2
