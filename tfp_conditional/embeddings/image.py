"""`ImageNetwork`: images, by strided convolutions."""

from collections.abc import Sequence
import math

import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Activation, DType, Seed
from tfp_conditional.embeddings import embedding
from tfp_conditional.networks import network


class ImageNetwork(embedding.Embedding):
    """A small network of images: strided convolutions, and what is left, flattened.

    ```none
    h = f(conv(h, 3 x 3, stride 2)) in each layer,  c = r(h)
    ```

    r is a multilayer perceptron of all that is left, places included, so that it
    matters where in an image a thing is.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    network = tfpc.embeddings.ImageNetwork((16, 16, 1), output_size=8)
    assert network(tf.ones([3, 16, 16, 1])).shape == [3, 8]
    ```
    """

    def __init__(self, image_size: Sequence[int], output_size: int = 16,
                 width: int = 32, num_layers: int | None = None, mask: str | None = None,
                 activation: Activation = 'silu', dtype: DType = tf.float32,
                 seed: Seed | None = None, name: str = 'image') -> None:
        """Constructs the network and its variables.

        Args:
          image_size: `(H, W, C)`: height, width, channels.
          output_size: `int` S, of the vectors.
          width: `int`, number of channels of the hidden layers.
          num_layers: `int`, number of convolutions; default: as many as leave at most
            4 x 4 places.
          mask: `None` for images `[..., H, W, C]`; `'elements'` for a `dict` of
            `values` `[..., H, W, C]` and a boolean `mask` `[..., H, W]`, of pixels that
            are there; `'entries'` for a mask `[..., H, W, C]`.
          activation, dtype, seed, name: as in `DeepSet`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what came.
        """
        if not isinstance(image_size, (tuple, list)) or len(image_size) != 3:
            raise ValueError('`image_size` must be (height, width, channels); got '
                             f'{image_size!r}.')
        image_size = [conditions_lib.positive_int(size, f'image_size[{i}]')
                      for i, size in enumerate(image_size)]
        width = conditions_lib.positive_int(width, 'width')
        if num_layers is None:
            num_layers = max(1, math.ceil(math.log2(max(image_size[:2]) / 4)))
        num_layers = conditions_lib.positive_int(num_layers, 'num_layers')
        super().__init__(image_size, output_size, mask, activation, dtype, name)
        new = network.Initializer(dtype, seed)
        channels = [self._input_size] + [width] * num_layers
        self._kernels = tuple(
            new.kernel([3, 3, m, n], f'kernel_{i}', 9 * m)
            for i, (m, n) in enumerate(zip(channels, channels[1:])))
        self._biases = tuple(new.zeros([width], f'bias_{i}')
                             for i in range(num_layers))
        left = math.prod(-(-size // 2**num_layers) for size in image_size[:2])
        self._rest = embedding.Layers(
            [left * width, 2 * width, self.output_size], activation, new)

    def _embed(self, inputs, there):
        activation = network.activation_function(self._activation)
        for kernel, bias in zip(self._kernels, self._biases):
            inputs = activation(tf.nn.conv2d(inputs, kernel, 2, 'SAME') + bias)
        return self._rest(tf.reshape(inputs, [-1, math.prod(inputs.shape[1:])]))
