"""`truncated`: a density cut to a support, by rejection."""

from collections.abc import Callable
import itertools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.posterior import conditioned

tfd = tfp.distributions


class Truncated:
    """What `truncated` returns: a density that is 0 outside of a support.

    Its normalising constant is that of the weights when it was made: make a new one
    after training.

    Attributes:
      acceptance: `[...]`, the probability of the support before truncation, by
        Monte Carlo.
      log_normalizer_error: `[...]`, the standard error of its logarithm, and so of
        every `log_prob` but those of -inf.
    """

    def __init__(self, subject: conditioned.Conditioned,
                 inside: Callable[[tf.Tensor], np.ndarray], acceptance: np.ndarray,
                 error: np.ndarray) -> None:
        self._subject, self._inside = subject, inside
        self._rates = acceptance
        self.acceptance = subject.unflat(acceptance)
        self.log_normalizer_error = subject.unflat(error)

    def log_prob(self, events: TensorLike) -> np.ndarray:
        """Log-densities, normalised: -inf outside of the support.

        Args:
          events: `[..., D]`, whose batch shape broadcasts to one that ends by that of
            the conditions.

        Returns:
          `[...]`.
        """
        flat, lead = self._subject.events(events)
        inside = np.reshape(self._inside(flat), [*lead, *self._subject.batch_shape])
        log_prob = self._subject.log_prob(events)
        return np.where(inside, log_prob - np.log(self.acceptance), -np.inf).astype(
            log_prob.dtype)

    def sample(self, num_samples: int, seed: int | None = None,
               verbose: bool = True) -> np.ndarray:
        """Samples by rejection.

        Args:
          num_samples: `int` n, for each condition.
          seed: `int`. `None`: one drawn from TensorFlow's generator.
          verbose: `bool`, whether to show a progress bar where tqdm is installed.

        Returns:
          `[n, ..., D]`, all inside of the support.
        """
        count = conditions_lib.positive_int(num_samples, 'num_samples')
        subject, entropy = self._subject, seeds.resolve_seed(seed)
        size = subject.flow.output_event_size
        result = np.empty([count, subject.num_rows, size],
                          subject.dist.dtype.as_numpy_dtype)
        for rows in subject.batches(count, 'truncated', verbose):
            indices = np.arange(subject.num_rows)[rows]
            filled = np.zeros(len(indices), np.int64)
            for step in itertools.count():
                short = filled < count
                if not short.any():
                    break
                pending = indices[short]
                need = np.max((count - filled[short]) / self._rates[pending])
                draws = int(np.clip(1.1 * need + 10, 1,
                                    max(1, conditioned.EVENTS // len(pending))))
                y = subject.dist.given(subject.take(pending)).sample(
                    draws, seed=seeds.stateless(entropy, rows.start, step))
                inside, y = self._inside(y), y.numpy()
                for place, row in enumerate(np.flatnonzero(short)):
                    kept = y[inside[:, place], place][:count - filled[row]]
                    result[filled[row]:filled[row] + len(kept), indices[row]] = kept
                    filled[row] += len(kept)
        return subject.unflat(result, 1)


def truncated(dist: tfp.distributions.Distribution,
              support: tfp.distributions.Distribution | Callable[[tf.Tensor], TensorLike],
              conditions: Conditions | None = None, num_samples: int = 10_000,
              min_acceptance: float = 0.01, seed: int | None = None,
              verbose: bool = True) -> Truncated:
    """Cuts a density to a support, such as that of a prior, and normalises it.

    ```none
    p(y | c) 1{y in support} / Z(c),   Z(c) = the fraction of samples in the support
    ```

    A flow on an unbounded space leaks: some of its samples are where the prior is 0.
    What is left of it is the posterior that it stands for, and the fraction
    that it keeps says how much it leaks. Where that is little, fit again with a
    `support_bijector`, which cannot leak.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional import posterior
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    prior = tfd.Independent(tfd.Uniform([0., -9.], [9., 9.]), 1)
    half = posterior.truncated(dist, prior, tf.zeros([4, 3]), seed=0, verbose=False)
    assert np.allclose(half.acceptance, 0.5, atol=0.03)
    samples = half.sample(100, seed=0, verbose=False)
    assert samples.shape == (100, 4, 2) and np.all(samples[..., 0] > 0)
    assert np.allclose(half.log_prob([1., 0.]), np.log(2 / (2 * np.pi)) - 0.5, atol=0.05)
    assert np.all(half.log_prob([-1., 0.]) == -np.inf)
    ```

    Args:
      dist, conditions, seed, verbose: as in `mode`.
      support: `tfd.Distribution` of events `[D]`, whose support it is; or a function
        of events, tensors `[..., D]`, that returns `bool` `[...]`.
      num_samples: `int`, for the acceptance of each condition.
      min_acceptance: the least acceptance that is not refused: samples cost the
        inverse of it.

    Returns:
      `Truncated`, with `sample(n)` and `log_prob(events)`.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came; and
        for conditions whose acceptance is below `min_acceptance`.
      FloatingPointError: samples are not finite.
    """
    subject = conditioned.Conditioned(dist, conditions, seed)
    count = conditions_lib.positive_int(num_samples, 'num_samples', least=2)
    if not 0 < min_acceptance < 1:
        raise ValueError(f'`min_acceptance` must be in (0, 1); got {min_acceptance}.')
    inside = _membership(support)
    rates = []
    for rows in subject.batches(count, 'acceptance', verbose):
        y, _ = subject.draw(count, rows)
        rates.append(inside(y).mean(0))
    rates = np.concatenate(rates)
    subject.refuse(
        rates < min_acceptance, slice(None),
        f'`support` must hold at least {min_acceptance:g} of the samples, '
        f'`min_acceptance`; the least is {rates.min():g} of {count}',
        'Fit on the support itself, by `tfpc.support_bijector`, or look whether the '
        'conditions are like those of the fit.', ValueError)
    return Truncated(subject, inside, rates, np.sqrt((1 - rates) / (rates * count)))


def _membership(support):
    """A function of a tensor `[..., D]` that returns a `bool` array `[...]`."""
    if isinstance(support, tfd.Distribution):
        dtype = support.dtype

        def holds(y):
            return support.log_prob(tf.cast(y, dtype)) > -np.inf
    elif callable(support):
        holds = support
    else:
        raise TypeError('`support` must be a tfd.Distribution or a function of events '
                        f'[..., D] that returns bool [...]; got '
                        f'{type(support).__name__}.')

    def inside(y):
        found = np.asarray(holds(y))
        if found.dtype != bool or found.shape != tuple(y.shape[:-1]):
            raise ValueError(
                '`support` must return a bool for each event, '
                f'{y.shape[:-1].as_list()}; got {found.dtype} {list(found.shape)}.')
        return found
    return inside
