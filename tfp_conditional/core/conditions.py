"""`ConditionSpec`: what a flow is conditioned on, checked by name."""

import collections.abc
import difflib

import numpy as np
import tensorflow as tf

HOW_TO_PASS = (
    "pass `conditions=...` to the bijector's own methods, "
    "`bijector_kwargs={'conditions': ...}` to those of a "
    '`tfd.TransformedDistribution`, nest them under the name of the part in a '
    "stock `tfb.Chain` (`{%r: {'conditions': ...}}`, or the name of the `tfb.Invert` "
    "around it, `{'invert_%s': {'conditions': ...}}`), or use "
    '`dist.given(conditions)` or `bijector.condition(conditions)`, which need no '
    'keyword at all')

# The greatest error of rounding, as a fraction of the standard deviation of a column:
# 14 steps of the rounded values a deviation, which a flow does not tell from none.
MAX_ROUNDING = 0.02


def positive_int(value, label, least=1):
    """Returns `value` as an `int`, or raises naming `label`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, np.integer)):
        raise TypeError(f'`{label}` must be an integer; got {value!r} of type '
                        f'{type(value).__name__}.')
    if value < least:
        raise ValueError(f'`{label}` must be at least {least}; got {value}.')
    return int(value)


def as_tensor(value, dtype, label, lossless=False):
    """Returns `value` as a tensor of `dtype`; tensors are never cast silently.

    Args:
      value: tensor, variable, array, or nest of numbers.
      dtype: `tf.DType`.
      label: `str`, its name in messages.
      lossless: `bool`, whether to refuse arrays of which the cast leaves too little
        to learn from.

    Raises:
      TypeError, ValueError: naming what was expected, what came and what to do.
    """
    if isinstance(value, tf.Tensor) and value.dtype == dtype:
        return value
    _refuse_gaps(value, label)
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        if value.dtype != dtype:
            raise TypeError(
                f'`{label}` must have dtype {dtype.name}; got '
                f'{tf.as_dtype(value.dtype).name}. Cast it with '
                f'`tf.cast(..., tf.{dtype.name})`, or construct the bijector '
                f'with that dtype.')
        return tf.convert_to_tensor(value)
    try:
        tensor = tf.convert_to_tensor(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f'`{label}` must be convertible to a tensor of dtype {dtype.name}; '
            f'got {type(value).__name__}: {error}') from error
    if lossless and dtype.is_floating:
        _refuse_losses(np.asarray(value), np.asarray(tensor), label)
    return tensor


def _refuse_gaps(value, label):
    """Raises for what TensorFlow would take without its gaps, or not at all."""
    if np.ma.is_masked(value):
        raise ValueError(
            f'`{label}` must have no masked entries; {np.ma.count_masked(value)} of '
            f'{value.size} are. Drop those rows, or fill them by `.filled(...)`, with '
            'the mask as one more condition.')
    if isinstance(value, tf.RaggedTensor):
        raise TypeError(
            f'`{label}` must be a dense tensor; got a RaggedTensor. Use '
            '`.to_tensor()`, with the lengths as one more condition, or batches of '
            'one length each.')
    if isinstance(value, tf.SparseTensor) or hasattr(value, 'toarray'):
        raise TypeError(f'`{label}` must be a dense tensor; got a '
                        f'{type(value).__name__}. Use `tf.sparse.to_dense(...)`, or '
                        '`.toarray()` of one of SciPy.')


def _refuse_losses(array, cast, label):
    """Raises where an array lost in a cast to another dtype what tells rows apart."""
    # Integers of half the size are exact.
    needed = array.dtype.itemsize * (1 if array.dtype.kind == 'f' else 2)
    if array.dtype.kind not in 'iuf' or needed <= cast.dtype.itemsize:
        return
    for j in np.ndindex(array.shape[-1:]):   # Copies of columns: less memory, faster.
        values = np.array(array[(...,) + j], np.float64)
        rounded = np.array(cast[(...,) + j], np.float64)
        lost = np.isfinite(values) & ~np.isfinite(rounded)
        name = f'column {j[0]} of `{label}`' if j else f'`{label}`'
        if np.any(lost):
            raise ValueError(
                f'Numbers of {name} must be within those of {cast.dtype.name}, up to '
                f'{tf.as_dtype(cast.dtype).max:.3g}; {np.sum(lost)} are not, such as '
                f'{values[lost][0]:.6g}. Divide by their scale, or make the flow with '
                '`dtype=tf.float64`.')
        if not values.size or not np.all(np.isfinite(values)):
            continue
        # What varies by no more than the rounding of float64 is constant.
        size = np.max(np.abs(values))
        if np.ptp(values) <= 1e-12 * size:
            continue
        error = np.sqrt(np.mean(((values - rounded) / size)**2))
        error /= np.std(values / size)
        if error > MAX_ROUNDING:
            raise ValueError(
                f'{cast.dtype.name} is too coarse for {name}: of '
                f'{len(np.unique(values))} distinct values, about '
                f'{np.mean(values):.9g}, {len(np.unique(rounded))} remain, and the '
                f'error is {error:.2g} standard deviations. Subtract an offset '
                'first, or make the flow with `dtype=tf.float64`.')


class ConditionSpec:
    """Structure, widths and dtype of `conditions`.

    Args:
      size: an `int` S for one tensor `[..., S]`, or a nest (dict, tuple, list)
        of such integers for a nest of tensors with the same structure. A
        `tf.TensorSpec(shape, dtype)` for an integer means a tensor `[..., *shape]`.
      dtype: the floating dtype of those given by integers.
    """

    def __init__(self, size, dtype):
        self.size = _copy_sizes(size, 'condition_size')
        self.dtype = dtype
        self.leaves = tuple(
            leaf if isinstance(leaf, tf.TensorSpec) else tf.TensorSpec([leaf], dtype)
            for leaf in tf.nest.flatten(self.size))
        self.shapes = tuple(leaf.shape for leaf in self.leaves)
        if not self.leaves:
            raise ValueError('`condition_size` must hold at least one size; got '
                             f'{size!r}.')

    @property
    def widths(self):
        """Last dimensions of conditions that are vectors, as networks need them."""
        if any(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(self.size)):
            raise ValueError(
                '`condition_size` must be a nest of integers, since networks take '
                f'vectors; got {self.size!r}. For conditions of other shapes or '
                'dtypes wrap the flow: `ConditionalEmbedding(flow, network, '
                'condition_size)`.')
        return tuple(tf.nest.flatten(self.size))

    @property
    def total(self):
        """The sum of `widths`."""
        return sum(self.widths)

    def __eq__(self, other):
        return (isinstance(other, ConditionSpec) and self.size == other.size
                and self.dtype == other.dtype)

    __hash__ = None     # type: ignore[assignment]

    def check(self, conditions, owner, lossless=False):
        """Returns `conditions` as a nest of tensors that broadcast together.

        Args:
          conditions: what the caller passed, or `None`.
          owner: name of the bijector, for messages.
          lossless: as in `as_tensor`.

        Returns:
          The same nest with every leaf a tensor `[..., S_i]` of `dtype`; leaves
          of a nest share one batch shape.

        Raises:
          TypeError: conditions missing, of another structure or dtype.
          ValueError: missing or unknown keys, wrong width, rank or batch shape.
        """
        if conditions is None:
            raise TypeError(f'`conditions` are required by {owner!r} and were not '
                            f'given: {HOW_TO_PASS % (owner, owner)}.')
        leaves = [
            check_last_dimension(
                as_tensor(value, self.dtype, label, lossless), size, label)
            if isinstance(size, int) else _check_shape(
                as_tensor(value, size.dtype, label, lossless), size.shape, label)
            for label, value, size in _leaves(self.size, conditions)]
        if len(leaves) > 1:
            leaves = _common_batch(leaves, self._event_ranks())
        return tf.nest.pack_sequence_as(self.size, leaves)

    def pack(self, conditions):
        """The same leaves, not converted, in the containers of `size`."""
        return tf.nest.pack_sequence_as(self.size, [
            value if hasattr(value, 'shape') else np.asarray(value)
            for _, value, _ in _leaves(self.size, conditions)])

    def batch_shape(self, conditions):
        """Static batch shape of checked conditions."""
        leaf = tf.nest.flatten(conditions)[0]
        return leaf.shape[:leaf.shape.rank - self.leaves[0].shape.rank]

    def batch_shape_tensor(self, conditions):
        """Batch shape of checked conditions, as a tensor."""
        leaf = tf.nest.flatten(conditions)[0]
        return tf.shape(leaf)[:leaf.shape.rank - self.leaves[0].shape.rank]

    def flat(self, conditions):
        """Checked conditions `[..., *shape]` with one batch axis, `[B, *shape]`."""
        batch = self.batch_shape(conditions)
        if batch.rank == 1:
            return conditions
        size = tf.reduce_prod(self.batch_shape_tensor(conditions))
        return tf.nest.map_structure(lambda leaf: tf.ensure_shape(
            tf.reshape(leaf, tf.concat([[size], tf.shape(leaf)[batch.rank:]], 0)),
            [batch.num_elements(), *leaf.shape[batch.rank:]]), conditions)

    def unflat(self, result, conditions):
        """A nest of `[B, ...]`, made of `flat(conditions)`, with their batch axes."""
        batch = self.batch_shape(conditions)
        if batch.rank == 1:
            return result
        shape = self.batch_shape_tensor(conditions)
        return tf.nest.map_structure(lambda leaf: tf.ensure_shape(
            tf.reshape(leaf, tf.concat([shape, tf.shape(leaf)[1:]], 0)),
            [*batch, *leaf.shape[1:]]), result)

    def event_ndims(self):
        """How many axes of each leaf are no batch axes: a nest of `int`."""
        return tf.nest.pack_sequence_as(self.size, self._event_ranks())

    def _event_ranks(self):
        return [leaf.shape.rank for leaf in self.leaves]

    def has_nan(self, conditions):
        """Which checked conditions have a NaN: booleans of their batch shape."""
        found = False
        for leaf, rank in zip(tf.nest.flatten(conditions), self._event_ranks()):
            if leaf.dtype.is_floating:
                found |= tf.reduce_any(tf.math.is_nan(leaf), list(range(-rank, 0)))
        return found

    def concat(self, conditions):
        """Checked conditions as one tensor `[..., total]`, keys in sorted order."""
        leaves = tf.nest.flatten(conditions)
        return leaves[0] if len(leaves) == 1 else tf.concat(leaves, axis=-1)

    def example(self):
        """Zero conditions of batch shape `[1]`."""
        return tf.nest.pack_sequence_as(self.size, [
            tf.zeros([1, *(n or 1 for n in leaf.shape)], leaf.dtype)
            for leaf in self.leaves])

    def signature(self, batch_shape):
        """A nest of `tf.TensorSpec` with that batch shape."""
        return tf.nest.pack_sequence_as(self.size, [
            tf.TensorSpec([*batch_shape, *leaf.shape], leaf.dtype)
            for leaf in self.leaves])


def check_last_dimension(tensor, size, label):
    """Returns `tensor` if it is `[..., size]` with known rank, else raises."""
    shape = tensor.shape
    if shape.rank is None:
        raise ValueError(f'`{label}` must have a known rank and last dimension '
                         f'{size}; got a tensor of unknown rank. Use '
                         '`tf.ensure_shape`.')
    if shape.rank == 0:
        raise ValueError(f'`{label}` must have at least one dimension, the last '
                         f'of size {size}; got a scalar.')
    if shape[-1] is None:
        raise ValueError(f'`{label}` must have last dimension {size}; got shape '
                         f'{shape}, whose last dimension is unknown. Use '
                         '`tf.ensure_shape`.')
    if shape[-1] != size:
        raise ValueError(f'`{label}` must have last dimension {size}; got shape '
                         f'{shape.as_list()}.')
    return tensor


def _check_shape(tensor, shape, label):
    """Returns `tensor` if it is `[..., *shape]` with known rank, else raises."""
    rank = tensor.shape.rank
    if rank is None or rank < shape.rank or not (
            tensor.shape[rank - shape.rank:].is_compatible_with(shape)):
        raise ValueError(f'`{label}` must have shape [..., *{shape.as_list()}] and known '
                         f'rank; got {tensor.shape}.')
    return tensor


def check_finite_rows(x, label, advice=''):
    """Raises where rows of an array `[N, ...]` are not finite."""
    finite = np.isfinite(np.asarray(x))
    finite = finite.all(axis=tuple(range(1, finite.ndim)))
    if not finite.all():
        raise ValueError(f'`{label}` must be finite; {np.sum(~finite)} of {len(finite)} rows '
                         f'are not, the first of them row {np.argmin(finite)}.{advice}')


def floating(dtype):
    """Returns `tf.as_dtype(dtype)`, or raises unless it is floating."""
    dtype = tf.as_dtype(dtype)
    if not dtype.is_floating:
        raise TypeError(f'`dtype` must be floating; got {dtype.name}.')
    return dtype


def reject_unknown(kwargs, owner):
    """Raises for keyword arguments other than `conditions`."""
    for key in kwargs:
        if key == 'conditions':
            continue
        guess = (' Did you mean `conditions`?' if difflib.get_close_matches(
            key, ['conditions']) else '')
        raise TypeError(f'{owner!r} takes the keyword argument `conditions` and no '
                        f'other; got `{key}`.{guess}')


def _leaves(size, value, label='conditions'):
    """Yields label, value and width of each leaf, where the structure is that of `size`."""
    if isinstance(size, dict):
        if not isinstance(value, collections.abc.Mapping):
            raise TypeError(f'`{label}` must be a dict with keys {sorted(size)}; got '
                            f'{type(value).__name__}.')
        missing = [key for key in size if key not in value]
        unknown = [key for key in value if key not in size]
        if missing or unknown:
            raise ValueError(
                f'`{label}` must have the keys {sorted(size)}; missing: '
                f'{sorted(missing)}, unknown: {sorted(map(str, unknown))}.')
        for key in sorted(size):
            yield from _leaves(size[key], value[key], f'{label}[{key!r}]')
    elif isinstance(size, tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(size):
            got = (f'{len(value)} of them' if isinstance(value, (tuple, list))
                   else type(value).__name__)
            raise TypeError(f'`{label}` must be a tuple or list of {len(size)} parts '
                            f'with sizes {size!r}; got {got}.')
        for i, (part_size, part) in enumerate(zip(size, value)):
            yield from _leaves(part_size, part, f'{label}[{i}]')
    elif isinstance(value, collections.abc.Mapping):
        raise TypeError(
            f'`{label}` must be one tensor [..., {size}]; got a dict with keys '
            f'{sorted(map(str, value))}. To condition on a dict of tensors, construct '
            'the bijector with a dict of sizes as `condition_size`.')
    else:
        yield label, value, size


def _copy_sizes(size, label):
    """A copy of the nest `size` in plain containers, every leaf checked."""
    if isinstance(size, collections.abc.Mapping):
        for key in size:
            if not isinstance(key, str):
                raise TypeError(f'Keys of `{label}` must be strings; got {key!r}.')
        return {key: _copy_sizes(size[key], f'{label}[{key!r}]') for key in size}
    if isinstance(size, (tuple, list)):
        return tuple(_copy_sizes(part, f'{label}[{i}]')
                     for i, part in enumerate(size))
    if isinstance(size, tf.TensorSpec):
        if size.shape.rank is None:
            raise ValueError(f'`{label}` must have a known rank; got {size!r}.')
        return size
    return positive_int(size, label)


def expand(conditions, units):
    """Conditions, vectors, with the whole batch shape of `units [..., D]`."""
    batch = units.shape[:-1]

    def expanded(leaf):
        if batch.is_fully_defined() and leaf.shape[:-1] == batch:
            return leaf
        shape = tf.concat([tf.shape(units)[:-1], tf.shape(leaf)[-1:]], 0)
        return tf.ensure_shape(tf.broadcast_to(leaf, shape), batch + leaf.shape[-1:])
    return tf.nest.map_structure(expanded, conditions)


def _common_batch(leaves, event_ranks):
    """Leaves broadcast to one batch shape, which they mostly share already."""
    ranks = [leaf.shape.rank - rank for leaf, rank in zip(leaves, event_ranks)]
    shapes = [leaf.shape[:rank] for leaf, rank in zip(leaves, ranks)]
    batch = shapes[0]
    for shape in shapes[1:]:
        try:
            batch = tf.broadcast_static_shape(batch, shape)
        except ValueError as error:
            raise ValueError(
                'The batch shapes of the tensors in `conditions` must broadcast; '
                f'got {[leaf.shape.as_list() for leaf in leaves]}.') from error
    if batch.is_fully_defined():
        return [leaf if shape == batch
                else tf.broadcast_to(leaf, batch + leaf.shape[rank:])
                for leaf, shape, rank in zip(leaves, shapes, ranks)]
    dynamic = tf.shape(leaves[0])[:ranks[0]]
    for leaf, rank in zip(leaves[1:], ranks[1:]):
        dynamic = tf.broadcast_dynamic_shape(dynamic, tf.shape(leaf)[:rank])
    return [tf.ensure_shape(
        tf.broadcast_to(leaf, tf.concat([dynamic, tf.shape(leaf)[rank:]], 0)),
        batch + leaf.shape[rank:]) for leaf, rank in zip(leaves, ranks)]
