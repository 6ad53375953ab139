"""Ranks of quantities of targets among those of samples: SBC, coverage, TARP."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.calibration import uniformity
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.progress import progress
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.fitting.data import checked_data
from tfp_conditional.posterior import conditioned


def simulation_based_calibration(dist: tfp.distributions.Distribution,
                                 targets: TensorLike, conditions: Conditions,
                                 num_samples: int = 999, log_prob: bool = False,
                                 seed: int | None = None,
                                 verbose: bool = True) -> np.ndarray:
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


def expected_coverage(dist: tfp.distributions.Distribution, targets: TensorLike,
                      conditions: Conditions, num_samples: int = 999,
                      seed: int | None = None, verbose: bool = True) -> np.ndarray:
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
    return uniformity.levels_of(ranks[:, 0], num_samples, seed)


def tarp(dist: tfp.distributions.Distribution, targets: TensorLike,
         conditions: Conditions, num_samples: int = 999,
         references: TensorLike | None = None, seed: int | None = None,
         verbose: bool = True) -> np.ndarray:
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
    y = np.asarray(checked(dist, targets, conditions)[0], np.float64)
    if len(y) < 2:
        raise ValueError('`targets` must have at least 2 rows, for their standard '
                         f'deviation; got {len(y)}.')
    scale = y.std(0)
    scale = tf.constant(np.where(scale > 0, scale, 1.), dist.dtype)
    if references is None:
        entropy = seed = seeds.resolve_seed(seed)
        references = np.random.default_rng((*entropy, 2)).uniform(
            y.min(0), y.max(0), y.shape)
    points = conditions_lib.as_tensor(references, dist.dtype, 'references')
    if points.shape != y.shape:
        raise ValueError('`references` must have the shape of `targets`, '
                         f'{list(y.shape)}; got {points.shape.as_list()}.')
    conditions_lib.check_finite_rows(points, 'references')
    ranks = _ranks(dist, targets, conditions, num_samples, seed, verbose,
                   lambda y, _, r: tf.reduce_sum(((y - r) / scale)**2, -1,
                                                 keepdims=True),
                   points, log_prob=False)
    return uniformity.levels_of(ranks[:, 0], num_samples, seed)


def _ranks(dist, targets, conditions, num_samples, seed, verbose, quantity,
           *rows, log_prob=True):
    """Ranks `[N, K]` of a quantity of targets among those of L samples each.

    `quantity(y [..., b, D], log_prob [..., b, 1], *rows [b, ...]) -> [..., b, K]`;
    its log_prob is None unless asked for.
    """
    targets, conditions = checked(dist, targets, conditions)
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
    parts, step, total = [], max(1, conditioned.EVENTS // count), len(targets)
    with progress(total, 'calibration', 'row', verbose) as bar:
        for start in range(0, total, step):
            chunk = tf.nest.map_structure(lambda x: x[start:start + step], data)
            parts.append([x.numpy() for x in
                          compare(seeds.stateless(entropy, 0, start), *chunk)])
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


def conditional_bijector(dist):
    """The bijector of a `dist` that these functions take; raises for others."""
    flow = distribution_lib.conditional_bijector(dist, 'dist')
    if dist.batch_shape.rank:
        raise ValueError(f'`dist` must have batch shape []; got {dist.batch_shape}.')
    return flow


def checked(dist, targets, conditions):
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
