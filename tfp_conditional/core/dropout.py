"""`dropout`, and `training`, the context in which it is on."""

from collections.abc import Iterator
import contextlib
import threading
from typing import Any

import tensorflow as tf

from tfp_conditional.core.types import Seed


class _Training(threading.local):
    """Whether this thread trains, and where its noise comes from."""

    active, count = False, 0
    seed: Any = None


_training = _Training()


@contextlib.contextmanager
def training(seed: Seed | None = None) -> Iterator[None]:
    """Context in which dropout is on, as `fit` sets it around a training step.

    It counts where Python runs: a `tf.function` keeps what it was traced with, and
    passes that are called eagerly run op by op.

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    layer = tfpc.ConditionalCoupling(
        4, 3, conditioner=tfpc.ResidualNetwork(width=16, dropout=0.1))
    with tfpc.training(seed=[1, 2]):
        y = layer.forward(tf.ones([5, 4]), conditions=tf.ones([5, 3]))
    ```

    Args:
      seed: stateless seed, two integers, or `None` for TensorFlow's own generator.
    """
    before = dict(vars(_training))
    _training.active, _training.seed, _training.count = True, seed, 0
    try:
        yield
    finally:
        vars(_training).clear()
        vars(_training).update(before)


def is_training():
    """Returns whether this is inside `training()`."""
    return _training.active


def noise_seed():
    """A stateless seed in training, another at each call."""
    if _training.seed is None:
        return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    _training.count += 1
    return tf.random.experimental.stateless_fold_in(
        tf.cast(_training.seed, tf.int64), _training.count)


def dropout(x, rate):
    """`x` with a fraction of its entries 0 and the rest scaled up, in training."""
    if not rate or not _training.active:
        return x
    if _training.seed is None:
        noise = tf.random.uniform(tf.shape(x), dtype=x.dtype)
    else:
        noise = tf.random.stateless_uniform(tf.shape(x), noise_seed(), dtype=x.dtype)
    return tf.where(noise >= rate, x / (1. - rate), tf.zeros_like(x))
