"""What several test modules share."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc

tfd = tfp.distributions


def perturb(module, seed=0, scale=0.3):
    """Moves every variable away from its initial value; returns `module`."""
    rng = np.random.default_rng(seed)
    for variable in module.trainable_variables:
        fan_in = variable.shape[0] if variable.shape.rank == 2 else 1
        noise = rng.normal(scale=scale / np.sqrt(fan_in), size=variable.shape)
        variable.assign_add(tf.cast(noise, variable.dtype))
    return module


def flow(event_size=2, condition_size=3, num_coupling_layers=2, hidden_layers=(8,),
         dtype=tf.float64, seed=0, scale=1., **kwargs):
    """A small flow, not at its initial identity."""
    return perturb(tfpc.ConditionalRealNVP(
        event_size, condition_size, num_coupling_layers, hidden_layers,
        activation='tanh', dtype=dtype, seed=seed, **kwargs), seed + 1, scale)


def base(event_size=2, dtype=tf.float64, batch_shape=()):
    return tfd.Independent(
        tfd.Normal(tf.zeros([*batch_shape, event_size], dtype),
                   tf.ones([], dtype)), 1)


def dist(bijector, event_size=2, batch_shape=()):
    return tfd.TransformedDistribution(
        base(event_size, bijector.dtype, batch_shape), bijector)


def given(conditions):
    return {'bijector_kwargs': {'conditions': conditions}}


def normal(shape, seed=0, dtype=tf.float64):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


class CountingConditioner(tf.Module):
    """A linear conditioner that counts its executions, in any mode."""

    def __init__(self, num_units, condition_size, num_parameters, dtype=tf.float64):
        super().__init__()
        rng = np.random.default_rng(num_units)
        self.kernel = tf.Variable(rng.normal(
            size=[num_units + condition_size, num_parameters]), dtype=dtype)
        self.count = tf.Variable(0, trainable=False)

    def __call__(self, units, conditions):
        self.count.assign_add(1)
        return tf.tanh(tf.tensordot(tf.concat([units, conditions], -1),
                                    self.kernel, 1))

    def taken(self):
        """Executions since the last time this was asked."""
        count = int(self.count.numpy())
        self.count.assign(0)
        return count
