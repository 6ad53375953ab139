"""`adapt`: what bijectors learn from data without gradients, part after part."""

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import steps as steps_lib
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.one_pass import INVERSE

_CHUNK = 4096   # Rows that meet a network at once.
# Numbers (targets and conditions) that parts which depend on conditions adapt to, and
# the least number of rows: enough for means within 1% of a standard deviation.
_ADAPTATION_NUMBERS, _ADAPTATION_ROWS = 10**7, 10**4


def adapted(bijector):
    """Whether nothing in any bijector is left that `adapt` would change."""
    return not unadapted(steps_lib.flatten(bijector, INVERSE))


def has_learnt(bijector):
    """Whether any part of a bijector has adapted to data."""
    return any(getattr(part, 'adapted', False) and not hasattr(part, 'adapt_batches')
               for part in (bijector, *bijector.submodules) if hasattr(part, 'adapt'))


def adapt(bijector, y, conditions=None):
    """`ConditionalChain.adapt` for any bijector, also one that has no `adapt`."""
    adapt_batches(bijector, [(y, conditions)])


def adapt_batches(bijector, batches):
    """`ConditionalChain.adapt_batches` for any bijector."""
    adapt_steps(steps_lib.flatten(bijector, INVERSE), batches)


def check_data(bijector, y, conditions):
    """Events and conditions as tensors that suit a conditional bijector."""
    conditions = bijector.condition_spec.check(
        conditions, bijector.name, lossless=True)
    y = conditions_lib.check_last_dimension(
        conditions_lib.as_tensor(y, bijector.dtype, 'y', lossless=True),
        bijector.output_event_size, 'y')
    return bijector.expanded(y, conditions), conditions


def check_support(bijector, y, label):
    """Raises where events have no finite image under the stock parts they meet first.

    Args:
      bijector: any `tfb.Bijector`.
      y: finite tensor `[N, ...]`, events in rows.
      label: `str`, its name in messages.
    """
    events, passed = y, []
    for part, direction in steps_lib.opened(steps_lib.flatten(bijector, INVERSE)):
        if hasattr(part, 'check_events') and direction == INVERSE:
            part.check_events(y, label)
        if hasattr(part, 'adapt') or isinstance(
                part, bijector_lib.ConditionalBijector):
            return
        step, (first, *others) = getattr(part, direction), chunks(y)
        with tf.GradientTape() as tape:
            images = [step(tf.identity(first))]
        if tape.watched_variables():   # A network, slow to run and without edges.
            return
        y = tf.concat(images + [step(tf.identity(chunk)) for chunk in others], axis=0)
        passed.append((part, steps_lib.opposite(direction)))
        finite = np.isfinite(y).reshape(len(y), -1).all(-1)
        if not finite.all():
            raise ValueError(
                f'{np.sum(~finite)} of {len(y)} rows of `{label}`, the first of them '
                f'row {np.argmin(finite)}, lie on the edge of the support of '
                f'{part.name!r}{_edges(passed, events, y)}, or outside: they are the '
                'image of no finite number, and have no finite density. Move them '
                'inside, drop them, or make the support wider.')


def _edges(passed, events, images):
    """In words, from where to where parts map, if they map units one by one."""
    if events.shape != images.shape:
        return ''
    ends = []
    for sign in (-1., 1.):
        end = tf.fill(images.shape[1:], tf.constant(sign * np.inf, images.dtype))
        for part, direction in passed[::-1]:
            end = getattr(part, direction)(end)
        ends.append(end)
    low, high = np.sort(ends, axis=0)
    if np.isnan([low, high]).any():
        return ''
    low, high = (np.array2string(x, separator=', ', threshold=8) for x in (low, high))
    return f', from {low} to {high}'


def adapt_steps(steps, batches):
    """Lets each part adapt, if it is to, to the data that the parts before it leave."""
    waiting = unadapted(steps)
    for i, (part, direction) in enumerate(steps[:max(waiting, default=-1) + 1]):
        is_conditional = isinstance(part, bijector_lib.ConditionalBijector)
        if i in waiting:
            if hasattr(part, 'adapt_batches'):
                part.adapt_batches(batches)
            elif is_conditional:
                part.adapt(*_joined(fewer(batches), part))
            else:   # All rows, for what depends on extremes.
                part.adapt(tf.concat([y for y, _ in batches], axis=0), None)
        if i < waiting[-1]:
            if is_conditional:
                batches = fewer(batches)
            batches = [(steps_lib.step(part, direction, y, conditions)[0], conditions)
                       for batch in batches for y, conditions in chunks(batch)]


def _joined(batches, part):
    """Batches as one."""
    if len(batches) == 1:
        return batches[0]
    try:
        return _map_batch(lambda *parts: tf.concat(parts, 0), *batches)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f'{part.name!r} adapts to conditions of one shape; got batches of several. '
            'Put it into a `ConditionalEmbedding`, which makes vectors of them.'
        ) from error


def fewer(batches):
    """Batches, or so many of their rows, at random, as networks are to meet."""
    leaves = [_leaves(batch) for batch in batches]
    counts = [len(parts[0]) for parts in leaves]
    count = sum(counts)
    numbers = sum(int(tf.size(x)) for parts in leaves for x in parts)
    keep = max(_ADAPTATION_ROWS, _ADAPTATION_NUMBERS * count // numbers)
    if count <= keep or not all(map(_in_rows, batches)):
        return batches
    kept = np.sort(np.random.default_rng(0).choice(count, keep, replace=False))
    starts = np.cumsum([0, *counts])
    parts = np.split(kept, np.searchsorted(kept, starts[1:-1]))
    return [_map_batch(lambda x: tf.gather(x, rows - start), batch)
            for batch, rows, start in zip(batches, parts, starts) if len(rows)]


def chunks(batch):
    """A nest of tensors as several, of so few rows that networks may meet them."""
    if not _in_rows(batch):
        return [batch]
    return [_map_batch(lambda x: x[i:i + _CHUNK], batch)
            for i in range(0, len(_leaves(batch)[0]), _CHUNK)]


def _in_rows(batch):
    """Whether all tensors have the rows of the first, the events."""
    first, *others = _leaves(batch)
    return first.shape.rank > 1 and all(
        x.shape.rank > 1 and len(x) == len(first) for x in others)


def _leaves(batch):
    return [x for x in tf.nest.flatten(batch) if x is not None]


def _map_batch(function, *batches):
    return tf.nest.map_structure(
        lambda x, *more: x if x is None else function(x, *more), *batches)


def unadapted(steps):
    """The indices of the parts, met from their data side, that are to adapt."""
    return [i for i, (part, direction) in enumerate(steps)
            if direction == INVERSE and hasattr(part, 'adapt')
            and not getattr(part, 'adapted', False)]
