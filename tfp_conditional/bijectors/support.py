"""`support_bijector`, and the supports of single columns: intervals, circles, simplices."""

from collections.abc import Sequence
import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import angles
from tfp_conditional.bijectors import bounds
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import DType, TensorLike

tfb = tfp.bijectors


def support_bijector(low: TensorLike | None = None, high: TensorLike | None = None,
                     simplex: bool = False, dtype: DType = tf.float32,
                     name: str = 'support') -> tfp.bijectors.Bijector:
    """A stock bijector onto intervals, half-lines or the simplex, unit by unit.

    It goes on the data side of a flow, for targets that are bounded. Its log-det
    counts, so that densities are those of the bounded events.

    ```python
    import numpy as np
    import tensorflow as tf
    import tfp_conditional as tfpc

    # A unit in (0, 1), a positive one, and an unbounded one.
    support = tfpc.support_bijector(low=[0., 0., -np.inf], high=[1., np.inf, np.inf])
    flow = tfpc.ConditionalChain([
        support, tfpc.ConditionalRealNVP(event_size=3, condition_size=2)])
    y = flow.forward(tf.zeros([5, 3]), conditions=tf.ones([5, 2]))
    np.testing.assert_allclose(y[0], [0.5, np.log(2.), 0.], rtol=1e-6)
    ```

    Events on a bound itself, where a float was rounded to it, are the image of no
    finite number: move them inside before you ask for their density.

    Args:
      low: least value of each unit, `[D]`, -inf for none.
      high: greatest value of each unit, `[D]`, inf for none.
      simplex: `bool`, instead of bounds: vectors `[D]` of positive numbers of sum 1,
        from `[D - 1]`.
      dtype: floating dtype.
      name: `str`.

    Returns:
      `tfb.Bijector`: `Sigmoid(low, high)` for intervals, a shifted `Softplus` for
      half-lines, `Identity` elsewhere; `IteratedSigmoidCentered` for a simplex.

    Raises:
      ValueError: for bounds that are not ordered, of different lengths or missing.
    """
    if simplex:
        if low is not None or high is not None:
            raise ValueError('Give bounds or `simplex=True`; got both.')
        return tfb.IteratedSigmoidCentered(name=name)
    if low is None and high is None:
        raise ValueError('Give `low`, `high` or `simplex=True`; got none of them.')
    dtype = tf.as_dtype(dtype)
    low = -np.inf if low is None else np.asarray(low, float)
    high = np.inf if high is None else np.asarray(high, float)
    try:
        low, high = np.broadcast_arrays(low, high)
    except ValueError as error:
        raise ValueError('`low` and `high` must have the same length; got shapes '
                         f'{np.shape(low)} and {np.shape(high)}.') from error
    if low.ndim != 1 or not low.size:
        raise ValueError('`low` and `high` must have shape [D]; got '
                         f'{list(low.shape)}.')
    if not np.all(low < high):
        raise ValueError(f'`low` must be less than `high`; got {low.tolist()} and '
                         f'{high.tolist()}.')
    parts, sizes = _intervals(low, high, dtype)
    return parts[0] if len(parts) == 1 else tfb.Blockwise(
        parts, block_sizes=sizes, name=name)


def _intervals(low, high, dtype):
    """Stock bijectors onto intervals, and how many units that follow each maps."""
    kinds = 2 * np.isfinite(low) + np.isfinite(high)
    starts = np.flatnonzero(np.diff(kinds, prepend=-1))
    parts, sizes = [], np.diff([*starts, low.size])
    for start, size in zip(starts, sizes):
        below, above = (tf.constant(bound[start:start + size], dtype)
                        for bound in (low, high))
        parts.append({
            0: lambda: tfb.Identity(),
            1: lambda: tfb.Chain([tfb.Shift(above), tfb.Scale(
                tf.constant(-1., dtype)), tfb.Softplus()]),
            2: lambda: tfb.Chain([tfb.Shift(below), tfb.Softplus()]),
            3: lambda: tfb.Sigmoid(below, above)}[kinds[start]]())
    return parts, sizes.tolist()


@dataclasses.dataclass(frozen=True)
class Circular:
    """A column of angles, or of any numbers that wrap: `low` and `high` are one point.

    An entry of the `support` of `conditional_density`. Densities are with respect to
    the length of the interval [low, high), and are the same a period further on.

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    hours = np.random.default_rng(0).normal(23., 2., [256, 1]) % 24.
    dist = tfpc.conditional_density(1, 3, support=[tfpc.Circular(0., 24.)])
    given = dist.given(np.ones([256, 3]))
    np.testing.assert_allclose(given.log_prob(hours), given.log_prob(hours + 24.),
                               atol=1e-3)
    ```

    Attributes:
      low, high: `float`, of which the difference is the period.

    Raises:
      ValueError: for an interval that is empty or infinite.
    """

    low: float = -math.pi
    high: float = math.pi

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError('`low` must be less than `high`, and both finite; got '
                             f'{self.low}, {self.high}.')


@dataclasses.dataclass(frozen=True)
class Simplex:
    """So many columns of positive numbers whose sum is 1.

    An entry of the `support` of `conditional_density`. Densities are with respect to
    all of these columns but the last, which the others determine.

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    dist = tfpc.conditional_density(3, 2, support=[tfpc.Simplex(3)])
    y = dist.given(np.ones([5, 2])).sample()
    np.testing.assert_allclose(np.sum(y, -1), 1., rtol=1e-5)
    ```

    Attributes:
      size: `int` >= 2, the number of columns.

    Raises:
      TypeError, ValueError: for another size.
    """

    size: int

    def __post_init__(self) -> None:
        conditions_lib.positive_int(self.size, 'size', least=2)


class Columns:
    """What a list of supports, one for each column or group of columns, makes.

    Attributes:
      parts: bijectors from what the flow makes, `[D']`, to the targets, the last of
        them applied first.
      circular: bool array `[D']`, which units that the flow makes are angles.
    """

    def __init__(self, support, event_size, dtype):
        blocks, found, circular, count = [], [], [], 0
        low, high = np.full([2, event_size], np.nan)
        for i, entry in enumerate(support):
            size = inner = 1
            block, ends = None, (-np.inf, np.inf)
            if isinstance(entry, Circular):
                if count < event_size:
                    low[count], high[count] = entry.low, entry.high
            elif isinstance(entry, Simplex):
                size, inner, block = (
                    entry.size, entry.size - 1, tfb.IteratedSigmoidCentered())
            elif isinstance(entry, tfb.Bijector):
                if entry.forward_min_event_ndims:
                    raise ValueError(
                        f'`support[{i}]` must map single numbers; {entry.name!r} maps '
                        'vectors. Give it alone, as `support`, or a `Simplex(size)`.')
                block = entry
            elif entry is not None:
                ends = _bounds(entry, i)
            count += size
            blocks.append((block, size, *ends))
            found += [entry is None] * inner
            circular += [isinstance(entry, Circular)] * inner
        if count != event_size:
            raise ValueError(
                f'`support` must have entries for {event_size} columns, `event_size`; '
                f'those that came are for {count}. Each is for one, but `Simplex(size)`.')
        self.circular = np.array(circular)
        self.parts = []
        if any(circular):
            self.parts.append(angles.Wrapped(low, high, dtype))
        stock, sizes = _merged(blocks, dtype)
        if not all(isinstance(part, tfb.Identity) for part in stock):
            self.parts.append(stock[0] if len(stock) == 1 else Blocks(stock, sizes))
        if any(found):
            self.parts.append(bounds.SoftBounds(len(found), dtype, mask=found))


def _bounds(entry, i):
    """The bounds of an interval, of which `None` is an infinite one."""
    if not isinstance(entry, (tuple, list, np.ndarray)) or len(entry) != 2:
        raise TypeError(
            f'`support[{i}]` must be (low, high), `Circular(low, high)`, '
            '`Simplex(size)`, a tfb.Bijector of single numbers, or `None` for a real '
            f'column whose edges are found in the data; got {entry!r}.')
    low, high = (default if bound is None else float(bound) for bound, default in zip(
        entry, (-np.inf, np.inf)))
    if not low < high:
        raise ValueError(f'`support[{i}]` must have `low` less than `high`; got '
                         f'{entry!r}.')
    return low, high


def _merged(blocks, dtype):
    """Blocks as bijectors and their sizes; intervals that follow each other at once."""
    parts, sizes, pending = [], [], []

    def flush():
        if pending:
            new, widths = _intervals(*np.array(pending).T, dtype)
            parts.extend(new)
            sizes.extend(widths)
            pending.clear()

    for block, size, low, high in blocks:
        if block is None:
            pending.append((low, high))
        else:
            flush()
            # Of a block, the size is that before it.
            parts.append(block)
            sizes.append(int(block.inverse_event_shape([size])[0]))
    flush()
    return parts, sizes


class Blocks(tfp.bijectors.Bijector):
    """`tfb.Blockwise`, which warns where a simplex is one of the blocks."""

    def __init__(self, bijectors: Sequence[tfp.bijectors.Bijector],
                 block_sizes: Sequence[int], name: str = 'support') -> None:
        parameters = dict(locals())
        self._bijectors, self._sizes = list(bijectors), list(block_sizes)
        self._new_sizes = [int(part.forward_event_shape([size])[0])
                           for part, size in zip(bijectors, block_sizes)]
        super().__init__(forward_min_event_ndims=1, parameters=parameters, name=name)

    def _map(self, method, value, sizes, *event_ndims):
        return [getattr(part, method)(block, *event_ndims) for part, block in zip(
            self._bijectors, tf.split(value, sizes, axis=-1))]

    def _forward(self, x):
        return tf.concat(self._map('forward', x, self._sizes), -1)

    def _inverse(self, y):
        return tf.concat(self._map('inverse', y, self._new_sizes), -1)

    def _forward_log_det_jacobian(self, x):
        return tf.add_n(self._spread('forward_log_det_jacobian', x, self._sizes))

    def _inverse_log_det_jacobian(self, y):
        return tf.add_n(self._spread('inverse_log_det_jacobian', y, self._new_sizes))

    def _spread(self, method, value, sizes):
        """Log-dets, of which some parts have but one number for the batch."""
        return [tf.broadcast_to(log_det, tf.shape(value)[:-1]) for log_det in map(
            functools.partial(tf.cast, dtype=value.dtype),
            self._map(method, value, sizes, 1))]

    def _forward_event_shape(self, shape):
        return tf.TensorShape(shape[:-1]).concatenate([sum(self._new_sizes)])

    def _inverse_event_shape(self, shape):
        return tf.TensorShape(shape[:-1]).concatenate([sum(self._sizes)])

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape[:-1], [sum(self._new_sizes)]], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape[:-1], [sum(self._sizes)]], 0)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}
