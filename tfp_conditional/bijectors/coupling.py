"""`ConditionalCoupling` and `ConditionalElementwise`: a transformer, conditioned."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfp_conditional.bijectors import settings
from tfp_conditional.core import bijector
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Activation, DType, Seed, Sizes
from tfp_conditional.networks import custom
from tfp_conditional.networks import mlp
from tfp_conditional.networks import network
from tfp_conditional.networks.network import Conditioner
from tfp_conditional.transformers import affine
from tfp_conditional.transformers import spline
from tfp_conditional.transformers import transformer as transformer_lib
from tfp_conditional.transformers.transformer import Transformer

TRANSFORMERS = {
    'affine': affine.Affine,
    'additive': affine.Additive,
    'rational_quadratic': spline.RationalQuadratic,
    'circular_rational_quadratic': spline.CircularRationalQuadratic,
}


def get_transformer(transformer):
    """Returns the transformer of that name, or `transformer` if it is one."""
    if isinstance(transformer, str):
        if transformer not in TRANSFORMERS:
            raise ValueError(f'`transformer` must be one of {sorted(TRANSFORMERS)} '
                             f'or a Transformer; got {transformer!r}.')
        return TRANSFORMERS[transformer]()
    for name in ('num_parameters', 'forward_and_log_det', 'inverse_and_log_det'):
        if isinstance(transformer, type) or not hasattr(transformer, name):
            raise TypeError(
                f'`transformer` must be one of {sorted(TRANSFORMERS)} or an object '
                'with `num_parameters`, `forward_and_log_det` and '
                f'`inverse_and_log_det`; got {transformer!r}.')
    return transformer


class _ConditionedTransformer(bijector.ConditionalBijector):
    """Some units transformed, with parameters from the others and the conditions."""

    def __init__(self, event_size, condition_size, mask, hidden_layers, activation,
                 transformer, conditioner, dtype, seed, validate_args, parameters,
                 name):
        self._transformer = get_transformer(transformer)
        super().__init__(
            event_size, condition_size, dtype=dtype, validate_args=validate_args,
            parameters=parameters, name=name)
        self._partition = Partition(mask)
        self._num_units = self.event_size - self._partition.num_masked
        output_size = self._num_units * self._transformer.num_parameters
        num_seen = self._partition.num_masked * transformer_lib.num_features(
            self._transformer)
        with tf.name_scope(self.name):
            if conditioner is None:
                conditioner = mlp.MLP(hidden_layers, activation)
            if isinstance(conditioner, network.Conditioner):
                self._conditioner = conditioner.build(
                    num_seen, self.condition_spec, output_size, seed)
            else:
                self._conditioner = custom.CustomConditioner(
                    conditioner, num_seen, self.condition_spec, output_size)
        self._settings = settings.Settings(
            self.name, condition_size=self.condition_size, mask=mask,
            transformer=self._transformer, conditioner=conditioner)

    def _forward_and_log_det(self, x, conditions):
        masked, units = self._partition.split(x)
        units, log_det = self._transformer.forward_and_log_det(
            units, self._parameters_of(masked, conditions))
        return self._partition.merge(masked, units), tf.reduce_sum(log_det, -1)

    def _inverse_and_log_det(self, y, conditions):
        masked, units = self._partition.split(y)
        units, log_det = self._transformer.inverse_and_log_det(
            units, self._parameters_of(masked, conditions))
        return self._partition.merge(masked, units), tf.reduce_sum(log_det, -1)

    def _parameters_of(self, masked, conditions):
        if hasattr(self._transformer, 'features'):
            masked = self._transformer.features(masked)
        flat = self._conditioner(masked, conditions)
        shape = [self._transformer.num_parameters, self._num_units]
        if flat.shape.rank == 2:
            return tf.reshape(flat, [-1, *shape])
        return tf.reshape(flat, tf.concat([tf.shape(flat)[:-1], shape], 0))


class ConditionalCoupling(_ConditionedTransformer):
    """One coupling layer of Real NVP, conditioned (Dinh et al. 2017).

    ```none
    x = (x_m, x_t)                        p = network(x_m, c)
    forward:  y = (x_m, T(x_t; p))        log-det =  sum log |dT/dx_t|
    inverse:  x = (y_m, T^-1(y_t; p))     log-det = -sum log |dT/dx_t|
    ```

    `x_m` are the masked units, which pass unchanged, and T is the transformer.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    layer = tfpc.ConditionalCoupling(event_size=4, condition_size=3)
    y = layer.forward(tf.ones([5, 4]), conditions=tf.ones([5, 3]))
    x = layer.inverse(y, conditions=tf.ones([5, 3]))
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes,
                 mask: npt.ArrayLike | None = None,
                 hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu',
                 transformer: str | Transformer = 'affine',
                 conditioner: Conditioner | Callable[..., Any] | None = None,
                 dtype: DType = tf.float32, seed: Seed | None = None,
                 validate_args: bool = False, name: str = 'conditional_coupling') -> None:
        """Constructs a coupling layer; its variables exist on return.

        Args:
          event_size: `int` D >= 2.
          condition_size: `int` S, or a nest of `int`.
          mask: D booleans, `True` for the units that pass unchanged and are seen
            by the conditioner. Default: the first D // 2.
          hidden_layers: widths of the conditioner's hidden layers.
          activation: its activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`,
            `'circular_rational_quadratic'` for angles, or a `Transformer` of k
            parameters for each unit.
          conditioner: `MLP(...)` or `ResidualNetwork(...)`; or a network of your
            own, a callable or `tf.Module` (units `[..., d_m]`, of angles their
            cosines and sines `[..., 2 d_m]`, conditions `[..., S]`) -> parameters
            `[..., k d_t]`: parameter 0 of all d_t transformed units, then
            parameter 1, and so on. It is run once, on
            zeros, by the constructor. Default: `MLP(hidden_layers, activation)`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.

        Raises:
          ValueError: for a mask that masks no unit or every unit.
        """
        seed = seeds.resolve_seed(seed)
        parameters = dict(locals())
        if mask is None:
            mask = np.arange(event_size) < event_size // 2
        mask = np.asarray(mask)
        if mask.dtype != bool or mask.shape != (event_size,):
            raise ValueError(f'`mask` must be {event_size} booleans; got dtype '
                             f'{mask.dtype}, shape {mask.shape}.')
        if mask.all() or not mask.any():
            raise ValueError(
                '`mask` must mask at least one unit and leave at least one to '
                f'transform; got {mask.tolist()}. To transform every unit from the '
                'conditions alone, which is all that event_size=1 allows, use '
                '`ConditionalElementwise`.')
        super().__init__(event_size, condition_size, mask, hidden_layers, activation,
                         transformer, conditioner, dtype, seed, validate_args,
                         parameters, name)


class ConditionalElementwise(_ConditionedTransformer):
    """Every unit transformed with parameters from the conditions alone.

    ```none
    p = network(c)
    forward:  y = T(x; p)        log-det =  sum log |dT/dx|
    inverse:  x = T^-1(y; p)     log-det = -sum log |dT/dx|
    ```

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    layer = tfpc.ConditionalElementwise(event_size=1, condition_size=3)
    y = layer.forward(tf.ones([5, 1]), conditions=tf.ones([5, 3]))
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes,
                 hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu',
                 transformer: str | Transformer = 'affine',
                 conditioner: Conditioner | Callable[..., Any] | None = None,
                 dtype: DType = tf.float32, seed: Seed | None = None,
                 validate_args: bool = False,
                 name: str = 'conditional_elementwise') -> None:
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          condition_size: `int` S, or a nest of `int`.
          hidden_layers, activation, transformer, dtype, seed, validate_args, name: as
            of `ConditionalCoupling`.
          conditioner: likewise; one of your own is called with units of width 0,
            `[..., 0]`, and returns `[..., k D]`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what came.
        """
        seed = seeds.resolve_seed(seed)
        parameters = dict(locals())
        super().__init__(event_size, condition_size, np.zeros(event_size, bool),
                         hidden_layers, activation, transformer, conditioner, dtype,
                         seed, validate_args, parameters, name)


class Partition:
    """Splits `[..., D]` into masked and other units, and merges them again."""

    def __init__(self, mask):
        self._masked, self._units = np.flatnonzero(mask), np.flatnonzero(~mask)
        self.num_masked = len(self._masked)
        # Masked units that come first or last need no gather.
        self._first = bool(np.all(mask[:self.num_masked]))
        self._last = bool(np.all(mask[len(mask) - self.num_masked:]))
        self._inverse = np.argsort(np.concatenate([self._masked, self._units]))

    def split(self, x):
        if self._first:
            return tf.split(x, [len(self._masked), len(self._units)], axis=-1)
        if self._last:
            return tf.split(x, [len(self._units), len(self._masked)], axis=-1)[::-1]
        return tf.gather(x, self._masked, axis=-1), tf.gather(x, self._units, axis=-1)

    def merge(self, masked, units):
        if self._first:
            return tf.concat([masked, units], axis=-1)
        if self._last:
            return tf.concat([units, masked], axis=-1)
        return tf.gather(tf.concat([masked, units], axis=-1), self._inverse, axis=-1)
