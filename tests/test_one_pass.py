"""Each network runs once for a density, a sample, both, and a training step."""

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


def _wrap(kind, layer):
    """The bijector under test and the keyword arguments that it wants."""
    conditions = {'conditions': C}
    if kind == 'bare':
        return layer, conditions
    if kind == 'chain':
        return tfpc.ConditionalChain([tfb.Shift(tf.ones(2, tf.float64)), layer,
                                      tfb.Scale(tf.constant(2., tf.float64))]), conditions
    if kind == 'invert':
        return tfb.Invert(layer), conditions
    if kind == 'condition':
        return layer.condition(C), {}
    if kind == 'invert_condition':
        return tfb.Invert(layer.condition(C)), {}
    if kind == 'chain_of_condition':
        return tfb.Chain([tfb.Tanh(), layer.condition(C)]), {}
    assert kind == 'stock_chain'
    return tfb.Chain([tfb.Tanh(), layer]), {layer.name: conditions}


KINDS = ['bare', 'chain', 'invert', 'condition', 'invert_condition',
         'chain_of_condition', 'stock_chain']


@pytest.mark.parametrize('mode', ['eager', 'graph', 'xla'])
@pytest.mark.parametrize('kind', KINDS)
def test_one_conditioner_pass(kind, mode):
    conditioner, layer = _counting()
    bijector, kwargs = _wrap(kind, layer)
    dist = tfd.TransformedDistribution(flows.base(2), bijector)
    compile_ = {'eager': lambda f: f, 'graph': tf.function,
                'xla': tf.function(jit_compile=True)}[mode]
    kwargs = {'bijector_kwargs': kwargs} if kwargs else {}
    n = [] if kind in ('condition', 'invert_condition', 'chain_of_condition') else 5
    y = 0.5 * tf.tanh(flows.normal([5, 2]))

    @compile_
    def step(y):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(dist.log_prob(y, **kwargs))
        return loss, tape.gradient(loss, conditioner.kernel)

    operations = {
        'log_prob': lambda: compile_(lambda y: dist.log_prob(y, **kwargs))(y),
        'prob': lambda: compile_(lambda y: dist.prob(y, **kwargs))(y),
        'sample': lambda: compile_(lambda: dist.sample(n, **kwargs))(),
        'sample_and_log_prob': lambda: compile_(
            lambda: dist.experimental_sample_and_log_prob(n, **kwargs))(),
        'training step': lambda: step(y),
    }
    counts = {}
    for name, operation in operations.items():
        operation()
        counts[name] = conditioner.taken()
    assert counts == dict.fromkeys(operations, 1)
    assert layer._transient.memo is None


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
