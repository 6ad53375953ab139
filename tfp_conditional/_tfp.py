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

3. `is_sampling`: `tfb.Invert(flow)` draws by `flow.inverse`, which may expand its
   argument for a density, but must not for a sample.
"""

import sys

import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions

Invert = tfb.Invert.__mro__[1]
Chain = tfb.Chain.__mro__[1]

# The methods that ask for a value and then for its log-det, and those that draw.
_DENSITY_METHODS = ('experimental_local_measure', '_sample_and_log_prob')
_SAMPLING_METHODS = ('_call_sample_n', '_sample_and_log_prob')


def _codes(methods):
    found = (getattr(tfd.TransformedDistribution, name, None) for name in methods)
    return frozenset(method.__code__ for method in found
                     if hasattr(method, '__code__'))


_DENSITY_CODES, _SAMPLING_CODES = _codes(_DENSITY_METHODS), _codes(_SAMPLING_METHODS)

# Frames of these packages may lie between the distribution and the bijector.
_TRANSPARENT = ('tensorflow_probability.', 'tensorflow.',
                __name__.partition('.')[0] + '.')


def density_call():
    """Returns the frame of the `TransformedDistribution` call that this serves.

    Returns:
      The innermost such frame, or `None` where the caller is somebody else: a
      user's own code, on whose next line anything may have changed.
    """
    return _enclosing_call(_DENSITY_CODES)


def is_sampling():
    """Returns whether this serves a `TransformedDistribution` that draws a sample."""
    return _enclosing_call(_SAMPLING_CODES) is not None


def _enclosing_call(codes):
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code in codes:
            return frame
        if not frame.f_globals.get('__name__', '').startswith(_TRANSPARENT):
            return None
        frame = frame.f_back
    return None
