"""`CellNoise`: where in their cells the numbers of a `Quantized` may be."""

import math

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import chain
from tfp_conditional.bijectors import standardize
from tfp_conditional.core import _tfp
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.flows import real_nvp
from tfp_conditional.networks import residual
from tfp_conditional.transformers import spline

tfb = tfp.bijectors


class CellNoise(_tfp.Picklable, tf.Module):
    """q: where in their cells numbers are, as points of the unit cube.

    Args:
      event_size: `int` D.
      num_noisy: `int`, the columns that have cells.
      condition_size: that of the density.
      variational: `bool`, whether it is a flow given y and, where those are vectors, the
        conditions; else it is uniform.
      dtype: floating dtype.
      seed: of `resolve_seed`.
    """

    def __init__(self, event_size, num_noisy, condition_size, variational, dtype, seed,
                 name='cell_noise'):
        super().__init__(name=name)
        self.event_size, self.num_noisy = event_size, num_noisy
        self.condition_size, self.variational = condition_size, variational
        self.dtype, self.seed = dtype, seed
        with tf.name_scope(name):
            # Of cells without an end.
            self.scale = tf.Variable(tf.ones([event_size], dtype), trainable=False,
                                     name='scale')
        self._sees_conditions = all(
            isinstance(size, int) for size in tf.nest.flatten(condition_size))
        self._flow = None
        if variational:
            flow = real_nvp.ConditionalRealNVP(
                num_noisy, (condition_size, event_size) if self._sees_conditions
                else event_size, num_coupling_layers=4,
                transformer=spline.RationalQuadratic(),
                conditioner=residual.ResidualNetwork(32, 1, 'silu', 'concatenate',
                                                     layer_norm=True),
                dtype=dtype, seed=(*seed, 3), name='noise')
            # The normal quantiles of a new flow are uniform.
            self._flow = chain.ConditionalChain([
                tfb.NormalCDF(), standardize.Standardized(flow, events=False)])

    @property
    def adapted(self):
        return self._flow is None or self._flow.adapted

    def adapt(self, scale, batches):
        """Notes the deviations of the data, and standardizes what the flow sees."""
        self.scale.assign(tf.cast(scale, self.dtype))
        if self._flow is not None:
            self._flow.adapt_batches([
                (tf.fill([len(y), self.num_noisy], tf.constant(0.5, self.dtype)),
                 (conditions, y) if self._sees_conditions else y)
                for y, conditions in batches])

    def draw(self, count, seed, y, leaves):
        """So many u `[count, ..., m]` for `y [..., D]`, and `log q [count, ...]`."""
        batch = tf.concat([[count], tf.shape(y)[:-1]], 0)
        shape = tf.concat([batch, [self.num_noisy]], 0)
        static = [count, *y.shape[:-1], self.num_noisy]
        # By name, since XLA would choose another algorithm.
        u = tf.ensure_shape(tf.random.stateless_uniform(
            shape, seed, dtype=self.dtype, alg='philox'), static)
        if self._flow is None:
            return u, tf.zeros([], self.dtype)
        z = tf.math.ndtri(tf.clip_by_value(u, 1e-7, 1. - 1e-7))
        leaves = conditions_lib.expand(leaves, y)
        u, log_det = self._flow.exact_pass(
            FORWARD, z, *(leaves if self._sees_conditions else ()), y)
        log_q = tf.reduce_sum(-0.5 * z**2, -1) - self.num_noisy * (
            0.5 * math.log(2. * math.pi)) - log_det
        return u, log_q
