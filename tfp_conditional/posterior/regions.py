"""`highest_density_regions`: the smallest regions that hold given probabilities."""

import numpy as np
import numpy.typing as npt
import tensorflow_probability as tfp

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.posterior import conditioned


class HighestDensityRegions:
    """What `highest_density_regions` returns.

    Attributes:
      levels: `[K]`, the probabilities that the regions hold.
      thresholds: `[..., K]`, the least log-prob in each.
      log_volumes: `[..., K]`, the logarithms of their volumes.
      log_volume_errors: `[..., K]`, standard errors of those, by the samples.
    """

    def __init__(self, subject: conditioned.Conditioned, levels: np.ndarray,
                 thresholds: np.ndarray, log_volumes: np.ndarray,
                 log_volume_errors: np.ndarray) -> None:
        self._subject, self.levels, self.thresholds = subject, levels, thresholds
        self.log_volumes, self.log_volume_errors = log_volumes, log_volume_errors

    def contains(self, events: TensorLike) -> np.ndarray:
        """Which regions hold events.

        Args:
          events: `[..., D]`, whose batch shape broadcasts to one that ends by that of
            the conditions.

        Returns:
          `bool` `[..., K]`.
        """
        return self._subject.log_prob(events)[..., np.newaxis] >= self.thresholds


def highest_density_regions(dist: tfp.distributions.Distribution,
                            conditions: Conditions | None = None,
                            levels: npt.ArrayLike = (0.5, 0.95),
                            num_samples: int = 10_000, seed: int | None = None,
                            verbose: bool = True) -> HighestDensityRegions:
    """The smallest regions that hold given probabilities, for each condition.

    ```none
    {y : p(y | c) >= t},   t: the quantile 1 - level of p(y | c) for y ~ p(. | c)
    volume:  E[1{p(y | c) >= t} / p(y | c)],   y ~ p(. | c)
    ```

    (Hyndman 1996, https://doi.org/10.2307/2684423), both from the same samples. An
    event is inside if its density is above the threshold, so that regions of several
    parts, and in many dimensions, are no matter. `levels` near 1 need samples beyond:
    10 / (1 - level) at least.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional import posterior
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))   # Standard normal.
    regions = posterior.highest_density_regions(
        dist, tf.zeros([4, 3]), levels=[0.5, 0.9], seed=0, verbose=False)
    radius = (2 * np.log(2))**0.5                                  # Of the first.
    assert regions.contains([[0.9 * radius, 0.]]).tolist() == [[True, True]] * 4
    assert regions.contains([[1.1 * radius, 0.]]).tolist() == [[False, True]] * 4
    assert np.allclose(np.exp(regions.log_volumes[:, 0]), np.pi * radius**2, rtol=0.1)
    ```

    Args:
      dist, conditions, seed, verbose: as in `mode`.
      levels: K probabilities in (0, 1).
      num_samples: `int`, for each condition.

    Returns:
      `HighestDensityRegions`.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: samples are not finite, or log-probs NaN.
    """
    subject = conditioned.Conditioned(dist, conditions, seed)
    count = conditions_lib.positive_int(num_samples, 'num_samples', least=2)
    levels = conditioned.checked_levels(levels)
    needed = int(np.ceil(10 / (1 - levels.max()) - 1e-6))
    if count < needed:
        raise ValueError(f'`num_samples` must be at least {needed}, ten beyond a level '
                         f'of {levels.max():g}; got {count}.')
    parts = []
    for rows in subject.batches(count, 'regions', verbose):
        _, log_prob = subject.draw(count, rows)
        log_prob = log_prob.numpy()
        thresholds = np.quantile(log_prob, 1 - levels, axis=0)        # [K, b]
        # 1 / p in units of its greatest value in the region, lest it overflow.
        scaled = np.where(log_prob >= thresholds[:, np.newaxis],
                          np.exp(thresholds[:, np.newaxis] - log_prob, dtype=np.float64),
                          0.)
        mean = scaled.mean(1)
        parts.append([x.T for x in (
            thresholds, np.log(mean) - thresholds,
            scaled.std(1, ddof=1) / mean / count**0.5)])
    thresholds, volumes, errors = (
        subject.unflat(np.concatenate(part)) for part in zip(*parts))
    return HighestDensityRegions(subject, levels, thresholds, volumes, errors)
