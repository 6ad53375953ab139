"""Checks that densities and samples belong together."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

try:
    from scipy import stats
except ImportError as error:
    raise ImportError('`tfp_conditional.testing` needs SciPy: pip install '
                      "'tfp_conditional[testing]'.") from error

from tfp_conditional.testing.check import check
from tfp_conditional.testing.subject import brief
from tfp_conditional.testing.subject import map_parts
from tfp_conditional.testing.subject import or_refused

tfb, tfd = tfp.bijectors, tfp.distributions


@check
def check_sample_log_prob(s):
    """Densities belong to samples, in `tfd.TransformedDistribution`.

    `experimental_sample_and_log_prob`, `log_prob` of a copy of the sample, and the
    density of the base plus the log-det agree. And, for a single condition, the
    importance weights p(y) / q(y) of a proposal q that is wider than the
    distribution average to 1.
    """
    distribution, c = s.distribution(), s.c()
    shape = s.batch_shape[:len(s.batch_shape) - len(s.own_batch)]
    y, log_prob = distribution.experimental_sample_and_log_prob(
        shape, seed=tfp.random.sanitize_seed([s.seed, 1]),
        bijector_kwargs=s.kwargs(c))
    y = tf.identity(y)
    expected = s.log_prob(distribution, tf.identity(y), c)
    s.close(log_prob, expected, 'The log_prob of experimental_sample_and_log_prob',
            'log_prob of a copy of the sample')
    by_hand = (distribution.distribution.log_prob(s.inverse(y, c))
               + s.ildj(tf.identity(y), c))
    s.close(by_hand, expected, 'base.log_prob(inverse(y)) + the log-det',
            'log_prob(y)')
    if s.own_batch or s.event_size > 3:
        return   # Rows of differing densities, or too few weights that count.
    c = s.c([])
    samples = _many_samples(s, distribution, c)
    if samples.shape[-1] != s.event_size:
        return
    proposal = _wide_proposal(samples)
    points = proposal.rvs(20000, random_state=s.rng).reshape([-1, s.event_size])
    log_q = proposal.logpdf(points)
    inside = np.all((points > s.support[0]) & (points < s.support[1]), -1)
    weights = np.zeros(len(points))
    weights[inside] = np.exp(_log_prob(s, distribution, points[inside], c)
                             - log_q[inside])
    if not np.isfinite(weights).all():
        raise AssertionError('Densities are not finite for '
                             f'{brief(points[~np.isfinite(weights)][0])}.')
    error = weights.std() / np.sqrt(len(weights))
    if abs(weights.mean() - 1) > 6 * error + 1e-3:
        raise AssertionError(
            f'The importance weights of a wide proposal average to '
            f'{weights.mean():.4g} +- {error:.2g}, not to 1: densities and samples '
            'do not belong together.')


def _wide_proposal(samples):
    """A multivariate t distribution, fitted to samples and a bit wider."""
    covariance = np.atleast_2d(np.cov(samples.T))
    size = len(covariance)
    return stats.multivariate_t(
        samples.mean(0), 1.2 * covariance + 1e-9 * np.trace(covariance) * np.eye(size),
        df=4)


def _many_samples(s, distribution, c, count=4000):
    """Samples `[count, D']` in float64 for one condition."""
    return s.sample(distribution, _repeated(c, count), [count]).numpy().astype(
        np.float64)


def _log_prob(s, distribution, points, c):
    """Log-densities `[N]` of points `[N, D]`, in float64, for one condition."""
    return np.asarray(s.log_prob(distribution, tf.constant(points, s.dtype),
                                 _repeated(c, len(points))), np.float64)


def _repeated(c, count):
    # Of the ranks of other checks, for which the bijector may be compiled already.
    return map_parts(lambda leaf: tf.repeat(leaf[tf.newaxis], count, axis=0), c)


@check
def check_normalisation(s):
    """The density integrates to 1, up to 1e-3, on a grid in 1-D and 2-D."""
    if s.event_size > 2 or s.own_batch:
        return 'for event_size <= 2 and no batch shape'
    distribution, c = s.distribution(), s.c([])
    samples = _many_samples(s, distribution, c)
    if samples.shape[-1] != s.event_size:
        return 'y has another size than x'
    axes, spacings = zip(*(_grid(column, s, {1: 8000, 2: 500}[s.event_size])
                           for column in samples.T))
    points, spacings = (np.stack(np.meshgrid(*part, indexing='ij'), -1).reshape(
        [-1, s.event_size]) for part in (axes, spacings))
    density = np.exp(_log_prob(s, distribution, points, c))
    integral = (density * spacings.prod(-1)).sum()
    if not abs(integral - 1) < 1e-3:
        raise AssertionError(f'The density integrates to {integral:.5g}, not to 1.')


def _grid(samples, s, count):
    """Points and their spacings: dense among the samples, ever wider around."""
    low, high = s.support
    line = _from_line(low, high)
    samples = line.inverse(samples).numpy()
    samples = samples[np.isfinite(samples)]   # Not those rounded onto the ends.
    lower, middle, upper = np.quantile(samples, [0.25, 0.5, 0.75])
    width = upper - lower
    end = np.arcsinh(10 * np.max(np.abs(samples - middle)) / width)
    even = end * (2 * np.arange(count) + 1 - count) / count
    u = middle + width * np.sinh(even)
    points = line.forward(u).numpy().astype(s.dtype.as_numpy_dtype)
    spacings = (width * np.cosh(even) * 2 * end / count
                * np.exp(line.forward_log_det_jacobian(u, 0)))
    inside = (points > low) & (points < high)
    return points[inside], spacings[inside]


def _from_line(low, high):
    """A bijector from the real line onto the open interval."""
    low, high = np.float64(low), np.float64(high)
    if np.isfinite([low, high]).all():
        return tfb.Sigmoid(low, high)
    if np.isfinite(low):
        return tfb.Chain([tfb.Shift(low), tfb.Softplus()])
    if np.isfinite(high):
        return tfb.Chain([tfb.Shift(high), tfb.Scale(np.float64(-1)),
                          tfb.Softplus()])
    return tfb.Identity()


@check
def check_independent_noise(s):
    """Samples for different conditions do not share noise.

    For equal conditions `[B, S]`, samples of a base without batch shape either
    differ, or are refused. Those of `bijector.condition(conditions)` differ.
    """
    if not s.conditional:
        return 'not conditional'
    count = 3
    c = map_parts(lambda leaf: tf.repeat(leaf, count, axis=0), s.c([1]))
    distribution = s.distribution()
    samples = {f'sample({shape})': or_refused(
        lambda shape, c: s.sample(distribution, c, shape), shape, c)
               for shape in ([], [1], [count], [2, count])}
    if hasattr(s.bijector, 'condition'):
        given = tfd.TransformedDistribution(
            distribution.distribution, s.bijector.condition(c))
        for shape in ([], [1], [2]):
            samples[f'condition(...) and sample({shape})'] = given.sample(
                shape, seed=tfp.random.sanitize_seed([s.seed, 7]))
    for name, sample in samples.items():
        if sample is None:
            continue
        rows = sample.numpy().reshape([-1, sample.shape[-1]])
        if len(np.unique(rows, axis=0)) < len(rows):
            raise AssertionError(f'{name} with conditions of batch shape [{count}] '
                                 'gives equal samples: conditions share noise.')
