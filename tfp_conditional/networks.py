"""Conditioners: (the untouched units, the conditions) -> parameters."""

import abc
import copy
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional import _tfp
from tfp_conditional import conditions as conditions_lib
from tfp_conditional import transformers
from tfp_conditional.dropout import dropout

ACTIVATIONS = ('elu', 'gelu', 'leaky_relu', 'relu', 'relu6', 'selu', 'sigmoid',
               'silu', 'softplus', 'softsign', 'tanh')

# Units beyond this are seen by networks on a logarithmic scale. Whatever their
# size, a rounding error in them then moves the parameters by no more than one of
# about 1e-6 does near 0, and no product overflows.
UNIT_RANGE = 10.

CONDITIONING = ('concatenate', 'film', 'glu')


def resolve_seed(seed):
    """Returns entropy for `numpy.random.default_rng`: a tuple of ints.

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
    def build(self, input_size, condition_spec, output_size, seed):
        """Returns a new network: (units `[..., input_size]`, conditions) ->
        parameters `[..., output_size]`, 0 at first."""


@dataclasses.dataclass(frozen=True)
class MLP(Conditioner):
    """Multilayer perceptron of units and conditions, its last layer 0 at first.

    ```none
    h_1 = u W_u + c W_c + b_1,  h_i = m(f(h_{i-1}) W_i + b_i; c),  p = f(h_n) W + b
    u = r asinh(units / r), r = 10
    m(v; c) = v, or v (1 + c G + g) + c B, or v sigmoid(c G + g)
    ```

    The first layer is a sum, so that conditions whose batch shape is smaller than
    that of the units are multiplied once, not once for each sample.

    Kernels are He-normal, biases and the last layer 0: a new network gives 0.

    ```python
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalRealNVP(
        6, 17, conditioner=tfpc.MLP((64, 64), 'silu', conditioning='film'))
    ```

    Attributes:
      hidden_layers: widths of the hidden layers.
      activation: their activation: a callable or a name, as in `tf.nn`.
      conditioning: how the conditions enter after the first layer: not, for
        `'concatenate'`; by `'film'` (Perez et al. 2018) or by a gated linear unit,
        `'glu'` (Dauphin et al. 2017).
      dropout: fraction of hidden units dropped in training; see `tfpc.training`.
    """

    hidden_layers: Any = (128, 128)
    activation: Any = 'relu'
    conditioning: str = 'concatenate'
    dropout: float = 0.

    def __post_init__(self):
        object.__setattr__(self, 'hidden_layers',
                           check_hidden_layers(self.hidden_layers))
        check_settings(self)

    def build(self, input_size, condition_spec, output_size, seed):
        return MLPNetwork(input_size, condition_spec, output_size, seed=seed,
                          **vars(self))


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
        self._dtype, self._rng = dtype, np.random.default_rng(resolve_seed(seed))

    def kernel(self, shape, label, fan_in=None):
        """He-normal."""
        initial = self._rng.normal(scale=np.sqrt(2. / (fan_in or shape[0])),
                                   size=shape)
        return tf.Variable(tf.cast(initial, self._dtype), name=label)

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
            scale = 1. + transformers.soften(parts[0], UNIT_RANGE)
            return hidden * scale + parts[1]
        return hidden * tf.sigmoid(parts[0]) if parts else hidden


class _Network(_tfp.Picklable, tf.Module):
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
            hidden += dense(transformers.soften(units, UNIT_RANGE),
                            self._unit_kernel)
        return hidden


class MLPNetwork(_Network):
    """The network of an `MLP`."""

    def __init__(self, input_size, condition_spec, output_size, hidden_layers,
                 activation='relu', conditioning='concatenate', dropout=0.,
                 seed=None):
        new = Initializer(condition_spec.dtype, seed)
        sizes = [*hidden_layers, output_size]
        super().__init__(input_size, condition_spec, sizes[0], new, 'mlp')
        self._activation, self._dropout = activation, dropout
        self._kernels = tuple(new.kernel([m, n], f'kernel_{i + 1}')
                              for i, (m, n) in enumerate(zip(sizes, sizes[1:])))
        self._biases = tuple(new.zeros([n], f'bias_{i}')
                             for i, n in enumerate(sizes))
        self._modulations = tuple(
            Modulation(conditioning, condition_spec.total, n, new)
            for n in hidden_layers[1:])
        for variable in (self._kernels[-1:] or
                         [self._condition_kernel, self._unit_kernel]):
            if variable is not None:
                variable.assign(tf.zeros_like(variable))

    def __call__(self, units, conditions):
        """Returns parameters `[..., output_size]`.

        Args:
          units: `[..., input_size]`.
          conditions: nest of `[..., S]` that broadcasts to the batch of `units`.
        """
        activation = activation_function(self._activation)
        conditions = self._condition_spec.concat(conditions)
        hidden = self._first(units, conditions, self._biases[0])
        for i, (kernel, bias) in enumerate(zip(self._kernels, self._biases[1:])):
            hidden = dense(dropout(activation(hidden), self._dropout), kernel) + bias
            if i < len(self._modulations):
                hidden = self._modulations[i](hidden, conditions)
        return hidden


@dataclasses.dataclass(frozen=True)
class ResidualNetwork(Conditioner):
    """Residual network of units and conditions (He et al. 2016, pre-activated).

    ```none
    h_0 = u W_u + c W_c + b
    h_i = h_{i-1} + f(m(f(n(h_{i-1})) W_i + b_i; c)) V_i + v_i,  p = f(n(h_n)) W + b
    ```

    u, m and the initial weights are those of `MLP`, n is layer normalization or
    nothing; V_i and W are 0 at first.

    ```python
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalRealNVP(
        6, 17, conditioner=tfpc.ResidualNetwork(64, num_blocks=2, dropout=0.1))
    ```

    Attributes:
      width: `int`, number of hidden units.
      num_blocks: `int` >= 1.
      activation, conditioning, dropout: as in `MLP`.
      layer_norm: `bool` (Ba et al. 2016).
    """

    width: int = 128
    num_blocks: int = 2
    activation: Any = 'relu'
    conditioning: str = 'glu'
    layer_norm: bool = False
    dropout: float = 0.

    def __post_init__(self):
        conditions_lib.positive_int(self.width, 'width')
        conditions_lib.positive_int(self.num_blocks, 'num_blocks')
        check_settings(self)

    def build(self, input_size, condition_spec, output_size, seed):
        return _Residual(self, input_size, condition_spec, output_size, seed)


class _Residual(_Network):
    """The network of a `ResidualNetwork`."""

    def __init__(self, settings, input_size, condition_spec, output_size, seed):
        new, width = Initializer(condition_spec.dtype, seed), settings.width
        super().__init__(input_size, condition_spec, width, new, 'residual_network')
        self._settings = settings
        self._bias = new.zeros([width], 'bias')
        self._blocks = tuple({
            'norm': LayerNorm(width, new) if settings.layer_norm else None,
            'kernel': new.kernel([width, width], f'kernel_{i}'),
            'bias': new.zeros([width], f'bias_{i}'),
            'modulate': Modulation(settings.conditioning, condition_spec.total,
                                   width, new),
            'kernel_out': new.zeros([width, width], f'kernel_out_{i}'),
            'bias_out': new.zeros([width], f'bias_out_{i}'),
        } for i in range(settings.num_blocks))
        self._norm = LayerNorm(width, new) if settings.layer_norm else None
        self._kernel_out = new.zeros([width, output_size], 'kernel_out')
        self._bias_out = new.zeros([output_size], 'bias_out')

    def __call__(self, units, conditions):
        activation = activation_function(self._settings.activation)
        conditions = self._condition_spec.concat(conditions)
        hidden = self._first(units, conditions, self._bias)
        for block in self._blocks:
            branch = activation(_normed(hidden, block['norm']))
            branch = dense(branch, block['kernel']) + block['bias']
            branch = activation(block['modulate'](branch, conditions))
            branch = dropout(branch, self._settings.dropout)
            hidden += dense(branch, block['kernel_out']) + block['bias_out']
        hidden = activation(_normed(hidden, self._norm))
        return dense(hidden, self._kernel_out) + self._bias_out


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


def _normed(hidden, norm):
    return hidden if norm is None else norm(hidden)


class ForeignConditioner(_tfp.Picklable, tf.Module):
    """A user's conditioner: its output checked, its variables tracked.

    Variables are found by running it once, so those of a Keras model, or of a
    network in a closure, count like those of a `tf.Module`.
    """

    def __init__(self, conditioner, input_size, condition_spec, output_size,
                 name='conditioner'):
        super().__init__(name=name)
        if not callable(conditioner):
            raise TypeError('`conditioner` must be a callable (units, conditions) -> '
                            f'parameters; got {type(conditioner).__name__}.')
        self._conditioner = conditioner
        self._condition_spec = condition_spec
        self._output_size = output_size
        self._untracked_variables = untracked(self, lambda: self(
            tf.zeros([1, input_size], condition_spec.dtype),
            condition_spec.example()))

    def __call__(self, units, conditions):
        # A network of the user's, which mostly concatenates, need not know that
        # conditions may have a smaller batch shape.
        batch = tf.shape(units)[:-1]
        conditions = tf.nest.map_structure(
            lambda leaf: leaf if (units.shape[:-1].is_fully_defined()
                                  and leaf.shape[:-1] == units.shape[:-1])
            else tf.ensure_shape(
                tf.broadcast_to(leaf, tf.concat([batch, tf.shape(leaf)[-1:]], 0)),
                units.shape[:-1] + leaf.shape[-1:]),
            conditions)
        parameters = self._conditioner(units, conditions)
        want = units.shape[:-1] + [self._output_size]
        if not tf.is_tensor(parameters):
            raise TypeError('`conditioner` must return one tensor; got '
                            f'{type(parameters).__name__}.')
        if parameters.dtype != self._condition_spec.dtype:
            raise TypeError('`conditioner` must return dtype '
                            f'{self._condition_spec.dtype.name}; got '
                            f'{parameters.dtype.name}.')
        if not parameters.shape.is_compatible_with(want):
            raise ValueError(
                f'`conditioner` must return shape {want.as_list()} for units of '
                f'shape {units.shape.as_list()}: all of parameter 0, then all of '
                f'parameter 1, and so on; got {parameters.shape.as_list()}.')
        return parameters

    def __deepcopy__(self, memo):
        return copy_owner(self, memo, 'conditioner')


def untracked(module, run):
    """The variables that a function reads and a module does not know of."""
    with tf.GradientTape() as tape:
        run()
    tracked = {id(variable) for variable in module.trainable_variables}
    return [variable for variable in tape.watched_variables()
            if id(variable) not in tracked]


def copy_owner(module, memo, network):
    """`copy.deepcopy` of a module with a network of the user's, or a refusal."""
    if module._untracked_variables:
        raise TypeError(
            f'This {network} cannot be copied: its variables '
            f'{[v.name for v in module._untracked_variables]} are no attributes of a '
            "tf.Module, so a copy would go on computing with the original's. Hand "
            'over a tf.Module that owns them.')
    return copy_attributes(module, memo)


def copy_attributes(module, memo):
    """What `copy.deepcopy` does with a class that has no `__deepcopy__`."""
    clone = object.__new__(type(module))
    memo[id(module)] = clone
    clone.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return clone
