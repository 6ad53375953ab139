"""`ConditionalBijector`: the contract, and `condition`, which hides it from TFP."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import _tfp
from tfp_conditional.core import compiled
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import one_pass
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import Conditions, DType, Nest, Sizes, TensorLike


class ConditionalBijector(one_pass.OnePassBijector):
    """An invertible map of vectors whose shape depends on `conditions`.

    ```none
    forward:   y = g(x; c)        log-det:   log |det dy/dx|
    inverse:   x = g^-1(y; c)     log-det: - log |det dy/dx|
    ```

    A subclass writes two methods, each ONE pass of its networks. The base class
    makes TFP's methods from them, checks shapes and dtypes, and runs them
    compiled when called eagerly (`tf.config.run_functions_eagerly(True)` runs
    them op by op, for debugging).

    #### Shapes

    `x`, `y`: `[..., D]`. `conditions`: `[..., S]`, or a nest of such tensors.
    Batch shapes broadcast, right-aligned. `inverse` expands `y` to the batch
    shape of `conditions`. `forward` refuses to expand `x`: one noise vector would
    be shared between conditions.

    NaN in the conditions or in the event gives NaN, for their row alone.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    class ShiftByMean(tfpc.ConditionalBijector):
        '''y = x + mean(c).'''

        def __init__(self, event_size, condition_size, name='shift_by_mean'):
            super().__init__(event_size, condition_size, name=name)

        def _forward_and_log_det(self, x, conditions):
            shift = tf.reduce_mean(conditions, axis=-1, keepdims=True)
            return x + shift, tf.zeros([], x.dtype)     # broadcasts

        def _inverse_and_log_det(self, y, conditions):
            shift = tf.reduce_mean(conditions, axis=-1, keepdims=True)
            return y - shift, tf.zeros([], y.dtype)

    bijector = ShiftByMean(event_size=2, condition_size=3)
    y = bijector.forward(tf.zeros([5, 2]), conditions=tf.ones([5, 3]))
    assert y.shape == [5, 2]
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes,
                 output_event_size: int | None = None, is_constant_jacobian: bool = False,
                 dtype: DType = tf.float32, validate_args: bool = False,
                 parameters: dict[str, Any] | None = None,
                 name: str | None = None) -> None:
        """Constructs the base of a conditional bijector.

        Args:
          event_size: `int` D >= 1, the last dimension of `x`.
          condition_size: `int` S >= 1, the last dimension of `conditions`; or a
            nest (dict, tuple) of such integers for a nest of tensors.
          output_event_size: `int`, the last dimension of `y` where it is not D.
          is_constant_jacobian: `bool`, whether the map is affine in x: so TFP reads
            this name, and answers `mean`, `stddev` and `covariance` by it. A map
            with the same log-det for all x need not be.
          dtype: floating dtype of x, y, conditions and log-dets.
          validate_args: `bool`, whether to check that values are finite.
          parameters: `dict` of constructor arguments, as in `tfb.Bijector`.
          name: `str`.

        Raises:
          TypeError, ValueError: for sizes that are no positive integers and for
            a dtype that is not floating.
        """
        dtype = conditions_lib.floating(dtype)
        self._event_size = conditions_lib.positive_int(event_size, 'event_size')
        self._output_event_size = (
            self._event_size if output_event_size is None else
            conditions_lib.positive_int(output_event_size, 'output_event_size'))
        self._condition_spec = conditions_lib.ConditionSpec(condition_size, dtype)
        super().__init__(dtype=dtype, is_constant_jacobian=is_constant_jacobian,
                         validate_args=validate_args, parameters=parameters,
                         name=name)

    @property
    def event_size(self) -> int:
        """`int` D, the last dimension of `x`."""
        return self._event_size

    @property
    def output_event_size(self) -> int:
        """`int` D', the last dimension of `y`."""
        return self._output_event_size

    @property
    def condition_size(self) -> Sizes:
        """`int` or nest of `int`, the last dimension(s) of `conditions`."""
        return self._condition_spec.size

    @property
    def condition_spec(self) -> conditions_lib.ConditionSpec:
        """`ConditionSpec`, which checks conditions and knows their shapes."""
        return self._condition_spec

    def _forward_and_log_det(self, x: tf.Tensor,
                             conditions: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `y [..., D]` and `log |det dy/dx| [...]` from one pass.

        Args:
          x: `[..., D]`, its batch shape that of the result.
          conditions: nest of `[..., S]`, whose batch shape broadcasts to that
            of `x` and may be smaller.
        """
        raise NotImplementedError(f'{type(self).__name__} must implement '
                                  '`_forward_and_log_det(x, conditions)`.')

    def _inverse_and_log_det(self, y: tf.Tensor,
                             conditions: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `x [..., D]` and `log |det dx/dy| [...]` from one pass."""
        raise NotImplementedError(f'{type(self).__name__} must implement '
                                  '`_inverse_and_log_det(y, conditions)`.')

    def condition(self, conditions: Conditions,
                  name: str | None = None) -> 'ConditionedBijector':
        """Returns this bijector for fixed conditions, in need of no keyword.

        ```python
        import tensorflow as tf
        import tensorflow_probability as tfp
        import tfp_conditional as tfpc
        tfd = tfp.distributions

        flow = tfpc.ConditionalRealNVP(event_size=2, condition_size=3)
        base = tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1)
        given = tfd.TransformedDistribution(base, flow.condition(tf.ones([5, 3])))
        assert given.batch_shape == [5]
        assert given.sample(7).shape == [7, 5, 2]      # independent noise
        ```

        Args:
          conditions: `[..., S]`, or the nest of tensors that `condition_size`
            says. Arrays and variables are read at every call.
          name: `str`.

        Returns:
          A `tfb.Bijector` of batch shape `conditions.shape[:-1]` that shares this
          bijector's variables.
        """
        return ConditionedBijector(self, conditions, name=name)

    def one_pass(self, direction: str, value: TensorLike,
                 kwargs: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        conditions_lib.reject_unknown(kwargs, self.name)
        conditions = kwargs.get('conditions')
        if isinstance(conditions, _Checked):
            return self.exact_pass(direction, value, *conditions.leaves)
        value, conditions = self.check_pass(direction, value, conditions)
        leaves = tf.nest.flatten(conditions)
        if not compiled.is_eager():
            return self.exact_pass(direction, value, *leaves)
        return self._compiled(
            self, 'exact_pass', [value, *leaves],
            [value.shape[-1:], *self.condition_shapes], (direction,))

    @property
    def condition_shapes(self) -> tuple[tf.TensorShape, ...]:
        """How the shapes of the leaves of `conditions` end, after the batch axes."""
        return self._condition_spec.shapes

    def condition_signature(self, batch_shape: Sequence[int | None]) -> Any:
        """A nest of `tf.TensorSpec` for conditions of that batch shape."""
        return self._condition_spec.signature(batch_shape)

    def checked(self, leaves: Sequence[tf.Tensor]) -> '_Checked':
        """Leaves of conditions that were checked: `conditions` as a pass takes them."""
        return _Checked(leaves)

    def check_conditions(self, conditions: Conditions | None) -> Any:
        """`conditions` as a nest of tensors of one batch shape, or an error.

        Raises:
          TypeError, ValueError: naming what was expected, what came and what to do.
        """
        return self._condition_spec.check(conditions, self.name)

    def batch_shape_of(self, conditions: Nest) -> tf.TensorShape:
        """The static batch shape of checked conditions."""
        return self._condition_spec.batch_shape(conditions)

    def batch_shape_tensor_of(self, leaves: Nest) -> tf.Tensor:
        """The batch shape of the leaves of checked conditions, as a tensor."""
        return self._condition_spec.batch_shape_tensor(leaves)

    def check_pass(self, direction: str, value: TensorLike,
                   conditions: Conditions | None) -> tuple[tf.Tensor, Any]:
        """The arguments of a pass as tensors, the value of the result's batch shape.

        Raises:
          TypeError, ValueError: naming what was expected, what came and what to do.
        """
        conditions = self.check_conditions(conditions)
        label, size = (('x', self._event_size) if direction == FORWARD
                       else ('y', self._output_event_size))
        value = conditions_lib.check_last_dimension(
            conditions_lib.as_tensor(value, self.dtype, label), size, label)
        if direction == FORWARD or _tfp.is_drawing():
            value = self.unshared(value, conditions)
        else:
            value = self.expanded(value, conditions)
        if self.validate_args:
            value = tf.debugging.assert_all_finite(
                value, f'`{label}` of {self.name!r} must be finite.')
            conditions = tf.nest.map_structure(
                lambda leaf: tf.debugging.assert_all_finite(
                    leaf, f'`conditions` of {self.name!r} must be finite.'),
                conditions)
        return value, conditions

    def exact_pass(self, direction: str, value: tf.Tensor,
                   *leaves: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`unchecked_pass` with results of exactly the shapes `[..., D']` and `[...]`.

        Args:
          direction, value: as there.
          *leaves: those of checked conditions.
        """
        conditions = tf.nest.pack_sequence_as(self.condition_size, leaves)
        result, log_det = self.unchecked_pass(direction, value, conditions)
        # Not left to the networks: TensorFlow's fused relu of a NaN is 0.
        nan = tf.constant(np.nan, self.dtype)
        has_nan = self._condition_spec.has_nan(conditions)
        if has_nan is not False:
            result = tf.where(has_nan[..., tf.newaxis], nan, result)
            log_det = tf.where(has_nan, nan, log_det)
        batch = value.shape[:-1]
        if batch.is_fully_defined():
            return result, (log_det if log_det.shape == batch
                            else tf.broadcast_to(log_det, batch))
        # Where shapes are unknown until run time, a result that was silently
        # expanded has another number of elements, and fails here.
        shape, size = tf.shape(value)[:-1], [result.shape[-1]]
        result = tf.reshape(result, tf.concat([shape, size], 0))
        log_det = tf.broadcast_to(log_det, shape)
        result.set_shape(batch + size)
        log_det.set_shape(batch)
        return result, log_det

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        if direction == FORWARD:
            result, log_det = self._forward_and_log_det(value, conditions)
            size = self._output_event_size
        else:
            result, log_det = self._inverse_and_log_det(value, conditions)
            size = self._event_size
        shape = value.shape[:-1] + [size]
        if not (result.shape.is_compatible_with(shape)
                and result.dtype == self.dtype):
            raise ValueError(
                f'`_{direction}_and_log_det` of {self.name!r} must return '
                f'{self.dtype.name} {shape}; got {result.dtype.name} '
                f'{result.shape}.')
        if result.shape != shape:
            result = tf.ensure_shape(result, shape)
        log_det = tf.convert_to_tensor(log_det)
        if log_det.dtype != self.dtype:
            raise TypeError(f'`_{direction}_and_log_det` of {self.name!r} must return '
                            f'a log-det of dtype {self.dtype.name}; got '
                            f'{log_det.dtype.name}.')
        return result, log_det

    def expanded(self, value: tf.Tensor, conditions: Nest) -> tf.Tensor:
        """Events `[..., D]`, expanded to the batch shape of checked conditions."""
        batch = value.shape[:-1]
        full = self._full_batch(batch, conditions)
        if batch.is_fully_defined() and full == batch:
            return value
        if full.is_fully_defined():
            return tf.broadcast_to(value, full + value.shape[-1:])
        shape = tf.broadcast_dynamic_shape(*self._batches(value, conditions))
        return tf.ensure_shape(
            tf.broadcast_to(value, tf.concat([shape, tf.shape(value)[-1:]], 0)),
            full + value.shape[-1:])

    def refuse_shared_noise(self, batch: tf.TensorShape,
                            conditions: Nest) -> tf.TensorShape:
        """Raises where checked conditions would expand noise of that batch shape.

        Returns:
          The static batch shape of both; what it leaves open, run time must check.
        """
        full = self._full_batch(batch, conditions)
        condition_batch = self.batch_shape_of(conditions)
        padded = [1] * (condition_batch.rank - batch.rank) + batch.as_list()
        if condition_batch.rank > batch.rank or any(
                have == 1 and want not in (None, 1) for have, want in
                zip(padded[::-1], condition_batch.as_list()[::-1])):
            raise ValueError(self._share_noise_message(batch, condition_batch))
        return full

    def unshared(self, value: tf.Tensor, conditions: Nest) -> tf.Tensor:
        """Noise `[..., D]`, once it is known that no conditions share it."""
        batch = value.shape[:-1]
        if self.refuse_shared_noise(batch, conditions).is_fully_defined() and (
                batch.is_fully_defined()):
            return value
        check = tf.debugging.assert_equal(
            tf.broadcast_dynamic_shape(*self._batches(value, conditions)),
            tf.shape(value)[:-1],
            self._share_noise_message(batch, self.batch_shape_of(conditions)))
        with tf.control_dependencies([check] if check is not None else []):
            return tf.identity(value)

    def _full_batch(self, batch, conditions):
        condition_batch = self.batch_shape_of(conditions)
        try:
            return tf.broadcast_static_shape(batch, condition_batch)
        except ValueError as error:
            raise ValueError(
                f'The batch shapes of the event {batch.as_list()} and of '
                f'`conditions` {condition_batch.as_list()} must broadcast, '
                f'right-aligned, in {self.name!r}.') from error

    def _batches(self, value, conditions):
        return (tf.shape(value)[:-1],
                self._condition_spec.batch_shape_tensor(conditions))

    def _share_noise_message(self, batch, condition_batch):
        return (
            f'`forward` of {self.name!r} will not expand noise of batch shape '
            f'{batch.as_list()} to that of `conditions`, {condition_batch.as_list()}:'
            ' all conditions would share the same noise. To sample for each '
            'condition, use `tfd.TransformedDistribution(base, '
            'bijector.condition(conditions))`, whose batch shape is that of the '
            'conditions; or give the base that batch shape; or draw as many '
            'samples as there are conditions, `sample(B)` for `[B, S]`. To share '
            'the noise on purpose, `tf.broadcast_to` it first.')

    def _forward_event_shape(self, input_shape):
        return self._event_shape(input_shape, self._event_size,
                                 self._output_event_size)

    def _inverse_event_shape(self, output_shape):
        return self._event_shape(output_shape, self._output_event_size,
                                 self._event_size)

    def _forward_event_shape_tensor(self, input_shape):
        return _with_last(input_shape, self._output_event_size)

    def _inverse_event_shape_tensor(self, output_shape):
        return _with_last(output_shape, self._event_size)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def __getitem__(self, slices):
        raise TypeError(f'{self.name!r} has no batch shape to slice; slice '
                        '`bijector.condition(conditions)` or the conditions.')


class _Checked:
    """Tensors that were checked as the conditions of a bijector."""

    def __init__(self, leaves):
        self.leaves = leaves


def _with_last(shape, size):
    """The shape, a vector of integers, with another last element."""
    static = tf.get_static_value(shape)
    if static is None:
        return tf.concat([shape[:-1], [size]], 0)
    # TFP asks at every eager call: this is one constant where that is ten ops.
    return tf.constant([*static[:-1], size], tf.int32)


class ConditionedBijector(one_pass.OnePassBijector):
    """A conditional bijector for fixed conditions; see `ConditionalBijector.condition`."""

    def __init__(self, bijector: ConditionalBijector, conditions: Conditions,
                 validate_args: bool = False, name: str | None = None) -> None:
        if not isinstance(bijector, ConditionalBijector):
            raise TypeError('`bijector` must be a ConditionalBijector; got '
                            f'{type(bijector).__name__}.')
        bijector.check_conditions(conditions)
        conditions = bijector.condition_spec.pack(conditions)
        parameters = dict(locals())
        self._bijector = bijector
        self._conditions = conditions
        self.has_edges = bijector.has_edges
        super().__init__(
            dtype=bijector.dtype, validate_args=validate_args,
            is_constant_jacobian=bijector.is_constant_jacobian,
            parameters=parameters, name=name or f'{bijector.name}_given')

    @property
    def bijector(self) -> ConditionalBijector:
        """The conditional bijector, whose variables this shares."""
        return self._bijector

    @property
    def conditions(self) -> Any:
        """The conditions, as they were given."""
        return self._conditions

    @classmethod
    def _parameter_properties(cls, dtype):
        return {'conditions': tfp.util.ParameterProperties(
            event_ndims=lambda self, x_event_ndims: tf.nest.map_structure(
                lambda rank: x_event_ndims + rank - 1,
                self._bijector.condition_spec.event_ndims()))}

    def one_pass(self, direction: str, value: TensorLike,
                 kwargs: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        if kwargs:
            raise TypeError(f'{self.name!r} has its conditions already and takes no '
                            f'keyword arguments; got {sorted(kwargs)}.')
        return self._bijector.one_pass(direction, value,
                                       {'conditions': self._conditions})

    def _forward_event_shape(self, input_shape):
        return self._bijector.forward_event_shape(input_shape)

    def _inverse_event_shape(self, output_shape):
        return self._bijector.inverse_event_shape(output_shape)

    def _forward_event_shape_tensor(self, input_shape):
        return self._bijector.forward_event_shape_tensor(input_shape)

    def _inverse_event_shape_tensor(self, output_shape):
        return self._bijector.inverse_event_shape_tensor(output_shape)
