"""All that this package needs of TFP and TensorFlow beyond their public interfaces.

Nothing here is part of anybody's promise, so nothing of it stands anywhere else,
and `tests/test_tfp_internals.py` fails with an explanation when it moves.

`tfb.Invert(bijector)`, `tfb.Chain(bijectors)` and `tfd.TransformedDistribution(base,
bijector)` return instances of private parent classes when a part is no composite
tensor, so `isinstance(b, tfb.Invert)` is not the test that it looks like, and a
class that is to be what they return derives from the parent.

`is_drawing`: a stock distribution over `tfb.Invert(flow)` draws by `flow.inverse`,
which may expand its argument for a density, but must not for a sample. TFP works in a
name scope of the method that was called, which is all that tells the two apart.

`freeze`: a concrete function with constants for all that it captures. A copy of a
flow with arrays in the place of its variables would be public, and no flow of a
user's network.

`uncached`: TFP's cache of what bijectors computed keeps the graph of a trace for ever,
since each output in it holds its input, whose graph holds the output.

`Picklable`: TensorFlow tracks the parts of a `tf.Module` as its attributes are set,
lists of parts in wrappers of its own. pickle makes plain lists of them and sets no
attribute, and what it loads could be saved in no checkpoint.

`tf.saved_model.save` asks an object for its parts, functions among them, by
`_trackable_children(save_type)`, where that type is `SAVED_MODEL`.
"""

import contextlib
import re

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow.python.framework import convert_to_constants

tfb, tfd = tfp.bijectors, tfp.distributions

Invert = tfb.Invert.__mro__[1]
Chain = tfb.Chain.__mro__[1]
TransformedDistribution = tfd.TransformedDistribution.__mro__[1]

freeze = convert_to_constants.convert_variables_to_constants_v2

SAVED_MODEL = 'savedmodel'

_DRAWING = re.compile(r'/sample(_and_log_prob)?(_\d+)?/[^/]+/inverse(_\d+)?$')


def is_drawing():
    """Whether this, in a bijector's `inverse`, serves a stock distribution's sample."""
    return _DRAWING.search(tf.get_current_name_scope()) is not None


@contextlib.contextmanager
def uncached():
    """Context whose stock bijectors leave nothing in TFP's cache."""
    storage = tfb.Bijector._cache.storage
    before = set(map(id, storage))
    try:
        yield
    finally:
        for key in [key for key in storage if id(key) not in before]:
            key.cancel()
            del storage[key]


class Picklable:
    """A `tf.Module` that TensorFlow tracks again when pickle has loaded it."""

    def __setstate__(self, state):
        for key, value in state.items():
            if not key.startswith('_self_'):     # What was tracked before.
                setattr(self, key, value)
