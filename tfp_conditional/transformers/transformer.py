"""Transformers: parameters -> an invertible scalar map, one for each unit.

A transformer says how many parameters it needs for a unit and builds the map
from them. With all parameters 0 it is the identity, so that a network whose last
layer starts at 0 gives a flow that starts at the identity. A new one is a class
with the two methods of `Transformer`.
"""

import abc

import tensorflow as tf


class Transformer(abc.ABC):
    """An elementwise invertible map, given by parameters.

    Attributes:
      num_parameters: `int` k, parameters for each unit.
      is_constant_jacobian: `bool`, whether the log-det is the same for all x.
      num_features: `int` f, numbers that a network sees of a unit.

    Shapes: units `[..., d]`, parameters `[..., k, d]`: row j is parameter j of
    each unit.
    """

    num_parameters: int
    is_constant_jacobian: bool = False
    num_features: int = 1

    @abc.abstractmethod
    def forward_and_log_det(self, x: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `y [..., d]` and `log |dy/dx| [..., d]`."""

    @abc.abstractmethod
    def inverse_and_log_det(self, y: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `x [..., d]` and `log |dx/dy| [..., d]`."""

    def features(self, units: tf.Tensor) -> tf.Tensor:
        """What a network sees of units `[..., d]` of such maps: `[..., f d]`."""
        return units


def num_features(transformer):
    """Its `num_features`; one of the user's own may say nothing of them, and has 1."""
    return getattr(transformer, 'num_features', 1)


def soften(x, linear_range):
    """`r asinh(x / r)`: x near 0, logarithmic beyond `linear_range`, odd, smooth.

    Keeps any finite number small (3e38 gives 90 r) without ever flattening it.
    """
    return linear_range * tf.asinh(x / linear_range)
