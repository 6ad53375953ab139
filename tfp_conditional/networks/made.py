"""`MADE`: one network for the parameters of each unit given those before it."""

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core.dropout import dropout
from tfp_conditional.networks import network
from tfp_conditional.transformers.transformer import soften


class MADE(_tfp.Picklable, tf.Module):
    """An `MLP` with masks: parameters for a unit depend on those before it alone.

    ```none
    h_1 = u W_1 + c W_c + b_1,  h_i = m(f(h_{i-1}) W_i + b_i; c),  p = f(h_n) W + b
    ```

    Germain et al. 2015 (arXiv 1502.03509), with conditions: an entry of a kernel
    counts only if the degree of its input is at most that of its output. The unit
    that comes i-th, i = 0 ... D - 1, has degree i + 1 and its parameters have
    degree i; degrees of hidden units go evenly from 0, those that see nothing but
    the conditions, to D - 1. The other entries have gradient 0. In hidden layers
    of at least D units every dependence is there; in narrower ones, parameters
    see the conditions and some of the units before theirs.

    u and m are those of `MLP`. m and dropout act on each hidden unit by itself, and
    need no masks. Kernels are He-normal, with the number of entries that count,
    biases and the last layer 0: a new network gives 0.
    """

    def __init__(self, order, condition_spec, num_parameters, settings, seed,
                 name='made'):
        super().__init__(name=name)
        self._activation, self._dropout = settings.activation, settings.dropout
        self._condition_spec = condition_spec
        self._order = order
        self._num_parameters = num_parameters
        place = np.argsort(order)
        self._degrees = (
            place + 1,
            *(_degrees(units, len(order)) for units in settings.hidden_layers),
            np.tile(place, num_parameters))
        new = network.Initializer(condition_spec.dtype, seed)
        last = len(settings.hidden_layers)
        masks = [self._mask(i) for i in range(last + 1)]
        fan_ins = [mask.sum(0) for mask in masks]
        fan_ins[0] += condition_spec.total
        self._condition_kernel = new.kernel(
            [condition_spec.total, masks[0].shape[1]], 'condition_kernel', fan_ins[0],
            last > 0)
        self._kernels = tuple(
            new.kernel(mask.shape, f'kernel_{i}', fan_in, mask & (i < last))
            for i, (mask, fan_in) in enumerate(zip(masks, fan_ins)))
        self._biases = tuple(new.zeros([mask.shape[1]], f'bias_{i}')
                             for i, mask in enumerate(masks))
        self._modulations = tuple(
            network.Modulation(settings.conditioning, condition_spec.total, units, new)
            for units in settings.hidden_layers[1:])

    def __call__(self, units, conditions):
        """Returns parameters `[..., k, D]` for units `[..., D]`."""
        activation = network.activation_function(self._activation)
        conditions = self._condition_spec.concat(conditions)
        hidden = self._context(conditions) + network.dense(
            soften(units, network.UNIT_RANGE), self._masked_kernel(0))
        for i, bias in enumerate(self._biases[1:], 1):
            hidden = dropout(activation(hidden), self._dropout)
            hidden = network.dense(hidden, self._masked_kernel(i)) + bias
            if i <= len(self._modulations):
                hidden = self._modulations[i - 1](hidden, conditions)
        shape = [self._num_parameters, len(self._order)]
        return tf.reshape(hidden, tf.concat([tf.shape(hidden)[:-1], shape], 0))

    def one_by_one(self, conditions, batch_shape):
        """Returns the same network, to be asked for one unit after the other.

        Args:
          conditions: nest of `[..., S]`.
          batch_shape: that of the units, of N elements in all.
        """
        def rows(x):
            width = x.shape[-1]
            return tf.reshape(tf.broadcast_to(
                x, tf.concat([batch_shape, [width]], 0)), [-1, width])

        conditions = self._condition_spec.concat(conditions)
        return _OneByOne(self, rows(self._context(conditions)), rows(conditions))

    def _context(self, conditions):
        return network.dense(conditions, self._condition_kernel) + self._biases[0]

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

    def __init__(self, made, context, conditions):
        self.nothing_known, self._conditions = context, conditions
        self._activation = network.activation_function(made._activation)
        self._dropout = made._dropout
        kernels = [made._masked_kernel(i) for i in range(len(made._kernels))]
        biases = [tf.convert_to_tensor(bias) for bias in made._biases]
        if len(kernels) == 1:   # The first layer is linear, and followed by nothing.
            self._activation, self._dropout = tf.identity, 0.
            kernels.append(tf.eye(context.shape[-1], dtype=context.dtype))
            biases.append(tf.zeros_like(biases[0]))
        self._hidden = list(zip(kernels[1:-1], biases[1:-1], made._modulations))
        self._first_kernel = tf.gather(kernels[0], made._order)
        # From all of parameter 0, then all of parameter 1, to unit by unit.
        columns = np.arange(kernels[-1].shape[1]).reshape(
            [made._num_parameters, -1]).T[made._order]
        self._last_kernel = tf.gather(tf.transpose(kernels[-1]), columns)
        # Reshaped, since the gradient of gathering from a variable is not dense.
        self._last_bias = tf.gather(tf.reshape(biases[-1], [-1]), columns)

    def parameters(self, i, known):
        """Returns those of the unit that comes i-th, `[N, k, 1]`."""
        hidden = self._activate(known)
        for kernel, bias, modulation in self._hidden:
            hidden = modulation(tf.matmul(hidden, kernel) + bias, self._conditions)
            hidden = self._activate(hidden)
        return (tf.matmul(hidden, self._last_kernel[i], transpose_b=True)
                + self._last_bias[i])[..., tf.newaxis]

    def reveal(self, i, unit, known):
        """Returns what is known once unit i, `[N, 1]`, is known, too."""
        return known + soften(unit, network.UNIT_RANGE) * self._first_kernel[i]

    def _activate(self, hidden):
        return dropout(self._activation(hidden), self._dropout)


def _degrees(units, event_size):
    """Degrees of hidden units: ascending, even, from 0 to D - 1 if there is room."""
    if units >= event_size:
        return np.arange(units) * event_size // units
    return np.arange(units) * (event_size - 1) // max(units - 1, 1)
