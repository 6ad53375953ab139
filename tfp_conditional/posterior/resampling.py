"""`importance_resampling`: samples of a flow as samples of a known log-density."""

from collections.abc import Callable
import typing

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.posterior import conditioned


class Resampled(typing.NamedTuple):
    """What `importance_resampling` returns, as arrays."""
    samples: np.ndarray
    effective_sample_size: np.ndarray
    pareto_k: np.ndarray
    log_normalizer: np.ndarray


def importance_resampling(dist: tfp.distributions.Distribution,
                          log_density: Callable[[tf.Tensor, typing.Any], TensorLike],
                          conditions: Conditions | None = None,
                          num_samples: int = 1000, num_proposals: int = 10_000,
                          seed: int | None = None, verbose: bool = True) -> Resampled:
    """Corrects samples by weights: sampling-importance-resampling (Rubin 1988).

    ```none
    w[l] = f(y[l]; c) / p(y[l] | c),   y[l] ~ p(. | c),   l = 1..L
    ```

    for an unnormalised density f, such as likelihood times prior. The largest weights
    are smoothed by the quantiles of a generalised Pareto distribution (`pareto_smooth`),
    whose shape k says whether the result can be believed: not above
    min(1 - 1 / log10(L), 0.7), 0.7 for the default L (Vehtari et al. 2024,
    https://arxiv.org/abs/1507.02646). Then `num_samples` of the L events are drawn by
    their weights, systematically: an event occurs its expected number of times, rounded
    up or down.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional import posterior
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))

    def log_density(y, c):          # Normal around c[0], of half the width, times 5.
        return tf.math.log(5.) + tfd.MultivariateNormalDiag(
            tf.zeros(2), 0.5 * tf.ones(2)).log_prob(y - c[..., :1])

    found = posterior.importance_resampling(
        dist, log_density, [[0., 0., 0.], [0.5, 0., 0.]], seed=0, verbose=False)
    assert np.allclose(found.samples.mean(0), [[0., 0.], [0.5, 0.5]], atol=0.1)
    assert np.all(found.pareto_k < 0.5)
    assert np.allclose(np.exp(found.log_normalizer), 5., rtol=0.1)
    ```

    Args:
      dist, conditions, seed, verbose: as in `mode`.
      log_density: function of events, tensors `[L, b, D]`, and of b rows of
        conditions, `[b, S]` or a nest, that returns log f, `[L, b]`, as a tensor or an
        array: finite, or -inf where f is 0. Rows are all conditions in their order,
        some at a time.
      num_samples: `int`, that are returned for each condition.
      num_proposals: `int` L, that are weighted for each, `num_samples` at least.

    Returns:
      `Resampled`, a named tuple: `samples` `[num_samples, ..., D]`, in random order;
      `effective_sample_size` `[...]`, of the L weighted ones, `(sum w)**2 / sum w**2`;
      `pareto_k` `[...]`; and `log_normalizer` `[...]`, the estimate log(mean w) of the
      logarithm of f's integral: of likelihood times prior the evidence.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: samples or values of `log_density` that are no numbers;
        conditions all of whose samples have f = 0.
    """
    subject = conditioned.Conditioned(dist, conditions, seed)
    count = conditions_lib.positive_int(num_samples, 'num_samples')
    total = conditions_lib.positive_int(num_proposals, 'num_proposals', least=count)
    rng = np.random.default_rng((*subject.entropy, 1))
    parts = []
    for rows in subject.batches(total, 'resampling', verbose):
        y, log_prob = subject.draw(total, rows)
        values = subject.target(log_density, y, rows)
        subject.refuse(np.all(values == -np.inf, 0), rows,
                       'Values of `log_density` must not all be -inf',
                       'No sample of `dist` is where the density is.')
        log_weights, k = pareto_smooth(values - log_prob.numpy())
        y, peak = y.numpy(), log_weights.max(0)
        weights = np.exp(log_weights - peak)
        log_mean = peak + np.log(weights.mean(0))
        weights /= weights.sum(0)
        places = (np.arange(count)[:, np.newaxis]
                  + rng.uniform(size=weights.shape[1])) / count
        chosen = np.stack([
            rng.permutation(np.searchsorted(ends / ends[-1], place))
            for ends, place in zip(np.cumsum(weights, 0).T, places.T)], 1)
        parts.append([np.take_along_axis(y, chosen[..., np.newaxis], 0).swapaxes(0, 1),
                      1 / np.sum(weights**2, 0), k, log_mean])
    samples, *others = (np.concatenate(part) for part in zip(*parts))
    return Resampled(subject.unflat(samples.swapaxes(0, 1), 1),
                     *map(subject.unflat, others))


def pareto_smooth(log_weights: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pareto-smoothed importance weights, and the shape k of their tail.

    The M = min(L / 5, 3 sqrt(L)) greatest weights become the quantiles (i - 1/2) / M of
    a generalised Pareto distribution fitted to how far they are above the next one, at
    most the greatest weight (Vehtari et al. 2024, https://arxiv.org/abs/1507.02646).
    The fit is the posterior mean of Zhang & Stephens (2009,
    https://doi.org/10.1198/tech.2009.08017), k drawn towards 0.5 by ten observations.

    ```python
    import numpy as np
    from tfp_conditional import posterior

    heavy = np.random.default_rng(0).exponential(0.8, size=10_000)   # k is 0.8.
    smooth, k = posterior.pareto_smooth(heavy)
    assert smooth.shape == (10_000,) and abs(k - 0.8) < 0.1
    ```

    Args:
      log_weights: `[L]` or `[L, N]` for N tails, finite or -inf, not all of them -inf.

    Returns:
      `(log_weights, k)`: as they came, but for the tail, and not normalised; and `[]` or
      `[N]`. Where fewer than 5 weights are in the tail it stays, and k is infinite;
      where they are all equal, k is -inf.

    Raises:
      ValueError: for another shape, NaN, infinite weights, and none above 0.
    """
    log_weights = np.array(log_weights, np.float64)
    if log_weights.ndim not in (1, 2) or not log_weights.size:
        raise ValueError('`log_weights` must have shape [L] or [L, N]; got '
                         f'{list(log_weights.shape)}.')
    if not np.all(np.isfinite(log_weights.max(0))):    # Of NaN the greatest is NaN.
        raise ValueError('`log_weights` must be finite or -inf, and some of each column '
                         f'finite; got some up to {log_weights.max()}.')
    columns = log_weights.reshape(len(log_weights), -1)    # A view: changed in place.
    k = np.array([_smooth(column) for column in columns.T])
    return log_weights, k.reshape(log_weights.shape[1:])[()]


def _smooth(log_weights):
    """Smooths the tail of weights `[L]` in place; returns its k."""
    total = len(log_weights)
    length = int(np.ceil(min(total / 5, 3 * total**0.5)))
    order = np.argsort(log_weights)
    peak = log_weights[order[-1]]
    # Below the smallest normal number exp would be 0, and the excess no number.
    cutoff = max(log_weights[order[-length - 1]] if length < total else -np.inf,
                 peak + np.log(np.finfo(np.float64).tiny))
    tail = order[log_weights[order] > cutoff]
    if len(tail) < 5:
        return np.inf if len(tail) else -np.inf
    lowest = np.exp(cutoff - peak)
    k, sigma = _fit_generalized_pareto(np.exp(log_weights[tail] - peak) - lowest)
    if not np.isfinite(k):
        return np.inf
    beyond = -np.log1p(-(np.arange(len(tail)) + 0.5) / len(tail))
    quantiles = sigma * (np.expm1(k * beyond) / k if k else beyond)
    log_weights[tail] = np.minimum(np.log(lowest + quantiles), 0.) + peak
    return k


def _fit_generalized_pareto(x):
    """Shape k and scale sigma of sorted positive values, of density

        (1 + k x / sigma)**(-1 / k - 1) / sigma.
    """
    n = len(x)
    grid = np.arange(1, 31 + int(n**0.5)) - 0.5
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = (1 - (len(grid) / grid)**0.5) / (3 * quartile) + 1 / x[-1]
    k = np.log1p(-theta[:, np.newaxis] * x).mean(1)        # Of each theta = -k / sigma.
    log_likelihood = n * (np.log(-theta / k) - k - 1)
    weights = np.exp(log_likelihood - log_likelihood.max())
    theta = np.sum(theta * weights) / np.sum(weights)
    k = np.log1p(-theta * x).mean()
    return (n * k + 10 * 0.5) / (n + 10), -k / theta
