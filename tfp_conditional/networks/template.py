"""`ConditionalRealNVPTemplate`, for stock `tfb.RealNVP` and for couplings."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Activation, Conditions, DType, Seed, Sizes, TensorLike
from tfp_conditional.networks import mlp
from tfp_conditional.networks import network
from tfp_conditional.transformers import affine


class ConditionalRealNVPTemplate(_tfp.Picklable, tf.Module):
    """A conditional network for `tfb.RealNVP(shift_and_log_scale_fn=...)`.

    What `tfb.real_nvp_default_template` lacks: it takes `conditions`, and as a
    `tf.Module` that is an attribute of the bijector its variables are tracked.

    ```none
    (shift, log_scale) = Affine.shift_and_log_scale(MLP(x, conditions))
    ```

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc

    template = tfpc.ConditionalRealNVPTemplate(
        hidden_layers=(32, 32), input_size=2, output_units=3, condition_size=4)
    bijector = tfp.bijectors.RealNVP(
        num_masked=2, shift_and_log_scale_fn=template)
    y = bijector.forward(tf.ones([7, 5]), conditions=tf.ones([7, 4]))
    assert len(bijector.trainable_variables) == 7
    ```
    """

    def __init__(self, hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu', shift_only: bool = False,
                 input_size: int | None = None, output_units: int | None = None,
                 condition_size: Sizes | None = None, dtype: DType = tf.float32,
                 seed: Seed | None = None,
                 name: str = 'conditional_real_nvp_template') -> None:
        """Constructs the template.

        Args:
          hidden_layers: widths of the hidden layers.
          activation: their activation: a callable or a name, as in `tf.nn`.
          shift_only: `bool`, whether `log_scale` is `None` (NICE).
          input_size: `int`, number of masked units.
          output_units: `int`, number of transformed units.
          condition_size: `int` or nest of `int`, width of the conditions. With
            these three the variables are made here, else at the first call.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights.
          name: `str`.
        """
        super().__init__(name=name)
        self._hidden_layers = network.check_hidden_layers(hidden_layers)
        network.activation_function(activation)
        self._activation = activation
        self._transformer: Any = (affine.Additive() if shift_only
                                  else affine.Affine())
        self._dtype = tf.as_dtype(dtype)
        self._seed = seed
        self._conditioner: Any = None
        sizes = (input_size, output_units, condition_size)
        if None not in sizes:
            self._build(*sizes)
        elif any(size is not None for size in sizes):
            raise ValueError(
                'Give all of `input_size`, `output_units` and `condition_size`, to '
                'make the variables now, or none of them; got '
                f'{input_size}, {output_units}, {condition_size}.')

    @property
    def conditioner(self) -> mlp.MLPNetwork:
        """The network, usable as `ConditionalCoupling(conditioner=...)`."""
        if self._conditioner is None:
            raise ValueError('This template has no variables yet: call it once, or '
                             'construct it with all three sizes.')
        return self._conditioner

    def _build(self, input_size, output_units, condition_size):
        self._output_units = conditions_lib.positive_int(output_units, 'output_units')
        input_size = conditions_lib.positive_int(input_size, 'input_size', least=0)
        spec = conditions_lib.ConditionSpec(condition_size, self._dtype)
        self._input_size, self._condition_spec = input_size, spec
        with tf.init_scope():
            self._conditioner = mlp.MLPNetwork(
                input_size, spec,
                self._output_units * self._transformer.num_parameters,
                self._hidden_layers, self._activation, seed=self._seed)

    def __call__(
            self, x: TensorLike, output_units: int,
            conditions: Conditions | None = None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns `shift` and `log_scale` (`None` if `shift_only`).

        Args:
          x: `[..., input_size]`, the masked units.
          output_units: `int`, number of transformed units.
          conditions: `[..., S]` or nest of such; required.

        Returns:
          Two tensors `[..., output_units]`.
        """
        x = conditions_lib.as_tensor(x, self._dtype, 'x')
        if self._conditioner is None:
            if conditions is None:
                raise TypeError('`conditions` are required by '
                                f'{self.name!r} and were not given.')
            self._build(x.shape[-1], output_units, tf.nest.map_structure(
                lambda leaf: tf.convert_to_tensor(leaf).shape[-1], conditions))
        conditions = self._condition_spec.check(conditions, self.name)
        conditions_lib.check_last_dimension(x, self._input_size, 'x')
        if output_units != self._output_units:
            raise ValueError(f'`output_units` must be {self._output_units}, for which '
                             f'the variables were made; got {output_units}.')
        parameters = self._conditioner(x, conditions)
        parameters = tf.reshape(parameters, tf.concat(
            [tf.shape(parameters)[:-1],
             [self._transformer.num_parameters, self._output_units]], 0))
        if self._transformer.num_parameters == 1:
            return self._transformer.shift(parameters), None
        return self._transformer.shift_and_log_scale(parameters)


# As TFP calls its own, which is a function.
conditional_real_nvp_template = ConditionalRealNVPTemplate
