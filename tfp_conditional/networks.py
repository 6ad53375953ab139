"""Conditioners: (the untouched units, the conditions) -> parameters."""

import copy

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional import conditions as conditions_lib
from tfp_conditional import transformers

ACTIVATIONS = ('elu', 'gelu', 'leaky_relu', 'relu', 'relu6', 'selu', 'sigmoid',
               'silu', 'softplus', 'softsign', 'tanh')

# Units beyond this are seen by networks on a logarithmic scale. Whatever their
# size, a rounding error in them then moves the parameters by no more than one of
# about 1e-6 does near 0, and no product overflows.
UNIT_RANGE = 10.


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
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(f'`activation` must be a callable or one of '
                         f'{list(ACTIVATIONS)}; got {activation!r}.')
    return getattr(tf.nn, activation)


def check_hidden_layers(hidden_layers):
    """Returns `hidden_layers` as a tuple of positive ints."""
    if isinstance(hidden_layers, (int, str, np.integer)):
        raise TypeError('`hidden_layers` must be a sequence of integers; got '
                        f'{hidden_layers!r}.')
    return tuple(conditions_lib.positive_int(units, f'hidden_layers[{i}]')
                 for i, units in enumerate(hidden_layers))


def dense(x, kernel):
    """`x [..., m] @ kernel [m, n]`, as one 2-D product whatever the rank.

    The gradient of an `einsum` with an ellipsis costs 75 times as much.
    """
    if x.shape.rank == 2:
        return tf.matmul(x, kernel)
    return tf.tensordot(x, kernel, 1)


class MLP(tf.Module):
    """Multilayer perceptron of units and conditions, its last layer 0.

    ```none
    h_1 = f(u W_u + c W_c + b_1),  h_i = f(h_{i-1} W_i + b_i),  p = h_n W + b
    u = r asinh(units / r), r = 10
    ```

    The first layer is a sum, so that conditions whose batch shape is smaller than
    that of the units are multiplied once, not once for each sample.

    Kernels are He-normal, biases and the last layer 0: a new network gives 0.
    """

    def __init__(self, input_size, condition_spec, output_size, hidden_layers,
                 activation, seed, name='mlp'):
        super().__init__(name=name)
        self._activation = activation
        activation_function(activation)
        self._condition_spec = condition_spec
        self._input_size = input_size
        dtype = condition_spec.dtype
        rng = np.random.default_rng(resolve_seed(seed))

        def kernel(shape, fan_in, label):
            initial = rng.normal(scale=np.sqrt(2. / fan_in), size=shape)
            return tf.Variable(tf.cast(initial, dtype), name=label)

        sizes = [*check_hidden_layers(hidden_layers), output_size]
        fan_in = input_size + condition_spec.total
        last = len(sizes) == 1
        self._condition_kernel = kernel([condition_spec.total, sizes[0]], fan_in,
                                        'condition_kernel')
        self._unit_kernel = (kernel([input_size, sizes[0]], fan_in, 'unit_kernel')
                             if input_size else None)
        self._kernels = tuple(kernel([m, n], m, f'kernel_{i + 1}')
                              for i, (m, n) in enumerate(zip(sizes, sizes[1:])))
        self._biases = tuple(tf.Variable(tf.zeros([n], dtype), name=f'bias_{i}')
                             for i, n in enumerate(sizes))
        for variable in ([self._condition_kernel, self._unit_kernel] if last
                         else self._kernels[-1:]):
            if variable is not None:
                variable.assign(tf.zeros_like(variable))

    def __call__(self, units, conditions):
        """Returns parameters `[..., output_size]`.

        Args:
          units: `[..., input_size]`.
          conditions: nest of `[..., S]` that broadcasts to the batch of `units`.
        """
        activation = activation_function(self._activation)
        hidden = dense(self._condition_spec.concat(conditions),
                       self._condition_kernel) + self._biases[0]
        if self._unit_kernel is not None:
            hidden += dense(transformers.soften(units, UNIT_RANGE),
                            self._unit_kernel)
        for kernel, bias in zip(self._kernels, self._biases[1:]):
            hidden = dense(activation(hidden), kernel) + bias
        return hidden


class ForeignConditioner(tf.Module):
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
        with tf.GradientTape() as tape:
            self(tf.zeros([1, input_size], condition_spec.dtype),
                 condition_spec.example())
        tracked = {id(variable) for variable in self.trainable_variables}
        self._untracked_variables = [variable for variable in tape.watched_variables()
                                     if id(variable) not in tracked]

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
        if self._untracked_variables:
            raise TypeError(
                'This conditioner cannot be copied: its variables '
                f'{[v.name for v in self._untracked_variables]} are no attributes of '
                'a tf.Module, so a copy would go on computing with the '
                "original's. Hand over a tf.Module that owns them.")
        clone = object.__new__(type(self))
        memo[id(self)] = clone
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone
