"""Whatever a user gives for a seed, as entropy for NumPy, and for TFP."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp


def resolve_seed(seed):
    """Returns entropy for `numpy.random.default_rng`: a tuple of ints.

    Of such a tuple it is that tuple. Constructors ask before they note their arguments,
    so that a seed that was drawn is one of them, and `to_config` has it.

    Args:
      seed: `int`, tuple of ints, a TFP stateless seed, or `None` for one drawn
        from TensorFlow's global generator (so that `tf.random.set_seed` and
        `keras.utils.set_random_seed` hold).
    """
    if isinstance(seed, (int, np.integer)):
        return (int(seed) % 2**64,)
    if isinstance(seed, tuple):
        return tuple(int(part) % 2**64 for part in seed)
    with tf.init_scope():
        seed = tfp.random.sanitize_seed(seed)
        return tuple(int(part) % 2**64 for part in seed.numpy())


def stateless(entropy, *key):
    """Returns a TFP stateless seed `[2]`, another for each key of ints.

    Args:
      entropy: of `resolve_seed`.
      *key: what the seed is for.
    """
    state = np.random.SeedSequence((*entropy, *key)).generate_state(2)
    return tf.constant(state.view(np.int32))
