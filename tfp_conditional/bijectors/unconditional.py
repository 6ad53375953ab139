"""`Unconditional`, and `Adaptive`: bijectors of vectors that take no conditions.

`moments` and the flag `adapted` are the means of `adapt`, by which a bijector learns
from data what gradients do not learn: once, so that a second fit moves nothing.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import one_pass
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import Conditions, DType, TensorLike


class Unconditional(one_pass.OnePassBijector):
    """A bijector of vectors `[..., D]` that takes no conditions."""

    def __init__(self, event_size: int, dtype: DType, parameters: dict[str, Any],
                 name: str, is_constant_jacobian: bool = True) -> None:
        dtype = conditions_lib.floating(dtype)
        self._event_size = conditions_lib.positive_int(event_size, 'event_size')
        super().__init__(dtype=dtype, is_constant_jacobian=is_constant_jacobian,
                         parameters=parameters, name=name)

    @property
    def event_size(self) -> int:
        """`int` D, the last dimension of `x` and `y`."""
        return self._event_size

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        raise NotImplementedError

    def one_pass(self, direction: str, value: TensorLike,
                 kwargs: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        if kwargs:
            raise TypeError(
                f'{self.name!r} is unconditional and takes no keyword arguments; '
                f'got {sorted(kwargs)}. Put it into a `ConditionalChain`, which '
                'hands `conditions` to those parts that take them.')
        label = 'x' if direction == FORWARD else 'y'
        value = conditions_lib.check_last_dimension(conditions_lib.as_tensor(
            value, self.dtype, label), self._event_size, label)
        result, log_det = self.unchecked_pass(direction, value)
        log_det = tf.broadcast_to(log_det, tf.shape(value)[:-1])
        log_det.set_shape(value.shape[:-1])
        return result, log_det

    def _forward_event_shape(self, shape):
        return self._event_shape(shape, self._event_size, self._event_size)

    _inverse_event_shape = _forward_event_shape

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}


class Adaptive(Unconditional):
    """One that learns from data, once."""

    def __init__(self, event_size: int, dtype: DType, parameters: dict[str, Any],
                 name: str, is_constant_jacobian: bool = True) -> None:
        super().__init__(event_size, dtype, parameters, name, is_constant_jacobian)
        with tf.name_scope(self.name):
            self._adapted = flag()

    @property
    def adapted(self) -> bool:
        """`bool`, whether `adapt` has learnt from data."""
        return is_set(self._adapted)

    def adapt(self, y: TensorLike, conditions: Conditions | None = None) -> None:
        """Learns from data what gradients do not train; does so only once.

        Args:
          y: `[..., D]`, events.
          conditions: ignored.

        Raises:
          ValueError: if `y` has no row, or is not finite.
        """
        del conditions
        if self.adapted:
            return
        self._learn(conditions_lib.check_last_dimension(conditions_lib.as_tensor(
            y, self.dtype, 'y', lossless=True), self.event_size, 'y'))
        self._adapted.assign(True)

    def _learn(self, y):
        raise NotImplementedError


def flag():
    """A variable that says whether a bijector has adapted; copies have it too."""
    return tf.Variable(False, trainable=False, name='adapted')


def is_set(variable):
    """The present value of a `flag`."""
    if not tf.executing_eagerly():
        raise RuntimeError('`adapt` and `adapted` must be called eagerly, not in a '
                           '`tf.function`.')
    return bool(tf.convert_to_tensor(variable))


def moments(values, label, owner):
    """Mean and standard deviation of columns, such as one can divide by.

    A column that is constant, up to 4 units in the last place of its greatest
    entry, has deviation 1; so has one of less than 1e-31 in float32, 1e-246 in
    float64. No finite values overflow.

    Args:
      values: tensor `[..., D]`.
      label: `str`, its name in messages.
      owner: `str`, the name of the bijector that adapts.

    Returns:
      Two float64 arrays `[D]`.

    Raises:
      ValueError: if there is no row, or one that is not finite.
    """
    values, most = tf.reshape(values, [-1, values.shape[-1]]), values.dtype.max
    size = np.max(np.abs(values), axis=0, initial=0.)
    spacing = 2. * np.spacing(size / 2).astype(np.float64)   # Of the greatest, too.
    values, size = (np.asarray(x, np.float64) for x in (values, size))
    finite = np.isfinite(values).all(-1)
    if not len(values) or not finite.all():
        raise ValueError(
            f'`{label}` must have at least one row, and be finite, for {owner!r} to '
            f'adapt; got {len(values)} rows, {np.sum(~finite)} of them not finite.')
    size = np.where(size == 0, 1., size)
    values = values / size
    loc, scale = size * np.mean(values, axis=0), size * np.std(values, axis=0)
    # Values up to most^.2, 5e7 in float32, divided by it do not overflow.
    least = np.maximum(4 * spacing, float(most) ** -.8)
    return loc, np.where(scale > least, scale, 1.)
