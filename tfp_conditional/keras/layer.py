"""`FlowLayer`: a conditional flow as one layer, of either Keras."""

import gc
import json
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional import config as config_lib
from tfp_conditional.bijectors import settings
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core.types import Conditions, TensorLike

tfd = tfp.distributions

# The methods, and what each takes beside the conditions.
_METHODS = {
    'sample': None, 'sample_and_log_prob': None, 'deterministic': None,
    'log_prob': 'events', 'inverse': 'events', 'forward': 'latents',
}

# From the id of a variable to the layer that owns it. The layer holds the
# variable, so that an id stands here only while it is that variable's.
_OWNERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class FlowMethods:
    """What a layer and a model answer, on arrays and on symbolic Keras tensors.

    `conditions` are `[..., S]`, or the nest of arrays that the flow takes, before
    the preprocessor where there is one. Everything is cast to the flow's dtype.
    """

    def sample(self, conditions: Conditions) -> Any:
        """Returns events `[..., D]`, each from its own noise."""
        return self._ask('sample', conditions)

    def sample_and_log_prob(self, conditions: Conditions) -> tuple[Any, Any]:
        """Returns events `[..., D]` and their log-probs `[...]`, from one pass."""
        both = self._ask('sample_and_log_prob', conditions)
        return both[..., :-1], both[..., -1]

    def log_prob(self, events: TensorLike, *, conditions: Conditions) -> Any:
        """Returns the log-probs `[...]` of events `[..., D]`."""
        return self._ask('log_prob', conditions, events)

    def forward(self, latents: TensorLike, *, conditions: Conditions) -> Any:
        """Returns the events `[..., D]` of latents `[..., D]`."""
        return self._ask('forward', conditions, latents)

    def inverse(self, events: TensorLike, *, conditions: Conditions) -> Any:
        """Returns the latents `[..., D]` of events `[..., D]`."""
        return self._ask('inverse', conditions, events)

    def deterministic(self, conditions: Conditions) -> Any:
        """Returns the events `[..., D]` of the latents 0."""
        return self._ask('deterministic', conditions)


class FlowLayerMixin(FlowMethods):
    """A Keras layer over a distribution whose bijector is a conditional flow.

    The distribution's variables, the very `tf.Variable`s, are the layer's
    weights. One layer serves any number of models, and that is how they share
    the flow; a second layer over the same flow is refused.

    `layer.sample(c)`, `layer.log_prob(y, conditions=c)` and so on take arrays,
    tensors and symbolic Keras tensors; each is `layer(c, value, method=...)`.

    The layer computes in the flow's dtype under any dtype policy, and casts.

    #### Noise

    Called eagerly, samples follow TensorFlow's global generator, and so
    `keras.utils.set_random_seed`. In a compiled function they come from a
    generator of the layer's own, seeded from the global one at construction and
    by `reseed`.

    #### Example

    ```python
    import keras
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.keras as tfpk
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(event_size=2, condition_size=3)
    layer = tfpk.FlowLayer(flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1)))

    states, actions = keras.Input([3]), keras.Input([2])
    policy = keras.Model(states, layer.sample(states))
    density = keras.Model([states, actions],
                          layer.log_prob(actions, conditions=states))
    ```
    """

    def __init__(self, distribution: tfp.distributions.Distribution,
                 name: str | None = None, **kwargs: Any) -> None:
        """Constructs the layer; it is built on return.

        Args:
          distribution: `flow(base)`, or another `tfd.TransformedDistribution` of
            batch shape `[]`, whose bijector is a `ConditionalBijector`.
          name: `str`.
          **kwargs: `trainable`. A `dtype` is ignored: it is the flow's.

        Raises:
          TypeError: if `distribution` is of another type.
          ValueError: if it has a batch shape, or another layer owns its variables.
        """
        _check_distribution(distribution)
        super().__init__(name=name, **{**kwargs, 'dtype': distribution.dtype.name})
        _check_free(distribution, self.name)
        self._distribution = distribution
        self._flow_weights = tuple(self._adopt(v) for v in distribution.variables)
        with tf.init_scope():
            self._generator = tf.random.Generator.from_seed(_fresh_seed())
        self.built = True
        for variable in distribution.variables:
            _OWNERS[id(variable)] = self

    @property
    def distribution(self) -> tfp.distributions.Distribution:
        """The distribution."""
        return self._distribution

    @property
    def flow(self) -> bijector_lib.ConditionalBijector:
        """The conditional bijector."""
        return self._distribution.bijector

    def reseed(self, seed: int | None = None) -> None:
        """Starts the noise of compiled functions anew.

        Args:
          seed: `int`; by default one is drawn from TensorFlow's global generator,
            which `keras.utils.set_random_seed` sets.
        """
        self._generator.reset_from_seed(_fresh_seed() if seed is None else seed)

    def _ask(self, method, conditions, value=None):
        if value is None:
            return self(conditions, method=method)
        return self(conditions, value=value, method=method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        check_keras(self._keras, (args, kwargs), f'the layer {self.name!r}')
        return super().__call__(*args, **kwargs)

    def call(self, conditions: Conditions, value: Any = None,
             method: str = 'sample') -> Any:
        """Returns what the method of that name does, in one tensor.

        Args:
          conditions: nest of `[..., S]`.
          value: `[..., D]`, the events or latents where the method takes them.
          method: `str`, one of those of this class.
        """
        if method not in _METHODS:
            raise ValueError(f'`method` must be one of {sorted(_METHODS)}; got '
                             f'{method!r}.')
        if (value is None) != (_METHODS[method] is None):
            raise TypeError(f'`{method}` takes conditions and '
                            f'{_METHODS[method] or "nothing else"}; got '
                            f'{"no" if value is None else "a"} `value`.')
        flow, base = self.flow, self._distribution.distribution
        spec = flow.condition_spec
        conditions = spec.check(self._cast_conditions(conditions), flow.name)
        if value is not None:
            value = self._cast(value)
            if method == 'log_prob':
                return self._distribution.log_prob(
                    value, bijector_kwargs={'conditions': conditions})
            return getattr(flow, method)(value, conditions=conditions)
        batch = spec.batch_shape_tensor(conditions)
        if method == 'deterministic':
            latents = tf.zeros(tf.concat([batch, [flow.event_size]], 0), flow.dtype)
        else:
            latents = base.sample(batch, seed=self._seed())
        latents = tf.ensure_shape(
            latents, spec.batch_shape(conditions) + [flow.event_size])
        events, log_det = flow.forward_and_log_det(latents, conditions=conditions)
        if method == 'sample_and_log_prob':
            # One tensor, since Keras 3 wants the same number of outputs from all
            # calls of a layer.
            log_prob = base.log_prob(latents) - log_det
            return tf.concat([events, log_prob[..., tf.newaxis]], -1)
        return events

    def _cast(self, value):
        return tf.cast(value, self.flow.dtype)

    def _cast_conditions(self, conditions):
        leaves = tf.nest.flatten(conditions)
        wanted = self.flow.condition_spec.leaves
        if len(leaves) != len(wanted):
            return conditions       # which are refused by name
        return tf.nest.pack_sequence_as(conditions, [
            tf.cast(leaf, spec.dtype) for leaf, spec in zip(leaves, wanted)])

    def _seed(self):
        """A seed for TFP, fresh at every run of a compiled function too.

        TensorFlow's global generator would be frozen into a trace, where nothing
        can set it any more, and XLA ignores it.
        """
        if tf.executing_eagerly():
            return None
        return self._generator.uniform_full_int([2], dtype=tf.int32)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        saved = json.dumps(settings.collect(self._distribution))
        store['settings'] = np.frombuffer(saved.encode(), np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Raises a ValueError for the weights of another map, such as another mask's."""
        own = {key: store[key] for key in store.keys()}
        saved = own.pop('settings', None)       # Earlier files have none.
        if saved is not None:
            settings.check(self._distribution,
                           json.loads(bytes(np.asarray(saved)).decode()))
        super().load_own_variables(own)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(),
                'distribution': config_lib.to_config(self._distribution)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, 'distribution': config_lib.from_config(
            config['distribution'])})


def check_keras(own, values, owner):
    """Raises for objects of the other generation of Keras."""
    own = own.__name__.partition('.')[0]
    other = 'keras' if own == 'tf_keras' else 'tf_keras'
    for value in tf.nest.flatten(values):
        packages = {cls.__module__.partition('.')[0] for cls in type(value).__mro__}
        if other in packages and own not in packages:
            module = 'tfp_conditional.keras' + '.tf_keras' * (other == 'tf_keras')
            raise TypeError(
                f'{owner} is made for `{own}` and works with its objects only; got '
                f'a {type(value).__name__} of `{other}`. Use the classes of '
                f'`{module}`, or make this one with `{own}`.')


def _check_distribution(distribution):
    # `isinstance` of the public class fails for a bijector that is no composite
    # tensor: TFP then makes an instance of a private parent.
    if not (isinstance(distribution, tfd.Distribution)
            and hasattr(distribution, 'bijector')):
        raise TypeError(
            '`distribution` must be a tfd.TransformedDistribution; got '
            f'{type(distribution).__name__}. For a flow write '
            '`flow(base)`.')
    if not isinstance(distribution.bijector, bijector_lib.ConditionalBijector):
        raise TypeError(
            'The bijector of `distribution` must be a ConditionalBijector; got '
            f'{type(distribution.bijector).__name__}. Put stock bijectors into a '
            '`ConditionalChain`, and leave conditions to the calls of the layer.')
    if distribution.distribution.batch_shape.rank != 0:
        raise ValueError(
            'The base of `distribution` must have batch shape []; got '
            f'{distribution.distribution.batch_shape}. Wrap it as '
            '`tfd.Independent(base, 1)`; the layer draws noise for each condition.')


def _check_free(distribution, name):
    def owner():
        return next((_OWNERS[id(v)] for v in distribution.variables
                     if id(v) in _OWNERS), None)

    if owner() is not None:
        gc.collect()    # it may be garbage: layers are reference cycles
    if owner() is not None:
        raise ValueError(
            f'{name!r} cannot own the flow {distribution.bijector.name!r}: the '
            f'layer {owner().name!r} does, and its weights would count and be '
            'saved twice. Use that layer in as many models as you like. For '
            'another flow of the same weights, make a layer over '
            '`copy.deepcopy(flow)`.')


def _fresh_seed():
    """An `int` from TensorFlow's global generator."""
    with tf.init_scope():
        return int(tfp.random.sanitize_seed(None)[0])
