"""What all conditioners share: settings, initial weights, the first layer."""

import abc
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Seed
from tfp_conditional.transformers.transformer import soften

ACTIVATIONS = ('elu', 'gelu', 'leaky_relu', 'relu', 'relu6', 'selu', 'sigmoid',
               'silu', 'softplus', 'softsign', 'tanh')

# Units beyond this are seen by networks on a logarithmic scale. Whatever their
# size, a rounding error in them then moves the parameters by no more than one of
# about 1e-6 does near 0, and no product overflows.
UNIT_RANGE = 10.

CONDITIONING = ('concatenate', 'film', 'glu')


def activation_function(activation):
    """Returns the function of `tf.nn` of that name, or `activation` itself."""
    if activation in ('silu', tf.nn.silu):
        return _silu
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f'`activation` must be a callable or one of '
                         f'{list(ACTIVATIONS)}; got {activation!r}.')
    return getattr(tf.nn, activation)


def _silu(x):
    # That of TensorFlow is a custom gradient, which it registers, and with it the
    # graph, for ever.
    return x * tf.sigmoid(x)


def check_hidden_layers(hidden_layers):
    """Returns `hidden_layers` as a tuple of positive ints."""
    if isinstance(hidden_layers, (int, str, np.integer)):
        raise TypeError('`hidden_layers` must be a sequence of integers; got '
                        f'{hidden_layers!r}.')
    return tuple(conditions_lib.positive_int(units, f'hidden_layers[{i}]')
                 for i, units in enumerate(hidden_layers))


def dense(x, kernel):
    """`x [..., m] @ kernel [m, n]`, as one 2-D product whatever the rank.

    The gradient of an `einsum` with an ellipsis costs 75 times as much, and
    `tf.tensordot` runs a dozen small operations where the batch size is unknown.
    """
    if x.shape.rank == 2:
        return tf.matmul(x, kernel)
    if x.shape.is_fully_defined() or x.shape.rank is None:
        return tf.tensordot(x, kernel, 1)
    product = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel)
    shape = x.shape[:-1] + kernel.shape[-1:]
    product = tf.reshape(product, tf.concat(
        [tf.shape(x)[:-1], kernel.shape[-1:]], 0))
    return tf.ensure_shape(product, shape)


class Conditioner(abc.ABC):
    """The settings of a conditioner, from which every layer builds its own."""

    @abc.abstractmethod
    def build(self, input_size: int, condition_spec: conditions_lib.ConditionSpec,
              output_size: int, seed: Seed) -> Callable[..., Any]:
        """Returns a new network: (units `[..., input_size]`, conditions) ->
        parameters `[..., output_size]`, 0 at first."""


def check_settings(settings):
    """Raises for settings that no conditioner has."""
    activation_function(settings.activation)
    if settings.conditioning not in CONDITIONING:
        raise ValueError(f'`conditioning` must be one of {list(CONDITIONING)}; got '
                         f'{settings.conditioning!r}.')
    if not 0 <= settings.dropout < 1:
        raise ValueError('`dropout` must be at least 0 and less than 1; got '
                         f'{settings.dropout}.')


class Initializer:
    """Makes the variables of a network, of one dtype and from one seed."""

    def __init__(self, dtype, seed):
        self._dtype, self._rng = dtype, np.random.default_rng(seeds.resolve_seed(seed))

    def kernel(self, shape, label, fan_in=None, mask=True):
        """He-normal, 0 where `mask` is not."""
        fan_in = shape[0] if fan_in is None else fan_in
        initial = self._rng.normal(scale=np.sqrt(2. / fan_in), size=shape)
        return tf.Variable(tf.cast(np.where(mask, initial, 0.), self._dtype),
                           name=label)

    def zeros(self, shape, label):
        return tf.Variable(tf.zeros(shape, self._dtype), name=label)


class Modulation(_tfp.Picklable, tf.Module):
    """`m(v; c)` of `MLP`: how conditions enter a hidden layer."""

    def __init__(self, conditioning, condition_size, size, new, name='modulation'):
        super().__init__(name=name)
        self._film = conditioning == 'film'
        count = {'concatenate': 0, 'glu': 1, 'film': 2}[conditioning]
        self._kernels = tuple(new.zeros([condition_size, size], f'modulation_{i}')
                              for i in range(count))
        self._biases = tuple(new.zeros([size], f'modulation_bias_{i}')
                             for i in range(count))

    def __call__(self, hidden, conditions):
        parts = [dense(conditions, kernel) + bias
                 for kernel, bias in zip(self._kernels, self._biases)]
        if self._film:
            # A product of products of conditions must not overflow.
            scale = 1. + soften(parts[0], UNIT_RANGE)
            return hidden * scale + parts[1]
        return hidden * tf.sigmoid(parts[0]) if parts else hidden


class LayerNorm(_tfp.Picklable, tf.Module):
    """`(h - mean) / sqrt(variance + 1e-5) * scale + shift`, over the last axis."""

    def __init__(self, width, new, name='layer_norm'):
        super().__init__(name=name)
        self._scale, self._shift = (new.zeros([width], f'norm_{part}')
                                    for part in ('scale', 'shift'))

    def __call__(self, hidden):
        mean, variance = tf.nn.moments(hidden, [-1], keepdims=True)
        return ((hidden - mean) * tf.math.rsqrt(variance + 1e-5)
                * (1. + self._scale) + self._shift)


class Network(_tfp.Picklable, tf.Module):
    """What all networks begin with, `u W_u + c W_c`."""

    def __init__(self, input_size, condition_spec, width, new, name):
        super().__init__(name=name)
        self._condition_spec = condition_spec
        fan_in = input_size + condition_spec.total
        self._condition_kernel = new.kernel([condition_spec.total, width],
                                            'condition_kernel', fan_in)
        self._unit_kernel = new.kernel([input_size, width], 'unit_kernel',
                                       fan_in) if input_size else None

    def _first(self, units, conditions, bias):
        hidden = dense(conditions, self._condition_kernel) + bias
        if self._unit_kernel is not None:
            hidden += dense(soften(units, UNIT_RANGE),
                            self._unit_kernel)
        return hidden
