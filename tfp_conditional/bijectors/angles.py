"""What flows of angles and numbers are made of: `AnglesFirst`, `Wrapped`, `Latents`."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import coupling
from tfp_conditional.bijectors import settings
from tfp_conditional.bijectors import unconditional
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.one_pass import FORWARD, INVERSE
from tfp_conditional.core.types import Conditions, DType, TensorLike
from tfp_conditional.transformers import spline

tfd = tfp.distributions


class Latents(tfp.distributions.Distribution):
    """So many angles, uniform on [-pi, pi), and so many standard normal numbers."""

    def __init__(self, num_angles: int, num_others: int, dtype: DType = tf.float32,
                 name: str = 'latents') -> None:
        parameters = dict(locals())
        self._sizes = [num_angles, num_others]
        bound = np.full(num_angles, math.pi, tf.as_dtype(dtype).as_numpy_dtype)
        self._parts = (
            tfd.Independent(tfd.Uniform(-bound, bound), 1),
            tfd.Independent(tfd.Normal(tf.zeros(num_others, dtype),
                                       tf.ones(num_others, dtype)), 1))
        super().__init__(
            dtype=tf.as_dtype(dtype), validate_args=False, allow_nan_stats=True,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED, parameters=parameters,
            name=name)

    def _event_shape(self):
        return tf.TensorShape([sum(self._sizes)])

    def _event_shape_tensor(self):
        return tf.constant([sum(self._sizes)])

    def _sample_n(self, n, seed=None):
        seeds = tfp.random.split_seed(seed, n=2)
        return tf.concat([part.sample(n, seed=own)
                          for part, own in zip(self._parts, seeds)], axis=-1)

    def _log_prob(self, x):
        return tf.add_n([part.log_prob(block) for part, block in zip(
            self._parts, tf.split(x, self._sizes, axis=-1))])

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}


class Wrapped(unconditional.Unconditional):
    """Angles in [-pi, pi) as numbers of intervals that wrap.

    ```none
    forward:  y = low + (high - low) (x / pi + 1) / 2      in [low, high)
    inverse:  x = pi (2 (y - low) / (high - low) - 1)      modulo 2 pi, in [-pi, pi)
    ```

    Units of which the bounds are NaN are left as they are.
    """

    def __init__(self, low: npt.ArrayLike, high: npt.ArrayLike, dtype: DType = tf.float32,
                 name: str = 'wrapped') -> None:
        parameters = dict(locals())
        self.low, self.high = (np.asarray(x, np.float64) for x in (low, high))
        super().__init__(len(self.low), dtype, parameters, name)
        self._settings = settings.Settings(self.name, **{
            label: [None if np.isnan(x) else x for x in bound]
            for label, bound in [('low', self.low), ('high', self.high)]})

    def check_events(self, y: tf.Tensor, label: str) -> None:
        """Refuses numbers so far outside that they can be no angles of these units."""
        y = np.asarray(y, np.float64)
        period = self.high - self.low
        far = (y < self.low - period) | (y > self.high + period)
        if far.any():
            row, column = np.argwhere(far)[0]
            raise ValueError(
                f'{np.sum(far.any(-1))} of {len(y)} rows of `{label}`, the first of them '
                f'row {row}, lie more than a period outside of a circle: column {column} '
                f'has {y[row, column]:.6g} for [{self.low[column]:.6g}, '
                f'{self.high[column]:.6g}). Give the circle of their units, such as '
                '`Circular(0., 360.)` for degrees, or take them modulo the period.')

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        on_circle = ~np.isnan(self.low)
        low, high = (np.where(on_circle, bound, other).astype(self.dtype.as_numpy_dtype)
                     for bound, other in [(self.low, -math.pi), (self.high, math.pi)])
        scale = (high - low) / (2. * math.pi)
        log_det = tf.constant(np.sum(np.log(
            (self.high - self.low)[on_circle] / (2. * math.pi))), self.dtype)
        if direction == FORWARD:
            moved = low + (value + math.pi) * scale
            # Where rounding makes it `high`, the greatest number below.
            most = np.nextafter(high, low)
            moved += tf.stop_gradient(tf.clip_by_value(moved, low, most) - moved)
        else:
            moved = spline.wrapped((value - low) / scale - math.pi)
            log_det = -log_det
        return tf.where(on_circle, moved, value), log_det


class AnglesFirst(bijector_lib.ConditionalBijector):
    """Angles given the conditions, and the other units given both.

    ```none
    forward:  y_a = g(x_a; c),  y_o = h(x_o; (c, cos y_a, sin y_a))
    inverse:  x_a = g^-1(y_a; c),  x_o = h^-1(y_o; (c, cos y_a, sin y_a))
    log-det:  the sum of both
    ```

    Any density of angles and numbers is a product p(y_a | c) p(y_o | y_a, c). So angles
    meet circular layers alone, nothing mixes, shifts or scales them, and the other
    units, for which angles are conditions, nothing that is special.

    `x` are angles, then other units; `y` has them where `circular` says.
    """

    def __init__(self, angles: bijector_lib.ConditionalBijector,
                 others: bijector_lib.ConditionalBijector, circular: npt.ArrayLike,
                 validate_args: bool = False, name: str = 'angles_first') -> None:
        """Constructs the bijector.

        Args:
          angles: `ConditionalBijector` g of angles in [-pi, pi).
          others: `ConditionalBijector` h, of conditions (those of g, 2 C numbers) for C
            angles.
          circular: `[C + R]` booleans, `True` for angles.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.
        """
        parameters = dict(locals())
        circular = np.asarray(circular, bool)
        super().__init__(len(circular), angles.condition_size, dtype=angles.dtype,
                         validate_args=validate_args, parameters=parameters, name=name)
        self._angles, self._others = angles, others
        self._partition = coupling.Partition(circular)
        self._settings = settings.Settings(self.name, circular=circular)

    @property
    def adapted(self) -> bool:
        """`bool`, whether nothing is left that `adapt` would change."""
        return adapt_lib.adapted(self._angles) and adapt_lib.adapted(self._others)

    def adapt(self, y: TensorLike, conditions: Conditions | None = None) -> None:
        """Lets both parts learn from data; see `ConditionalChain.adapt`."""
        y, conditions = adapt_lib.check_data(self, y, conditions)
        angles, others = self._partition.split(y)
        adapt_lib.adapt(self._angles, angles, conditions)
        adapt_lib.adapt(self._others, others, self._with(angles, conditions))

    def _forward_and_log_det(self, x, conditions):
        angles, others = tf.split(
            x, [self._partition.num_masked, -1], axis=-1)
        angles, log_det = self._angles.unchecked_pass(FORWARD, angles, conditions)
        others, more = self._others.unchecked_pass(
            FORWARD, others, self._with(angles, conditions))
        return self._partition.merge(angles, others), log_det + more

    def _inverse_and_log_det(self, y, conditions):
        angles, others = self._partition.split(y)
        others, log_det = self._others.unchecked_pass(
            INVERSE, others, self._with(angles, conditions))
        angles, more = self._angles.unchecked_pass(INVERSE, angles, conditions)
        return tf.concat([angles, others], axis=-1), log_det + more

    def _with(self, angles, conditions):
        conditions = conditions_lib.expand(conditions, angles)
        return conditions, tf.concat([tf.cos(angles), tf.sin(angles)], -1)
