"""Pictures of conditional densities, their calibration and their fit.

Every function draws on the `ax` it is given, or on a new figure, and returns what it
drew on. None shows or saves a figure, or changes matplotlib's settings. Colours are
those of Okabe & Ito, which the colour-blind can tell apart; lines differ in their
dashes too. Needs matplotlib; `import tfp_conditional` does not import this module.

```python
import matplotlib
matplotlib.use('Agg')
import tensorflow as tf
import tensorflow_probability as tfp
import tfp_conditional as tfpc
import tfp_conditional.plot
tfd = tfp.distributions

flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
ax = tfpc.plot.density(dist, [0.1, 0.2, 0.3], truth=[0.5, 0.])
ax.figure.savefig('density.png')
```
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_probability as tfp

try:
    import matplotlib.pyplot as plt
    from matplotlib import patheffects as path_effects
except ImportError as error:
    raise ImportError('`tfp_conditional.plot` needs matplotlib: pip install '
                      "'tfp_conditional[calibration]'.") from error

from tfp_conditional import calibration
from tfp_conditional.calibration import ranks as ranks_lib
from tfp_conditional.calibration import uniformity
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core.types import Conditions

BLUE, VERMILION, GREEN, PURPLE = '#0072B2', '#D55E00', '#009E73', '#CC79A7'
COLORS = (BLUE, VERMILION, GREEN, PURPLE)
DASHES = ('-', (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
BAND = '0.85'      # Grey levels, as matplotlib writes them.
GUIDE = '0.4'
REGIONS = (0.5, 0.95)
_HALO = [path_effects.withStroke(linewidth=3.5, foreground='w')]
TRUTH_LINE = dict(color='k', linewidth=1, label='truth')
TRUTH_POINT = dict(color='k', marker='+', linestyle='none', markersize=10,
                   markeredgewidth=1.5, label='truth', path_effects=_HALO)


def density(dist: tfp.distributions.Distribution, condition: Conditions,
            truth: npt.ArrayLike | None = None, limits: Any = None,
            num_points: int | None = None, labels: Sequence[str] | None = None,
            ax: Any = None, **kwargs: Any) -> Any:
    """Draws `p(y | c)` for one condition, in 1-D or 2-D.

    In 1-D a curve. In 2-D shades, with the borders of the regions of highest
    density that hold 50 % and 95 % of the probability on the grid. More dimensions:
    `corner`, of samples.

    Args:
      dist: `tfd.TransformedDistribution` of batch shape `[]` over a
        `ConditionalBijector`, D = 1 or 2.
      condition: `[S]`, or the nest of such vectors that the bijector takes.
      truth: `[D]`, to mark, or `None`.
      limits: `(low, high)`, or D such pairs. Default: where samples are.
      num_points: `int`, of the grid along an axis; default 500 in 1-D, 200 in 2-D.
      labels: names of the coordinates, D of them.
      ax: `matplotlib.axes.Axes`; default a new one.
      **kwargs: to `ax.plot` in 1-D, to `ax.pcolormesh` in 2-D.

    Returns:
      The axes.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
    """
    given, size = _given(dist, condition)
    if size > 2:
        raise ValueError(f'`dist` must have events of size 1 or 2; got {size}. Draw '
                         'its samples by `corner`.')
    truth = _vector(truth, size, 'truth')
    limits = (_default_limits(given, truth) if limits is None
              else _check_limits(limits, size))
    count = (500 if size == 1 else 200) if num_points is None else (
        conditions_lib.positive_int(num_points, 'num_points', least=2))
    grids = [np.linspace(low, high, count) for low, high in limits]
    points = np.stack(np.meshgrid(*grids), -1).reshape(-1, size)
    values = np.exp(given.log_prob(tf.constant(points, dist.dtype)).numpy().astype(
        np.float64)).reshape([count] * size)
    ax = _axes(ax)
    names = _labels(labels, size)
    if size == 1:
        kwargs.setdefault('color', BLUE)
        ax.plot(grids[0], values, **kwargs)
        # Of all that the axes hold: a fixed end would cut off what comes later.
        ax.set(xlim=limits[0], ylim=(0, 1.05 * ax.dataLim.y1), xlabel=names[0],
               ylabel='density')
        if truth is not None:
            ax.axvline(truth[0], **TRUTH_LINE)
        _open(ax)
        return ax
    ax.pcolormesh(*grids, values, **{
        'cmap': 'Blues', 'shading': 'nearest', 'rasterized': True, **kwargs})
    borders = highest_density_levels(values)
    for border, dash, part in zip(borders, DASHES, REGIONS):
        ax.contour(*grids, values, [border], colors=GUIDE, linewidths=0.8,
                   linestyles=[dash])
        ax.plot([], [], color=GUIDE, linewidth=0.8, linestyle=dash,
                label=f'{100 * part:g} % region')
    if truth is not None:
        ax.plot(*truth, **TRUTH_POINT)
    ax.set(xlim=limits[0], ylim=limits[1], xlabel=names[0], ylabel=names[1])
    return ax


def corner(samples: npt.ArrayLike | dict[str, npt.ArrayLike],
           truth: npt.ArrayLike | None = None, labels: Sequence[str] | None = None,
           num_bins: int = 40, limits: Any = None) -> Any:
    """Draws all marginals, and all pairs of coordinates, of samples.

    On the diagonal histograms. Below it, for each pair, the borders of the regions
    of highest density that hold 50 % and 95 % of the samples, from a histogram
    smoothed by a Gaussian as wide as a bin. Sets share limits, bins and a legend, which
    one call of the package `corner` for each set would not give.

    ```python
    import matplotlib
    matplotlib.use('Agg')
    import numpy as np
    import tfp_conditional as tfpc
    import tfp_conditional.plot

    rng = np.random.default_rng(0)
    figure = tfpc.plot.corner({'flow': rng.normal(size=[1000, 3]),
                               'MCMC': rng.normal(size=[1000, 3])},
                              truth=[0, 0, 0.5], labels=['a', 'b', 'c'])
    assert len(figure.axes) == 6
    ```

    Args:
      samples: `[n, D]`, or a `dict` from a name to such an array, at most four.
      truth: `[D]`, to mark, or `None`.
      labels: names of the coordinates, D of them.
      num_bins: `int`, along an axis.
      limits: D pairs `(low, high)`. Default: where 99.8 % of the samples are.

    Returns:
      The figure, of D (D + 1) / 2 axes, row by row.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
    """
    sets = samples if isinstance(samples, dict) else {'': samples}
    sets = {name: np.asarray(part, np.float64) for name, part in sets.items()}
    if not 1 <= len(sets) <= len(COLORS):
        raise ValueError(f'`samples` must be 1 to {len(COLORS)} sets; got '
                         f'{len(sets)}.')
    size = next(iter(sets.values())).shape[-1:]
    for name, part in sets.items():
        if part.ndim != 2 or part.shape[1:] != size or len(part) < 2 or not size[0]:
            raise ValueError('`samples` must have shape [n, D], n >= 2, with one D; '
                             f'got {list(part.shape)} for {name!r}.')
        conditions_lib.check_finite_rows(
            part, f'samples[{name!r}]' if name else 'samples')
    size = size[0]
    truth, names = _vector(truth, size, 'truth'), _labels(labels, size)
    conditions_lib.positive_int(num_bins, 'num_bins', least=2)
    if limits is None:
        each = [_sample_limits(part, truth) for part in sets.values()]
        limits = [(min(low for low, _ in column), max(high for _, high in column))
                  for column in zip(*each)]
    else:
        limits = _check_limits(limits, size)
    low, high = np.transpose(limits)
    for name, part in sets.items():
        if not np.any(np.all((low <= part) & (part <= high), axis=1)):
            raise ValueError(f'`limits` must hold samples; none of {name!r} is '
                             f'inside {limits}.')
    edges = [np.linspace(start, stop, num_bins + 1) for start, stop in limits]
    side = max(3.2, 1.7 * size + 0.6)
    figure = plt.figure(figsize=(side, side), layout='constrained')
    grid = figure.add_gridspec(size, size)
    for row in range(size):
        for column in range(row + 1):
            ax = figure.add_subplot(grid[row, column])
            shown = [row] if row == column else [column, row]
            for index, (name, part) in enumerate(sets.items()):
                _draw_set(ax, part[:, shown], [edges[i] for i in shown], index,
                          name)
            _finish_panel(ax, row, column, truth, names, limits)
    if len(sets) > 1 or truth is not None:
        _corner_legend(figure, sets, truth)
    return figure


def rank_histogram(ranks: npt.ArrayLike, num_samples: int, num_bins: int | None = None,
                   band_probability: float = 0.95, labels: Sequence[str] | None = None,
                   ax: Any = None) -> Any:
    """Draws how often ranks occur, over the band for calibrated ones.

    The band is simultaneous: of calibrated histograms, a fraction
    `band_probability` lies in it in all bins of a panel.

    Args:
      ranks: integers `[N]`, or `[N, K]` for K panels, of
        `tfp_conditional.calibration.simulation_based_calibration`.
      num_samples: `int` L; ranks go from 0 to L.
      num_bins: `int`; default up to 20, of one width where possible.
      band_probability: how often the band holds what is calibrated.
      labels: titles of the panels, K of them.
      ax: axes, K of them for `[N, K]`; default new ones in a row.

    Returns:
      The axes, or an array of K axes for `[N, K]`.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
    """
    ranks = uniformity.check_ranks(ranks, num_samples)
    columns = ranks.reshape(len(ranks), -1).T
    if num_bins is None:
        num_bins = _num_bins(len(ranks), num_samples + 1)
    edges, lower, upper = calibration.histogram_band(
        len(ranks), num_samples, num_bins, band_probability)
    if ax is None:
        _, ax = plt.subplots(
            1, len(columns), sharey=True, squeeze=False, layout='constrained',
            figsize=(1.2 + 2.6 * len(columns), 2.6))
    axes = np.ravel(ax)
    if len(axes) != len(columns):
        raise ValueError(f'`ax` must hold one axes for each of {len(columns)} '
                         f'columns of `ranks`; got {len(axes)}.')
    if labels is None:
        names = [None] * len(columns) if ranks.ndim == 1 else _labels(
            None, len(columns))
    else:
        names = _labels(labels, len(columns))
    expected = len(ranks) * np.diff(edges) / (num_samples + 1)
    counts = [np.histogram(column, edges)[0] for column in columns]
    top = 1.05 * max(upper.max(), np.max(counts))
    for panel, heights, name in zip(axes, counts, names):
        panel.fill_between(edges, _steps(lower), _steps(upper), step='post',
                           color=BAND, linewidth=0,
                           label=f'{100 * band_probability:g} % if calibrated')
        panel.stairs(expected, edges, color=GUIDE, linewidth=0.8, baseline=None)
        panel.stairs(heights, edges, color=BLUE, linewidth=1.5, baseline=None,
                     label='ranks')
        panel.set(xlim=(0, num_samples + 1), ylim=(0, top), title=name,
                  xlabel=f'rank among {num_samples} samples')
        _open(panel)
    axes[0].set_ylabel('count')
    return axes[0] if ranks.ndim == 1 else axes


def coverage(levels: npt.ArrayLike | dict[str, npt.ArrayLike],
             band_probability: float = 0.95, ax: Any = None) -> Any:
    """Draws coverage curves, over the band for calibrated ones.

    Below the diagonal, highest-density regions are too small: over-confident. The
    band is simultaneous: of calibrated curves, a fraction `band_probability` lies in
    it from end to end.

    ```python
    import matplotlib
    matplotlib.use('Agg')
    import numpy as np
    import tfp_conditional as tfpc
    import tfp_conditional.plot

    rng = np.random.default_rng(0)
    ax = tfpc.plot.coverage({'calibrated': rng.uniform(size=500),
                             'over-confident': rng.beta(2, 1, size=500)})
    assert ax.get_xlabel() == 'credibility'
    ```

    Args:
      levels: `[N]` in [0, 1], of `tfp_conditional.calibration.expected_coverage` or
        `tarp`; or a `dict` from a name to such an array, at most four, of one N.
      band_probability: how often the band holds what is calibrated.
      ax: `matplotlib.axes.Axes`; default a new one.

    Returns:
      The axes.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
    """
    curves = levels if isinstance(levels, dict) else {None: levels}
    if not 1 <= len(curves) <= len(COLORS):
        raise ValueError(f'`levels` must be 1 to {len(COLORS)} sets; got '
                         f'{len(curves)}.')
    counts = {len(np.ravel(part)) for part in curves.values()}
    if len(counts) > 1:
        raise ValueError('`levels` must have one number of rows, for one band; got '
                         f'{sorted(counts)}.')
    points = {name: calibration.coverage_curve(part)
              for name, part in curves.items()}
    alphas, lower, upper = calibration.coverage_band(
        counts.pop(), band_probability)
    ax = _axes(ax)
    ax.fill_between(alphas, lower, upper, color=BAND, linewidth=0,
                    label=f'{100 * band_probability:g} % if calibrated')
    ax.plot([0, 1], [0, 1], color=GUIDE, linewidth=0.8)
    for color, dash, (name, curve) in zip(COLORS, DASHES, points.items()):
        ax.plot(*curve, color=color, linestyle=dash, label=name)
    ticks = dict(ticks=(0, 0.5, 1), labels=('0', '0.5', '1'))
    ax.set_xticks(**ticks)
    ax.set_yticks(**ticks)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect='equal', xlabel='credibility',
           ylabel='expected coverage')
    ax.legend(loc='upper left', frameon=False, fontsize='small', borderaxespad=0,
              handlelength=1.6)
    _open(ax)
    return ax


def learning_curve(history: Mapping[str, Any], ax: Any = None) -> Any:
    """Draws the losses of each epoch, the best validation marked.

    ```python
    import matplotlib
    matplotlib.use('Agg')
    import tfp_conditional as tfpc
    import tfp_conditional.plot

    ax = tfpc.plot.learning_curve({'epoch': [1, 2, 3], 'loss': [3., 2., 1.],
                                   'val_loss': [3., 2., 2.5]})
    assert ax.get_ylabel() == 'loss (nats per event)'
    ```

    Args:
      history: what `tfp_conditional.fit` returns: `dict` with `'epoch'`, `'loss'`
        and maybe `'val_loss'`.
      ax: `matplotlib.axes.Axes`; default a new one.

    Returns:
      The axes.

    Raises:
      ValueError: for a history of no epochs, or without those keys.
    """
    if not {'epoch', 'loss'} <= set(history) or not len(history['epoch']):
        raise ValueError("`history` must have 'epoch' and 'loss', of one epoch at "
                         f'least; got the keys {sorted(history)}.')
    ax = _axes(ax)
    curves = {'training': history['loss']}
    if 'val_loss' in history:
        curves['validation'] = history['val_loss']
    single = '.' if len(history['epoch']) == 1 else None
    for color, dash, (name, losses) in zip(COLORS, DASHES, curves.items()):
        ax.plot(history['epoch'], losses, color=color, linestyle=dash, label=name,
                marker=single)
    if 'val_loss' in history and np.isfinite(history['val_loss']).any():
        best = np.nanargmin(history['val_loss'])
        ax.plot(history['epoch'][best], history['val_loss'][best], 'o',
                color=VERMILION, label=f'best, epoch {history["epoch"][best]}')
    ax.set(xlabel='epoch', ylabel='loss (nats per event)')
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.legend(frameon=False)
    _open(ax)
    return ax


def _given(dist, condition):
    """`dist` for one condition, and the size of its events."""
    flow = ranks_lib.conditional_bijector(dist)
    condition = flow.check_conditions(condition)
    for leaf in tf.nest.flatten(condition):
        if leaf.shape.rank != 1:
            raise ValueError('`condition` must be one, [S]; got shape '
                             f'{leaf.shape.as_list()}.')
    return distribution_lib.given(dist, condition), dist.event_shape[-1]


def _default_limits(given, truth):
    return _sample_limits(given.sample(2000, seed=[0, 0]).numpy(), truth)


def _sample_limits(samples, truth, tail=0.001):
    """Pairs (low, high) that hold samples but for the tails, and the truth."""
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    if truth is not None:
        low, high = np.minimum(low, truth), np.maximum(high, truth)
    margin = 0.08 * np.where(high > low, high - low, 1.)
    return list(zip(low - margin, high + margin))


def _check_limits(limits, size):
    pairs = np.asarray(limits, np.float64)
    pairs = np.tile(pairs, [size, 1]) if pairs.shape == (2,) else pairs
    if pairs.shape != (size, 2) or not np.all(pairs[:, 0] < pairs[:, 1]):
        raise ValueError(f'`limits` must be {size} pairs (low, high), low < high; '
                         f'got {limits!r}.')
    return [tuple(pair) for pair in pairs]


def _vector(values, size, label):
    if values is None:
        return None
    values = np.asarray(values, np.float64)
    if values.shape != (size,) or not np.isfinite(values).all():
        raise ValueError(f'`{label}` must be {size} finite numbers, [{size}]; got '
                         f'{values}.')
    return values


def _labels(labels, size):
    if labels is None:
        return [f'$y_{{{i}}}$' for i in range(1, size + 1)] if size > 1 else ['$y$']
    if isinstance(labels, str) or len(labels) != size:
        raise ValueError(f'`labels` must be {size} strings; got {labels!r}.')
    return list(labels)


def _num_bins(num_rows, num_ranks):
    """Up to 20 bins of 20 rows or more, which divide the ranks where they can."""
    most = max(1, min(20, num_ranks, num_rows // 20))
    return next((n for n in range(most, most // 2, -1) if num_ranks % n == 0), most)


def _steps(values):
    """Values of bins for `fill_between` at their edges."""
    return np.append(values, values[-1])


def _axes(ax):
    if ax is None:
        return plt.subplots(figsize=(4, 3.6), layout='constrained')[1]
    return ax


def _open(ax):
    ax.spines[['top', 'right']].set_visible(False)


def highest_density_levels(mass: npt.ArrayLike,
                           regions: Sequence[float] = REGIONS) -> list[float]:
    """Values of `mass` above which cells hold each fraction of its sum.

    Args:
      mass: non-negative, of cells of one size.
      regions: fractions in (0, 1).

    Returns:
      `list` of float, one for each region.
    """
    ordered = np.sort(np.ravel(mass))[::-1]
    total = np.cumsum(ordered)
    return [ordered[np.searchsorted(total, part * total[-1])] for part in regions]


def _draw_set(ax, part, edges, index, name):
    """One set of samples `[n, 1]` or `[n, 2]` in a panel; the first is filled."""
    color, dash = COLORS[index], DASHES[index]
    if part.shape[1] == 1:
        for style in [dict(histtype='step', linestyle=dash, label=name)] + [
                dict(histtype='stepfilled', alpha=0.25, linewidth=0)] * (not index):
            ax.hist(part[:, 0], edges[0], density=True, color=color, **style)
        return
    counts, _, _ = np.histogram2d(*part.T, edges)
    kernel = np.exp(-0.5 * np.arange(-3, 4)**2.)
    smooth = counts.T
    for axis in (0, 1):
        smooth = np.apply_along_axis(np.convolve, axis, smooth,
                                     kernel / kernel.sum(), mode='same')
    centers = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    borders = sorted({*highest_density_levels(smooth)})
    if not index:
        ax.contourf(*centers, smooth, [*borders, np.inf], colors=color,
                    alpha=0.25)
        for border in borders[1:]:   # Twice as dark.
            ax.contourf(*centers, smooth, [border, np.inf], colors=color, alpha=0.25)
    ax.contour(*centers, smooth, borders, colors=color, linestyles=[dash],
               linewidths=[1, 1.6][-len(borders):])


def _finish_panel(ax, row, column, truth, names, limits):
    size = len(names)
    ax.set_xlim(limits[column])
    if row == column:
        ax.set(yticks=[], ylim=(0, None))
        ax.spines[['top', 'right', 'left']].set_visible(False)
        if truth is not None:
            ax.axvline(truth[row], **TRUTH_LINE)
    else:
        ax.set_ylim(limits[row])
        if truth is not None:
            ax.plot(truth[column], truth[row], **TRUTH_POINT)
    ax.tick_params(labelbottom=row == size - 1,
                   labelleft=column == 0 and row != column)
    ax.locator_params(nbins=4)
    if row == size - 1:
        ax.set_xlabel(names[column])
    if column == 0 and row:
        ax.set_ylabel(names[row])


def _corner_legend(figure, sets, truth):
    handles = [plt.Line2D([], [], color=color, linestyle=dash, label=name)
               for color, dash, name in zip(COLORS, DASHES, sets) if name]
    if truth is not None:
        handles.append(plt.Line2D([], [], **(
            TRUTH_POINT if len(truth) > 1 else TRUTH_LINE)))
    figure.legend(handles=handles, loc='upper right', frameon=False)
