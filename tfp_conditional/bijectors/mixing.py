"""`ActNorm` and `InvertibleLinear`: what stands between couplings, unconditional."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import unconditional
from tfp_conditional.core import seeds
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import DType, Seed

MAX_LOG_SCALE = 2.   # What `InvertibleLinear` may scale a unit by, exp(2), about 7.


class ActNorm(unconditional.Adaptive):
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

    def __init__(self, event_size: int, dtype: DType = tf.float32,
                 name: str = 'act_norm') -> None:
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
        loc, scale = unconditional.moments(y, 'y', self.name)
        self.loc.assign(tf.cast(loc, self.dtype))
        self.shift.assign(tf.zeros_like(self.shift))
        self.log_scale.assign(tf.cast(np.log(scale), self.dtype))

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        log_det = tf.reduce_sum(self.log_scale)
        if direction == FORWARD:
            value = (value + self.shift) * tf.exp(self.log_scale)
            return self.loc + value, log_det
        return (value - self.loc) * tf.exp(-self.log_scale) - self.shift, -log_det


class InvertibleLinear(unconditional.Unconditional):
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

    def __init__(self, event_size: int, dtype: DType = tf.float32,
                 seed: Seed | None = None, name: str = 'invertible_linear') -> None:
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
        seed = seeds.resolve_seed(seed)
        parameters = dict(locals())
        super().__init__(event_size, dtype, parameters, name)
        rng = np.random.default_rng(seed)
        with tf.name_scope(self.name):
            self.kernel = tf.Variable(
                tf.zeros([self.event_size, self.event_size], self.dtype),
                name='kernel')
            # GPUs hold no variables of int32.
            self.permutation = tf.Variable(
                rng.permutation(self.event_size).astype(np.int64), trainable=False,
                name='permutation')

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
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
