"""Conditional flows in Keras 3 models; the module `tf_keras` here is for Keras 2.

`import tfp_conditional` never imports this. `FlowLayer` makes a conditional flow
a layer, `LearnableConditionalRealNVP` is a ready model, and
`negative_log_likelihood` is the loss of a model whose output is log-probs.
"""

from typing import Any

from tfp_conditional.keras import layer as _layer
from tfp_conditional.keras import model as _model

__all__ = ['FlowLayer', 'LearnableConditionalRealNVP', 'negative_log_likelihood']

try:
    import keras
    _found = f'Keras {keras.__version__}'
    if _found.startswith('Keras 3.'):
        _found += f' with the backend "{keras.config.backend()}"'
except ImportError as error:    # the backend that KERAS_BACKEND names is missing
    _found = f'"{error}"'

# Where it is not usable, using it fails and not importing this module, through
# which `tfp_conditional.keras.tf_keras` passes, and which has no backends.
if _found.startswith('Keras 3.') and _found.endswith('"tensorflow"'):
    _register = keras.saving.register_keras_serializable('tfp_conditional')

    def _adopt(variable):
        """A Keras variable that holds `variable` itself, no copy of it."""
        adopted = keras.Variable(
            variable, trainable=variable.trainable, autocast=False,
            name=variable.name.partition(':')[0].replace('/', '.'))
        # Keras before 3.10 makes a copy of it.
        adopted._value = variable
        return adopted

    @_register
    class FlowLayer(_layer.FlowLayerMixin, keras.layers.Layer):
        __doc__ = _layer.FlowLayerMixin.__doc__
        _keras = keras
        _adopt = staticmethod(_adopt)

        def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
            """That of samples; `keras.layers.TimeDistributed` asks for it."""
            return (*input_shape[:-1], self.distribution.event_shape[-1])

        # Else Keras would take the shape of samples for that of any method.
        compute_output_spec = keras.Operation.compute_output_spec

    @_register
    class LearnableConditionalRealNVP(_model.LearnableConditionalRealNVPMixin,
                                      keras.Model):
        __doc__ = _model.LearnableConditionalRealNVPMixin.__doc__
        _keras = keras
        _layer_class = FlowLayer

    negative_log_likelihood = _register(_model.negative_log_likelihood)
else:
    def __getattr__(name):
        if name in __all__:
            raise ImportError(
                f'`{__name__}.{name}` needs Keras 3 with the backend "tensorflow"; '
                f'got {_found}. Set KERAS_BACKEND=tensorflow before keras is '
                f'imported, or use `{__name__}.tf_keras.{name}`.')
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
