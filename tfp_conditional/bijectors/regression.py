"""What `Standardized(linear=True)` learns: ridge regression, and a shrunk covariance."""

import numpy as np

# The standard deviation of what the conditions predict exactly, as a fraction of its
# own.
MIN_RESIDUAL_SCALE = 1e-3


def ridge(c, y):
    """Linear regression, its penalty chosen by leaving out each row in turn.

    ```none
    A = argmin |y - c A|^2 + p |A|^2
    ```

    Of the powers of 10 and infinity, p is the one with the least mean squared error
    of rows predicted from all others, for which there is a closed form (Golub, Heath
    & Wahba 1979).

    Args:
      c: `[N, S]`, of mean 0, float64.
      y: `[N, D]`, likewise.

    Returns:
      A `[S, D]`, and the errors `[N, D]` of rows predicted from all others.
    """
    count = len(c)
    squares, axes = np.linalg.eigh(c.T @ c)
    axes = axes[:, squares > 1e-10 * np.max(squares, initial=1e-300)]
    scores = c @ axes
    squares = np.sum(scores**2, axis=0)
    covariances = scores.T @ y
    best = np.inf, np.zeros([c.shape[1], y.shape[1]]), y
    for penalty in np.logspace(3, -6, 10) * count:
        weights = covariances / (squares + penalty)[:, np.newaxis]
        leverage = 1. / count + (scores**2) @ (1. / (squares + penalty))
        errors = y - scores @ weights
        errors /= np.maximum(1. - leverage, 1e-9)[:, np.newaxis]
        if np.mean(errors**2) < best[0]:
            best = np.mean(errors**2), axes @ weights, errors
    return best[1:] if best[0] < np.mean(y**2) else (np.zeros_like(best[1]), y)


def cholesky(residuals):
    """The lower factor `[D, D]` of a shrunk covariance of `residuals [N, D]`.

    Variances are those of the data, to which `MIN_RESIDUAL_SCALE`^2 is added.
    """
    scale = np.sqrt(np.mean(residuals**2, axis=0))
    scaled = residuals / np.where(scale > 0., scale, 1.)
    correlation = scaled.T @ scaled / len(scaled)
    keep = 1. - shrinkage(scaled)
    covariance = scale[:, np.newaxis] * keep * correlation * scale
    np.fill_diagonal(covariance, scale**2 + MIN_RESIDUAL_SCALE**2)
    return np.linalg.cholesky(covariance)


def shrinkage(x, folds=4):
    """The fraction by which to shrink the correlations of `x [N, D]`.

    Of some, the one under which the Gaussian log-likelihood of rows, given the
    correlations of those of other folds, is greatest; but 1 where that is less likely
    by no more than the standard error of the difference. So correlations that do not
    matter are 0, those of few dimensions are kept, and many are as likely as when
    shrunk by Ledoit & Wolf (2004), who minimise another loss, or more.

    Args:
      x: columns of mean 0 and mean square 1.
      folds: `int`; fewer rows are not correlated.
    """
    count, size = x.shape
    if size == 1 or count < folds:
        return 1.
    amounts = np.array([0., 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.])
    losses = np.empty([count, len(amounts)])
    for fold in range(folds):
        # Strided, for rows that are sorted.
        held = np.arange(count) % folds == fold
        rest = x[~held]
        values, axes = np.linalg.eigh(rest.T @ rest / len(rest))
        variances = np.maximum(np.outer(values, 1. - amounts) + amounts,
                               MIN_RESIDUAL_SCALE**2)
        losses[held] = ((x[held] @ axes)**2 @ (1. / variances)
                        + np.sum(np.log(variances), axis=0)) / 2.
    best = np.argmin(np.mean(losses, axis=0))
    excess = losses[:, -1] - losses[:, best]
    return 1. if np.mean(excess) <= np.std(excess) / np.sqrt(count) else amounts[best]
