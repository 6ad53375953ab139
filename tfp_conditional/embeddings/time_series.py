"""`TimeSeriesNetwork`: series, by dilated causal convolutions."""

import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Activation, DType, Seed
from tfp_conditional.embeddings import embedding
from tfp_conditional.networks import network

_TAPS = 3


class TimeSeriesNetwork(embedding.Embedding):
    """A network of time series: residual, causal, dilated convolutions, pooled.

    ```none
    h_t = f(x_t W + b)
    h_t = h_t + f(h_{t - 2 d} U_1 + h_{t - d} U_2 + h_t U_3 + u),  d = 1, 2, 4, ...
    c = r(mean_t h_t, max_t h_t, h_T, log(1 + T))
    ```

    Bai et al. 2018 (arXiv 1803.01271). Of L layers, h_t sees the last 2^(L + 1) - 1
    steps; the means see all, h_T what came last. T is the last step that is there.
    Steps that a mask leaves out count as the time before the first one does: h is 0
    there. So it does not matter how far a series is padded, before or behind.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    network = tfpc.embeddings.TimeSeriesNetwork(2, output_size=8, mask='entries')
    series = tf.random.normal([3, 50, 2])
    assert network({'values': series, 'mask': series > -2.}).shape == [3, 8]
    ```
    """

    def __init__(self, step_size: int, output_size: int = 16, width: int = 32,
                 num_layers: int = 4, mask: str | None = None,
                 activation: Activation = 'silu', dtype: DType = tf.float32,
                 seed: Seed | None = None, name: str = 'time_series') -> None:
        """Constructs the network and its variables.

        Args:
          step_size: `int` D, of what is measured at a step.
          output_size: `int` S, of the vectors.
          width: `int`, number of hidden units.
          num_layers: `int`, number of convolutions.
          mask: as in `DeepSet`, of steps, or of entries of steps.
          activation, dtype, seed, name: as there.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what came.
        """
        step_size, width, num_layers = (
            conditions_lib.positive_int(value, label) for label, value in (
                ('step_size', step_size), ('width', width), ('num_layers', num_layers)))
        super().__init__([None, step_size], output_size, mask, activation, dtype, name)
        new = network.Initializer(dtype, seed)
        self._steps = embedding.Layers([self._input_size, width], activation, new)
        self._convolutions = tuple(
            embedding.Layers([_TAPS * width, width], activation, new)
            for _ in range(num_layers))
        self._rest = embedding.Layers(
            [3 * width + 1, width, self.output_size], activation, new)

    def _embed(self, inputs, there):
        activation = network.activation_function(self._activation)

        def kept(hidden):
            return hidden if there is None else tf.where(there, hidden, 0.)

        hidden = kept(activation(self._steps(inputs)))
        length = tf.shape(hidden)[1]
        for i, convolution in enumerate(self._convolutions):
            before = (_TAPS - 1) * 2**i
            padded = tf.pad(hidden, [[0, 0], [before, 0], [0, 0]])
            taps = [padded[:, k:k + length] for k in range(0, before + 1, 2**i)]
            hidden += kept(activation(convolution(tf.concat(taps, -1))))
        step = tf.range(length)[:, tf.newaxis]
        if there is not None:
            step = tf.where(there, step, -1)
        # That of the greatest number, of which there may be none.
        last = step == tf.maximum(tf.reduce_max(step, -2, keepdims=True), 0)
        last = tf.reduce_sum(tf.where(last, hidden, 0.), 1)
        return self._rest(tf.concat([embedding.pool(hidden, there), last], -1))
