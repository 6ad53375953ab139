"""`Quantized`: counts, rounded and clipped numbers, as cells of a continuous density."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import angles
from tfp_conditional.bijectors import settings
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core import dropout
from tfp_conditional.core import ensemble as ensemble_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.one_pass import INVERSE
from tfp_conditional.core.types import Seed
from tfp_conditional.flows import cell_noise

tfd = tfp.distributions

NOISE = ('uniform', 'variational')
_ON_GRID = 1e-3     # How far from a multiple of its step a number is one, in steps.
_DIGITS = 64        # Numbers that the dtype has to have in a step, at least.
# Beyond what a base of any flow gives, and to be squared in float32.
_INFINITE = 1e6


class Quantized(distribution_lib.ConditionalTransformedDistribution):
    """Y = V rounded to multiples of a step, then clipped, for V of a continuous density.

    ```none
    V ~ p(v | c),  Y = min(max(step round(V / step), low), high)
    P(Y = y | c) = integral of p(v | c) over the cell of y,
    [y - step / 2, y + step / 2), which goes to -inf for y = low, to inf for y = high
    ```

    Column by column: counts have `step=1.` and `low=0.`, numbers rounded to a decimal
    `step=0.1`, numbers that are often exactly 0, and else positive, `low=0.` and no
    step, proportions that are often 0 or 1 `low=0.` and `high=1.`, detectors their
    limits. A column with none of the three is as it is in `density`.

    `log_prob(y)` is the logarithm of a probability for columns with a step, and of a
    density with respect to length plus a unit mass at each of `low` and `high` for
    those that are clipped alone. A number that no rounding gives, and one beyond `low`
    or `high`, has probability 0.

    It is exact where D = 1, a flow being monotone there: the difference of the
    cumulative distribution at the ends of the cell. Else it is a lower bound by K
    points u of the unit cube (Theis et al. 2016, arXiv 1511.01844; Burda et al. 2016,
    arXiv 1509.00519),

    ```none
    log 1/K sum_k p(v(u_k; y) | c) |dv/du_k| / q(u_k | y, c),    u_k ~ q
    ```

    which holds in the mean over u, and which more of them make tighter. v(u; y) goes
    through the cell evenly, or as -scale log u where it has no end. q is uniform, or a
    flow that `fit` trains by the same bound (Ho et al. 2019, arXiv 1902.00275). The
    same u serve at each call of the same shape, but in `training()`, where they are
    new ones, `training_samples` of them.

    Else it is what a `ConditionalTransformedDistribution` is: `given`, `fit`, copies,
    `to_config`, `export`. Its bijector and base are those of V.

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    rng = np.random.default_rng(0)
    c = rng.normal(size=[256, 1])
    counts = rng.poisson(np.exp(1. + c))
    dist = tfpc.Quantized(tfpc.conditional_density(1, 1), step=1., low=0.)
    tfpc.fit(dist, counts.astype(float), c, epochs=1, verbose=False)
    probabilities = dist.given(c[0]).prob(np.arange(1000.)[:, np.newaxis])
    np.testing.assert_allclose(np.sum(probabilities), 1., rtol=1e-3)
    ```
    """

    is_continuous = False

    def __init__(self, density: distribution_lib.ConditionalTransformedDistribution,
                 step: npt.ArrayLike | None = None, low: npt.ArrayLike | None = None,
                 high: npt.ArrayLike | None = None, noise: Any = 'uniform',
                 num_samples: int = 16, training_samples: int = 1,
                 seed: Seed | None = None, validate_args: bool = False,
                 name: str | None = None) -> None:
        """Constructs the distribution; the variables of q exist on return.

        Args:
          density: p(v | c), such as `conditional_density` makes. Its support must hold
            all cells.
          step: number, or one for each column; `None` or `np.nan` for columns that are
            not rounded.
          low: least value, likewise; `None` or -inf for columns that have none.
          high: greatest value, likewise.
          noise: q where D > 1, `'uniform'` or `'variational'`, a flow given y, and c
            where those are vectors.
          num_samples: `int` K; so many times as many rows meet the network.
          training_samples: `int`, K in training.
          seed: `int` or TFP seed for the weights of q, and for u.
          validate_args: `bool`, as in `tfd.Distribution`.
          name: `str`; default that of `density` and `_quantized`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what came.
        """
        seed = seeds.resolve_seed(seed)
        parameters = dict(locals())
        if not isinstance(
                density, distribution_lib.ConditionalTransformedDistribution) or isinstance(
                    density, (Quantized, ensemble_lib.ConditionalEnsemble)):
            raise TypeError('`density` must be a ConditionalTransformedDistribution, such '
                            f'as `conditional_density` makes; got {type(density).__name__}.')
        flow = density.flow
        if not isinstance(flow, bijector_lib.ConditionalBijector):
            raise TypeError('`density` must be over a ConditionalBijector; its bijector is '
                            f'a {type(flow).__name__}.')
        self._size = flow.output_event_size
        self._step, self._low, self._high = (
            _columns(value, label, self._size, none) for value, label, none in [
                (step, 'step', np.nan), (low, 'low', -np.inf), (high, 'high', np.inf)])
        self._circle = _circles(flow, self._size)
        self._check_columns()
        self._num_samples, self._training_samples = (
            conditions_lib.positive_int(*pair) for pair in [
                (num_samples, 'num_samples'), (training_samples, 'training_samples')])
        self._seed = seed
        base = density.distribution
        self._scalar_base = base.distribution if (
            self._size == 1 and isinstance(base, tfd.Independent)
            and isinstance(base.distribution, (tfd.Normal, tfd.Uniform))) else None
        if not isinstance(noise, cell_noise.CellNoise):
            if noise not in NOISE:
                raise ValueError(f'`noise` must be one of {list(NOISE)}; got {noise!r}.')
            noise = cell_noise.CellNoise(
                self._size, len(self._noisy), flow.condition_size, noise == 'variational'
                and not self.is_exact, flow.dtype, seed)
        # What copies share.
        parameters['noise'] = noise
        super().__init__(
            density.distribution, density.bijector,
            kwargs_split_fn=density.parameters.get('kwargs_split_fn'),
            validate_args=validate_args, parameters=parameters,
            name=name or f'{density.name}_quantized')
        self.density, self._noise = density, noise
        self._settings = settings.Settings(
            self.name, low=self._low, high=self._high,
            step=[None if np.isnan(x) else x for x in self._step])

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {'density': tfp.util.BatchedComponentProperties()}

    def _begin(self):
        root = self._root
        vars(self).pop('_is_pending', None)
        Quantized.__init__(self, **{
            **root.parameters, 'density': root.density.given(self._conditions),
            'name': self._name_given or f'{root.name}_given'})

    @property
    def is_exact(self) -> bool:
        """`bool`, whether `log_prob` is no bound: where D = 1."""
        return self._scalar_base is not None

    @property
    def log_cell(self) -> float:
        """The log of the size of a cell: of probabilities it makes densities."""
        return float(np.sum(np.log(self._step[~np.isnan(self._step)])))

    @property
    def _noisy(self):
        """The columns that have cells."""
        return np.flatnonzero(~np.isnan(self._step) | np.isfinite(self._low)
                              | np.isfinite(self._high))

    @property
    def _is_uniform(self):
        return isinstance(self._scalar_base, tfd.Uniform)

    def _check_columns(self):
        step, low, high = self._step, self._low, self._high
        period = self._circle[1] - self._circle[0]
        on_circle, stepped = ~np.isnan(period), ~np.isnan(step)
        if not len(self._noisy):
            raise ValueError('Give `step`, `low` or `high`; got none of them.')
        if not np.all(step[stepped] > 0.) or np.isinf(step).any():
            raise ValueError(f'`step` must be positive and finite; got {step.tolist()}.')
        if not np.all(low < high):
            raise ValueError(f'`low` must be less than `high`; got {low.tolist()}, '
                             f'{high.tolist()}.')
        for label, end in [('low', low), ('high', high)]:
            ends = end[stepped & np.isfinite(end)] / step[stepped & np.isfinite(end)]
            if not np.allclose(ends, np.round(ends), rtol=0., atol=_ON_GRID):
                raise ValueError(f'`{label}` must be a multiple of `step`; got '
                                 f'{end.tolist()} and {step.tolist()}.')
        if np.any(on_circle & (np.isfinite(low) | np.isfinite(high))):
            raise ValueError('`low` and `high` are for columns with ends; got '
                             f'{low.tolist()}, {high.tolist()}, one of them for a '
                             '`Circular` column.')
        cells = (period / step)[on_circle & stepped]
        if not np.allclose(cells, np.round(cells), rtol=1e-6, atol=0.) or np.any(cells < 2):
            raise ValueError('The period of a `Circular` column must be a multiple of its '
                             f'`step`, two or more; got {cells.tolist()} of them.')

    # Data.

    def check_targets(self, targets: tf.Tensor, label: str) -> None:
        """Refuses rows that are no values of Y, or whose cells have no density.

        Args:
          targets: finite tensor `[N, D]`.
          label: `str`, its name in messages.
        """
        rows = np.asarray(targets)
        bad = ~np.asarray(self._is_value(targets, self._quantize(targets)))
        if bad.any():
            row = np.argmax(bad)
            raise ValueError(
                f'{np.sum(bad)} of {len(rows)} rows of `{label}`, the first of them row '
                f'{row}, {rows[row].tolist()}, are no values of {self.name!r}: multiples '
                f'of `step` {self._step.tolist()} between `low` {self._low.tolist()} and '
                f'`high` {self._high.tolist()}. Round them, or give others.')
        coarse = np.spacing(np.abs(rows)) > np.where(
            np.isnan(self._step), np.inf, self._step) / _DIGITS
        if coarse.any():
            row, column = np.argwhere(coarse)[0]
            raise ValueError(
                f'`{label}` must leave {self.dtype.name} {_DIGITS} numbers in a step; '
                f'column {column} has {rows[row, column]:.8g}, of step '
                f'{self._step[column]:.6g}. Use float64, or no step for so great numbers.')
        scale = _scale(rows)
        for fraction in (0.5,) if self.is_exact else (1e-3, 0.5, 1. - 1e-3):
            points = self._within(rows, np.full(rows.shape, fraction), scale)
            try:
                adapt_lib.check_support(self.flow, tf.constant(points, self.dtype), label)
            except ValueError as error:
                raise ValueError(
                    f'Cells of `{label}` must lie in the support of `density`: half a '
                    'step beyond the least and the greatest value, and, of `low` and '
                    '`high`, without end. Columns of counts are unbounded with `low=0.`, '
                    f'or `(-0.5, np.inf)` without it. It says: {error}') from error

    @property
    def adapted(self) -> bool:
        """`bool`, whether nothing is left that `adapt_batches` would change."""
        return adapt_lib.adapted(self.flow) and self._noise.adapted

    @property
    def has_learnt(self) -> bool:
        """`bool`, whether any part of the flow has adapted to data."""
        return adapt_lib.has_learnt(self.flow)

    def adapt_batches(self, batches: list[tuple[Any, Any]], entropy: Seed = 0) -> None:
        """Lets the flow of V learn from data that are spread over their cells.

        Args:
          batches: list of pairs (y, conditions).
          entropy: seed of where in its cell each number goes.
        """
        rng = np.random.default_rng(seeds.resolve_seed(entropy))
        scale = _scale(np.concatenate([y for y, _ in batches]))
        adapt_lib.adapt_batches(self.flow, [
            (tf.constant(self._within(np.asarray(y), rng.uniform(size=y.shape), scale),
                         self.dtype), conditions) for y, conditions in batches])
        self._noise.adapt(scale, batches)

    def _within(self, y, u, scale):
        """Where `u` in [0, 1] is in the cells of values, an array `[N, D]`."""
        half = np.where(np.isnan(self._step), 0., self._step) / 2.
        beyond = scale * -np.log(np.maximum(u, 1e-3))
        return np.where(y <= self._low, y + half - beyond, np.where(
            y >= self._high, y - half + beyond, y + (2. * u - 1.) * half))

    # Values.

    def _quantize(self, v):
        """V to Y."""
        dtype = self.dtype.as_numpy_dtype
        stepped = ~np.isnan(self._step)
        step = np.where(stepped, self._step, 1.)
        # 3 / 10 is the number that prints as 0.3, and 3 * 0.1 is not.
        per_unit = np.round(1. / step)
        divides = np.abs(per_unit * step - 1.) < 1e-9
        per_unit = np.where(divides, per_unit, 1.).astype(dtype)
        factor = np.where(divides, 1., step).astype(dtype)
        y = tf.round(v / factor * per_unit) * factor
        # TensorFlow makes a product of a division by constants.
        y = tf.math.divide_no_nan(y, per_unit)
        y = tf.where(stepped, y, v)
        y = tf.where(y == 0., tf.zeros_like(y), y)    # Not -0.
        y = tf.clip_by_value(y, self._low.astype(dtype), self._high.astype(dtype))
        low, high = self._circle
        on_circle = ~np.isnan(low) & stepped
        low, high = (np.where(on_circle, bound, other).astype(dtype)
                     for bound, other in [(low, -np.inf), (high, np.inf)])
        period = np.where(on_circle, high - low, 1.).astype(dtype)
        turns = tf.floor((y - np.where(on_circle, low, 0.).astype(dtype)) / period
                         + _ON_GRID / 10.)
        return tf.where(on_circle, y - period * turns, y)

    def _is_value(self, value, y):
        """Whether events are values of Y, of which `y` is the one next to each."""
        period = self._circle[1] - self._circle[0]
        dtype = self.dtype.as_numpy_dtype
        turn = np.where(np.isnan(period), 1., period).astype(dtype)
        away = value - y
        away = tf.where(np.isnan(period), away, away - turn * tf.round(away / turn))
        stepped = ~np.isnan(self._step)
        least = np.where(stepped, _ON_GRID * self._step, 0.).astype(dtype) + (
            np.where(stepped, 4. * np.finfo(dtype).eps, 0.).astype(dtype) * tf.abs(y))
        free = ~stepped & ~np.isnan(period)
        return tf.reduce_all(free | (tf.abs(away) <= least), -1)

    def _compiled_density(self, method, value, *leaves):
        y = self._quantize(value)
        log_prob = (self._of_cell if self.is_exact else self._bound)(y, leaves)
        nowhere = tf.where(tf.reduce_any(tf.math.is_nan(value), -1), np.nan, -np.inf)
        log_prob = tf.where(self._is_value(value, y), log_prob,
                            tf.cast(nowhere, log_prob.dtype))
        return tf.exp(log_prob) if method == 'prob' else log_prob

    def _draw(self, method, seed, sample_shape, batch_shape, *leaves):
        y = self._quantize(super()._draw('sample', seed, sample_shape, batch_shape, *leaves))
        return y if method == 'sample' else (
            y, self._compiled_density('log_prob', y, *leaves))

    def _log_prob(self, y, **kwargs):
        conditions, _ = self._conditions_of(kwargs)
        y, conditions = self.flow.check_pass(INVERSE, y, conditions)
        return self._compiled_density('log_prob', y, *tf.nest.flatten(conditions))

    def _call_sample_n(self, sample_shape, seed, **kwargs):
        return self._quantize(super()._call_sample_n(sample_shape, seed, **kwargs))

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        y = self._call_sample_n(sample_shape, seed, **kwargs)
        return y, self._log_prob(y, **kwargs)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f'{self.name!r} has `log_prob`, `prob` and samples; what '
                                  'TFP makes of its bijector is that of `density`.')

    # What TFP knows is of V.
    _mean = _mode = _stddev = _variance = _covariance = _entropy = _quantile = _refuse
    _cdf = _log_cdf = _survival_function = _log_survival_function = _refuse
    experimental_local_measure = _refuse

    def exported_parts(self) -> list[tf.Module]:
        return [*super().exported_parts(), self._noise]

    # Probabilities of cells.

    def _latents(self, v, leaves):
        x, log_det = self.flow.inverse_and_log_det(v, **self._kwargs_of(leaves))
        return x, log_det, self.distribution.log_prob(x) + tf.cast(log_det, x.dtype)

    def _of_cell(self, y, leaves):
        """The log-probability `[...]` of cells of `y [..., 1]`, exactly."""
        stepped = not np.isnan(self._step[0])
        half = self._step[0] / 2. if stepped else 0.
        at_low, at_high = y <= self._low[0], y >= self._high[0]
        middle = y
        if not stepped:
            middle = tf.where(at_low, y - self._noise.scale, tf.where(
                at_high, y + self._noise.scale, y))
        x, log_det, log_density = self._latents(
            tf.stack([y - half, middle, y + half]), leaves)
        low, middle, high = tf.unstack(tf.cast(x[..., 0], tf.float64))
        in_low, inside, in_high = tf.unstack(log_det != -np.inf)
        # A flow may be decreasing. On a circle none is, where latents may be cut.
        zero = tf.zeros_like(middle)
        rising = self._is_uniform | (
            tf.where(in_low & inside, middle - low, zero)
            + tf.where(in_high & inside, high - middle, zero) >= 0.)
        sign = tf.where(rising, zero + 1., zero - 1.)
        open_low, open_high = (at_low[..., 0] | ~in_low), (at_high[..., 0] | ~in_high)
        low = tf.where(open_low, -_INFINITE * tf.ones_like(low), sign * low)
        high = tf.where(open_high, _INFINITE * tf.ones_like(high), sign * high)
        log_prob, gap = self._between(low, high, sign)
        log_prob = tf.cast(log_prob, self.dtype)
        log_prob = tf.where(open_low & open_high & ~inside,
                            tf.constant(-np.inf, self.dtype), log_prob)
        # Where the difference of two latents is rounding, and where there is no cell.
        is_narrow = ~(open_low | open_high) & (
            gap < float(np.sqrt(np.finfo(self.dtype.as_numpy_dtype).eps)))
        return tf.where(is_narrow, log_density[1] + self.log_cell, log_prob)

    def _between(self, low, high, sign):
        """Log of what lies between latents of the base, float64, and their distance."""
        base = self._scalar_base
        loc, scale = (tf.cast(tf.reshape(x, [-1])[0], tf.float64) for x in (
            (base.low, base.high - base.low) if self._is_uniform
            else (base.loc, base.scale)))
        if self._is_uniform:
            low, high = (tf.clip_by_value((x - loc) / scale, 0., 1.) for x in (low, high))
            # Across the cut of a circle.
            gap = tf.where(high < low, high - low + 1., high - low)
            return tf.math.log(tf.maximum(gap, 1e-300)), gap
        low, high = ((x - sign * loc) / scale for x in (low, high))
        # In the lower tail, where differences have all digits.
        flip = low + high > 0.
        low, high = tf.where(flip, -high, low), tf.where(flip, -low, high)
        return _log_normal_between(low, high), high - low

    def _bound(self, y, leaves):
        """A lower bound `[...]` of the log-probability of cells of `y [..., D]`."""
        columns = self._noisy
        step, low, high = (x[columns].astype(self.dtype.as_numpy_dtype)
                           for x in (self._step, self._low, self._high))
        stepped = ~np.isnan(step)
        step = np.where(stepped, step, 0.)
        count, seed = self._num_samples, seeds.stateless(self._seed, 1)
        if dropout.is_training():
            count, seed = self._training_samples, dropout.noise_seed()
        u, log_q = self._noise.draw(count, seed, y, leaves)
        u = tf.clip_by_value(u, self.dtype.as_numpy_dtype(1e-30), 1.)
        at, scale = tf.gather(y, columns, axis=-1), tf.gather(self._noise.scale, columns)
        # Not on the very edges, which rounding would lead to.
        margin = tf.minimum(4. * np.finfo(self.dtype.as_numpy_dtype).eps * (
            tf.abs(at) + step), step / 8.)
        inside = at + step * (u - 0.5)
        inside += tf.stop_gradient(tf.clip_by_value(
            inside, at - step / 2. + margin, at + step / 2. - margin) - inside)
        beyond, at_low, at_high = -scale * tf.math.log(u), at <= low, at >= high
        v = tf.where(at_low, at + step / 2. - beyond, tf.where(
            at_high, at - step / 2. + beyond, inside))
        log_size = tf.reduce_sum(tf.where(
            at_low | at_high, tf.math.log(scale) - tf.math.log(u),
            tf.constant(np.where(stepped, np.log(np.where(stepped, step, 1.)), 0.),
                        self.dtype)), -1)
        # Other columns stay as they are.
        order = np.arange(self._size)
        order[columns] = self._size + np.arange(len(columns))
        y = tf.broadcast_to(y, tf.concat([[count], tf.shape(y)], 0))
        v = tf.gather(tf.concat([y, v], -1), order, axis=-1)
        v = tf.ensure_shape(v, [None] * (v.shape.rank - 1) + [self._size])
        log_weights = self._latents(v, leaves)[2] + log_size - log_q
        return tf.reduce_logsumexp(log_weights, 0) - math.log(count)


def _columns(value, label, size, none):
    """A number for each column, `none` for those that have none."""
    given = [none if x is None else x
             for x in (value if isinstance(value, (list, tuple)) else np.atleast_1d(
                 none if value is None else value))]
    try:
        array = np.broadcast_to(np.array(given, np.float64), [size]).copy()
    except (TypeError, ValueError) as error:
        raise ValueError(f'`{label}` must be a number, or one or `None` for each of {size} '
                         f'columns; got {value!r}.') from error
    if label != 'step' and np.isnan(array).any():
        raise ValueError(f'`{label}` must hold numbers or `None`; got {value!r}.')
    return array


def _circles(flow, size):
    """The ends of the circles of columns, `[2, D]`, NaN for those that are none."""
    for part in flow.submodules:
        if isinstance(part, angles.Wrapped) and part.event_size == size:
            return np.stack([part.low, part.high])
    return np.full([2, size], np.nan)


def _scale(y):
    """Standard deviations of columns, 1 where they are 0."""
    scale = np.std(np.asarray(y, np.float64), axis=0)
    return np.where(scale > 0., scale, 1.)


def _log_normal_between(low, high):
    """log(Phi(high) - Phi(low)) of float64, where low + high <= 0."""
    root = math.sqrt(2.)
    is_tail, one = high < -25., tf.ones_like(high)
    near = tf.where(is_tail, 0. * one, high)
    inside = (tf.math.erfc(-near / root) - tf.math.erfc(-low / root)) / 2.
    # The hazard of a normal variate that far out is its distance.
    far = tf.where(is_tail, high, -25. * one)
    width = tf.maximum(tf.where(is_tail, high - low, one), 1e-30)
    tail = -0.5 * far**2 - 0.5 * math.log(2. * math.pi) - tf.math.log(-far) + (
        tf.math.log(-tf.math.expm1(far * width)))
    return tf.where(is_tail, tail, tf.math.log(tf.maximum(inside, 1e-300)))
