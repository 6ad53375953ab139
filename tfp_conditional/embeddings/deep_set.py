"""`DeepSet`: sets, element by element."""

from collections.abc import Sequence

import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Activation, DType, Seed
from tfp_conditional.embeddings import embedding
from tfp_conditional.networks import network


class DeepSet(embedding.Embedding):
    """A network of sets that sees each element by itself, and then all together.

    ```none
    h_i = f(g(x_i)),  c = r(mean_i h_i, max_i h_i, log(1 + n))
    ```

    Zaheer et al. 2017 (arXiv 1703.06114). g and r are multilayer perceptrons. The
    order of elements does not matter; their number n does, as posteriors become
    narrower with it. Of an empty set the mean and the maximum are 0.

    #### Example

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    rng = np.random.default_rng(0)
    theta = rng.normal(size=[64, 1])
    draws = [rng.normal(loc, size=[rng.integers(1, 9), 1]) for loc in theta]

    network = tfpc.embeddings.DeepSet(element_size=1, output_size=8, mask='elements')
    dist = tfpc.conditional_density(1, network.condition_size, embedding=network)
    sets = tfpc.embeddings.pad(draws)           # Now `tfpc.fit(dist, theta, sets)`.
    assert network(sets).shape == [64, 8]
    ```
    """

    def __init__(self, element_size: int, output_size: int = 16,
                 hidden_layers: Sequence[int] = (64, 64), mask: str | None = None,
                 activation: Activation = 'silu', dtype: DType = tf.float32,
                 seed: Seed | None = None, name: str = 'deep_set') -> None:
        """Constructs the network and its variables.

        Args:
          element_size: `int` D, of the elements.
          output_size: `int` S, of the vectors.
          hidden_layers: widths of the hidden layers of g, at least one; r has one
            layer of the last of them.
          mask: `None` for sets `[..., N, D]`, all of whose elements are there;
            `'elements'` for a `dict` of `values` `[..., N, D]` and a boolean `mask`
            `[..., N]`, of elements that are there; `'entries'` for a mask
            `[..., N, D]`, where elements of which nothing is there are left out. See
            `pad` and `mask_nan`.
          activation: a callable or a name, as in `tf.nn`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights.
          name: `str`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what came.
        """
        element_size = conditions_lib.positive_int(element_size, 'element_size')
        hidden_layers = network.check_hidden_layers(hidden_layers)
        if not hidden_layers:
            raise ValueError('`hidden_layers` must have at least one; got none.')
        super().__init__([None, element_size], output_size, mask, activation, dtype, name)
        new, width = network.Initializer(dtype, seed), hidden_layers[-1]
        self._elements = embedding.Layers(
            [self._input_size, *hidden_layers], activation, new)
        self._rest = embedding.Layers(
            [2 * width + 1, width, self.output_size], activation, new)

    def _embed(self, inputs, there):
        activation = network.activation_function(self._activation)
        return self._rest(embedding.pool(activation(self._elements(inputs)), there))
