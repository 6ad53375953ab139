"""Whether ranks and levels are uniform: a test, curves and bands."""

import numpy as np
import numpy.typing as npt

try:
    from scipy import stats
except ImportError as error:
    raise ImportError('`tfp_conditional.calibration` needs SciPy: pip install '
                      "'tfp_conditional[calibration]'.") from error

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds

_SIMULATIONS = 10_000  # Of calibrated results, for simultaneous bands.


def uniformity_test(levels: npt.ArrayLike, num_samples: int | None = None,
                    seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Kolmogorov-Smirnov test that levels, or ranks, are uniform.

    ```none
    distance = max over a of |#{n : levels[n] <= a} / N - a|
    ```

    The p-value is exact; it is that of `scipy.stats.kstest`.

    ```python
    import numpy as np
    import tfp_conditional as tfpc
    import tfp_conditional.calibration

    rng = np.random.default_rng(0)
    assert tfpc.calibration.uniformity_test(rng.uniform(size=1000))[1] > 0.01
    assert tfpc.calibration.uniformity_test(rng.beta(2, 2, size=1000))[1] < 1e-6
    ```

    Args:
      levels: `[N]` in [0, 1], or integer ranks; or `[N, K]`, whose columns are
        tested one by one (for all K at once compare K times the least p-value).
      num_samples: `int` L for ranks from 0 to L, `None` for levels.
      seed: `int`, for the place of a rank within its 1 / (L + 1).

    Returns:
      `(distance, p_value)`, of shape `[]` or `[K]`.

    Raises:
      TypeError, ValueError: for another shape, values out of range, and N < 10.
    """
    if num_samples is None:
        levels = _check_levels(levels)
    else:
        levels = levels_of(check_ranks(levels, num_samples), num_samples, seed)
    if len(levels) < 10:
        raise ValueError(f'`levels` must have at least 10 rows; got {len(levels)}.')
    result = stats.kstest(levels, 'uniform', method='exact', axis=0)
    return result.statistic, result.pvalue


def coverage_curve(levels: npt.ArrayLike,
                   num_points: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """The fraction of levels up to each alpha: the expected coverage.

    ```python
    import tfp_conditional as tfpc
    import tfp_conditional.calibration

    alphas, coverage = tfpc.calibration.coverage_curve([0.2, 0.6, 0.7], 3)
    assert alphas.tolist() == [0, 0.5, 1] and coverage.tolist() == [0, 1 / 3, 1]
    ```

    Args:
      levels: `[N]` in [0, 1], of `expected_coverage` or `tarp`.
      num_points: `int` K >= 2.

    Returns:
      `alphas` `[K]`, even on [0, 1], and `coverage` `[K]`.
    """
    levels = np.sort(_check_levels(levels, ranks=(1,)))
    alphas = np.linspace(
        0, 1, conditions_lib.positive_int(num_points, 'num_points', least=2))
    return alphas, np.searchsorted(levels, alphas, side='right') / len(levels)


def coverage_band(num_rows: int, band_probability: float = 0.95,
                  simultaneous: bool = True,
                  num_points: int = 101) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the coverage curve of uniform levels lies.

    The number of N levels up to alpha is Binomial(N, alpha). Pointwise, the band is
    the central interval of that, exactly: at most (1 - band_probability) / 2 is
    beyond either side. Simultaneous, the tail is so much smaller that whole curves
    stay inside with that probability, found from 10,000 simulated ones (Sailynoja
    et al. 2022, https://arxiv.org/abs/2103.10522).

    ```python
    import numpy as np
    import tfp_conditional as tfpc
    import tfp_conditional.calibration

    alphas, lower, upper = tfpc.calibration.coverage_band(1000)
    levels = np.random.default_rng(0).uniform(size=1000)
    _, coverage = tfpc.calibration.coverage_curve(levels)
    assert np.all((lower <= coverage) & (coverage <= upper))
    ```

    Args:
      num_rows: `int` N.
      band_probability: in (0, 1), how often the band holds what is calibrated.
      simultaneous: `bool`, whether that is the whole curve, not each of its points.
      num_points: `int` K >= 2.

    Returns:
      `alphas`, `lower` and `upper`, each `[K]`.
    """
    points = conditions_lib.positive_int(num_points, 'num_points', least=2)
    alphas = np.linspace(0, 1, points)
    lower, upper = _band(num_rows, np.full(points - 1, 1 / (points - 1)),
                         band_probability, simultaneous, cumulative=True)
    return (alphas, np.r_[0, lower, num_rows] / num_rows,
            np.r_[0, upper, num_rows] / num_rows)


def histogram_band(
        num_rows: int, num_samples: int, num_bins: int = 20,
        band_probability: float = 0.95,
        simultaneous: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the counts of a histogram of uniform ranks lie.

    ```python
    import tfp_conditional as tfpc
    import tfp_conditional.calibration

    edges, lower, upper = tfpc.calibration.histogram_band(
        1000, num_samples=99, num_bins=4, simultaneous=False)
    assert edges.tolist() == [0, 25, 50, 75, 100]      # rank 0 to 24, 25 to 49, ...
    assert lower.tolist() == [223] * 4 and upper.tolist() == [277] * 4
    ```

    Args:
      num_rows: `int` N.
      num_samples: `int` L; ranks go from 0 to L.
      num_bins: `int` B, at most L + 1. Where B does not divide L + 1, some bins
        are one rank wider, and their band higher.
      band_probability, simultaneous: as in `coverage_band`.

    Returns:
      `edges` `[B + 1]`, for `np.histogram` of ranks; `lower` and `upper` `[B]`,
      counts, both inside. All `int64`.
    """
    edges = _rank_edges(num_samples, num_bins)
    widths = np.diff(edges)
    return (edges, *_band(num_rows, widths / widths.sum(), band_probability,
                          simultaneous))


def levels_of(ranks, num_samples, seed):
    rng = np.random.default_rng((*seeds.resolve_seed(seed), 3))
    return (ranks + rng.uniform(size=ranks.shape)) / (num_samples + 1)


def _band(num_rows, probs, band_probability, simultaneous, cumulative=False):
    """Least and greatest counts `[K]`; cumulative: without the last, `[K - 1]`."""
    n = conditions_lib.positive_int(num_rows, 'num_rows')
    if not 0 < band_probability < 1:
        raise ValueError('`band_probability` must be in (0, 1); got '
                         f'{band_probability}.')
    each = np.cumsum(probs)[:-1] if cumulative else probs
    tail = (1 - band_probability) / 2
    if simultaneous and len(each):
        simulated = np.random.default_rng(0).multinomial(n, probs, _SIMULATIONS)
        if cumulative:
            simulated = np.cumsum(simulated, axis=1)[:, :-1]
        least = np.ones(_SIMULATIONS)
        for p, column in zip(each, simulated.T):
            counts, index = np.unique(column, return_inverse=True)
            tails = np.minimum(stats.binom.cdf(counts, n, p),
                               stats.binom.sf(counts - 1, n, p))
            least = np.minimum(least, tails[index])
        tail = np.quantile(least, 1 - band_probability, method='lower')
    # It may be the tail of a count, which rounding must not leave outside.
    tail *= 1 - 1e-9
    lower, upper = stats.binom.ppf(tail, n, each), stats.binom.isf(tail, n, each)
    return lower.astype(np.int64), upper.astype(np.int64)


def _rank_edges(num_samples, num_bins):
    ranks = conditions_lib.positive_int(num_samples, 'num_samples') + 1
    if conditions_lib.positive_int(num_bins, 'num_bins') > ranks:
        raise ValueError(f'`num_bins` must be at most the number of ranks, {ranks}; '
                         f'got {num_bins}.')
    return np.round(np.linspace(0, ranks, num_bins + 1)).astype(np.int64)


def _check_levels(levels, ranks=(1, 2)):
    levels = np.asarray(levels, np.float64)
    if levels.ndim not in ranks or not levels.size:
        raise ValueError(f'`levels` must have shape [N]{" or [N, K]" * (2 in ranks)}'
                         f'; got {list(levels.shape)}.')
    if not np.all((levels >= 0) & (levels <= 1)):
        raise ValueError('`levels` must be in [0, 1]; got some from '
                         f'{levels.min()} to {levels.max()}. For ranks give '
                         '`num_samples`.')
    return levels


def check_ranks(ranks, num_samples):
    """Ranks as an array `[N]` or `[N, K]` of integers from 0 to L, or an error."""
    ranks = np.asarray(ranks)
    conditions_lib.positive_int(num_samples, 'num_samples')
    if not np.issubdtype(ranks.dtype, np.integer):
        raise TypeError(f'Ranks must be integers; got {ranks.dtype}. For levels '
                        'leave out `num_samples`.')
    if ranks.ndim not in (1, 2) or not ranks.size:
        raise ValueError('Ranks must have shape [N] or [N, K]; got '
                         f'{list(ranks.shape)}.')
    if ranks.min() < 0 or ranks.max() > num_samples:
        raise ValueError(f'Ranks must be from 0 to `num_samples`, {num_samples}; '
                         f'got some from {ranks.min()} to {ranks.max()}.')
    return ranks
