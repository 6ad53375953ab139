"""`MADE`: one network for the parameters of each unit given those before it."""

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import seeds
from tfp_conditional.networks import network
from tfp_conditional.transformers.transformer import soften


class MADE(_tfp.Picklable, tf.Module):
    """A network whose parameters for a unit depend on the units before it alone.

    ```none
    h_1 = f(u W_1 + c W_c + b_1),  h_i = f(h_{i-1} W_i + b_i),  p = h_n W + b
    u = r asinh(units / r), r = 10
    ```

    Germain et al. 2015 (arXiv 1502.03509), with conditions: an entry of a kernel
    counts only if the degree of its input is at most that of its output. The unit
    that comes i-th, i = 0 ... D - 1, has degree i + 1 and its parameters have
    degree i; degrees of hidden units go evenly from 0, those that see nothing but
    the conditions, to D - 1. The other entries have gradient 0. In hidden layers
    of at least D units every dependence is there; in narrower ones, parameters
    see the conditions and some of the units before theirs.

    Kernels are He-normal, with the number of entries that count, biases and the
    last layer 0: a new network gives 0.
    """

    def __init__(self, order, condition_spec, num_parameters, hidden_layers,
                 activation, seed, name='made'):
        super().__init__(name=name)
        self._activation = activation
        network.activation_function(activation)
        self._condition_spec = condition_spec
        self._order = order
        self._num_parameters = num_parameters
        place = np.argsort(order)
        self._degrees = (
            place + 1,
            *(_degrees(units, len(order)) for units in
              network.check_hidden_layers(hidden_layers)),
            np.tile(place, num_parameters))
        dtype = condition_spec.dtype
        rng = np.random.default_rng(seeds.resolve_seed(seed))
        masks = [self._mask(i) for i in range(len(self._degrees) - 1)]
        fan_ins = [mask.sum(0) for mask in masks]
        fan_ins[0] += condition_spec.total

        def kernel(mask, fan_in, is_last, label):
            initial = rng.normal(size=mask.shape) * np.sqrt(2. / fan_in)
            return tf.Variable(tf.cast(
                np.where(mask & (not is_last), initial, 0.), dtype), name=label)

        self._condition_kernel = kernel(
            np.ones([condition_spec.total, masks[0].shape[1]], bool), fan_ins[0],
            len(masks) == 1, 'condition_kernel')
        self._kernels = tuple(
            kernel(mask, fan_in, i + 1 == len(masks), f'kernel_{i}')
            for i, (mask, fan_in) in enumerate(zip(masks, fan_ins)))
        self._biases = tuple(
            tf.Variable(tf.zeros([mask.shape[1]], dtype), name=f'bias_{i}')
            for i, mask in enumerate(masks))

    def __call__(self, units, conditions):
        """Returns parameters `[..., k, D]` for units `[..., D]`."""
        activation = network.activation_function(self._activation)
        hidden = self._context(conditions) + network.dense(
            soften(units, network.UNIT_RANGE), self._masked_kernel(0))
        for i, bias in enumerate(self._biases[1:], 1):
            hidden = network.dense(activation(hidden),
                                    self._masked_kernel(i)) + bias
        shape = [self._num_parameters, len(self._order)]
        return tf.reshape(hidden, tf.concat([tf.shape(hidden)[:-1], shape], 0))

    def one_by_one(self, conditions, batch_shape):
        """Returns the same network, to be asked for one unit after the other.

        Args:
          conditions: nest of `[..., S]`.
          batch_shape: that of the units, of N elements in all.
        """
        context = self._context(conditions)
        width = context.shape[-1]
        context = tf.reshape(tf.broadcast_to(
            context, tf.concat([batch_shape, [width]], 0)), [-1, width])
        return _OneByOne(
            context, [self._masked_kernel(i) for i in range(len(self._kernels))],
            self._biases, self._order, network.activation_function(self._activation))

    def _context(self, conditions):
        return network.dense(self._condition_spec.concat(conditions),
                              self._condition_kernel) + self._biases[0]

    def _mask(self, i):
        return self._degrees[i][:, np.newaxis] <= self._degrees[i + 1]

    def _masked_kernel(self, i):
        return tf.where(self._mask(i), self._kernels[i], 0.)


class _OneByOne:
    """A `MADE` for N rows, with what each step needs of it read and cut out.

    What is known at step i is the first layer, `[N, m]`, as the conditions and the i
    units so far make it. So a step multiplies none of them again: it is one pass of
    the other hidden layers, for the parameters of one unit.
    """

    def __init__(self, context, kernels, biases, order, activation):
        self.nothing_known, self._activation = context, activation
        if len(kernels) == 1:   # The first layer is linear, and followed by nothing.
            self._activation = tf.identity
            kernels = [*kernels, tf.eye(context.shape[-1], dtype=context.dtype)]
            biases = [*biases, tf.zeros_like(biases[0])]
        self._hidden = [(kernel, tf.convert_to_tensor(bias))
                        for kernel, bias in zip(kernels[1:-1], biases[1:-1])]
        self._first_kernel = tf.gather(kernels[0], order)
        # From all of parameter 0, then all of parameter 1, to unit by unit.
        columns = np.arange(biases[-1].shape[0]).reshape([-1, len(order)]).T[order]
        self._last_kernel = tf.gather(tf.transpose(kernels[-1]), columns)
        # Reshaped, since the gradient of gathering from a variable is not dense.
        self._last_bias = tf.gather(tf.reshape(biases[-1], [-1]), columns)

    def parameters(self, i, known):
        """Returns those of the unit that comes i-th, `[N, k, 1]`."""
        hidden = self._activation(known)
        for kernel, bias in self._hidden:
            hidden = self._activation(tf.matmul(hidden, kernel) + bias)
        return (tf.matmul(hidden, self._last_kernel[i], transpose_b=True)
                + self._last_bias[i])[..., tf.newaxis]

    def reveal(self, i, unit, known):
        """Returns what is known once unit i, `[N, 1]`, is known, too."""
        return known + soften(unit, network.UNIT_RANGE) * self._first_kernel[i]


def _degrees(units, event_size):
    """Degrees of hidden units: ascending, even, from 0 to D - 1 if there is room."""
    if units >= event_size:
        return np.arange(units) * event_size // units
    return np.arange(units) * (event_size - 1) // max(units - 1, 1)
