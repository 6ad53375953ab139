"""`SoftBounds`: the hard edges of data, found and made smooth."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfp_conditional.bijectors import unconditional
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import DType

# Softness, as a fraction of the standard deviation. Of 0.01, 0.02, 0.03, 0.05, 0.1 and
# 0.3, the one with the least held-out loss on two moons and a Gaussian mixture.
SOFTNESS = 0.02
# From here, in units of the softness, to as far beyond a bound as there the map is
# straight, of slope 100: it is defined for all numbers, and keeps its digits. What a
# flow leaks is 0.5 standard deviations wide before it is seen beyond the bound.
TANGENT, BEYOND = 0.01, 0.25
_SLOPE = -1. / np.expm1(-TANGENT)
_MIDDLE, _HALF = (TANGENT - BEYOND) / 2., (TANGENT + BEYOND) / 2.
# What the map adds to y in the middle, in units of the softness: 17.5.
_SHIFT = np.log(_SLOPE) + _HALF * (_SLOPE - 1.)
_START = np.log(np.expm1(TANGENT))   # Where on the other side the straight part starts.
MIN_ROWS = 1000   # Fewer cannot tell an edge from log-normal values often enough.


class SoftBounds(unconditional.Adaptive):
    """A soft clip of each unit to bounds that are learnt from data.

    ```none
    inverse:  x = y - t log(1 - exp(-d)),  d = (h - y) / t;  likewise at the lower bound
    forward:  y = x - t log(1 + exp(-(h - x) / t))
    log-det:  - sum log |dx/dy|,  dx/dy = 1 / (1 - exp(-d))
    Where -0.25 < d < 0.01 the map is straight; beyond, its own mirror image.
    ```

    Uniform priors, percentages and positive quantities have densities that end
    abruptly, which smooth flows fit badly: they leak across the edge, and waste
    layers on it. Seen through this bijector the edge is far away and smooth, and all
    that is further from it than a few softnesses t is left as it is. So, unlike a
    `tfb.Sigmoid`, it keeps what depends linearly on the conditions linear.

    `adapt`, which `fit` calls, looks at each end of each unit. Where the data are as
    dense up to their last one as a little before there is a bound, just beyond it;
    where they thin out, and in less than 1000 rows, there is none: see `find_bounds`.
    With no bound, and before `adapt`, the map is the identity. Bounds are soft in this
    too, that beyond them the map is but a shift by 35 t: a later target that lies
    outside has the density of a tail. Known bounds are better given: see
    `support_bijector`.

    #### Example

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    rng = np.random.default_rng(0)
    y = np.stack([rng.uniform(size=1000), rng.normal(size=1000)], axis=-1)
    soft = tfpc.SoftBounds(event_size=2)
    soft.adapt(y)
    np.testing.assert_allclose(soft.low, [0., -np.inf], atol=0.02)
    np.testing.assert_allclose(soft.high, [1., np.inf], atol=0.02)
    np.testing.assert_allclose(soft.inverse([0.5, 7.]), [0.5, 7.], rtol=1e-6)
    ```
    """

    def __init__(self, event_size: int, dtype: DType = tf.float32,
                 name: str = 'soft_bounds', mask: npt.ArrayLike | None = None) -> None:
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          dtype: floating dtype.
          name: `str`.
          mask: D booleans, `True` for units whose bounds are looked for; default: all.

        Raises:
          TypeError, ValueError: for an `event_size` that is no positive integer, a
            dtype that is not floating, and a mask of another length.
        """
        parameters = dict(locals())
        super().__init__(event_size, dtype, parameters, name,
                         is_constant_jacobian=False)
        self._mask = np.ones(self.event_size, bool) if mask is None else (
            np.asarray(mask, bool))
        if self._mask.shape != (self.event_size,):
            raise ValueError(f'`mask` must be {self.event_size} booleans; got shape '
                             f'{self._mask.shape}.')
        with tf.name_scope(self.name):
            self.low, self.high, self.softness = (
                tf.Variable(tf.fill([self.event_size], tf.constant(
                    initial, self.dtype)), trainable=False, name=label)
                for label, initial in [('low', -np.inf), ('high', np.inf),
                                       ('softness', 1.)])

    def _learn(self, y):
        _, scale = unconditional.moments(y, 'y', self.name)
        columns = np.asarray(y, np.float64).reshape(-1, self.event_size).T
        low, high = zip(*[find_bounds(column) if is_sought else (-np.inf, np.inf)
                          for column, is_sought in zip(columns, self._mask)])
        for variable, value in [(self.low, low), (self.high, high),
                                (self.softness, SOFTNESS * scale)]:
            variable.assign(tf.cast(value, self.dtype))

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        # By the upper bound, then, mirrored, by the lower one.
        step = _clip if direction == FORWARD else _unclip
        bounds = [(1., self.high), (-1., -self.low)]
        log_det = 0.
        for sign, high in bounds if direction != FORWARD else bounds[::-1]:
            value, log_slope = step(sign * value, high, self.softness)
            value *= sign
            log_det += tf.reduce_sum(log_slope, axis=-1)
        return value, log_det


# Around the middle of its straight part the map is odd.

def _unclip(y, high, softness):
    """Returns `x [..., D]` and `log |dx/dy|`; `y` and 0 where `high` is infinite."""
    gap = (high - y) / softness
    log_slope = _log_slope(tf.abs(gap - _MIDDLE) - _HALF + TANGENT)
    # Where the gap is infinite each of the three is finite, and so its gradient.
    straight = tf.clip_by_value(gap - _MIDDLE, -_HALF, _HALF)
    added = tf.where(gap > TANGENT, log_slope, tf.where(
        gap < -BEYOND, 2. * _SHIFT - log_slope, _SHIFT - (_SLOPE - 1.) * straight))
    return y + softness * added, log_slope


def _clip(x, high, softness):
    """Returns `y [..., D]` and `log |dy/dx|`."""
    gap = (high - x) / softness
    mirrored = 2. * (_MIDDLE - _SHIFT) - tf.minimum(gap, 0.)
    straight = tf.minimum(gap, 0.) - _MIDDLE + _SHIFT
    inside, beyond = gap > _START, mirrored > _START
    added = tf.where(inside, tf.nn.softplus(-gap), tf.where(
        beyond, 2. * _SHIFT - tf.nn.softplus(-mirrored),
        _SHIFT - straight * (1. - 1. / _SLOPE)))
    distance = tf.where(inside, tf.nn.softplus(gap), tf.where(
        beyond, tf.nn.softplus(mirrored), TANGENT))
    return x - softness * added, -_log_slope(distance)


def _log_slope(distance):
    return -tf.math.log(-tf.math.expm1(-tf.maximum(distance, TANGENT)))


def find_bounds(values):
    """Returns the least and the greatest value that `values` seem to be confined to.

    Infinities where they thin out. Of the k values next to an end, its distances d to
    the last one, as fractions of that of the (k + 1)-th, are like uniform variates
    where the density is the same up to the end, and like those to the power 1 / p
    where it is as d^(p - 1). So 1 / p = mean(-log d) is 1 at an edge, 2 / 3 where the
    density falls to 0 as a root, 1 / 2 where linearly, and less where it has a tail.
    An edge is where this mean is great enough, and -log d exponential by the test of
    Lilliefors (1969), as it is not where a few values stand apart.

    The mean must exceed 0.87 and 0.74 + 52 / k, which log-normal values do once in 1e5
    columns of 1000 rows; or 0.8 at both ends. k is N / 5, but at least 200 and at most
    1000. So both ends of uniform values are found at 1000 rows and more but for one
    column in 200, an exponential's end in 4 columns of 5 of 1000 rows, and in all of
    2000. None is sought in fewer than 1000, or in less than 10 different values.
    Rounded ones are spread evenly over what is rounded to them. Where 20 or more are
    equal to the last one, and more than to any of the next ten, they were clipped.

    A bound lies five spacings, as they are there, beyond the last value: where it
    lies beyond the true one in all but one of 150 cases.

    Args:
      values: `[N]`, float64.

    Returns:
      Two floats.
    """
    values = np.sort(values)
    ends = [_end(-values), _end(values[::-1])]
    return tuple(
        sign * (bound if mean > (0.8 if min(ends)[0] > 0.8 else alone) else np.inf)
        for sign, (mean, alone, bound) in zip((-1., 1.), ends))


def _end(values):
    """The mean of `values`, which descend, what it must exceed, and their bound."""
    starts = np.flatnonzero(np.diff(values, prepend=np.inf))
    counts = np.diff(starts, append=len(values))
    if len(values) < MIN_ROWS or len(counts) < 10:
        return 0., 1., np.inf
    # Of rounded values enough different ones.
    k = max(int(np.clip(len(values) // 5, 200, 1000)),
            np.sum(counts[:min(10, len(counts) // 2)]))
    top = _spread(values, starts, counts)[:k + 1]
    clipped = counts[0] >= max(20, 1 + np.max(counts[1:11]))
    return (np.inf if clipped else mean_log(top), max(0.74 + 52. / k, 0.87),
            values[0] + 5. * (top[0] - top[-1]) / k)


def _spread(values, starts, counts):
    """Ties, evenly over what is nearer to them than to other values."""
    levels = values[starts]
    middles = (levels[1:] + levels[:-1]) / 2.
    tops = np.concatenate([2. * levels[:1] - middles[:1], middles])
    bottoms = np.concatenate([middles, 2. * levels[-1:] - middles[-1:]])
    top, bottom, count, start = (np.repeat(x, counts)
                                 for x in (tops, bottoms, counts, starts))
    within = (np.arange(len(values)) - start + 0.5) / count
    return np.where(count > 1, top + within * (bottom - top), values)


def mean_log(values):
    """The mean of -log d of `values [..., k + 1]`, descending; 0 if not exponential."""
    k = values.shape[-1] - 1
    reach = values[..., :1] - values[..., -1:]
    logs = -np.log(np.maximum((values[..., :1] - values[..., 1:-1]) / reach,
                              np.finfo(float).tiny))
    mean = np.mean(logs, axis=-1)
    excess = np.exp(-logs / mean[..., np.newaxis]) - np.arange(1, k) / (k - 1.)
    distance = np.maximum(np.max(excess, axis=-1) + 1. / (k - 1.),
                          -np.min(excess, axis=-1))
    # Which one of 2000 exponential samples exceeds.
    return np.where(distance < 1.6 / np.sqrt(k), mean, 0.)
