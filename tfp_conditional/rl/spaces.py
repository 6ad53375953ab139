"""What observations and actions are: shapes and bounds, of gymnasium's spaces or bare.

gymnasium is not imported: its spaces are told by the names of their classes.
"""

import collections.abc

import numpy as np
import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib

# Some environments say so that there are no bounds. Their differences overflow.
_NO_BOUND = float(np.finfo(np.float32).max) / 4.


def _kind(space):
    """The name of gymnasium's class that `space` is of, or `None`."""
    return next((cls.__name__ for cls in type(space).__mro__
                 if cls.__module__.split('.')[0] == 'gymnasium'
                 and cls.__name__ != 'Space'), None)


def observation_spec(space, label='observation_space'):
    """A nest of `tf.TensorSpec`, float32, for observations without batch axes.

    Args:
      space: gymnasium's Box of numbers, or Dict or Tuple of such; or `int` S for
        vectors, or a nest (dict, tuple) of `int`.
      label: `str`, its name in messages.

    Raises:
      TypeError, ValueError: for any other, by name.
    """
    kind = _kind(space)
    if kind == 'Box':
        return tf.TensorSpec(space.shape, tf.float32)
    if kind in ('Dict', 'Tuple'):
        space = space.spaces
    elif kind is not None:
        raise TypeError(
            f'`{label}` must be a Box, or a Dict or Tuple of Boxes; got {space}. '
            "gymnasium's FlattenObservation makes a Box of it.")
    if isinstance(space, collections.abc.Mapping):
        return {key: observation_spec(part, f'{label}[{key!r}]')
                for key, part in space.items()}
    if isinstance(space, (tuple, list)):
        return tuple(observation_spec(part, f'{label}[{i}]')
                     for i, part in enumerate(space))
    return tf.TensorSpec([conditions_lib.positive_int(space, label)], tf.float32)


def action_shape_and_bounds(space, bounded=True, label='action_space'):
    """The shape of one action, and its least and greatest values, flat.

    Args:
      space: gymnasium's Box of floats; or a pair (low, high) of numbers or arrays;
        or, where actions need no bounds, an `int` D for vectors.
      bounded: `bool`, whether bounds are needed; else they are `None`.
      label: `str`, its name in messages.

    Returns:
      A tuple of `int` and two arrays `[D]`, or `None` for each.

    Raises:
      TypeError, ValueError: for any other, by name.
    """
    kind = _kind(space)
    if kind not in (None, 'Box'):
        raise TypeError(f'`{label}` must be a Box of floats, since a flow is a density '
                        f'of numbers; got {space}.')
    if kind == 'Box':
        if not np.issubdtype(space.dtype, np.floating):
            raise TypeError(f'`{label}` must be a Box of floats; got {space}, of '
                            f'{space.dtype}.')
        low, high = space.low, space.high
    elif isinstance(space, (tuple, list)) and len(space) == 2:
        low, high = np.broadcast_arrays(*(np.asarray(bound, float) for bound in space))
        low, high = np.atleast_1d(low), np.atleast_1d(high)
    elif bounded:
        raise TypeError(f'`{label}` must be a Box of gymnasium or a pair (low, high); '
                        f'got {space!r}. Actions without bounds need `squash=None`.')
    else:
        return (conditions_lib.positive_int(space, label),), None, None
    if not low.size:
        raise ValueError(f'`{label}` must have at least one number; got {space}.')
    if not bounded:
        return low.shape, None, None
    with np.errstate(invalid='ignore', over='ignore'):
        half = high / 2. - low / 2.
    bad = np.flatnonzero(~((half > 0.) & (half < _NO_BOUND)))
    if bad.size:
        i = bad[0]
        raise ValueError(
            f'`{label}` must have finite bounds with low < high; got '
            f'{low.flat[i]} and {high.flat[i]}. gymnasium\'s RescaleAction and '
            'ClipAction give bounds to an environment; `squash=None` goes without.')
    return low.shape, low.ravel(), high.ravel()
