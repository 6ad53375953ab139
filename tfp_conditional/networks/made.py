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
        """Begins to run the same network for one unit after the other.

        What the conditions and the units known so far give to the first layer is
        kept, not multiplied again: a step is one pass of the other hidden layers,
        for the parameters of one unit.

        Args:
          conditions: nest of `[..., S]`.
          batch_shape: that of the units, of N elements in all.

        Returns:
          state: `[N, m]`, the first layer before any unit is known.
          weights: function i -> tensors, for the steps of the unit that comes i-th.
        """
        context = self._context(conditions)
        width = context.shape[-1]
        state = tf.reshape(tf.broadcast_to(
            context, tf.concat([batch_shape, [width]], 0)), [-1, width])
        kernels = [self._masked_kernel(i) for i in range(len(self._kernels))]
        biases = [*self._biases]
        if len(kernels) == 1:   # The first layer is linear, and followed by nothing.
            kernels.append(tf.eye(width, dtype=state.dtype))
            biases.append(tf.zeros([width], state.dtype))
        # From all of parameter 0, then all of parameter 1, to unit by unit.
        columns = np.arange(biases[-1].shape[0]).reshape(
            [self._num_parameters, -1]).T[self._order]
        rows = tf.gather(kernels[0], self._order)
        last_kernel = tf.gather(tf.transpose(kernels[-1]), columns)
        # Reshaped, since the gradient of gathering from a variable is not dense.
        last_bias = tf.gather(tf.reshape(biases[-1], [-1]), columns)
        hidden = [tf.convert_to_tensor(part) for pair in
                  zip(kernels[1:-1], biases[1:-1]) for part in pair]
        return state, lambda i: (rows[i], last_kernel[i], last_bias[i], *hidden)

    def next_parameters(self, state, row, kernel, bias, *hidden):
        """Returns the next unit's parameters, `[N, k, 1]`; see `one_by_one`."""
        activation = (network.activation_function(self._activation)
                      if len(self._kernels) > 1 else tf.identity)
        units = activation(state)
        for weights, biases in zip(hidden[::2], hidden[1::2]):
            units = activation(tf.matmul(units, weights) + biases)
        return (tf.matmul(units, kernel, transpose_b=True) + bias)[..., tf.newaxis]

    def reveal(self, unit, state, row, *_):
        """Returns the state that knows the next unit, `[N, 1]`, too."""
        return state + soften(unit, network.UNIT_RANGE) * row

    def _context(self, conditions):
        return network.dense(self._condition_spec.concat(conditions),
                              self._condition_kernel) + self._biases[0]

    def _mask(self, i):
        return self._degrees[i][:, np.newaxis] <= self._degrees[i + 1]

    def _masked_kernel(self, i):
        return tf.where(self._mask(i), self._kernels[i], 0.)


def _degrees(units, event_size):
    """Degrees of hidden units: ascending, even, from 0 to D - 1 if there is room."""
    if units >= event_size:
        return np.arange(units) * event_size // units
    return np.arange(units) * (event_size - 1) // max(units - 1, 1)
