"""`conformal_regions`: regions that hold the truth as often as they say."""

import numpy as np
import numpy.typing as npt
import tensorflow_probability as tfp

from tfp_conditional.calibration import ranks
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.posterior import conditioned


class ConformalRegions:
    """What `conformal_regions` returns.

    Attributes:
      levels: `[K]`, the probabilities that the regions hold at least.
      credibilities: `[K]`, those that the same regions hold under the distribution:
        near the levels where it is calibrated, above them where it is over-confident.
        1 is a region beyond all samples.
      num_rows: `int` N, of the pairs.
    """

    def __init__(self, dist: tfp.distributions.Distribution, levels: np.ndarray,
                 scores: np.ndarray, num_rows: int, num_samples: int,
                 entropy: tuple[int, ...]) -> None:
        self._dist, self._scores, self._count = dist, scores, num_samples
        self._entropy = entropy
        self.levels, self.num_rows = levels, num_rows
        self.credibilities = np.minimum(scores / num_samples, 1.)

    def thresholds(self, conditions: Conditions) -> np.ndarray:
        """The least log-probs `[..., K]` in the regions.

        Args:
          conditions: `[..., S]`, or the nest that the distribution takes.
        """
        return self._thresholds(self._subject(conditions))

    def contains(self, events: TensorLike, conditions: Conditions) -> np.ndarray:
        """Which regions hold events.

        Args:
          events: `[..., D]`, whose batch shape broadcasts to one that ends by that of
            the conditions.
          conditions: `[..., S]`, or the nest that the distribution takes.

        Returns:
          `bool` `[..., K]`.
        """
        subject = self._subject(conditions)
        return subject.log_prob(events)[..., np.newaxis] >= self._thresholds(subject)

    def _subject(self, conditions):
        return conditioned.Conditioned(self._dist, conditions, self._entropy)

    def _thresholds(self, subject):
        parts = []
        whole = np.minimum(self._scores, self._count - 1).astype(int)
        beyond = np.maximum(self._scores - self._count, 0.)
        for rows in subject.batches(self._count, '', False):
            densest_first = -np.sort(-subject.draw(self._count, rows)[1].numpy(), axis=0)
            parts.append((densest_first[whole] - beyond[:, np.newaxis]).T)
        return subject.unflat(np.concatenate(parts))


def conformal_regions(dist: tfp.distributions.Distribution, targets: TensorLike,
                      conditions: Conditions, levels: npt.ArrayLike = (0.5, 0.95),
                      num_samples: int = 999, seed: int | None = None,
                      verbose: bool = True) -> ConformalRegions:
    """Highest-density regions that hold the truth with given probabilities, at least.

    ```none
    score:   s(y, c) = #{l : p(y[l] | c) > p(y | c)},   y[l] ~ dist(. | c)
    region:  {y : s(y, c) <= t},   t: the k-th least score of the pairs,
                                   k = ceil((N + 1) level)
    ```

    for l = 1..L; where all L samples are denser the score goes on as
    L + min_l log p(y[l] | c) - log p(y | c). Then a fresh pair, exchangeable with the N
    given, lies in its region with probability k / (N + 1) >= level, whatever `dist` is:
    split conformal prediction (Vovk et al. 2005; Lei et al. 2018,
    https://arxiv.org/abs/1604.04173), by the score of HPD-split (Izbicki et al. 2022,
    https://arxiv.org/abs/2007.12778). Ties make it more.

    The probability is that over pairs and conditions: at a single condition it may be
    less. The score is a rank, not a density, for this: where `dist` is right the
    regions are right at each condition, however wide the density is there. For the N
    pairs at hand the probability varies as Beta(k, N + 1 - k).

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional import calibration
    tfd = tfp.distributions

    rng = np.random.default_rng(0)
    conditions = rng.normal(size=[400, 3])
    targets = 2. * rng.normal(size=[400, 2])      # Twice as wide as `dist` says.
    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    regions = calibration.conformal_regions(
        dist, targets[:200], conditions[:200], [0.5, 0.9], seed=0, verbose=False)
    held = regions.contains(targets[200:], conditions[200:])           # [200, 2]
    assert np.allclose(held.mean(0), [0.5, 0.9], atol=0.1)
    assert np.all(regions.credibilities > [0.8, 0.98])
    ```

    Args:
      dist: `tfd.TransformedDistribution` of batch shape `[]` over a
        `ConditionalBijector`, or a `ConditionalEnsemble`.
      targets: `[N, D]`, that `dist` was not fitted to.
      conditions: `[N, S]`, or the nest of such arrays; row n is that of target n.
      levels: K probabilities in (0, 1), of which N must be at least level / (1 - level).
      num_samples: `int` L, for each condition.
      seed: `int` for the samples. `None`: one drawn from TensorFlow's generator.
      verbose: `bool`, whether to show a progress bar where tqdm is installed.

    Returns:
      `ConformalRegions`, whose `contains` takes events and conditions.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came; for
        rows too few for a level, and for a level that needs targets of density 0.
      FloatingPointError: samples are not finite, or log-probs NaN.
    """
    targets, conditions = ranks.checked(dist, targets, conditions)
    count = conditions_lib.positive_int(num_samples, 'num_samples')
    levels = conditioned.checked_levels(levels)
    places = np.ceil((len(targets) + 1) * levels - 1e-9).astype(int)
    if np.max(places) > len(targets):
        most = np.max(levels)
        raise ValueError(
            f'`targets` must have at least {int(np.ceil(most / (1 - most) - 1e-9))} rows '
            f'for a level of {most:g}; got {len(targets)}.')
    entropy = seeds.resolve_seed(seed)
    subject = conditioned.Conditioned(dist, conditions, (*entropy, 0))
    parts = []
    for rows in subject.batches(count, 'conformal', verbose):
        of_samples = subject.draw(count, rows)[1].numpy()
        of_targets = subject.dist.given(subject.take(rows)).log_prob(
            targets[rows]).numpy()
        subject.refuse(np.isnan(of_targets), rows, 'Log-probs of `targets` must be no '
                       'NaN', 'Look at its conditions, or use float64.')
        parts.append(_scores(of_targets, of_samples))
    scores = np.sort(np.concatenate(parts))[places - 1]
    if np.any(scores == np.inf):
        raise ValueError(
            f'A level of {np.min(levels[scores == np.inf]):g} needs targets where the '
            'density of `dist` is 0: no threshold holds them. Give lower `levels`, or a '
            '`dist` of another support.')
    return ConformalRegions(dist, levels, scores, len(targets), count, (*entropy, 1))


def _scores(of_events, of_samples):
    """Scores `[n]` of log-probs `[n]`, among those of samples `[L, n]`."""
    rank = np.sum(of_samples > of_events, axis=0)
    return np.where(rank == len(of_samples),
                    rank + np.min(of_samples, axis=0) - of_events, rank)
