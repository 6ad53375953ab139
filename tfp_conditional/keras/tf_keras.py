"""Conditional flows in tf_keras (Keras 2) models; see `tfp_conditional.keras`."""

from typing import Any

import tensorflow as tf
import tf_keras

from tfp_conditional.keras import layer as _layer
from tfp_conditional.keras import model as _model

__all__ = ['FlowLayer', 'LearnableConditionalRealNVP', 'negative_log_likelihood']

_register = tf_keras.saving.register_keras_serializable('tfp_conditional')


@_register
class FlowLayer(_layer.FlowLayerMixin, tf_keras.layers.Layer):
    __doc__ = _layer.FlowLayerMixin.__doc__
    _keras = tf_keras

    @staticmethod
    def _adopt(variable):
        return variable


@_register
class LearnableConditionalRealNVP(_model.LearnableConditionalRealNVPMixin,
                                  tf_keras.Model):
    __doc__ = _model.LearnableConditionalRealNVPMixin.__doc__
    _keras = tf_keras
    _layer_class = FlowLayer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Keras 3 has this mean in `Model`; here it is part of the compiled loss,
        # which this model does not use. Tracked, it would count as two weights.
        object.__setattr__(self, '_loss_tracker',
                           tf_keras.metrics.Mean('loss', dtype='float32'))

    @property
    def metrics(self) -> list:
        return [self._loss_tracker, *super().metrics]

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None,
                     sample_weight: Any = None) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        self._loss_tracker.update_state(
            loss * tf.distribute.get_strategy().num_replicas_in_sync,
            sample_weight=tf.shape(y_pred)[0])
        return loss


negative_log_likelihood = _register(_model.negative_log_likelihood)
