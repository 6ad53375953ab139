"""`ActNorm` and `InvertibleLinear`: what stands between couplings, unconditional.

`moments` and the flag `adapted` are the means of `adapt`, by which a bijector learns
from data what gradients do not learn: once, so that a second fit moves nothing.
"""

import numpy as np
import tensorflow as tf

from tfp_conditional import conditions as conditions_lib
from tfp_conditional import networks
from tfp_conditional import one_pass
from tfp_conditional.one_pass import FORWARD

MAX_LOG_SCALE = 2.   # What `InvertibleLinear` may scale a unit by, exp(2), about 7.


class _Unconditional(one_pass.OnePassBijector):
    """A bijector of vectors `[..., D]` that takes no conditions."""

    def __init__(self, event_size, dtype, parameters, name,
                 is_constant_jacobian=True):
        dtype = tf.as_dtype(dtype)
        if not dtype.is_floating:
            raise TypeError(f'`dtype` must be floating; got {dtype.name}.')
        self._event_size = conditions_lib.positive_int(event_size, 'event_size')
        super().__init__(dtype=dtype, is_constant_jacobian=is_constant_jacobian,
                         parameters=parameters, name=name)

    @property
    def event_size(self):
        """`int` D, the last dimension of `x` and `y`."""
        return self._event_size

    def _map(self, direction, value):
        """Returns the image `[..., D]` of `value`, and the log-det, or one for all."""
        raise NotImplementedError

    def _run(self, direction, value, kwargs):
        if kwargs:
            raise TypeError(
                f'{self.name!r} is unconditional and takes no keyword arguments; '
                f'got {sorted(kwargs)}. Put it into a `ConditionalChain`, which '
                'hands `conditions` to those parts that take them.')
        label = 'x' if direction == FORWARD else 'y'
        value = conditions_lib.check_last_dimension(conditions_lib.as_tensor(
            value, self.dtype, label), self._event_size, label)
        result, log_det = self._map(direction, value)
        log_det = tf.broadcast_to(log_det, tf.shape(value)[:-1])
        log_det.set_shape(value.shape[:-1])
        return result, log_det

    def _forward_event_shape(self, shape):
        if shape.rank is not None and (
                shape.rank == 0 or shape[-1] not in (None, self._event_size)):
            hint = ('' if shape.rank else ' Its events are scalars: wrap the base '
                    'distribution as `tfd.Independent(base, 1)`.')
            raise ValueError(
                f'Events of {self.name!r} must have last dimension '
                f'{self._event_size}; got event shape {shape.as_list()}.{hint}')
        return shape

    _inverse_event_shape = _forward_event_shape

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}


class Adaptive(_Unconditional):
    """One that learns from data, once."""

    def __init__(self, event_size, dtype, parameters, name,
                 is_constant_jacobian=True):
        super().__init__(event_size, dtype, parameters, name, is_constant_jacobian)
        with tf.name_scope(self.name):
            self._adapted = flag()

    @property
    def adapted(self):
        """`bool`, whether `adapt` has learnt from data."""
        return is_set(self._adapted)

    def adapt(self, y, conditions=None):
        """Learns from data what gradients do not train; does so only once.

        Args:
          y: `[..., D]`, events.
          conditions: ignored.

        Raises:
          ValueError: if `y` has no row, or is not finite.
        """
        del conditions
        if self.adapted:
            return
        self._learn(conditions_lib.check_last_dimension(conditions_lib.as_tensor(
            y, self.dtype, 'y', lossless=True), self.event_size, 'y'))
        self._adapted.assign(True)

    def _learn(self, y):
        raise NotImplementedError


class ActNorm(Adaptive):
    """`y = loc + (x + shift) exp(log_scale)`, by unit (Kingma & Dhariwal 2018).

    ```none
    forward:  y = m + (x + t) exp(s)         log-det =  sum s
    inverse:  x = (y - m) exp(-s) - t        log-det = -sum s
    ```

    Gradients train `shift` and `log_scale`. Until `adapt`, which gives the noise
    side of data mean 0 and standard deviation 1, it is the identity. A unit that is
    constant keeps its scale.

    The mean of the data is a `loc` of its own, which is not trained, and `shift` is
    one of the noise side: so a step of an optimizer means the same whatever the
    units of the data are, and wherever their mean lies.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    norm = tfpc.ActNorm(event_size=2)
    y = tf.constant([[1e6, -3.], [3e6, -1.]])
    norm.adapt(y)
    tf.debugging.assert_near(norm.inverse(y), [[-1., -1.], [1., 1.]])
    ```
    """

    def __init__(self, event_size, dtype=tf.float32, name='act_norm'):
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          dtype: floating dtype.
          name: `str`.

        Raises:
          TypeError, ValueError: for an `event_size` that is no positive integer and
            a dtype that is not floating.
        """
        parameters = dict(locals())
        super().__init__(event_size, dtype, parameters, name)
        with tf.name_scope(self.name):
            self.loc, self.shift, self.log_scale = (
                tf.Variable(tf.zeros([self.event_size], self.dtype),
                            trainable=label != 'loc', name=label)
                for label in ('loc', 'shift', 'log_scale'))

    def _learn(self, y):
        loc, scale = moments(y, 'y', self.name)
        self.loc.assign(tf.cast(loc, self.dtype))
        self.shift.assign(tf.zeros_like(self.shift))
        self.log_scale.assign(tf.cast(np.log(scale), self.dtype))

    def _map(self, direction, value):
        log_det = tf.reduce_sum(self.log_scale)
        if direction == FORWARD:
            value = (value + self.shift) * tf.exp(self.log_scale)
            return self.loc + value, log_det
        return (value - self.loc) * tf.exp(-self.log_scale) - self.shift, -log_det


class InvertibleLinear(_Unconditional):
    """`y = P L U x`, a learned mixture of all units (Kingma & Dhariwal 2018).

    ```none
    forward:  y = P L U x                log-det =  sum s
    inverse:  x = U^-1 L^-1 P^T y        log-det = -sum s
    P a fixed permutation, L unit lower triangular, U upper triangular,
    diag U = exp(s), s = m tanh(d / m), m = 2
    ```

    One variable `kernel [D, D]` holds L below its diagonal, U above it and d on it;
    at 0 only the permutation is left. It never becomes singular. P is a variable
    that is not trained, so that a checkpoint has it.

    Both directions are computed in float64: the inverse of a product that was
    rounded (on a GPU to the 11 bits of TF32) is no inverse.

    #### Example

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalChain([
        tfpc.ActNorm(4), tfpc.InvertibleLinear(4, seed=0),
        tfpc.ConditionalCoupling(event_size=4, condition_size=3)])
    y = flow.forward(tf.ones([5, 4]), conditions=tf.ones([5, 3]))
    ```
    """

    def __init__(self, event_size, dtype=tf.float32, seed=None,
                 name='invertible_linear'):
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          dtype: floating dtype.
          seed: `int` or TFP seed for the permutation.
          name: `str`.

        Raises:
          TypeError, ValueError: for an `event_size` that is no positive integer and
            a dtype that is not floating.
        """
        parameters = dict(locals())
        super().__init__(event_size, dtype, parameters, name)
        rng = np.random.default_rng(networks.resolve_seed(seed))
        with tf.name_scope(self.name):
            self.kernel = tf.Variable(
                tf.zeros([self.event_size, self.event_size], self.dtype),
                name='kernel')
            # GPUs hold no variables of int32.
            self.permutation = tf.Variable(
                rng.permutation(self.event_size).astype(np.int64), trainable=False,
                name='permutation')

    def _map(self, direction, value):
        kernel = tf.cast(self.kernel, tf.float64)
        log_diagonal = MAX_LOG_SCALE * tf.tanh(
            tf.linalg.diag_part(kernel) / MAX_LOG_SCALE)
        lower = tf.linalg.set_diag(tf.linalg.band_part(kernel, -1, 0),
                                   tf.ones_like(log_diagonal))
        upper = tf.linalg.set_diag(tf.linalg.band_part(kernel, 0, -1),
                                   tf.exp(log_diagonal))
        log_det = tf.cast(tf.reduce_sum(log_diagonal), self.dtype)
        rows = tf.reshape(tf.cast(value, tf.float64), [-1, self.event_size])
        if direction == FORWARD:
            matrix = tf.gather(tf.matmul(lower, upper), self.permutation, axis=0)
            rows = tf.matmul(rows, matrix, transpose_b=True)
        else:
            log_det = -log_det
            columns = tf.gather(tf.transpose(rows), tf.math.invert_permutation(
                tf.convert_to_tensor(self.permutation)), axis=0)
            columns = tf.linalg.triangular_solve(lower, columns)
            rows = tf.transpose(
                tf.linalg.triangular_solve(upper, columns, lower=False))
        result = tf.reshape(tf.cast(rows, self.dtype), tf.shape(value))
        result.set_shape(value.shape)
        return result, log_det


def flag():
    """A variable that says whether a bijector has adapted; copies have it too."""
    return tf.Variable(False, trainable=False, name='adapted')


def is_set(variable):
    """The present value of a `flag`."""
    if not tf.executing_eagerly():
        raise RuntimeError('`adapt` and `adapted` must be called eagerly, not in a '
                           '`tf.function`.')
    return bool(tf.convert_to_tensor(variable))


def moments(values, label, owner):
    """Mean and standard deviation of columns, such as one can divide by.

    A column that is constant, up to 4 units in the last place of its greatest
    entry, has deviation 1; so has one of less than 1e-31 in float32, 1e-246 in
    float64. No finite values overflow.

    Args:
      values: tensor `[..., D]`.
      label: `str`, its name in messages.
      owner: `str`, the name of the bijector that adapts.

    Returns:
      Two float64 arrays `[D]`.

    Raises:
      ValueError: if there is no row, or one that is not finite.
    """
    values, most = tf.reshape(values, [-1, values.shape[-1]]), values.dtype.max
    size = np.max(np.abs(values), axis=0, initial=0.)
    spacing = 2. * np.spacing(size / 2).astype(np.float64)   # Of the greatest, too.
    values, size = (np.asarray(x, np.float64) for x in (values, size))
    finite = np.isfinite(values).all(-1)
    if not len(values) or not finite.all():
        raise ValueError(
            f'`{label}` must have at least one row, and be finite, for {owner!r} to '
            f'adapt; got {len(values)} rows, {np.sum(~finite)} of them not finite.')
    size = np.where(size == 0, 1., size)
    values = values / size
    loc, scale = size * np.mean(values, axis=0), size * np.std(values, axis=0)
    # Values up to most^.2, 5e7 in float32, divided by it do not overflow.
    least = np.maximum(4 * spacing, float(most) ** -.8)
    return loc, np.where(scale > least, scale, 1.)
