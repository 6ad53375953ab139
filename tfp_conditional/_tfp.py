"""All that this package needs of TFP beyond its public interface.

Nothing here is part of TFP's promise, so nothing of it stands anywhere else,
and `tests/test_tfp_internals.py` fails with an explanation when TFP moves it.

1. `Invert` and `Chain`: `tfb.Invert(bijector)` and `tfb.Chain(bijectors)`
   return instances of private parent classes when a part is no composite
   tensor, so `isinstance(b, tfb.Invert)` is not the test it looks like.

2. `density_call`: `tfd.TransformedDistribution` asks its bijector twice for one
   density, first for a value and then for the log-det at it, and TFP's own way
   to make these one pass, a cache keyed by tensor identity, gives stale values
   and wrong gradients as soon as anything happens between the two. Inside ONE
   call of the distribution nothing can: no variable is assigned, no tape opened
   and no tensor changed between its two questions. So a pass may be shared
   between questions of the same call, and never otherwise; the frame of that
   call is its identity, and as long as it is held it cannot be another's.
"""

import sys

import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions

Invert = tfb.Invert.__mro__[1]
Chain = tfb.Chain.__mro__[1]

# The methods that ask for a value and then for its log-det.
_DENSITY_METHODS = ('experimental_local_measure', '_sample_and_log_prob')
_DENSITY_CODES = frozenset(
    code for name in _DENSITY_METHODS
    if (code := getattr(getattr(tfd.TransformedDistribution, name, None),
                        '__code__', None)) is not None)

# Frames of these packages may lie between the distribution and the bijector.
_TRANSPARENT = ('tensorflow_probability.', 'tensorflow.',
                __name__.partition('.')[0] + '.')


def density_call():
    """Returns the frame of the `TransformedDistribution` call that this serves.

    Returns:
      The innermost such frame, or `None` where the caller is somebody else: a
      user's own code, on whose next line anything may have changed.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _DENSITY_CODES:
            return frame
        if not frame.f_globals.get('__name__', '').startswith(_TRANSPARENT):
            return None
        frame = frame.f_back
    return None
