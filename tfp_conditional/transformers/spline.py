"""`RationalQuadratic`: monotone splines (Durkan et al. 2019, arXiv 1906.04032)."""

import math

import numpy as np
import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.transformers import transformer


class RationalQuadratic(transformer.Transformer):
    """A monotone rational-quadratic spline on [-B, B], the identity outside.

    ```none
    In the bin of width w and height h, from (x_k, y_k), with slope s = h / w and
    derivatives d_0 = s a, d_1 = s b at its ends, where u = (x - x_k) / w, v = 1 - u:

    forward:  y = y_k + h r,                r = (u^2 + a u v) / q
    log |dy/dx| = log(s p) - 2 log(q),      q = 1 + (a + b - 2) u v
                                            p = b u^2 + 2 u v + a v^2
    inverse:  u = 2 r / (e + t) = (t - e) / (2 - 2 e), whichever does not cancel,
              t = sqrt(e^2 + 4 (1 - e) r),  e = a - r (a + b - 2),  r = (y - y_k) / h
    ```

    Of the k = 3 K - 1 parameters of a unit, K give widths, K heights (both by a
    softmax) and K - 1 the derivatives at inner knots, as multiples (by a softplus) of
    the geometric mean of the slopes on both sides; at the ends the derivative is 1.
    With all parameters 0 the map is the identity.
    """

    def __init__(self, num_bins: int = 8, bound: float = 5., min_bin_size: float = 1e-2,
                 min_derivative: float = 1e-2) -> None:
        """Constructs the transformer.

        Args:
          num_bins: `int` K >= 2.
          bound: `float` B > 0, half the width of the interval.
          min_bin_size: `float`, the least width and height of a bin, as a fraction
            of the interval; less than 1 / K. Slopes lie between it and 1 over it.
          min_derivative: `float` in (0, 1), the least derivative at a knot, as a
            fraction of the geometric mean of the slopes beside it.

        Raises:
          ValueError: for values outside these ranges.
        """
        self.num_bins = conditions_lib.positive_int(num_bins, 'num_bins', least=2)
        self.num_parameters = 3 * self.num_bins - 1
        if not bound > 0:
            raise ValueError(f'`bound` must be > 0; got {bound}.')
        if not 0 < min_bin_size * self.num_bins < 1:
            raise ValueError('`min_bin_size` must lie between 0 and 1 / num_bins = '
                             f'{1 / self.num_bins}; got {min_bin_size}.')
        if not 0 < min_derivative < 1:
            raise ValueError('`min_derivative` must lie between 0 and 1; got '
                             f'{min_derivative}.')
        self.bound, self.min_bin_size = float(bound), float(min_bin_size)
        self.min_derivative = float(min_derivative)

    def forward_and_log_det(self, x: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _forward(*self._arguments(x, parameters, by_height=False))

    def inverse_and_log_det(self, y: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _inverse(*self._arguments(y, parameters, by_height=True))

    def _arguments(self, value, parameters, by_height):
        """Whether the value is inside, the value, and its bin: all of one shape."""
        inside = tf.abs(value) < self.bound
        bin_ = self._bin(tf.where(inside, value, 0.), parameters, by_height)
        return inside, value + tf.zeros_like(bin_[0]), *bin_

    def _derivatives(self, multiples, roots):
        """Derivatives at all knots, of roots of the slopes between them."""
        ends = tf.ones_like(roots[..., :1])
        return tf.concat([ends, roots[..., :-1] * roots[..., 1:] * multiples, ends], -1)

    def _bin(self, value, parameters, by_height):
        """The six numbers `[..., d]` of the bin that each value is in.

        What is done to widths is done to heights in the same operation, and sums
        replace a `tf.cumsum`, which XLA is slow to compile.
        """
        count, dtype = self.num_bins, parameters.dtype
        widths, heights, multiples = tf.split(
            tf.linalg.matrix_transpose(parameters), [count, count, -1], -1)
        sizes = 2. * self.bound * self.min_bin_size + (
            2. * self.bound * (1. - self.min_bin_size * count)) * _softmax(
                tf.stack([widths, heights], axis=-2))
        # Inner knots at or below the value are of bins that end there.
        knots = tf.reduce_sum(tf.constant(np.tri(count - 1), dtype) * tf.expand_dims(
            sizes[..., int(by_height), :-1], -2), -1) - self.bound
        passed = tf.cast(tf.expand_dims(value, -1) >= knots, dtype)
        one = tf.ones_like(passed[..., :1])
        below = tf.concat([passed, tf.zeros_like(one)], -1)
        chosen = tf.concat([one, passed], -1) - below
        # softplus(0 + shift) + min_derivative = 1.
        shift = np.log(np.expm1(1. - self.min_derivative))
        # Were derivatives no multiples of slopes, a spline would wiggle where it is
        # steep until its network had learnt derivatives as great.
        roots = tf.sqrt(sizes[..., 1, :] / sizes[..., 0, :])
        derivatives = self._derivatives(
            self.min_derivative + tf.nn.softplus(shift + multiples), roots)
        x_k, y_k = tf.unstack(tf.reduce_sum(
            tf.expand_dims(below, -2) * sizes, -1) - self.bound, axis=-1)
        w, h = tf.unstack(tf.reduce_sum(
            tf.expand_dims(chosen, -2) * sizes, -1), axis=-1)
        a, b = (tf.reduce_sum(chosen * at, -1) * w / h
                for at in (derivatives[..., :-1], derivatives[..., 1:]))
        return x_k, w, y_k, h, a, b


class CircularRationalQuadratic(RationalQuadratic):
    """A monotone rational-quadratic spline of angles, and a turn.

    ```none
    forward:  y = S(x) + t   modulo 2 pi, in [-pi, pi),   t = p + atan2(q, 1 + r)
    inverse:  x = S^-1(y - t)
    ```

    S is a `RationalQuadratic` of [-pi, pi) whose derivatives at both ends are one
    parameter (Rezende et al. 2020, arXiv 2002.02428), so densities go on across the
    cut. There are k = 3 K + 3 parameters of a unit, p, q and r the last of them. Of an
    angle that follows another one around the circle, p alone, a continuous function of
    the other's cosine and sine, would have to jump; (1 + r, q) goes round. With all
    parameters 0 the map is the identity on [-pi, pi); any other angle counts as the
    one there. Networks see the cosine and the sine of an angle.

    The base of such a flow is uniform:

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(
        2, 3, num_coupling_layers=4, hidden_layers=(16,),
        transformer=tfpc.CircularRationalQuadratic())
    dist = flow(tfd.Independent(tfd.Uniform([-np.pi] * 2, [np.pi] * 2), 1))
    angles = dist.given(tf.ones([5, 3])).sample(7)               # [7, 5, 2]
    ```
    """

    num_features = 2

    def __init__(self, num_bins: int = 8, min_bin_size: float = 1e-2,
                 min_derivative: float = 1e-2) -> None:
        """Constructs the transformer.

        Args:
          num_bins, min_bin_size, min_derivative: as of `RationalQuadratic`.

        Raises:
          ValueError: for values outside their ranges.
        """
        super().__init__(num_bins, math.pi, min_bin_size, min_derivative)
        self.num_parameters = 3 * self.num_bins + 3

    def features(self, units: tf.Tensor) -> tf.Tensor:
        return tf.concat([tf.cos(units), tf.sin(units)], -1)

    def forward_and_log_det(self, x: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        y, log_det = super().forward_and_log_det(wrapped(x), parameters[..., :-3, :])
        return wrapped(y + _turn(parameters)), log_det

    def inverse_and_log_det(self, y: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x, log_det = super().inverse_and_log_det(
            wrapped(y - _turn(parameters)), parameters[..., :-3, :])
        return wrapped(x), log_det

    def _arguments(self, value, parameters, by_height):
        bin_ = self._bin(value, parameters, by_height)
        return tf.ones_like(value, tf.bool), value + tf.zeros_like(bin_[0]), *bin_

    def _derivatives(self, multiples, roots):
        inner = roots[..., :-1] * roots[..., 1:] * multiples[..., :-1]
        end = roots[..., :1] * roots[..., -1:] * multiples[..., -1:]
        return tf.concat([end, inner, end], -1)


def _turn(parameters):
    """What is added to each angle, `[..., d]`."""
    shift, sine, cosine = tf.unstack(parameters[..., -3:, :], axis=-2)
    cosine += 1.
    # Of no direction the gradient would be infinite.
    cosine = tf.where(sine**2 + cosine**2 < 1e-6, 1e-3 * tf.ones_like(cosine), cosine)
    return shift + tf.atan2(sine, cosine)


def wrapped(angle):
    """The same angle in [-pi, pi)."""
    turn = 2. * math.pi
    angle -= turn * tf.stop_gradient(tf.floor(angle / turn + 0.5))
    # Where rounding makes it pi, the greatest number below.
    most = np.nextafter(angle.dtype.as_numpy_dtype(math.pi),
                        angle.dtype.as_numpy_dtype(0.))
    return angle + tf.stop_gradient(tf.clip_by_value(angle, -math.pi, most) - angle)


def _softmax(logits):
    """`tf.nn.softmax`, also of more than the five axes that it takes on a CPU."""
    if logits.shape.rank <= 5:
        return tf.nn.softmax(logits)
    flat = tf.nn.softmax(tf.reshape(logits, [-1, logits.shape[-1]]))
    return tf.ensure_shape(tf.reshape(flat, tf.shape(logits)), logits.shape)


def _forward(inside, x, x_k, w, y_k, h, a, b):
    """`x` -> `(y, log dy/dx)`."""
    u = tf.where(inside, x - x_k, 0.) / w
    by_q, log_derivative = _derivative(u, w, h, a, b)
    y = y_k + h * (u * u + a * u * (1. - u)) * by_q
    return tf.where(inside, y, x), tf.where(inside, log_derivative, 0.)


def _inverse(inside, y, x_k, w, y_k, h, a, b):
    """`y` -> `(x, log dx/dy)`."""
    r = tf.where(inside, y - y_k, 0.) / h
    e = a - r * (a + b - 2.)
    # The discriminant is >= 0 but for rounding, and its root is never at 0 in the
    # bin: the bound keeps derivatives finite.
    tiny = 4. / r.dtype.max    # The least normal number, of bfloat16 too.
    total = tf.sqrt(tf.maximum(e * e + 4. * (1. - e) * r, tiny)) + tf.abs(e)
    u = tf.where(e > 0., 2. * r / total, total / (2. - 2. * tf.minimum(e, 0.)))
    # Rounding alone leads out of the bin: it is undone, but no gradient stopped.
    u += tf.stop_gradient(tf.clip_by_value(u, 0., 1.) - u)
    log_derivative = _derivative(u, w, h, a, b)[1]
    return tf.where(inside, x_k + u * w, y), tf.where(inside, -log_derivative, 0.)


def _derivative(u, w, h, a, b):
    """`1 / q` and `log dy/dx`, in the letters of `RationalQuadratic`."""
    v = 1. - u
    # Divisions by what many gradients divide by, once: XLA repeats products, not
    # them, in each kernel that needs them.
    by_q = 1. / (1. + (a + b - 2.) * u * v)
    by_p = 1. / (b * u * u + 2. * u * v + a * v * v)
    return by_q, 2. * tf.math.log(by_q) - tf.math.log(w / h * by_p)
