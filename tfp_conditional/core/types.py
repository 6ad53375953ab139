"""Names for what signatures take. To a type checker TensorFlow's own types are `Any`."""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any, TypeAlias, TypeVar

import numpy.typing as npt
import tensorflow as tf

TensorLike: TypeAlias = tf.Tensor | tf.Variable | npt.ArrayLike

# What becomes a tensor, or the containers of it that `tf.nest` knows.
Nest: TypeAlias = TensorLike | Mapping[Any, Any] | Sequence[Any]
Conditions: TypeAlias = Nest

# An `int`, a `tf.TensorSpec`, or a nest of them.
Sizes: TypeAlias = int | tf.TensorSpec | Mapping[Any, Any] | Sequence[Any]

Shape: TypeAlias = int | Sequence[int | None] | tf.TensorShape | tf.Tensor
DType: TypeAlias = tf.DType | npt.DTypeLike
Seed: TypeAlias = int | Sequence[int] | tf.Tensor
Activation: TypeAlias = str | Callable[[tf.Tensor], tf.Tensor]
Path: TypeAlias = str | os.PathLike[str]

_Function = TypeVar('_Function', bound=Callable[..., Any])


def do_not_convert(function: _Function) -> _Function:
    """TensorFlow's decorator of that name, which leaves a function its types."""
    return tf.autograph.experimental.do_not_convert(function)
