"""Parts of a chain and their directions: `(part, FORWARD or INVERSE)`, a step each."""

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import one_pass
from tfp_conditional.core.one_pass import FORWARD, INVERSE


def opposite(direction):
    """`FORWARD` for `INVERSE` and the other way round."""
    return INVERSE if direction == FORWARD else FORWARD


def flatten(bijector, direction):
    """The parts of nested `tfb.Chain` and `tfb.Invert`, in order of application."""
    if isinstance(bijector, _tfp.Invert):
        return flatten(bijector.bijector, opposite(direction))
    if isinstance(bijector, _tfp.Chain):
        parts = bijector.bijectors
        return [step for part in (reversed(parts) if direction == FORWARD else parts)
                for step in flatten(part, direction)]
    return [(bijector, direction)]


def opened(steps):
    """Steps, with the parts of conditional chains and embedded ones in their place."""
    for part, direction in steps:
        if hasattr(part, 'steps'):
            yield from opened(part.steps(direction))
        elif hasattr(part, 'embedding'):
            yield from opened([(part.bijector, direction)])
        else:
            yield part, direction


def step(part, direction, value, conditions):
    """One pass of one part: the value and a log-det that broadcasts to `[...]`."""
    if isinstance(part, one_pass.OnePassBijector):
        return part.unchecked_pass(direction, value, conditions)
    # A copy, since a stock part's cache would answer from before the last update
    # of its variables if it had met this very tensor.
    value = tf.identity(value)
    with _tfp.uncached():
        if direction == FORWARD:
            return part.forward(value), part.forward_log_det_jacobian(value, 1)
        return part.inverse(value), part.inverse_log_det_jacobian(value, 1)


def step_inside(part, direction, value, inside):
    """`step` of a stock part with edges: the log-det is -inf on them and outside.

    There, the part is asked at a vector inside instead, or its gradients, times 0,
    would be NaN.
    """
    def is_outside(image):
        return tf.reduce_any(tf.math.is_inf(image) | tf.math.is_nan(image), -1)

    with _tfp.uncached():
        image = getattr(part, direction)(tf.identity(value))
    outside = is_outside(image) & ~is_outside(value)
    value, log_det = step(part, direction, tf.where(
        outside[..., tf.newaxis], inside, value), None)
    return value, tf.where(outside, tf.constant(-np.inf, log_det.dtype), log_det)


def common(steps):
    """The first conditional part, once all agree on conditions and dtype."""
    parts = [part for part, _ in steps
             if isinstance(part, bijector_lib.ConditionalBijector)]
    if not parts:
        raise ValueError('`bijectors` must hold at least one ConditionalBijector; '
                         'for none, use `tfb.Chain`.')
    for part in parts[1:]:
        if part.condition_spec != parts[0].condition_spec:
            raise ValueError(
                'Conditional parts of a chain must have the same condition_size and '
                f'dtype; got {parts[0].condition_size}, {parts[0].dtype.name} in '
                f'{parts[0].name!r} and {part.condition_size}, {part.dtype.name} in '
                f'{part.name!r}.')
    return parts[0]


def event_sizes(steps):
    """The last dimension of events before the first step and after the last."""
    at = next(i for i, (part, _) in enumerate(steps)
              if isinstance(part, bijector_lib.ConditionalBijector))
    part, direction = steps[at]
    size = part.event_size if direction == FORWARD else part.output_event_size
    start = end = size
    for part, direction in steps[:at][::-1]:
        start = next_size(part, opposite(direction), start)
    for part, direction in steps[at:]:
        end = next_size(part, direction, end)
    return start, end


def next_size(part, direction, size):
    """The last dimension of events after a step, from that before it."""
    try:
        shape = (part.forward_event_shape([size]) if direction == FORWARD
                 else part.inverse_event_shape([size]))
        shape = tf.TensorShape(shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{part.name!r} does not fit into the chain, where events '
                         f'have size {size}: {error}') from error
    if shape.rank != 1 or shape[0] is None:
        raise ValueError(f'{part.name!r} turns events of shape [{size}] into '
                         f'{shape}; all parts of a ConditionalChain must map vectors '
                         'of static size to such vectors.')
    return shape[0]
