"""`SetTransformer`: sets, their elements compared with each other."""

from typing import Any

import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Activation, DType, Seed
from tfp_conditional.embeddings import embedding
from tfp_conditional.networks import network


class SetTransformer(embedding.Embedding):
    """A network of sets whose elements attend to each other.

    ```none
    h = g(x),  h = B(h, h) in each block,  c = r(B(s, h), log(1 + n))
    B(q, h) = b + f(b V_1) V_2,  b = q + A(q, h)
    A(q, h) = softmax((q W_q) (h W_k)^T / sqrt(d)) (h W_v) W_o, in heads of width d
    ```

    Lee et al. 2019 (arXiv 1810.00825): self-attention, and pooling by the attention of
    a learnt query s. g and r are multilayer perceptrons. With `num_inducing` a block
    is B(h, B(i, h)), i learnt: its cost grows with N, not N^2. The order of elements
    does not matter. Of an empty set A is 0.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    network = tfpc.embeddings.SetTransformer(2, output_size=8, mask='elements')
    sets = {'values': tf.ones([3, 5, 2]),
            'mask': tf.sequence_mask([5, 2, 0], 5)}
    assert network(sets).shape == [3, 8]
    ```
    """

    def __init__(self, element_size: int, output_size: int = 16, width: int = 64,
                 num_heads: int = 4, num_blocks: int = 2,
                 num_inducing: int | None = None, mask: str | None = None,
                 activation: Activation = 'silu', dtype: DType = tf.float32,
                 seed: Seed | None = None, name: str = 'set_transformer') -> None:
        """Constructs the network and its variables.

        Args:
          element_size, output_size: as in `DeepSet`.
          width: `int`, number of hidden units, a multiple of `num_heads`.
          num_heads, num_blocks: `int`.
          num_inducing: `int`, or `None` for attention of all to all.
          mask, activation, dtype, seed, name: as in `DeepSet`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what came.
        """
        element_size, width, num_heads, num_blocks = (
            conditions_lib.positive_int(value, label) for label, value in (
                ('element_size', element_size), ('width', width),
                ('num_heads', num_heads), ('num_blocks', num_blocks)))
        if width % num_heads:
            raise ValueError('`width` must be a multiple of `num_heads`; got '
                             f'{width}, {num_heads}.')
        super().__init__([None, element_size], output_size, mask, activation, dtype, name)
        new, self._num_heads = network.Initializer(dtype, seed), num_heads

        def block():
            return _Attention(width, num_heads, activation, new)

        self._elements = embedding.Layers([self._input_size, width, width], activation, new)
        self._inducing = None
        if num_inducing is not None:
            shape = [1, conditions_lib.positive_int(num_inducing, 'num_inducing'), width]
            self._inducing = tuple((new.kernel(shape, 'inducing', 2), block())
                                   for _ in range(num_blocks))
        self._blocks = tuple(block() for _ in range(num_blocks))
        self._query, self._pool = new.kernel([1, 1, width], 'query', 2), block()
        self._rest = embedding.Layers([width + 1, width, self.output_size], activation, new)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, 'num_heads': self._num_heads}

    def _embed(self, inputs, there):
        hidden = self._elements(inputs)
        for i, block in enumerate(self._blocks):
            if self._inducing is None:
                hidden = block(hidden, hidden, there)
            else:
                inducing, gather = self._inducing[i]
                hidden = block(hidden, gather(inducing, hidden, there), None)
        pooled = self._pool(self._query, hidden, there)[:, 0]
        return self._rest(tf.concat([pooled, tf.math.log1p(
            embedding.count(hidden, there))], -1))


class _Attention(_tfp.Picklable, tf.Module):
    """B of `SetTransformer`."""

    def __init__(self, width, num_heads, activation, new):
        super().__init__(name='attention')
        self._num_heads, self._size = num_heads, width // num_heads
        self._kernels = tuple(new.kernel([width, width], f'kernel_{part}', 2 * width)
                              for part in ('query', 'key', 'value', 'out'))
        self._norms = tuple(network.LayerNorm(width, new) for _ in range(3))
        self._layers = embedding.Layers([width] * 3, activation, new)

    def __call__(self, queries, elements, there):
        """Returns `[B, M, width]` of `[B or 1, M, width]`, `[B, N, width]`."""
        kernels, norms = self._kernels, self._norms
        elements = norms[1](elements)
        query, key, value = map(self._heads, (norms[0](queries), elements, elements),
                                kernels)
        scores = tf.matmul(query * self._size**-0.5, key, transpose_b=True)
        if there is not None:
            there = there[:, tf.newaxis, tf.newaxis, :, 0]
            scores = tf.where(there, scores, scores.dtype.min)
        # Own, since that of TensorFlow is not 0 for a set of none.
        weights = tf.exp(scores - tf.stop_gradient(
            tf.reduce_max(scores, -1, keepdims=True)))
        if there is not None:
            weights = tf.where(there, weights, 0.)
        total = tf.reduce_sum(weights, -1, keepdims=True)
        found = tf.matmul(weights / tf.maximum(total, 1.), value)
        found = tf.transpose(found, [0, 2, 1, 3])
        found = tf.reshape(found, tf.concat([tf.shape(found)[:2], queries.shape[-1:]], 0))
        hidden = queries + network.dense(found, kernels[3])
        return hidden + self._layers(norms[2](hidden))

    def _heads(self, hidden, kernel):
        """`[B, M, width]` -> `[B, heads, M, d]`."""
        hidden = network.dense(hidden, kernel)
        return tf.transpose(tf.reshape(hidden, tf.concat(
            [tf.shape(hidden)[:2], [self._num_heads, self._size]], 0)), [0, 2, 1, 3])
