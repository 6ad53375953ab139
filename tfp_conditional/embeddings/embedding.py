"""`Embedding`: what all networks for structured conditions share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Activation, Conditions, DType, Sizes
from tfp_conditional.embeddings import masks
from tfp_conditional.networks import network
from tfp_conditional.transformers.transformer import soften

_TAIL = 0.01    # The fraction of numbers on each side that counts as where it begins.


class Embedding(_tfp.Picklable, tf.Module):
    """A network from conditions `[..., *shape, D]` to vectors `[..., output_size]`.

    Values are standardized, feature by feature, by means and deviations that `fit`
    learns before its first step, of what no mask leaves out, the outermost hundredths
    drawn in: 0 and 1 until then. Far from the mean they count on a logarithmic scale.

    What a mask leaves out has no influence, whatever number stands there. The mask is
    one more input: a missing number is not a 0.

    A subclass makes its variables in the constructor and has `_embed`.
    """

    def __init__(self, shape: Sequence[Any], output_size: int, mask: str | None,
                 activation: Activation, dtype: DType, name: str) -> None:
        """Constructs what is shared.

        Args:
          shape: `[*shape, D]`, of the values, `None` for what varies.
          output_size: `int` S.
          mask: as in `DeepSet`.
          activation, dtype, name: as in `DeepSet`.
        """
        super().__init__(name=name)
        if mask not in masks.KINDS:
            raise ValueError(f'`mask` must be one of {list(masks.KINDS)}; got {mask!r}.')
        network.activation_function(activation)
        dtype = conditions_lib.floating(dtype)
        self._output_size = conditions_lib.positive_int(output_size, 'output_size')
        self._mask, self._activation = mask, activation
        values = tf.TensorSpec(shape, dtype)
        self._spec = conditions_lib.ConditionSpec(values if mask is None else {
            'values': values, 'mask': tf.TensorSpec(
                shape if mask == 'entries' else shape[:-1], tf.bool)}, dtype)
        size = shape[-1]
        self._input_size = size + {None: 0, 'elements': 1, 'entries': size}[mask]
        self._loc, self._scale, self._adapted = (
            tf.Variable(initial, trainable=False, name=label) for label, initial in (
                ('loc', tf.zeros([size], dtype)), ('scale', tf.ones([size], dtype)),
                ('adapted', False)))

    @property
    def condition_size(self) -> Sizes:
        """The `condition_size` of a flow that takes what this takes."""
        return self._spec.size

    @property
    def output_size(self) -> int:
        """`int` S, the size of the vectors."""
        return self._output_size

    @property
    def settings(self) -> dict[str, Any]:
        """`dict` of what decides the map beside variables and their shapes."""
        return {'mask': self._mask, 'activation': self._activation}

    @property
    def adapted(self) -> bool:
        """`bool`, whether means and deviations are those of data."""
        return bool(self._adapted.numpy())

    def adapt_batches(self, batches: Sequence[Conditions]) -> None:
        """Learns means and deviations of a list of conditions, once."""
        if self.adapted:
            return
        rows = []
        for conditions in batches:
            values, mask = self._split(self._spec.check(conditions, self.name))
            there = True if mask is None else np.asarray(mask)
            rows.append(np.where(there, np.asarray(values, np.float64), np.nan).reshape(
                -1, values.shape[-1]))
        moments = np.array([_moments(column) for column in np.concatenate(rows).T])
        for variable, value in zip((self._loc, self._scale), moments.T):
            variable.assign(tf.cast(value, variable.dtype))
        self._adapted.assign(True)

    def __call__(self, conditions: Conditions) -> tf.Tensor:
        """Returns vectors `[..., S]`.

        Args:
          conditions: `[..., *shape, D]`, or a `dict` of these `values` and their
            boolean `mask`, `[..., *shape]` or, for entries, `[..., *shape, D]`.

        Raises:
          TypeError, ValueError: naming what was expected and what came.
        """
        conditions = self._spec.check(conditions, self.name)
        inputs, mask = self._split(self._spec.flat(conditions))
        there = None
        if mask is not None:
            # First of all: a NaN times 0 is none.
            inputs = tf.where(mask, inputs, self._loc)
            there = tf.reduce_any(mask, -1, keepdims=True)
        most = inputs.dtype.max ** .75      # As in `Standardized`.
        inputs = soften(tf.clip_by_value((inputs - self._loc) / self._scale, -most, most),
                        network.UNIT_RANGE)
        if mask is not None:
            inputs = tf.concat([inputs, tf.cast(mask, inputs.dtype)], -1)
        return self._spec.unflat(self._embed(inputs, there), conditions)

    def _embed(self, inputs, there):
        """Vectors `[B, S]` of inputs `[B, *shape, D']`.

        Args:
          inputs: standardized, 0 where masked, and the mask after them.
          there: booleans `[B, *shape, 1]`, or `None` if all is there.
        """
        raise NotImplementedError

    def _split(self, conditions):
        """Values `[..., D]`, and a mask that broadcasts to them, or `None`."""
        if self._mask is None:
            return conditions, None
        values, mask = conditions['values'], conditions['mask']
        want = values.shape if self._mask == 'entries' else values.shape[:-1]
        if not mask.shape.is_compatible_with(want):
            raise ValueError(f'`mask` must have shape {want.as_list()}, for values of '
                             f'{values.shape.as_list()}; got {mask.shape.as_list()}.')
        # Where sizes are unknown, too, a mask is never broadcast.
        size = values.shape[-1] if self._mask == 'entries' else 1
        return values, tf.reshape(mask, tf.concat([tf.shape(values)[:-1], [size]], 0))


def _moments(column):
    """Mean and deviation of numbers, NaN left out, to which few far ones do not matter."""
    column = column[~np.isnan(column)]
    if not column.size:
        return 0., 1.
    # One series that explodes would leave all others near 0.
    clipped = np.clip(column, *np.quantile(column, [_TAIL, 1. - _TAIL]))
    varies = [x for x in (clipped, column) if np.ptp(x) > 0.]
    return np.mean(clipped), np.std(varies[0]) if varies else 1.


class Layers(_tfp.Picklable, tf.Module):
    """`h_i = f(h_{i-1} W_i + b_i)`, the last of them linear, over the last axis."""

    def __init__(self, sizes, activation, new, name='layers'):
        super().__init__(name=name)
        self._activation = activation
        self._kernels = tuple(new.kernel([m, n], f'kernel_{i}')
                              for i, (m, n) in enumerate(zip(sizes, sizes[1:])))
        self._biases = tuple(new.zeros([n], f'bias_{i}') for i, n in enumerate(sizes[1:]))

    def __call__(self, hidden):
        for i, (kernel, bias) in enumerate(zip(self._kernels, self._biases)):
            if i:
                hidden = network.activation_function(self._activation)(hidden)
            hidden = network.dense(hidden, kernel) + bias
        return hidden


def count(hidden, there):
    """How many of elements `[B, N, m]` are there, `[B, 1]`."""
    if there is None:
        number = tf.fill([tf.shape(hidden)[0], 1], tf.shape(hidden)[1])
    else:   # As integers: the sum of ones in bfloat16 is never more than 256.
        number = tf.reduce_sum(tf.cast(there[..., 0], tf.int32), -1, keepdims=True)
    return tf.cast(number, hidden.dtype)


def pool(hidden, there):
    """Mean and maximum of elements `[B, N, m]`, 0 of none, and log(1 + n): `[B, 2 m + 1]`."""
    number = count(hidden, there)
    there = tf.ones_like(hidden[..., :1], tf.bool) if there is None else there
    mean = tf.reduce_sum(tf.where(there, hidden, 0.), 1) / tf.maximum(number, 1.)
    most = tf.reduce_max(tf.where(there, hidden, hidden.dtype.min), 1)
    return tf.concat([mean, tf.where(number > 0., most, 0.), tf.math.log1p(number)], -1)
