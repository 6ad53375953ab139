"""`RationalQuadratic`: monotone splines (Durkan et al. 2019, arXiv 1906.04032)."""

import numpy as np
import tensorflow as tf

from tfp_conditional import conditions as conditions_lib
from tfp_conditional import transformers


class RationalQuadratic(transformers.Transformer):
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

    def __init__(self, num_bins=8, bound=5., min_bin_size=1e-2, min_derivative=1e-2):
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

    def forward_and_log_det(self, x, parameters):
        return _forward(*self._arguments(x, parameters, by_height=False))

    def inverse_and_log_det(self, y, parameters):
        return _inverse(*self._arguments(y, parameters, by_height=True))

    def _arguments(self, value, parameters, by_height):
        """Whether the value is inside, the value, and its bin: all of one shape."""
        inside = tf.abs(value) < self.bound
        bin_ = self._bin(tf.where(inside, value, 0.), parameters, by_height)
        return inside, value + tf.zeros_like(bin_[0]), *bin_

    def _bin(self, value, parameters, by_height):
        """The six numbers `[..., d]` of the bin that each value is in.

        What is done to widths is done to heights in the same operation, and sums
        replace a `tf.cumsum`, which XLA is slow to compile.
        """
        count, dtype = self.num_bins, parameters.dtype
        widths, heights, multiples = tf.split(
            tf.linalg.matrix_transpose(parameters), [count, count, count - 1], -1)
        sizes = 2. * self.bound * self.min_bin_size + (
            2. * self.bound * (1. - self.min_bin_size * count)) * tf.nn.softmax(
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
        ends = tf.ones_like(roots[..., :1])
        derivatives = tf.concat([
            ends, roots[..., :-1] * roots[..., 1:] * (
                self.min_derivative + tf.nn.softplus(shift + multiples)), ends], -1)
        x_k, y_k = tf.unstack(tf.reduce_sum(
            tf.expand_dims(below, -2) * sizes, -1) - self.bound, axis=-1)
        w, h = tf.unstack(tf.reduce_sum(
            tf.expand_dims(chosen, -2) * sizes, -1), axis=-1)
        a, b = (tf.reduce_sum(chosen * at, -1) * w / h
                for at in (derivatives[..., :-1], derivatives[..., 1:]))
        return x_k, w, y_k, h, a, b


# Gradients are written out: in fewer operations than TensorFlow would trace, and
# without the root of the inverse, whose derivative is infinite at 0.

@tf.custom_gradient
def _forward(inside, x, x_k, w, y_k, h, a, b):
    """`x` -> `(y, log dy/dx)`."""
    at = _Point(tf.where(inside, x - x_k, 0.) / w, None, w, h, a, b)

    def gradients(to_y, to_log):
        to_y_in, to_log = _only(inside, to_y, to_log)
        to_x_in = to_y_in * at.derivative() + to_log * at.log_derivative_by_x()
        to_w, *others = at.gradients(to_y_in, to_log, to_x_in)
        return None, tf.where(inside, to_x_in, to_y), -to_x_in, to_w, to_y_in, *others

    return (tf.where(inside, y_k + h * at.r, x),
            tf.where(inside, at.log_derivative(), 0.)), gradients


@tf.custom_gradient
def _inverse(inside, y, x_k, w, y_k, h, a, b):
    """`y` -> `(x, log dx/dy)`."""
    r = tf.where(inside, y - y_k, 0.) / h
    e = a - r * (a + b - 2.)
    # The discriminant is >= 0 but for rounding, and its root is never at 0 in the
    # bin: the bound keeps second derivatives finite.
    tiny = np.finfo(r.dtype.as_numpy_dtype).tiny
    total = tf.sqrt(tf.maximum(e * e + 4. * (1. - e) * r, tiny)) + tf.abs(e)
    u = tf.where(e > 0., 2. * r / total, total / (2. - 2. * tf.minimum(e, 0.)))
    at = _Point(tf.clip_by_value(u, 0., 1.), r, w, h, a, b)

    def gradients(to_x, to_log):
        to_x_in, to_log = _only(inside, to_x, -to_log)
        # A division last: XLA, which does not repeat one, then does not repeat the
        # gradients of all later couplings in each kernel of this one's.
        to_y = (to_x + to_log * at.log_derivative_by_x()) / tf.where(
            inside, at.derivative(), 1.)
        to_y_in = tf.where(inside, to_y, 0.)
        to_w, *others = at.gradients(-to_y_in, to_log, -to_x_in)
        return None, to_y, to_x_in, to_w, -to_y_in, *others

    return (tf.where(inside, x_k + at.u * w, y),
            tf.where(inside, -at.log_derivative(), 0.)), gradients


def _only(inside, *gradients):
    return [tf.where(inside, gradient, 0.) for gradient in gradients]


class _Point:
    """A point of a bin, in the letters of `RationalQuadratic`.

    Divisions are by what many gradients divide by, once: XLA repeats products, not
    them, in each kernel that needs them.
    """

    def __init__(self, u, r, w, h, a, b):
        self.u, self.v, self.w, self.h, self.a, self.b = u, 1. - u, w, h, a, b
        self.ratio, self.bend, self.uv = w / h, a + b - 2., u * self.v
        self.by_q = 1. / (1. + self.bend * self.uv)
        self.by_p = 1. / (b * u * u + 2. * self.uv + a * self.v * self.v)
        self.r = (u * u + a * self.uv) * self.by_q if r is None else r

    def derivative(self):
        """dy/dx."""
        return self.by_q * self.by_q / (self.ratio * self.by_p)

    def log_derivative(self):
        """log dy/dx."""
        return 2. * tf.math.log(self.by_q) - tf.math.log(self.ratio * self.by_p)

    def log_derivative_by_x(self):
        """d(log dy/dx)/dx."""
        return 2. / self.w * (
            (self.b * self.u + self.v - self.u - self.a * self.v) * self.by_p
            - self.bend * (self.v - self.u) * self.by_q)

    def gradients(self, to_y, to_log, to_x):
        """Those of `w`, `h`, `a`, `b`, from those of `y` and `log dy/dx`.

        `to_x` is the gradient of `x` from the same.
        """
        by_q, by_p = self.uv * self.by_q, to_log * self.by_p
        both = 2. * to_log * by_q
        return (-self.u * to_x - to_log / self.w, to_y * self.r + to_log / self.h,
                to_y * self.h * (1. - self.r) * by_q + by_p * self.v * self.v - both,
                by_p * self.u * self.u - to_y * self.h * self.r * by_q - both)
