"""`Squash`: onto bounded intervals by tanh, with densities at their very ends."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import settings
from tfp_conditional.bijectors import unconditional
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import DType, TensorLike

# Up to this many steps of the greater bound beyond one, which is 4 units in the last
# place or more, an event is one that was rounded: rescaling is rarely further off.
ROUNDING = 8
# Nearer to the middle than this, tanh itself is the more accurate; further away, the
# distance to the nearer bound, which it would round away.
MIDDLE = 0.5


class Squash(unconditional.Unconditional):
    """`y = (l + h) / 2 + (h - l) / 2 tanh(x)`, unit by unit, onto [l, h].

    ```none
    forward:  y = (l + h) / 2 + (h - l) / 2 tanh(x)
    inverse:  x = (log(y - l) - log(h - y)) / 2
    log-det:  +- sum log((h - l) / 2) + 2 log 2 - softplus(2 x) - softplus(-2 x)
    ```

    The last layer of a policy of bounded actions, as in soft actor-critic (Haarnoja
    et al. 2018). Latents beyond 9, in float32, give the bound itself, where a
    `tfb.Tanh` has infinite latents and no density. Here:

    - The log-det is that of the latent, finite for all that are.
    - A bound stands for the number next to it inside: its latent (8.7 for 1 in
      float32) and its density are finite. So are those up to 4 units in the last
      place beyond it. A density next to a bound is as accurate as the event, that
      is, as its distance from the bound: take the log-prob of a fresh sample from
      `experimental_sample_and_log_prob`, which knows its latent.
    - Further outside the density is 0, its logarithm -inf, and the latent that of the
      bound; with `validate_args` an error.
    - NaN gives NaN.

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalChain([
        tfpc.Squash(low=[-2., 0.], high=[2., 1.]),
        tfpc.ConditionalRealNVP(event_size=2, condition_size=3)])
    policy = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    log_probs = policy.given(tf.ones([2, 3])).log_prob([[2., 0.5], [1., 2.]])
    assert tf.math.is_finite(log_probs[0]) and log_probs[1] == -float('inf')
    ```
    """

    def __init__(self, low: TensorLike, high: TensorLike, dtype: DType = tf.float32,
                 validate_args: bool = False, name: str = 'squash') -> None:
        """Constructs the bijector.

        Args:
          low: least value of each unit, `[D]`.
          high: greatest value of each unit, `[D]`.
          dtype: floating dtype.
          validate_args: `bool`, whether to check that events lie within the bounds.
          name: `str`.

        Raises:
          TypeError: for bounds that are no numbers, a dtype that is not floating.
          ValueError: for bounds that are not vectors of one length, not finite or not
            in order, as numbers of `dtype`.
        """
        parameters = dict(locals())
        self._low, self._high = check_bounds(low, high, dtype)
        super().__init__(len(self._low), dtype, parameters, name,
                         is_constant_jacobian=False)
        self._validate_args = validate_args
        # Halves, since the width of an interval may overflow.
        self._half = self._high / 2 - self._low / 2
        self._middle = self._high / 2 + self._low / 2
        self._settings = settings.Settings(self.name, low=self._low, high=self._high)

    @property
    def low(self) -> tf.Tensor:
        """Least values, array `[D]`."""
        return self._low

    @property
    def high(self) -> tf.Tensor:
        """Greatest values, array `[D]`."""
        return self._high

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        if direction == FORWARD:
            return self._squash(value), tf.reduce_sum(self._log_slope(value), -1)
        x, outside = self._unsquash(value)
        log_det = tf.where(outside, tf.constant(-np.inf, self.dtype),
                           -self._log_slope(x))
        return x, tf.reduce_sum(log_det, -1)

    def _squash(self, x):
        gap = self._half * (2. * tf.sigmoid(-2. * tf.abs(x)))
        return tf.where(tf.abs(x) < MIDDLE, self._middle + self._half * tf.tanh(x),
                        tf.where(x < 0., self._low + gap, self._high - gap))

    def _unsquash(self, y):
        """Returns the latents, and which events are outside."""
        # The least normal number is about 4 / max; lesser ones are flushed to 0.
        tiny = 4. / float(self.dtype.max)
        steps = [np.abs(np.nextafter(bound, other) - bound) for bound, other in
                 [(self._low, self._high), (self._high, self._low)]]
        slack = ROUNDING * np.maximum(*steps)
        outside = tf.maximum(self._low / 2 - y / 2., y / 2. - self._high / 2) > slack / 2
        if self.validate_args:
            with tf.control_dependencies([tf.debugging.Assert(
                    tf.logical_not(tf.reduce_any(outside)),
                    [f'`y` of {self.name!r} must lie within the bounds '
                     f'{self._low.tolist()} and {self._high.tolist()}; got', y])]):
                y = tf.identity(y)
        y = tf.clip_by_value(y, self._low, self._high)
        below, above = (
            tf.maximum(gap, np.maximum(step / 2, tiny).astype(step.dtype))
            for gap, step in zip((y / 2. - self._low / 2, self._high / 2 - y / 2.),
                                 steps))
        ratio = (y - self._middle) / self._half
        is_middle = tf.abs(ratio) < MIDDLE
        return tf.where(
            is_middle, tf.atanh(tf.where(is_middle, ratio, 0.)),
            (tf.math.log(below) - tf.math.log(above)) / 2.), outside

    def _log_slope(self, x):
        return np.log(self._half) + (
            2. * np.log(2.) - tf.nn.softplus(2. * x) - tf.nn.softplus(-2. * x))


def check_bounds(low, high, dtype=tf.float32):
    """Returns bounds as two arrays `[D]` of `dtype`, or raises; see `Squash`."""
    try:
        low, high = (np.asarray(bound, np.float64) for bound in (low, high))
    except (TypeError, ValueError) as error:
        raise TypeError('`low` and `high` must be numbers; got '
                        f'{low!r} and {high!r}.') from error
    if low.ndim != 1 or low.shape != high.shape or not low.size:
        raise ValueError('`low` and `high` must be vectors [D] of one length; got '
                         f'shapes {list(low.shape)} and {list(high.shape)}.')
    with np.errstate(over='ignore'):
        low, high = (bound.astype(tf.as_dtype(dtype).as_numpy_dtype)
                     for bound in (low, high))
    bad = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high)))
    if bad.size:
        raise ValueError(
            '`low` must be less than `high`, and both finite, as numbers of '
            f'{tf.as_dtype(dtype).name}; got {low[bad[0]]!r} and {high[bad[0]]!r} for '
            f'unit {bad[0]}. For units with one bound or none see '
            '`support_bijector`.')
    return low, high
