"""`Standardized`: a flow in the units of its data."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import regression
from tfp_conditional.bijectors import unconditional
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core.one_pass import FORWARD, INVERSE
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.networks import network


class Standardized(bijector_lib.ConditionalBijector):
    """A conditional bijector between standardized events and conditions.

    ```none
    forward:  y = m + s g(x; d)           log-det =  sum log s + log |det dg/dx|
    inverse:  x = g^-1((y - m) / s; d)    log-det = -sum log s - log |det dg/dx|
    d = (c - m_c) / s_c
    ```

    With `linear=True`, g is given what a linear regression on the conditions leaves,
    whitened:

    ```none
    forward:  y = m + s (d A + L (l x')),  x' = g(x; d)
    inverse:  x' = L^-1 ((y - m) / s - d A) / l
    log-det:  sum log s + sum log l + log |det dg/dx|
    ```

    A is that of ridge regression, L (unit lower triangular) and l those of the
    Cholesky factor of the covariance of its residuals, shrunk: see `shrinkage`. What
    depends linearly on the conditions then needs no network at all, and residuals
    that lie close to a line or a plane meet couplings across it. Residuals that are
    uncorrelated are left on their own axes, where their edges and shapes are.

    Means m and standard deviations s, feature by feature, are variables that `adapt`
    learns from data, which `fit` calls, and that gradients do not train: 0 and 1 at
    first. So are A, L and l, first 0, the identity and 1. They are part of the
    density, and of checkpoints. Networks learn best from inputs of that size, and
    noise need not be stretched to the size of the data.

    What bounds events, such as a `tfb.Tanh`, belongs outside, since standardized
    events have no bounds: `ConditionalChain([tfb.Tanh(), Standardized(flow)])`.

    #### Example

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional.bijectors import standardize
    tfd = tfp.distributions

    conditions = np.random.default_rng(0).uniform(size=[256, 3])
    targets = 1e6 + 1e3 * conditions[:, :2]
    flow = standardize.Standardized(tfpc.ConditionalRealNVP(2, 3))
    flow.adapt(targets, conditions)
    dist = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1), flow)
    samples = dist.sample(256, bijector_kwargs={'conditions': conditions})
    np.testing.assert_allclose(np.mean(samples, 0), targets.mean(0), rtol=1e-3)
    ```
    """

    def __init__(self, bijector: bijector_lib.ConditionalBijector, linear: bool = False,
                 name: str | None = None, events: bool = True) -> None:
        """Constructs the bijector.

        Args:
          bijector: `ConditionalBijector` g, whose `validate_args` this has too.
          linear: `bool`, whether to take out what depends linearly on the
            conditions, which then must be vectors.
          name: `str`; default that of the bijector and `_standardized`.
          events: `bool`, whether to standardize events, not conditions alone; m stays 0
            and s 1 for those that must not be scaled, such as angles.

        Raises:
          TypeError: if `bijector` is none.
          ValueError: if `bijector` changes the size of events, and for `linear` without
            `events`.
        """
        parameters = dict(locals())
        if not isinstance(bijector, bijector_lib.ConditionalBijector):
            raise TypeError('`bijector` must be a ConditionalBijector; got '
                            f'{type(bijector).__name__}.')
        if bijector.output_event_size != bijector.event_size:
            raise ValueError(
                '`bijector` must keep the size of events; got one that maps '
                f'{bijector.event_size} units to {bijector.output_event_size}. '
                'Put the part that changes it outside, by a ConditionalChain.')
        if linear and not events:
            raise ValueError('`linear=True` needs `events=True`: a regression shifts and '
                             'scales events.')
        super().__init__(
            bijector.event_size, bijector.condition_size, dtype=bijector.dtype,
            is_constant_jacobian=bijector.is_constant_jacobian,
            validate_args=bijector.validate_args, parameters=parameters,
            name=name or f'{bijector.name}_standardized')
        self._bijector, self._scales_events = bijector, events
        with tf.name_scope(self.name):
            self.event_loc, self.event_scale = self._statistics(
                self.event_size, 'event')
            self._condition_statistics = tuple(
                self._statistics(size, 'condition')
                for size in self.condition_spec.widths)
            self.slope = self.mixing = self.residual_scale = None
            if linear:
                self.slope, self.mixing, self.residual_scale = (
                    tf.Variable(initial, trainable=False, name=label)
                    for label, initial in [
                        ('slope', tf.zeros([self.condition_spec.total,
                                            self.event_size], self.dtype)),
                        ('mixing', tf.eye(self.event_size, dtype=self.dtype)),
                        ('residual_scale', tf.ones([self.event_size], self.dtype))])
            self._adapted = unconditional.flag()

    def _statistics(self, size, label):
        return tuple(
            tf.Variable(initial([size], self.dtype), trainable=False,
                        name=f'{label}_{name}')
            for initial, name in ((tf.zeros, 'loc'), (tf.ones, 'scale')))

    @property
    def bijector(self) -> bijector_lib.ConditionalBijector:
        """The bijector g of standardized events."""
        return self._bijector

    @property
    def condition_loc(self) -> Any:
        """Means of the conditions: a nest of variables, like `condition_size`."""
        return self._pack(loc for loc, _ in self._condition_statistics)

    @property
    def condition_scale(self) -> Any:
        """Their standard deviations, likewise."""
        return self._pack(scale for _, scale in self._condition_statistics)

    def _pack(self, leaves):
        return tf.nest.pack_sequence_as(self.condition_size, list(leaves))

    @property
    def adapted(self) -> bool:
        """`bool`, whether this and all within it have learnt from data."""
        return unconditional.is_set(self._adapted) and adapt_lib.adapted(self._bijector)

    def adapt(self, y: TensorLike, conditions: Conditions | None = None) -> None:
        """Learns means and deviations, then lets the bijector within adapt.

        What has adapted before is left as it is. A feature that is constant gets a
        deviation of 1.

        Args:
          y: `[..., D]`, events.
          conditions: nest of `[..., S]`.

        Raises:
          TypeError, ValueError: as `inverse` does, and if there is no row, or one
            that is not finite.
        """
        y, conditions = adapt_lib.check_data(self, y, conditions)
        if not unconditional.is_set(self._adapted):
            statistics = (self.event_loc, self.event_scale), *(
                self._condition_statistics)
            data = [('y', y), *(('conditions', leaf)
                                for leaf in tf.nest.flatten(conditions))]
            learnt = [unconditional.moments(x, label, self.name) for label, x in data]
            for pair, values in list(zip(statistics, learnt))[not self._scales_events:]:
                for variable, value in zip(pair, values):
                    variable.assign(tf.cast(value, self.dtype))
            if self.slope is not None:
                self._regress(y, conditions)
            self._adapted.assign(True)
        conditions = self._standardize(conditions)
        adapt_lib.adapt(self._bijector, self._residuals(y, conditions), conditions)

    def _regress(self, y, conditions):
        events = (y - self.event_loc) / self.event_scale
        conditions = self.condition_spec.concat(self._standardize(conditions))
        slope, residuals = regression.ridge(
            *(np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (
                tf.broadcast_to(conditions, [*y.shape[:-1], conditions.shape[-1]]),
                events)))
        factor = regression.cholesky(residuals)
        scale = np.diag(factor)
        for variable, value in [(self.slope, slope), (self.mixing, factor / scale),
                                (self.residual_scale, scale)]:
            variable.assign(tf.cast(value, self.dtype))

    def _forward_and_log_det(self, x, conditions):
        conditions = self._standardize(conditions)
        y, log_det = self._bijector.unchecked_pass(FORWARD, x, conditions)
        if self.slope is not None:
            y = self._mix(y * self.residual_scale, tf.linalg.matmul)
            y += self._predict(conditions)
        return self.event_loc + self.event_scale * y, log_det + self._log_scale()

    def _inverse_and_log_det(self, y, conditions):
        conditions = self._standardize(conditions)
        x, log_det = self._bijector.unchecked_pass(
            INVERSE, self._residuals(y, conditions), conditions)
        return x, log_det - self._log_scale()

    def _residuals(self, y, conditions):
        y = (y - self.event_loc) / self.event_scale
        if self.slope is None:
            return y
        return self._mix(y - self._predict(conditions),
                         tf.linalg.triangular_solve) / self.residual_scale

    def _mix(self, value, apply):
        # In float64, as in `InvertibleLinear`: the inverse of a product that was
        # rounded is no inverse.
        columns = tf.transpose(tf.cast(tf.reshape(value, [-1, self.event_size]),
                                       tf.float64))
        columns = apply(tf.cast(self.mixing, tf.float64), columns)
        result = tf.reshape(tf.cast(tf.transpose(columns), self.dtype),
                            tf.shape(value))
        result.set_shape(value.shape)
        return result

    def _predict(self, conditions):
        return network.dense(self.condition_spec.concat(conditions), self.slope)

    def _log_scale(self):
        scales = (self.event_scale, self.residual_scale)
        return tf.add_n([tf.reduce_sum(tf.math.log(scale)) for scale in scales
                         if scale is not None])

    def _standardize(self, conditions):
        # What overflows is cut to what a network can still multiply.
        most = self.dtype.max ** .75
        return self._pack(
            tf.clip_by_value((leaf - loc) / scale, -most, most)
            for leaf, (loc, scale) in zip(tf.nest.flatten(conditions),
                                          self._condition_statistics))
