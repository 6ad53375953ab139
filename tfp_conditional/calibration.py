"""Is `p(y | c)` right? Calibration from pairs (y, c) of the true joint distribution.

Where the density is the true one, a target and samples for the same condition come
from one distribution, so the rank of any quantity of the target among those of L
samples is uniform on 0..L. Three choices of the quantity make three tests:

```none
simulation_based_calibration   each coordinate        biased, too wide or narrow
expected_coverage              -log p(y | c)          too wide or narrow
tarp                           |y - r|, r at random   any error, if r may depend on c
```

`uniformity_test` gives a p-value, `coverage_curve` and `coverage_band` a picture of
it (see `tfp_conditional.plot`), and `classifier_two_sample_test` compares samples
with samples where there are true ones. This module is not imported by
`import tfp_conditional`; it needs SciPy, and its last function scikit-learn too.

```python
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tfp_conditional as tfpc
import tfp_conditional.calibration
tfd = tfp.distributions

rng = np.random.default_rng(0)
conditions = rng.normal(size=[200, 3])
targets = rng.normal(size=[200, 2])         # and so the base alone is right
flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
ranks = tfpc.calibration.simulation_based_calibration(
    dist, targets, conditions, num_samples=99, seed=0, verbose=False)
distance, p_value = tfpc.calibration.uniformity_test(ranks, num_samples=99)
assert ranks.shape == (200, 2) and np.all(p_value > 0.01)
```
"""


import numpy as np
import tensorflow as tf

try:
    from scipy import stats
except ImportError as error:
    raise ImportError('`tfp_conditional.calibration` needs SciPy: pip install '
                      "'tfp_conditional[calibration]'.") from error

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.progress import progress
from tfp_conditional.fitting.data import checked_data

_EVENTS = 2**15        # Samples that meet the network at once.
_SIMULATIONS = 10_000  # Of calibrated results, for simultaneous bands.


def simulation_based_calibration(dist, targets, conditions, num_samples=999,
                                 log_prob=False, seed=None, verbose=True):
    """Ranks of targets among samples, in each coordinate (Talts et al. 2018).

    ```none
    rank[n, d] = #{l : y[l, d] < targets[n, d]},   y[l] ~ dist(. | conditions[n])
    ```

    for l = 1..L, with ties broken at random. Calibrated: uniform on 0..L.
    Heaped at both ends: too narrow; in the middle: too wide; at one end: biased.
    Ranks say nothing of how coordinates depend on one another; those of the
    log-prob, which are sensitive to that, add a column (Modrak et al. 2023). See
    https://arxiv.org/abs/1804.06788 and https://arxiv.org/abs/2211.02383.

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.calibration
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    ranks = tfpc.calibration.simulation_based_calibration(
        dist, tf.zeros([5, 2]), tf.zeros([5, 3]), num_samples=9, log_prob=True,
        verbose=False)
    assert ranks.shape == (5, 3) and ranks[:, 2].tolist() == [9] * 5   # The mode.
    ```

    Args:
      dist: `tfd.TransformedDistribution` of batch shape `[]` over a
        `ConditionalBijector`.
      targets: `[N, D]`.
      conditions: `[N, S]`, or the nest of such arrays that the bijector takes; row
        n is that of target n. Rows are independent draws from the true joint
        distribution, and none of those that `dist` was fitted to.
      num_samples: `int` L. Where a number of bins divides L + 1, a histogram has
        bins of one width.
      log_prob: `bool`, whether to rank log-probs too, as the last column.
      seed: `int` for samples and ties. `None`: one drawn from TensorFlow's
        generator.
      verbose: `bool`, whether to show a progress bar where tqdm is installed.

    Returns:
      `int64` ranks `[N, D]`, or `[N, D + 1]` with `log_prob`, from 0 to L. Memory
      grows with L, not with N.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: samples are not finite, or log-probs NaN; names the rows.
    """
    if log_prob:
        return _ranks(dist, targets, conditions, num_samples, seed, verbose,
                      lambda y, log_prob: tf.concat([y, log_prob], -1))
    return _ranks(dist, targets, conditions, num_samples, seed, verbose,
                  lambda y, _: y, log_prob=False)


def expected_coverage(dist, targets, conditions, num_samples=999, seed=None,
                      verbose=True):
    """Levels of the highest-density regions that just hold the targets.

    ```none
    level[n] = fraction of l with p(y[l] | c[n]) > p(targets[n] | c[n]),
               y[l] ~ dist(. | c[n])
    ```

    Calibrated: uniform on [0, 1]. Too many levels near 1: regions are too small,
    `dist` is over-confident. The `coverage_curve` is the fraction of targets in the
    regions of credibility alpha, and below the diagonal then (Hermans et al. 2022,
    https://arxiv.org/abs/2110.06581). A density that ignores the conditions and is
    right on average passes: see `tarp`.

    Args:
      dist, targets, conditions, num_samples, seed, verbose: as in
        `simulation_based_calibration`.

    Returns:
      `float64` levels `[N]` in [0, 1]: (rank + u) / (L + 1) with u uniform on
      [0, 1], lest the steps of 1 / L show in tests of many rows.

    Raises:
      TypeError, ValueError, FloatingPointError: as `simulation_based_calibration`.
    """
    ranks = _ranks(dist, targets, conditions, num_samples, seed, verbose,
                   lambda _, log_prob: -log_prob)
    return _levels(ranks[:, 0], num_samples, seed)


def tarp(dist, targets, conditions, num_samples=999, references=None, seed=None,
         verbose=True):
    """Levels of balls around reference points that just hold the targets.

    ```none
    level[n] = fraction of l with |y[l] - r[n]| < |targets[n] - r[n]|,
               y[l] ~ dist(. | c[n])
    ```

    where |.| is Euclidean, each coordinate in units of the targets' standard
    deviation. Calibrated: uniform on [0, 1], for any r that does not look at the
    target (Lemos et al. 2023, https://arxiv.org/abs/2302.03026). Needs no density.
    Only references that depend on the conditions find out a density that ignores
    the conditions and is right on average.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.calibration
    tfd = tfp.distributions

    rng = np.random.default_rng(0)
    conditions = rng.normal(size=[500, 2])
    targets = conditions + rng.normal(size=[500, 2])
    # Sees no condition: the distribution of all targets together.
    flow = tfpc.ConditionalRealNVP(2, 2, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 2.**0.5), 1))
    p_values = [tfpc.calibration.uniformity_test(tfpc.calibration.tarp(
        dist, targets, conditions, 99, references=r, seed=0, verbose=False))[1]
        for r in (None, conditions)]
    assert p_values[0] > 0.01 and p_values[1] < 1e-6
    ```

    Args:
      dist, targets, conditions, num_samples, seed, verbose: as in
        `simulation_based_calibration`.
      references: `[N, D]`, in the units of the targets. Default: uniform over the
        box that holds all targets.

    Returns:
      `float64` levels `[N]` in [0, 1], as of `expected_coverage`.

    Raises:
      TypeError, ValueError, FloatingPointError: as `simulation_based_calibration`.
    """
    y = np.asarray(_checked(dist, targets, conditions)[0], np.float64)
    if len(y) < 2:
        raise ValueError('`targets` must have at least 2 rows, for their standard '
                         f'deviation; got {len(y)}.')
    scale = y.std(0)
    scale = tf.constant(np.where(scale > 0, scale, 1.), dist.dtype)
    if references is None:
        entropy = seed = seeds.resolve_seed(seed)
        references = np.random.default_rng((*entropy, 2)).uniform(
            y.min(0), y.max(0), y.shape)
    references = conditions_lib.as_tensor(references, dist.dtype, 'references')
    if references.shape != y.shape:
        raise ValueError('`references` must have the shape of `targets`, '
                         f'{list(y.shape)}; got {references.shape.as_list()}.')
    conditions_lib.check_finite_rows(references, 'references')
    ranks = _ranks(dist, targets, conditions, num_samples, seed, verbose,
                   lambda y, _, r: tf.reduce_sum(((y - r) / scale)**2, -1,
                                                 keepdims=True),
                   references, log_prob=False)
    return _levels(ranks[:, 0], num_samples, seed)


def uniformity_test(levels, num_samples=None, seed=0):
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
        levels = _levels(check_ranks(levels, num_samples), num_samples, seed)
    if len(levels) < 10:
        raise ValueError(f'`levels` must have at least 10 rows; got {len(levels)}.')
    result = stats.kstest(levels, 'uniform', method='exact', axis=0)
    return result.statistic, result.pvalue


def coverage_curve(levels, num_points=101):
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


def coverage_band(num_rows, band_probability=0.95, simultaneous=True, num_points=101):
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


def histogram_band(num_rows, num_samples, num_bins=20, band_probability=0.95,
                   simultaneous=True):
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


def classifier_two_sample_test(x, y, num_folds=5, seed=0):
    """Accuracy with which a classifier tells x from y: 0.5 where it cannot.

    As in sbibm (Lueckmann et al. 2021, https://arxiv.org/abs/2101.04653; the test
    is of Lopez-Paz & Oquab 2017): both sets in units of the mean and standard
    deviation of x, a network with two hidden layers of 10 D units, and
    cross-validation.

    Args:
      x: samples `[n, D]`, by custom the true ones.
      y: as many others, `[n, D]`.
      num_folds: `int` >= 2.
      seed: `int`, for the folds and the network.

    Returns:
      `(accuracy, accuracies)`: the mean, and that of each fold, `[num_folds]`.

    Raises:
      ImportError: without scikit-learn.
      ValueError: for other shapes, values that are not finite, fewer than
        2 num_folds rows.
    """
    try:
        from sklearn import model_selection, neural_network
    except ImportError as error:
        raise ImportError(
            '`classifier_two_sample_test` needs scikit-learn: pip install '
            "'tfp_conditional[calibration]'.") from error
    num_folds = conditions_lib.positive_int(num_folds, 'num_folds', least=2)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape or not x.shape[1]:
        raise ValueError('`x` and `y` must have one shape [n, D]; got '
                         f'{list(x.shape)} and {list(y.shape)}.')
    if len(x) < 2 * num_folds:
        raise ValueError(f'`x` and `y` must have at least {2 * num_folds} rows, two '
                         f'a fold; got {len(x)}.')
    conditions_lib.check_finite_rows(x, 'x')
    conditions_lib.check_finite_rows(y, 'y')
    mean, std = x.mean(0), x.std(0, ddof=1)
    std[std == 0] = 1.
    data = (np.concatenate([x, y]) - mean) / std
    classifier = neural_network.MLPClassifier(
        activation='relu', hidden_layer_sizes=(10 * x.shape[1],) * 2,
        max_iter=10_000, solver='adam', random_state=seed)
    accuracies = model_selection.cross_val_score(
        classifier, data, np.repeat([0, 1], len(x)), scoring='accuracy',
        cv=model_selection.KFold(num_folds, shuffle=True, random_state=seed))
    return accuracies.mean(), accuracies


def _ranks(dist, targets, conditions, num_samples, seed, verbose, quantity,
           *rows, log_prob=True):
    """Ranks `[N, K]` of a quantity of targets among those of L samples each.

    `quantity(y [..., b, D], log_prob [..., b, 1], *rows [b, ...]) -> [..., b, K]`;
    its log_prob is None unless asked for.
    """
    targets, conditions = _checked(dist, targets, conditions)
    count = conditions_lib.positive_int(num_samples, 'num_samples')
    entropy = seeds.resolve_seed(seed)

    def compare(seed, targets, conditions, *rows):
        given = distribution_lib.given(dist, conditions)
        samples, of_samples, of_targets = None, None, None
        if log_prob:
            samples, of_samples = given.experimental_sample_and_log_prob(
                count, seed=seed)
            of_samples = of_samples[..., tf.newaxis]
            of_targets = given.log_prob(targets)[..., tf.newaxis]
        else:
            samples = given.sample(count, seed=seed)
        drawn = quantity(samples, of_samples, *rows)
        true = quantity(targets, of_targets, *rows)
        good = (tf.reduce_all(tf.math.is_finite(samples), [0, -1])
                & ~tf.reduce_any(tf.math.is_nan(drawn), [0, -1])
                & ~tf.reduce_any(tf.math.is_nan(true), -1))
        below, equal = (tf.math.count_nonzero(relation, axis=0) for relation in
                        (drawn < true, tf.equal(drawn, true)))
        return below, equal, good

    data = (targets, conditions, *rows)
    compare = tf.function(compare, autograph=False, input_signature=[
        tf.TensorSpec([2], tf.int32), *tf.nest.map_structure(
            lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), data)])
    parts, step, total = [], max(1, _EVENTS // count), len(targets)
    with progress(total, 'calibration', 'row', verbose) as bar:
        for start in range(0, total, step):
            chunk = tf.nest.map_structure(lambda x: x[start:start + step], data)
            state = np.random.SeedSequence((*entropy, 0, start)).generate_state(2)
            parts.append([x.numpy() for x in
                          compare(tf.constant(state.view(np.int32)), *chunk)])
            if bar is not None:
                bar.update(len(chunk[0]))
    below, equal, good = map(np.concatenate, zip(*parts))
    if not good.all():
        raise FloatingPointError(
            'Samples of `dist` must be finite and log-probs no NaN; for '
            f'{np.sum(~good)} of {total} rows they are not, the first of them row '
            f'{np.argmin(good)}. Look at its conditions, or use float64.')
    rng = np.random.default_rng((*entropy, 1))
    return below + rng.integers(0, equal + 1)


def _levels(ranks, num_samples, seed):
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


def conditional_bijector(dist):
    """The bijector of a `dist` that these functions take; raises for others."""
    flow = distribution_lib.conditional_bijector(dist, 'dist')
    if dist.batch_shape.rank:
        raise ValueError(f'`dist` must have batch shape []; got {dist.batch_shape}.')
    return flow


def _checked(dist, targets, conditions):
    """Targets and conditions as tensors with rows, for a dist that takes them."""
    conditional_bijector(dist)
    if isinstance(targets, tf.data.Dataset):
        raise TypeError('`targets` must be an array [N, D]; got a Dataset.')
    targets, conditions, _ = checked_data(dist, targets, conditions, 'targets')
    for leaf in tf.nest.flatten(conditions):
        if leaf.shape.rank != 2:
            raise ValueError('`conditions` must have a row for each target, '
                             f'[N, S]; got shape {leaf.shape.as_list()}.')
    return targets, conditions


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
