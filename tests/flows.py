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


# y | c ~ N(GAIN c, CHOL CHOL^T), a posterior that is known.
GAIN = np.array([[1., 0.5], [-0.3, 0.8]])
CHOL = np.array([[0.5, 0.], [0.4, 0.3]])


class LinearGaussian(tfpc.ConditionalBijector):
    """y = gain c + shift + chol x, a lower triangular chol."""

    def __init__(self, gain=GAIN, chol=CHOL, shift=0., name='linear_gaussian'):
        super().__init__(2, 2, dtype=tf.float64, name=name)
        self.gain, self.chol = tf.constant(gain.T), tf.constant(chol)
        self.shift = tf.constant(shift, tf.float64)

    def _mean(self, conditions):
        return tf.tensordot(conditions, self.gain, 1) + self.shift

    def _log_det(self):
        return tf.reduce_sum(tf.math.log(tf.linalg.diag_part(self.chol)))

    def _forward_and_log_det(self, x, conditions):
        return (self._mean(conditions)
                + tf.tensordot(x, tf.transpose(self.chol), 1), self._log_det())

    def _inverse_and_log_det(self, y, conditions):
        x = tf.linalg.matvec(tf.linalg.inv(self.chol), y - self._mean(conditions))
        return x, -self._log_det()
