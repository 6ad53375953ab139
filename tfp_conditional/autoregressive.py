"""`ConditionalMaskedAutoregressiveFlow`: each unit given those before it."""

import numpy as np
import tensorflow as tf

from tfp_conditional import _tfp
from tfp_conditional import bijector
from tfp_conditional import chain
from tfp_conditional import conditions as conditions_lib
from tfp_conditional import coupling
from tfp_conditional import networks
from tfp_conditional import real_nvp
from tfp_conditional import settings
from tfp_conditional import transformers


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
        networks.activation_function(activation)
        self._condition_spec = condition_spec
        self._order = order
        self._num_parameters = num_parameters
        place = np.argsort(order)
        self._degrees = (
            place + 1,
            *(_degrees(units, len(order)) for units in
              networks.check_hidden_layers(hidden_layers)),
            np.tile(place, num_parameters))
        dtype = condition_spec.dtype
        rng = np.random.default_rng(networks.resolve_seed(seed))
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
        activation = networks.activation_function(self._activation)
        hidden = self._context(conditions) + networks.dense(
            transformers.soften(units, networks.UNIT_RANGE), self._masked_kernel(0))
        for i, bias in enumerate(self._biases[1:], 1):
            hidden = networks.dense(activation(hidden),
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
        activation = (networks.activation_function(self._activation)
                      if len(self._kernels) > 1 else tf.identity)
        units = activation(state)
        for weights, biases in zip(hidden[::2], hidden[1::2]):
            units = activation(tf.matmul(units, weights) + biases)
        return (tf.matmul(units, kernel, transpose_b=True) + bias)[..., tf.newaxis]

    def reveal(self, unit, state, row, *_):
        """Returns the state that knows the next unit, `[N, 1]`, too."""
        return state + transformers.soften(unit, networks.UNIT_RANGE) * row

    def _context(self, conditions):
        return networks.dense(self._condition_spec.concat(conditions),
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


class ConditionalAutoregressive(bijector.ConditionalBijector):
    """One layer of a masked autoregressive flow, conditioned.

    ```none
    forward:  y_i = T(x_i; p_i(y_<i, c))          log-det =  sum_i log |dT/dx_i|
    inverse:  x_i = T^-1(y_i; p_i(y_<i, c))       log-det = -sum_i log |dT/dx_i|
    ```

    `y_<i` are the units that come before unit i in `order`, T is the transformer,
    and p is one `MADE` (Papamakarios et al. 2017, arXiv 1705.07057). `inverse`, the
    density, is one pass of it for all units. `forward`, the sample, computes one
    unit after the other, by D passes of the hidden layers. For fast samples and
    slow densities turn the layer around: `tfb.Invert(layer)` in a
    `ConditionalChain` is a layer of an inverse autoregressive flow (Kingma et al.
    2016, arXiv 1606.04934).

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfb = tfp.bijectors

    layer = tfpc.ConditionalAutoregressive(event_size=4, condition_size=3)
    x = layer.inverse(tf.ones([5, 4]), conditions=tf.ones([5, 3]))   # one pass
    fast_sampler = tfpc.ConditionalChain([tfb.Invert(layer)])
    y = fast_sampler.forward(tf.ones([5, 4]), conditions=tf.ones([5, 3]))
    ```
    """

    def __init__(self, event_size, condition_size, order=None,
                 hidden_layers=(128, 128), activation='relu', transformer='affine',
                 dtype=tf.float32, seed=None, validate_args=False,
                 name='conditional_autoregressive'):
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1; with 1 the parameters come from the conditions
            alone.
          condition_size: `int` S, or a nest of `int`.
          order: D integers, a permutation of 0 ... D - 1: the indices of the units
            in the order in which they come. Default: 0, 1, ... D - 1.
          hidden_layers: widths of the network's hidden layers; at least D, if each
            unit is to depend on all before it.
          activation: its activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`, or a
            `Transformer`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.

        Raises:
          TypeError, ValueError: for an `order` that is no permutation, and for
            sizes that are no positive integers.
        """
        parameters = dict(locals())
        self._transformer = coupling.get_transformer(transformer)
        super().__init__(
            event_size, condition_size, dtype=dtype, validate_args=validate_args,
            parameters=parameters, name=name)
        self._order = _check_order(order, self.event_size)
        with tf.name_scope(self.name):
            self._network = MADE(
                self._order, self._condition_spec, self._transformer.num_parameters,
                hidden_layers, activation, seed)
        self._settings = settings.Settings(
            self.name, condition_size=self.condition_size, order=self._order,
            transformer=self._transformer, hidden_layers=hidden_layers,
            activation=activation)

    def _forward_and_log_det(self, x, conditions):
        network, size = self._network, self.event_size
        state, weights = network.one_by_one(conditions, tf.shape(x)[:-1])
        units = tf.reshape(tf.gather(x, self._order, axis=-1), [-1, size])

        def step(i, units, log_det, state):
            # The next unit is the first, and goes to the end.
            unit, unit_log_det = self._transformer.forward_and_log_det(
                units[:, :1], network.next_parameters(state, *weights(i)))
            new_state = network.reveal(unit, state, *weights(i))
            return (i + 1,
                    tf.ensure_shape(tf.concat([units[:, 1:], unit], 1), units.shape),
                    tf.ensure_shape(log_det + unit_log_det[:, 0], log_det.shape),
                    tf.ensure_shape(new_state, state.shape))

        _, units, log_det, _ = tf.while_loop(
            lambda i, *_: i < size, step,
            (0, units, tf.zeros_like(units[:, 0]), state), maximum_iterations=size)
        y = tf.gather(units, np.argsort(self._order), axis=-1)
        return tf.reshape(y, tf.shape(x)), tf.reshape(log_det, tf.shape(x)[:-1])

    def _inverse_and_log_det(self, y, conditions):
        x, log_det = self._transformer.inverse_and_log_det(
            y, self._network(y, conditions))
        return x, tf.reduce_sum(log_det, -1)


def _check_order(order, event_size):
    """Returns `order` as an array, or raises."""
    if order is None:
        return np.arange(event_size)
    order = np.asarray(order)
    if order.dtype.kind not in 'iu':
        raise TypeError(f'`order` must be integers; got dtype {order.dtype}.')
    if not np.array_equal(np.sort(order, None), np.arange(event_size)):
        raise ValueError(f'`order` must be a permutation of 0 ... {event_size - 1}; '
                         f'got {order.tolist()}.')
    return order


class ConditionalMaskedAutoregressiveFlow(chain.ConditionalChain):
    """Masked autoregressive flow (Papamakarios et al. 2017), conditioned.

    A stack of `ConditionalAutoregressive`, every other one in reversed order, so
    that two of them transform each unit given all others. A density is one pass of
    each network; a sample is D passes. Where samples have to be fast and densities
    need not, `tfpc.ConditionalChain([tfb.Invert(flow)])` is the inverse
    autoregressive flow (Kingma et al. 2016, arXiv 1606.04934).

    A new flow is the identity, for every condition: the last layer of each
    network starts at 0.

    #### Shapes

    `x`, `y`: `[..., D]`, `conditions`: `[..., S]`; batch shapes broadcast,
    right-aligned. `forward` refuses to expand `x`; see `ConditionalBijector`.

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalMaskedAutoregressiveFlow(
        event_size=4, condition_size=3, num_layers=2, seed=0)
    posterior = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros(4), 1.), 1), flow)
    observations = tf.ones([256, 3])
    log_probs = posterior.log_prob(
        tf.zeros([256, 4]), bijector_kwargs={'conditions': observations})
    samples = posterior.sample(256, bijector_kwargs={'conditions': observations})
    assert samples.shape == [256, 4]
    ```
    """

    def __init__(self, event_size, condition_size, num_layers=5,
                 hidden_layers=(128, 128), activation='relu', transformer='affine',
                 dtype=tf.float32, seed=None, validate_args=False,
                 name='conditional_masked_autoregressive_flow'):
        """Constructs the flow; all its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          condition_size: `int` S >= 1, or a nest of `int` for a nest of tensors.
          num_layers: `int` >= 1; each transforms every unit.
          hidden_layers: widths of the hidden layers of each network; at least D,
            if each unit is to depend on all before it.
          activation: their activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`, or a
            `Transformer`. The layers of `'affine'` together scale a unit by exp(8)
            at most, however many they are; for another bound give an
            `Affine(max_log_scale)`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights; layers get different
            ones.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what
            came.
        """
        parameters = dict(locals())
        event_size = conditions_lib.positive_int(event_size, 'event_size')
        count = conditions_lib.positive_int(num_layers, 'num_layers')
        if isinstance(transformer, str) and transformer == 'affine':
            transformer = transformers.Affine(real_nvp.TOTAL_LOG_SCALE / count)
        entropy = networks.resolve_seed(seed)
        order = np.arange(event_size)
        with tf.name_scope(name):
            layers = [ConditionalAutoregressive(
                event_size, condition_size, order if i % 2 == 0 else order[::-1],
                hidden_layers, activation, transformer, dtype, seed=(*entropy, i),
                name=f'layer_{i}') for i in range(count)]
        super().__init__(layers, validate_args=validate_args, parameters=parameters,
                         name=name)
