"""Nothing stays in memory that its user let go of: no graph, no registered gradient."""

import gc
import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow.python.framework import func_graph
from tensorflow.python.framework import ops

import tfp_conditional as tfpc
from tfp_conditional.networks import network
from tests import catalogue
from tests import flows

tfd = tfp.distributions

# Of the catalogue, one of each kind of operation whose gradient could stay.
FLOWS = (
    'autoregressive', 'chain_nested', 'chain_permute_shift', 'chain_to_simplex',
    'chain_with_conditioned', 'coupling_mlp_glu_dropout', 'coupling_own_conditioner',
    'coupling_residual_film_norm', 'coupling_spline_float32', 'density', 'embedding',
    'own_bijector', 'real_nvp_linear_act_norm', 'real_nvp_nested_conditions')


def held():
    """Live graphs, and entries of TensorFlow's registry of gradients."""
    gc.collect()
    return (sum(isinstance(x, func_graph.FuncGraph) for x in gc.get_objects()),
            len(ops.gradient_registry._registry))


def use(name):
    flow = catalogue.CATALOGUE[name].factory()
    dtype = flow.dtype
    c = tf.nest.map_structure(lambda size: tf.zeros([4, size], dtype),
                              flow.condition_size)
    dist = flow(flows.base(flow.event_size, dtype))
    given = dist.given(c)
    y = given.sample(seed=1)

    def step(y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(dist.given(c).log_prob(y))
            loss += tf.reduce_sum(dist.given(c).sample(seed=1))
        return tape.gradient(loss, dist.trainable_variables)

    step(y), tf.function(step).get_concrete_function(y)
    if 'dropout' in name:     # Which is on in a fit alone; `test_fit.py` has its settings.
        tfpc.fit(dist, np.repeat(y, 20, 0), tf.nest.map_structure(
            lambda x: np.repeat(x, 20, 0), c), epochs=1, validation_split=.2,
                 verbose=False)


def assert_leaves_nothing(run):
    """What TensorFlow and TFP make once is nobody's leak: what is, stays twice."""
    before = held()
    for _ in range(2):
        run()
        before, earlier = held(), before
        if before[0] <= earlier[0] and before[1] == earlier[1]:
            return
    pytest.fail(f'Twice more was held: {earlier}, then {before}.')


@pytest.mark.parametrize('name', FLOWS)
def test_a_flow_leaves_nothing_behind(name):
    assert_leaves_nothing(lambda: use(name))


@pytest.mark.parametrize('activation', network.ACTIVATIONS)
def test_an_activation_leaves_nothing_behind(activation):
    def run():
        layer = tfpc.ConditionalCoupling(2, 1, hidden_layers=(4,), activation=activation)

        @tf.function
        def step(y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer.inverse(y, conditions=y[:, :1]))
            return tape.gradient(loss, layer.trainable_variables)
        step(tf.ones([3, 2]))
    assert_leaves_nothing(run)


def test_what_stays_each_time_is_a_leak():
    kept = []

    def leak():
        @tf.custom_gradient
        def square(x):
            return x * x, lambda dy: 2. * x * dy
        kept.append(tf.function(square).get_concrete_function(tf.ones([])))
    with pytest.raises(pytest.fail.Exception, match='Twice more'):
        assert_leaves_nothing(leak)
