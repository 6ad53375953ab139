"""`Gaussianization`: the shape of each unit of data, found and made that of a Gaussian."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import unconditional
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.one_pass import FORWARD
from tfp_conditional.core.types import DType
from tfp_conditional.transformers import spline

NUM_BINS = 16
FOLDS = 4
# Rows outside the outermost inner knots, on each side: fewer do not tell a density.
EDGE_ROWS = 5
# Standard errors by which rows that were left out must become likelier.
SIGNIFICANCE = 3.
MAX_ROWS, MAX_NUMBERS = 20_000, 200_000   # That a fit looks at, and at once.
_SPLINE = spline.RationalQuadratic(NUM_BINS, bound=5., min_bin_size=1e-3,
                                   min_derivative=1e-3)


class Gaussianization(unconditional.Adaptive):
    """A monotone spline for each unit, by which its values become Gaussian.

    ```none
    forward:  y = m + s T(x; p)             log-det =   sum log s + log dT/dx
    inverse:  x = T^-1((y - m) / s; p)      log-det = - sum log s + log dT/dx
    ```

    T is a `RationalQuadratic` spline on [-5, 5], of parameters p for each unit, and the
    identity outside; m and s are means and standard deviations. All is the identity
    until `adapt`, which `fit` calls. Then T maps quantiles of the data onto those of a
    Gaussian (Chen & Gopinath 2000), in units where that makes rows that were left out
    likelier by more than 3 standard errors; elsewhere it stays the identity, as it does
    in less than 128 rows. Shapes that do not depend on the conditions, skewed, peaked
    or of several modes, then need no network, and are right in few rows. Gradients
    train p; they would learn the identity if that were better.

    #### Example

    ```python
    import numpy as np
    from tfp_conditional.bijectors import gaussianization

    y = np.random.default_rng(0).exponential(size=[1000, 1])
    bijector = gaussianization.Gaussianization(event_size=1)
    bijector.adapt(y)
    x = bijector.inverse(y).numpy()
    np.testing.assert_allclose(np.quantile(x, [0.1, 0.5, 0.9]), [-1.28, 0., 1.28],
                               atol=0.1)
    ```
    """

    def __init__(self, event_size: int, max_rows: int | None = None,
                 dtype: DType = tf.float32, name: str = 'gaussianization') -> None:
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          max_rows: `int`, the most rows in which to look for shapes; in more it stays
            the identity, for networks to learn them. `None`: any number.
          dtype: floating dtype.
          name: `str`.

        Raises:
          TypeError, ValueError: for an `event_size` that is no positive integer and
            a dtype that is not floating.
        """
        parameters = dict(locals())
        super().__init__(event_size, dtype, parameters, name,
                         is_constant_jacobian=False)
        self._max_rows = max_rows and conditions_lib.positive_int(max_rows, 'max_rows')
        with tf.name_scope(self.name):
            self.loc, self.scale, self.shape = (
                tf.Variable(initial, trainable=label == 'shape', name=label)
                for label, initial in [
                    ('loc', tf.zeros([self.event_size], self.dtype)),
                    ('scale', tf.ones([self.event_size], self.dtype)),
                    ('shape', tf.zeros([_SPLINE.num_parameters, self.event_size],
                                       self.dtype))])

    def _learn(self, y):
        loc, scale = unconditional.moments(y, 'y', self.name)
        rows = tf.reshape(y, [-1, self.event_size])
        if self._max_rows is not None and len(rows) > self._max_rows:
            return
        # Strided, for rows that are sorted.
        rows = rows[::-(-len(rows) // MAX_ROWS)]
        rows = (np.asarray(rows, np.float64) - loc) / scale
        width = max(1, MAX_NUMBERS // len(rows))
        shape = [find_shape(rows[:, i:i + width])
                 for i in range(0, self.event_size, width)]
        for variable, value in [(self.loc, loc), (self.scale, scale),
                                (self.shape, np.concatenate(shape, axis=1))]:
            variable.assign(tf.cast(value, self.dtype))

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.convert_to_tensor(self.shape)
        log_scale = tf.reduce_sum(tf.math.log(self.scale))
        if direction == FORWARD:
            value, log_det = _SPLINE.forward_and_log_det(value, shape)
            return (self.loc + self.scale * value,
                    tf.reduce_sum(log_det, axis=-1) + log_scale)
        value, log_det = _SPLINE.inverse_and_log_det(
            (value - self.loc) / self.scale, shape)
        return value, tf.reduce_sum(log_det, axis=-1) - log_scale


def find_shape(y):
    """The parameters `[k, D]` of splines that make columns of `y [N, D]` Gaussian.

    Those of columns that are Gaussian already, or constant, are 0.
    """
    if len(y) < 2 * FOLDS * NUM_BINS:
        return np.zeros([_SPLINE.num_parameters, y.shape[1]])
    gains = np.empty_like(y)
    for fold in range(FOLDS):
        held = np.arange(len(y)) % FOLDS == fold
        x, log_det = _SPLINE.inverse_and_log_det(y[held], _quantiles(y[~held]))
        gains[held] = log_det + (y[held]**2 - x**2) / 2.
    error = np.std(gains, axis=0) / np.sqrt(len(y))
    helps = np.mean(gains, axis=0) > SIGNIFICANCE * error
    return np.where(helps & (np.std(y, axis=0) > 0.), _quantiles(y), 0.)


def _quantiles(y):
    """Those of splines whose inner knots are quantiles of `y [N, D]`.

    Knots are equally far apart on the Gaussian side, from where `EDGE_ROWS` rows lie
    below to where as many lie above. Derivatives are the geometric means of slopes.
    """
    most = tf.math.ndtri(tf.constant(1. - EDGE_ROWS / len(y), tf.float64))
    x = np.linspace(-most, most, NUM_BINS - 1)[:, np.newaxis]
    probabilities = tf.math.erfc(-x[:, 0] / np.sqrt(2.)).numpy() / 2.
    x = np.broadcast_to(x, [len(x), y.shape[1]])
    return tf.constant(np.concatenate([
        _logits(x), _logits(np.quantile(y, probabilities, axis=0)), np.zeros_like(x)]))


def _logits(knots):
    """What the softmax of a spline makes these inner knots of, `[K, D]`."""
    bound, least = _SPLINE.bound, _SPLINE.min_bin_size
    ends = np.full_like(knots[:1], bound)
    knots = np.concatenate([-ends, np.clip(knots, -bound, bound), ends])
    fractions = np.diff(knots, axis=0) / (2. * bound)
    return np.log(np.maximum((fractions - least) / (1. - NUM_BINS * least), 1e-9))
