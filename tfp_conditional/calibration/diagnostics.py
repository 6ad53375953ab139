"""What a posterior has learnt, and whether the data are like those it learnt from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.calibration import ranks as ranks_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Conditions, Nest, TensorLike
from tfp_conditional.posterior import conditioned


def z_scores_and_contraction(dist: tfp.distributions.Distribution,
                             targets: TensorLike, conditions: Conditions,
                             num_samples: int = 999, seed: int | None = None,
                             verbose: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """How far posteriors are from the truth, and how much narrower than the prior.

    ```none
    z[n, d] = (mean_l y[l, d] - targets[n, d]) / std_l y[l, d]
    contraction[n, d] = 1 - var_l y[l, d] / var_n targets[n, d],   y[l] ~ dist(. | c[n])
    ```

    Calibrated: z has mean 0, and mean square 1. A mean square above 1 is
    over-confidence or bias, below it under-confidence. Contraction near 1: the data
    say much of that coordinate; near 0: as good as nothing, or a fit that has not
    learnt it. Plotted against one another they tell these apart (Schad et al. 2021,
    https://arxiv.org/abs/1904.12765, after Betancourt).

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.calibration
    tfd = tfp.distributions

    rng = np.random.default_rng(0)
    targets = rng.normal(size=[500, 2])        # The base is right, and learns nothing.
    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    z, contraction = tfpc.calibration.z_scores_and_contraction(
        dist, targets, np.zeros([500, 3]), seed=0, verbose=False)
    assert np.allclose(np.mean(z**2, 0), 1., atol=0.2)
    assert np.allclose(contraction.mean(0), 0., atol=0.2)
    ```

    Args:
      dist, targets, conditions, seed, verbose: as in `simulation_based_calibration`.
      num_samples: `int` >= 2.

    Returns:
      `(z, contraction)`, `[N, D]` each.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: samples are not finite; names the rows.
    """
    targets, conditions = ranks_lib.checked(dist, targets, conditions)
    if len(targets) < 2:
        raise ValueError('`targets` must have at least 2 rows, for their variance; got '
                         f'{len(targets)}.')
    count = conditions_lib.positive_int(num_samples, 'num_samples', least=2)
    targets = np.asarray(targets, np.float64)
    subject = conditioned.Conditioned(dist, conditions, seed)
    parts = []
    for rows in subject.batches(count, 'z-scores', verbose):
        y = subject.draw(count, rows)[0].numpy().astype(np.float64)
        parts.append((y.mean(0), y.std(0, ddof=1)))
    mean, std = (np.concatenate(part) for part in zip(*parts))
    return (mean - targets) / std, 1 - std**2 / targets.var(0, ddof=1)


def posterior_predictive_check(
        dist: tfp.distributions.Distribution, condition: Conditions,
        simulator: Callable[[np.ndarray], Nest],
        statistics: Callable[[Any], TensorLike] | None = None, num_samples: int = 999,
        seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Whether the posterior of what was observed predicts what was observed.

    ```none
    replication[l] = T(simulator(y[l])),   y[l] ~ dist(. | condition)
    p = 2 min(#{l : replication[l] <= T(condition)},
              #{l : replication[l] >= T(condition)}) / L,   counting the observed one
    ```

    A small p-value: the model that was simulated, or the fit, cannot make such data.
    Since data are used twice, p-values of a right model are not uniform but near 1, and
    many statistics find little: choose T for what matters (Gelman et al. 1996).

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.calibration
    tfd = tfp.distributions

    rng = np.random.default_rng(0)
    flow = tfpc.ConditionalRealNVP(2, 2, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))   # Standard normal.
    replications, p_values = tfpc.calibration.posterior_predictive_check(
        dist, [0., 9.], lambda y: y + rng.normal(size=y.shape), seed=0)
    assert replications.shape == (999, 2)
    assert p_values[0] > 0.8 and p_values[1] < 0.01
    ```

    Args:
      dist: `tfd.TransformedDistribution` of batch shape `[]` over a
        `ConditionalBijector`.
      condition: `[S]`, or the nest of such that the bijector takes: what was observed.
      simulator: function of parameters, an array `[L, D]`, that returns data as
        conditions have them, `[L, S]` or a nest of such, with noise of its own.
      statistics: function T of data `[L, S]` that returns `[L, K]`. Default: the data
        themselves, the leaves of a nest side by side.
      num_samples: `int` L.
      seed: `int` for samples. `None`: one drawn from TensorFlow's generator.

    Returns:
      `(replications, p_values)`, `[L, K]` and `[K]`.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: samples are not finite.
    """
    ranks_lib.conditional_bijector(dist)
    subject = conditioned.Conditioned(dist, condition, seed)
    if subject.batch_shape:
        raise ValueError('`condition` must be one, [S]; got batch shape '
                         f'{subject.batch_shape}.')
    count = conditions_lib.positive_int(num_samples, 'num_samples')
    y = subject.draw(count, slice(0, 1))[0].numpy()[:, 0]
    if statistics is None:
        def statistics(data):
            return np.concatenate([np.reshape(leaf, [len(leaf), -1])
                                   for leaf in tf.nest.flatten(data)], -1)
    drawn, observed = (np.asarray(statistics(data), np.float64) for data in (
        subject.flow.condition_spec.pack(simulator(y)),
        tf.nest.map_structure(lambda leaf: leaf.numpy(), subject.take(slice(0, 1)))))
    if drawn.ndim != 2 or len(drawn) != count or observed.shape != (1, drawn.shape[1]):
        raise ValueError(
            f'Data of `simulator`, through `statistics`, must have shape [{count}, K], and '
            f'those of `condition` [1, K]; got {list(drawn.shape)} and '
            f'{list(observed.shape)}.')
    conditions_lib.check_finite_rows(drawn, 'data of `simulator`')
    tails = [np.sum(side, 0) + 1 for side in (drawn <= observed, drawn >= observed)]
    return drawn, np.minimum(1., 2 * np.minimum(*tails) / (count + 1))


def misspecification_test(observed: Nest, simulated: Nest,
                          embedding: Callable[[Any], TensorLike] | None = None,
                          num_permutations: int = 999,
                          seed: int = 0) -> tuple[float, float]:
    """Whether observed data are like the simulated ones that a fit is of.

    ```none
    mmd^2 = mean k(o, o') + mean k(s, s') - 2 mean k(o, s)
    k(a, b) = sum over h in (1/2, 1, 2) of exp(-|a - b|^2 / (2 (h m)^2)),
              m: the median distance of simulated data, in units of their deviations
    ```

    The maximum mean discrepancy (Gretton et al. 2012). Where no simulation is like
    what was observed, a posterior for it is an extrapolation, wrong by any amount, that
    no test on simulations finds (Schmitt et al. 2021,
    https://arxiv.org/abs/2112.08866). The p-value is by permutations of all rows, and
    exact, even for a single observation: then it says how far out that one is.

    ```python
    import numpy as np
    import tfp_conditional as tfpc
    import tfp_conditional.calibration

    rng = np.random.default_rng(0)
    simulated = rng.normal(size=[500, 3])
    test = tfpc.calibration.misspecification_test
    assert test(rng.normal(size=[20, 3]), simulated)[1] > 0.01
    assert test(rng.normal(size=[20, 3]) + 1., simulated)[1] < 0.01
    ```

    Args:
      observed: `[M, S]`, M >= 1 real data sets.
      simulated: `[N, S]`, N >= 2: from the prior, as those of the fit. Memory grows by
        (M + N)^2.
      embedding: function of both, such as the network of a `ConditionalEmbedding`, that
        returns vectors, `[M, E]` and `[N, E]`; then data may have any shape. It sees what
        the fit sees. Default: the data themselves.
      num_permutations: `int` P >= 19; the least p-value is 1 / (P + 1).
      seed: `int`, for the permutations.

    Returns:
      `(mmd, p_value)`, floats.

    Raises:
      ValueError: for other shapes, and for vectors that are not finite.
    """
    permutations = conditions_lib.positive_int(num_permutations, 'num_permutations', 19)
    sets = [np.asarray(data if embedding is None else embedding(data), np.float64)
            for data in (observed, simulated)]
    if any(x.ndim != 2 for x in sets) or sets[0].shape[1:] != sets[1].shape[1:] or (
            not len(sets[0]) or len(sets[1]) < 2):
        raise ValueError(
            '`observed` and `simulated` must be vectors of one size, [M, S] and [N, S], '
            f'N >= 2; got {" and ".join(str(list(x.shape)) for x in sets)}'
            f'{"" if embedding is None else " from `embedding`"}.')
    for x, label in zip(sets, ('observed', 'simulated')):
        conditions_lib.check_finite_rows(x, label)
    std = sets[1].std(0)
    x = np.concatenate(sets) / np.where(std > 0, std, 1.)
    x -= x.mean(0)
    norms = np.sum(x**2, -1)
    squares = np.maximum(norms[:, np.newaxis] + norms - 2 * x @ x.T, 0.)
    count, total = len(sets[0]), len(x)
    inner = squares[count:, count:]
    median = np.median(inner[np.triu_indices(len(inner), 1)])
    kernel = sum(np.exp(-squares / (2 * h**2 * (median if median > 0 else 1.)))
                 for h in (0.5, 1., 2.))
    rng, by_row, values = np.random.default_rng(seed), kernel.sum(1), []
    for i in range(permutations + 1):
        first = np.arange(count) if not i else rng.choice(total, count, replace=False)
        within, beside = kernel[np.ix_(first, first)].sum(), by_row[first].sum()
        across = beside - within
        others = by_row.sum() - beside - across
        rest = total - count
        values.append(within / count**2 + others / rest**2 - 2 * across / (count * rest))
    # By rounding the same rows in another order may have a slightly other value.
    return (max(values[0], 0.)**0.5,
            np.mean(np.array(values) >= values[0] * (1 - 1e-9)))
