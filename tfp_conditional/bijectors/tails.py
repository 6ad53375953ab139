"""`Tails`: the heavy tails of data, found and made those of a Gaussian."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import unconditional
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import DType

MIN_ROWS = 300   # Fewer than 30 values of a tail do not tell how heavy it is.
# The map goes on with this power of e as its slope: it cannot overflow.
MOST = 20.
# The square of the hazard of a standard normal at its 0.9 quantile.
BEND = 3.08


class Tails(unconditional.Adaptive):
    """Each tail of each unit that is heavy, as that of a Gaussian.

    ```none
    inverse:  x = h + w,  w = b (sqrt(1 + 2 e / b) - 1),  e = a log(1 + (y - h) / a)
              where y > h, likewise where y < l;  x = y elsewhere
    forward:  y = h + a (exp(e / a) - 1),  e = w + w^2 / (2 b),  w = x - h
    log-det:  sum e / a + log(1 + w / b), over units beyond l or h
    ```

    Flows of a Gaussian have tails that are Gaussian or, of splines, those of their
    data as far as these go (Jaini et al. 2020): a Student t of few degrees costs them
    hundreds of nats at single rows. Excesses over a threshold h are asymptotically of
    a generalised Pareto distribution, of scale s and index q > 0 for tails that fall as
    powers (Pickands 1975). With a = s / q the e are exponential of scale s, and with
    b = 3.08 s the w are like what a normal variate exceeds its 0.9 quantile by.

    `adapt`, which `fit` calls, takes the outer tenth of the values on each side. The
    tail is heavy if their Gini coefficient exceeds 1 / 2, that of an exponential
    tail, by 3 standard errors; s and q are then the likeliest. Where it is not, and
    before `adapt`, the map is the identity: so it is on normal and uniform values
    always, on one in 300 exponential tails not, and in less than 300 rows always.

    #### Example

    ```python
    import numpy as np
    from tfp_conditional.bijectors import tails

    y = np.random.default_rng(0).standard_t(2, size=[3000, 1])
    bijector = tails.Tails(event_size=1)
    bijector.adapt(y)
    x = bijector.inverse([[0.5], [1000.]])
    np.testing.assert_allclose(x[0], 0.5)
    assert x[1] < 20.
    ```
    """

    def __init__(self, event_size: int, dtype: DType = tf.float32,
                 name: str = 'tails') -> None:
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
        super().__init__(event_size, dtype, parameters, name,
                         is_constant_jacobian=False)
        with tf.name_scope(self.name):
            (self.low, self.high, self.low_scale, self.high_scale, self.low_bend,
             self.high_bend) = (
                    tf.Variable(tf.fill([self.event_size], tf.constant(
                        initial, self.dtype)), trainable=False, name=label)
                    for label, initial in [
                        ('low', -np.inf), ('high', np.inf), ('low_scale', 1.),
                        ('high_scale', 1.), ('low_bend', 1.), ('high_bend', 1.)])

    def _learn(self, y):
        unconditional.moments(y, 'y', self.name)   # Refuses what is not finite.
        columns = np.asarray(y, np.float64).reshape(-1, self.event_size).T
        high, high_scale, high_bend = zip(*map(find_tail, columns))
        low, low_scale, low_bend = zip(*map(find_tail, -columns))
        for variable, value in [
                (self.low, -np.array(low)), (self.low_scale, low_scale),
                (self.low_bend, low_bend), (self.high, high),
                (self.high_scale, high_scale), (self.high_bend, high_bend)]:
            variable.assign(tf.cast(value, self.dtype))

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        step = _stretch if direction == FORWARD else _compress
        log_det = 0.
        # Each value is moved by one of them at most.
        for sign, start, scale, bend in [
                (1., self.high, self.high_scale, self.high_bend),
                (-1., -self.low, self.low_scale, self.low_bend)]:
            moved, log_slope = step(tf.maximum(sign * value - start, 0.), scale, bend)
            value = sign * (tf.minimum(sign * value, start) + moved)
            log_det += tf.reduce_sum(log_slope, axis=-1)
        return value, log_det


def _stretch(w, scale, bend):
    excess = (w + w * w / (2. * bend)) / scale
    inside = tf.minimum(excess, MOST)
    return (scale * (tf.math.expm1(inside) + np.exp(MOST) * (excess - inside)),
            inside + tf.math.log1p(w / bend))


def _compress(excess, scale, bend):
    excess /= scale
    inside = tf.minimum(excess, np.expm1(MOST))
    log = tf.math.log1p(inside)
    e = scale * (log + np.exp(-MOST) * (excess - inside))
    root = tf.sqrt(1. + 2. * e / bend)
    return 2. * e / (1. + root), -log - tf.math.log(root)


def find_tail(values):
    """Returns h, a and b of the upper tail of `values [N]`; (inf, 1, 1) if not heavy.

    The Gini coefficient of excesses, half the mean difference of two over the mean, is
    1 / (2 - q) for index q (Hosking & Wallis 1987). Of k exponential ones its standard
    error is sqrt(1 / (12 k)).
    """
    k = len(values) // 10
    top = np.sort(values)[-k - 1:]
    excess = top[1:] - top[0] if len(values) >= MIN_ROWS else np.zeros(1)
    # Of rounded values too many may be equal.
    if not np.median(excess) > 0.:
        return np.inf, 1., 1.
    weights = (2. * np.arange(1, k + 1) - k - 1.) / (k * (k - 1.))
    mean = np.mean(excess)
    gini = weights @ excess / mean
    if gini < 0.5 + 3. / np.sqrt(12. * k):
        return np.inf, 1., 1.
    # Of each a, the likeliest index is q.
    scales = np.median(excess) * np.geomspace(0.01, 1000., 101)
    q = np.mean(np.log1p(excess / scales[:, np.newaxis]), axis=1)
    best = np.argmin(np.log(q * scales) + q)
    return top[0], scales[best], BEND * q[best] * scales[best]
