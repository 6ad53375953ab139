"""`ConditionalEmbedding`: a network between structured conditions and a flow."""

from collections.abc import Callable
from typing import Any


from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import settings
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core.one_pass import FORWARD, INVERSE
from tfp_conditional.core.types import Conditions, Sizes, TensorLike
from tfp_conditional.networks import custom


class ConditionalEmbedding(bijector_lib.ConditionalBijector):
    """A conditional bijector given `embedding(conditions)` for its conditions.

    ```none
    y = g(x; embedding(c))
    ```

    The embedding runs once in a pass, whatever the number of layers in g, and once
    for each condition, whatever the number of samples. Its variables are this
    bijector's: it is trained with the flow.

    #### Example

    ```python
    import tensorflow as tf
    import tf_keras
    import tfp_conditional as tfpc

    network = tf_keras.Sequential([
        tf_keras.layers.Conv2D(4, 3, strides=2, activation='relu'),
        tf_keras.layers.Flatten(), tf_keras.layers.Dense(16)])
    flow = tfpc.ConditionalEmbedding(
        tfpc.ConditionalRealNVP(event_size=2, condition_size=16), network,
        condition_size=tf.TensorSpec([8, 8, 1], tf.float32))
    y = flow.forward(tf.ones([5, 2]), conditions=tf.zeros([5, 8, 8, 1]))
    samples = flow.condition(tf.zeros([5, 8, 8, 1])).forward(tf.ones([100, 5, 2]))
    ```
    """

    def __init__(self, bijector: bijector_lib.ConditionalBijector,
                 embedding: Callable[..., Any], condition_size: Sizes,
                 name: str | None = None) -> None:
        """Constructs the bijector, and runs the embedding once, on zeros.

        Args:
          bijector: `ConditionalBijector` g, whose `validate_args` this has too.
          embedding: a callable, `tf.Module` or Keras model from conditions with one
            batch axis, `[B, ...]`, to the conditions of g with one, `[B, S]` or a
            nest. Conditions of other batch shapes are reshaped for it.
          condition_size: structure of its conditions: `int` S for vectors,
            `tf.TensorSpec(shape, dtype)` for images, sequences (of unknown length:
            `None`), integers and so on; or a nest of these.
          name: `str`; default that of g and `_embedded`.

        Raises:
          TypeError, ValueError: for a `bijector` that is none, an `embedding` that
            returns what g does not take.
        """
        parameters = dict(locals())
        if not isinstance(bijector, bijector_lib.ConditionalBijector):
            raise TypeError('`bijector` must be a ConditionalBijector; got '
                            f'{type(bijector).__name__}.')
        if not callable(embedding):
            raise TypeError('`embedding` must be a callable, such as a tf.Module or '
                            f'a Keras model; got {type(embedding).__name__}.')
        super().__init__(
            bijector.event_size, condition_size,
            output_event_size=bijector.output_event_size, dtype=bijector.dtype,
            is_constant_jacobian=bijector.is_constant_jacobian,
            validate_args=bijector.validate_args, parameters=parameters,
            name=name or f'{bijector.name}_embedded')
        self._bijector, self._embedding = bijector, embedding
        self._settings = settings.Settings(self.name, embedding=embedding)
        self._untracked_variables = custom.untracked(
            self, lambda: self._embed(self.condition_spec.example()))

    @property
    def bijector(self) -> bijector_lib.ConditionalBijector:
        """The bijector g."""
        return self._bijector

    @property
    def embedding(self) -> Callable[..., Any]:
        """The network."""
        return self._embedding

    @property
    def adapted(self) -> bool:
        """`bool`, whether nothing is left that `adapt` would change."""
        return (getattr(self._embedding, 'adapted', True)
                and adapt_lib.adapted(self._bijector))

    def adapt(self, y: TensorLike, conditions: Conditions | None = None) -> None:
        """Lets the embedding, and then g, learn from data; see `ConditionalChain.adapt`."""
        self.adapt_batches([(y, conditions)])

    def adapt_batches(self, batches: list[tuple[Any, Any]]) -> None:
        """`adapt`, to data in batches, as sequences of several lengths need."""
        batches = adapt_lib.fewer([adapt_lib.check_data(self, *pair) for pair in batches])
        if hasattr(self._embedding, 'adapt_batches'):
            self._embedding.adapt_batches([conditions for _, conditions in batches])
        adapt_lib.adapt_batches(self._bijector, [
            (y, self._embed(conditions)) for batch in batches
            for y, conditions in adapt_lib.chunks(batch)])

    def _forward_and_log_det(self, x, conditions):
        return self._bijector.unchecked_pass(FORWARD, x, self._embed(conditions))

    def _inverse_and_log_det(self, y, conditions):
        return self._bijector.unchecked_pass(INVERSE, y, self._embed(conditions))

    def _embed(self, conditions):
        """Checked conditions `[..., *shape]` -> those of g, `[..., S]`."""
        spec, inner = self.condition_spec, self._bijector.condition_spec
        try:
            result = inner.check(self._embedding(spec.flat(conditions)),
                                 self._bijector.name)
        except (TypeError, ValueError) as error:
            raise type(error)('`embedding` must return conditions of '
                              f'{self._bijector.name!r}: {error}') from error
        return spec.unflat(result, conditions)

    def __deepcopy__(self, memo):
        return custom.copy_owner(self, memo, 'embedding')
