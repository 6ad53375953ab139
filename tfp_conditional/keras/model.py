"""`LearnableConditionalRealNVP`: a flow, maybe a preprocessor, and `fit`."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional import config as config_lib
from tfp_conditional.core.types import Activation, Conditions, Seed, Sizes
from tfp_conditional.flows import real_nvp
from tfp_conditional.keras import layer as layer_lib
from tfp_conditional.transformers.transformer import Transformer

tfd = tfp.distributions

# What `fit` and `evaluate` call the model with, where `predict` has conditions.
_Pair = collections.namedtuple('_Pair', 'conditions targets')

# The arguments of the flow, in `get_config`.
_ARGUMENTS = ('event_size', 'condition_size', 'num_coupling_layers',
              'hidden_layers', 'activation', 'transformer', 'seed')


def negative_log_likelihood(targets: Any, log_probs: Any) -> Any:
    """The loss of a model whose output is log-probs; `targets` only fill a place."""
    del targets
    return -log_probs


class LearnableConditionalRealNVPMixin(layer_lib.FlowMethods):
    """A Keras model p(target | conditions): Real NVP over a standard normal.

    `fit(conditions, targets)` minimizes the mean negative log-likelihood, which
    is what `evaluate` returns; `predict(conditions)` draws samples `[N, D]` with
    log-probs `[N, 1]`, afresh at each call.

    `sample`, `log_prob`, `forward`, `inverse`, `deterministic` take arrays and
    symbolic tensors, so that further models share its weights:
    `keras.Model(inputs, model.sample(inputs))`.

    #### Example

    ```python
    import keras
    import numpy as np
    import tfp_conditional.keras as tfpk

    conditions = np.random.normal(size=[500, 3]).astype('float32')
    targets = conditions[:, :2] + np.random.normal(size=[500, 2])

    model = tfpk.LearnableConditionalRealNVP(
        event_size=2, condition_size=3, num_coupling_layers=2, hidden_layers=(32,))
    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(conditions, targets, validation_split=0.1, epochs=2, verbose=0)
    samples, log_probs = model.predict(conditions, verbose=0)
    assert samples.shape == (500, 2) and log_probs.shape == (500, 1)
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes,
                 num_coupling_layers: int = 8, hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu',
                 transformer: str | Transformer = 'affine', preprocessor: Any = None,
                 seed: Seed | None = None, name: str | None = None,
                 **kwargs: Any) -> None:
        """Constructs the model; without a preprocessor it is built on return.

        Args:
          event_size: `int` D, the width of a target.
          condition_size: `int` S, or a nest of `int`: what the flow is conditioned
            on, that is, the output of the preprocessor where there is one.
          num_coupling_layers: as in `ConditionalRealNVP`, and so are
            `hidden_layers`, `activation`, `transformer` and `seed`.
          preprocessor: Keras layer or model from raw to the flow's conditions,
            trained with the flow. If it does not know its input, the model is
            built by the first call.
          name: `str`.
          **kwargs: `trainable` and `dtype` (the policy) of a Keras model. The flow
            is float64 under that policy and float32 under any other.

        Raises:
          TypeError: for a preprocessor of the other Keras, or no layer.
        """
        layer_lib.check_keras(self._keras, preprocessor, type(self).__name__)
        if not (preprocessor is None
                or isinstance(preprocessor, self._keras.layers.Layer)):
            raise TypeError('`preprocessor` must be a Keras layer or model; got '
                            f'{type(preprocessor).__name__}.')
        # Without autocast, lest a float16 policy round conditions and targets.
        super().__init__(name=name, **{'autocast': False, **kwargs})
        dtype = 'float64' if self.dtype == 'float64' else 'float32'
        flow = real_nvp.ConditionalRealNVP(
            event_size, condition_size, num_coupling_layers, hidden_layers,
            activation, transformer, dtype=dtype, seed=seed)
        base = tfd.Independent(tfd.Normal(
            np.zeros(event_size, dtype), np.ones(event_size, dtype)), 1)
        self._preprocessor = preprocessor
        self._flow_layer = self._layer_class(flow(base), name='flow')
        # Saving and exporting need the shapes that Keras learns from a call.
        if preprocessor is None:
            self(tf.nest.map_structure(
                lambda size: self._keras.Input([size], dtype=dtype),
                flow.condition_size))
        elif len(getattr(preprocessor, 'inputs', None) or []) == 1:
            given, = preprocessor.inputs
            self(self._keras.Input(given.shape[1:], dtype=given.dtype))

    @property
    def distribution(self) -> tfp.distributions.Distribution:
        """The `ConditionalTransformedDistribution`, conditions as preprocessed."""
        return self._flow_layer.distribution

    @property
    def flow(self) -> real_nvp.ConditionalRealNVP:
        """The `ConditionalRealNVP`."""
        return self._flow_layer.flow

    @property
    def flow_layer(self) -> layer_lib.FlowLayerMixin:
        """The `FlowLayer`, conditions as preprocessed."""
        return self._flow_layer

    @property
    def preprocessor(self) -> Any:
        """The preprocessor, or `None`."""
        return self._preprocessor

    def samples_and_log_probs(self, conditions: Conditions) -> tuple[Any, Any]:
        """Returns samples `[N, D]` and their log-probs `[N, 1]`.

        Args:
          conditions: `[N, S]`: arrays, tensors or symbolic Keras tensors.
        """
        both = self._ask('sample_and_log_prob', conditions)
        return both[..., :-1], both[..., -1:]

    def samples_and_log_probs_np(self,
                                 conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """The same as NumPy arrays; `conditions` may be lists of numbers."""
        if self._preprocessor is None and isinstance(conditions, list):
            conditions = np.asarray(conditions)
        return tuple(result.numpy() for result in
                     self.samples_and_log_probs(conditions))

    def _ask(self, method, conditions, value=None):
        layer_lib.check_keras(self._keras, (conditions, value),
                              f'the model {self.name!r}')
        if self._preprocessor is not None:
            conditions = self._preprocessor(conditions)
        return self._flow_layer._ask(method, conditions, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer_lib.check_keras(self._keras, (args, kwargs),
                              f'the model {self.name!r}')
        return super().__call__(*args, **kwargs)

    def call(self, inputs: Any) -> Any:
        """Returns `samples_and_log_probs` of conditions."""
        if isinstance(inputs, _Pair):
            return self.log_prob(inputs.targets, conditions=inputs.conditions)
        return self.samples_and_log_probs(inputs)

    def train_step(self, data: Any) -> Any:
        return super().train_step(self._paired(data))

    def test_step(self, data: Any) -> Any:
        return super().test_step(self._paired(data))

    def _paired(self, data):
        conditions, targets, sample_weight = (
            self._keras.utils.unpack_x_y_sample_weight(data))
        if self.loss:
            raise ValueError(
                'The loss of this model is the mean negative log-likelihood, and '
                f'`compile` takes no other; got loss={self.loss!r}.')
        if targets is None:
            raise ValueError('`fit` and `evaluate` need targets, '
                             '`fit(conditions, targets)`; got conditions alone.')
        return _Pair(conditions, targets), targets, sample_weight

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None,
                     sample_weight: Any = None, training: bool = True) -> Any:
        """Mean negative log-likelihood, plus the losses of regularizers."""
        loss = -y_pred
        if sample_weight is not None:
            loss *= tf.reshape(tf.cast(sample_weight, loss.dtype), tf.shape(loss))
        loss = tf.reduce_mean(loss)
        for extra in self.losses:
            loss += tf.cast(extra, loss.dtype)
        # Keras adds up the gradients of the replicas.
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    def make_predict_function(self, *args: Any, **kwargs: Any) -> Any:
        # `predict` begins with this, outside the compiled function.
        self._flow_layer.reseed()
        return super().make_predict_function(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        # Keras' own `Model.get_config` is for functional models.
        config = self._keras.layers.Layer.get_config(self)
        for key in _ARGUMENTS:
            config[key] = config_lib.serialize(self.flow.parameters[key], key)
        if self._preprocessor is not None:
            config['preprocessor'] = self._keras.saving.serialize_keras_object(
                self._preprocessor)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any],
                    custom_objects: dict[str, Any] | None = None) -> Any:
        config = dict(config)
        preprocessor = config.pop('preprocessor', None)
        if preprocessor is not None:
            preprocessor = cls._keras.saving.deserialize_keras_object(
                preprocessor, custom_objects=custom_objects)
        for key in _ARGUMENTS:
            config[key] = config_lib.deserialize(config[key])
        return cls(**config, preprocessor=preprocessor)
