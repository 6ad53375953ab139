"""Conditional densities to fit: three of known optimum, and two of measured data.

A `Simulated` task draws a parameter `theta [N, D]` from its prior and an observation
`x [N, S]` from its likelihood, and knows the exact posterior p(theta | x): its
normalised density and independent draws from it. A `Measured` task is a table that
ships with scikit-learn, cut into folds. All arrays are float64; densities are in
nats.

Two moons, the Gaussian mixture and the Gaussian linear task are those of Lueckmann
et al., "Benchmarking Simulation-Based Inference", 2021.
"""

import dataclasses
import math

import numpy as np
from scipy import special

NUM_FOLDS = 5
_LOG_2PI = math.log(2. * math.pi)


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows `(targets [n, D], conditions [n, S])` to train on, validate and test."""
    train: tuple
    validation: tuple
    test: tuple


class Simulated:
    """A simulator with its exact posterior.

    Attributes:
      name: `str`.
      event_size: `int` D, the width of `theta`.
      condition_size: `int` S, the width of `x`.
      optimum: `float`, E[-log p(theta | x)], the least mean loss there is.
      batch_size: `None`; each package has its own.
    """

    name: str
    event_size: int
    condition_size: int
    optimum: float
    batch_size = None

    # Subclasses have besides:
    #   simulate(n, rng)               -> theta [n, D], x [n, S]
    #   log_posterior(theta, x)        [n, D], [n, S] or [1, S] -> [n]
    #   sample_posterior(x, n, rng)    [S] -> [n, D]

    def data(self, seed, count=10_000, test_count=20_000):
        """A tenth of `count` draws for validation; the test draws are ever the same.

        Returns:
          `Data`.
        """
        # Seeds of one number are the runs', of two the fixed draws'.
        theta, x = self.simulate(count, np.random.default_rng(seed))
        held = count // 10
        return Data((theta[held:], x[held:]), (theta[:held], x[:held]),
                    self.simulate(test_count, np.random.default_rng([0, 1])))


class TwoMoons(Simulated):
    """Two crescents, which the edge of the prior may cut.

    theta ~ U[-1, 1]^2; x = p(a, r) + (1/4 - |theta_1 + theta_2|, theta_2 - theta_1)
    / sqrt(2) but for the 1/4, where p = r (cos a, sin a), a ~ U[-pi/2, pi/2] and
    r ~ N(0.1, 0.01^2).
    """

    name = 'two moons'
    event_size = condition_size = 2
    optimum = -3.793
    _mean, _scale, _shift = 0.1, 0.01, 0.25

    def _crescent(self, n, rng):
        angle = rng.uniform(-np.pi / 2., np.pi / 2., n)
        radius = rng.normal(self._mean, self._scale, n)
        return radius * np.cos(angle), radius * np.sin(angle)

    @staticmethod
    def _rotate(theta):
        return ((theta[..., 0] + theta[..., 1]) / math.sqrt(2.),
                (theta[..., 1] - theta[..., 0]) / math.sqrt(2.))

    def simulate(self, n, rng):
        theta = rng.uniform(-1., 1., [n, 2])
        across, along = self._rotate(theta)
        first, second = self._crescent(n, rng)
        return theta, np.stack([first + self._shift - np.abs(across),
                                second + along], axis=-1)

    def log_posterior(self, theta, x):
        across, along = self._rotate(theta)
        first = x[..., 0] - self._shift + np.abs(across)
        radius = np.hypot(first, x[..., 1] - along)
        # Polar coordinates, of a radius that is negative once in 1e23 draws.
        signed = np.copysign(radius, first)
        log_likelihood = (
            -0.5 * ((signed - self._mean) / self._scale)**2 - 0.5 * _LOG_2PI
            - math.log(self._scale) - math.log(np.pi) - np.log(radius))
        # Each point of a crescent stands for two thetas, of density 1/4.
        inside = np.all(np.abs(theta) <= 1., axis=-1)
        return np.where(inside, log_likelihood - np.log(2. * self._acceptance(x)),
                        -np.inf)

    def _acceptance(self, x, nodes=512):
        """P(a crescent point has two thetas in the box), for each row of `x`.

        They are across = ±(p_1 - x_1 + 1/4) and along = x_2 - p_2, and lie in it
        where 0 <= |across| and |across| + |along| <= sqrt(2): bounds on r at each a,
        so the integral over r is exact and that over a a midpoint rule.
        """
        angle = (np.arange(nodes) + 0.5) * np.pi / nodes - np.pi / 2.
        cos, sin = np.cos(angle), np.sin(angle)
        result = []
        for rows in np.array_split(x, max(1, len(x) // 1000)):
            left, up = rows[:, :1] - self._shift, rows[:, 1:]
            low, high = left / cos, np.full_like(left / cos, np.inf)
            for slope, bound in [(cos - sin, math.sqrt(2.) + left - up),
                                 (cos + sin, math.sqrt(2.) + left + up)]:
                ratio = bound / slope
                high = np.where(slope > 0., np.minimum(high, ratio), high)
                low = np.where(slope < 0., np.maximum(low, ratio), low)
            probability = (special.ndtr((high - self._mean) / self._scale)
                           - special.ndtr((low - self._mean) / self._scale))
            result.append(np.mean(np.maximum(probability, 0.), axis=-1))
        return np.concatenate(result)

    def sample_posterior(self, x, n, rng):
        draws = []
        while sum(map(len, draws)) < n:
            first, second = self._crescent(4 * n, rng)
            across = first - x[0] + self._shift
            along = x[1] - second
            good = (across >= 0.) & (across + np.abs(along) <= math.sqrt(2.))
            across *= rng.choice([-1., 1.], 4 * n)
            across, along = across[good], along[good]
            draws.append(np.stack([across - along, across + along], axis=-1)
                         / math.sqrt(2.))
        return np.concatenate(draws)[:n]


class GaussianMixture(Simulated):
    """theta ~ U[-10, 10]^2, x ~ N(theta, I) / 2 + N(theta, 0.1^2 I) / 2."""

    name = 'Gaussian mixture'
    event_size = condition_size = 2
    optimum = 1.015
    _bound, _scales = 10., np.array([1., 0.1])

    def simulate(self, n, rng):
        theta = rng.uniform(-self._bound, self._bound, [n, 2])
        noise = rng.choice(self._scales, [n, 1]) * rng.normal(size=[n, 2])
        return theta, theta + noise

    def _edges(self, x):
        """Of each coordinate and component, in its standard deviations."""
        x = x[..., None]
        return (-self._bound - x) / self._scales, (self._bound - x) / self._scales

    def _weights(self, x):
        """The probability of the box under each component around x, [..., 2]."""
        # Reflected to the side where the difference of tails is exact.
        low, high = self._edges(np.abs(x))
        return np.prod(special.ndtr(high) - special.ndtr(low), axis=-2)

    def log_posterior(self, theta, x):
        distance = np.sum((x - theta)**2, axis=-1)[..., None]
        log_densities = (-0.5 * distance / self._scales**2 - _LOG_2PI
                         - 2. * np.log(self._scales))
        inside = np.all(np.abs(theta) <= self._bound, axis=-1)
        log_evidence = np.log(np.sum(self._weights(x), axis=-1))
        return np.where(inside, special.logsumexp(log_densities, axis=-1)
                        - log_evidence, -np.inf)

    def sample_posterior(self, x, n, rng):
        weights = self._weights(x)
        component = rng.choice(2, n, p=weights / weights.sum())
        # Reflected as there. Truncated normals by inversion.
        low, high = (edge.T[component] for edge in self._edges(np.abs(x)))
        deviate = special.ndtri(rng.uniform(special.ndtr(low), special.ndtr(high)))
        return np.copysign(
            1., x) * (np.abs(x) + deviate * self._scales[component, None])


class GaussianLinear(Simulated):
    """theta ~ N(0, 0.1 I), x ~ N(theta, 0.1 I); p(theta | x) = N(x / 2, 0.05 I)."""

    name = 'Gaussian linear'
    event_size = condition_size = 10
    optimum = -0.789
    _variance = 0.1

    def simulate(self, n, rng):
        scale = math.sqrt(self._variance)
        theta = rng.normal(scale=scale, size=[n, self.event_size])
        return theta, theta + rng.normal(scale=scale, size=theta.shape)

    def log_posterior(self, theta, x):
        variance = self._variance / 2.
        return -0.5 * np.sum((theta - x / 2.)**2 / variance + _LOG_2PI
                             + math.log(variance), axis=-1)

    def sample_posterior(self, x, n, rng):
        return x / 2. + rng.normal(scale=math.sqrt(self._variance / 2.),
                                   size=[n, self.event_size])


class Measured:
    """A table of scikit-learn's, of which a seed names the fold that is tested.

    Attributes:
      name, event_size, condition_size: as of `Simulated`.
      optimum: `None`; nobody knows it.
      batch_size: `int`, for all packages, since rows are few.
    """

    name: str
    event_size: int
    condition_size: int
    optimum = None
    batch_size = 32

    # Subclasses have besides:
    #   table()     -> targets [N, D], conditions [N, S]

    def data(self, seed, count=None, test_count=None):
        """Fold `seed` modulo 5 as the test, a tenth of the rest for validation.

        Returns:
          `Data` with the first `count` and `test_count` of the rows for each, if
          given.
        """
        table = self.table()
        order = np.random.default_rng(0).permutation(len(table[0]))
        test = order[seed % NUM_FOLDS::NUM_FOLDS][:test_count]
        rest = np.random.default_rng(seed).permutation(
            np.setdiff1d(order, order[seed % NUM_FOLDS::NUM_FOLDS]))[:count]
        held = len(rest) // 10
        return Data(*(tuple(x[rows] for x in table)
                      for rows in (rest[held:], rest[:held], test)))


class Diabetes(Measured):
    """Progression of diabetes in a year, in standard deviations, given ten others.

    Efron et al., "Least Angle Regression", 2004: 442 patients.
    """

    name = 'diabetes'
    event_size, condition_size = 1, 10

    def table(self):
        from sklearn import datasets
        conditions, target = datasets.load_diabetes(return_X_y=True, scaled=False)
        return (target[:, None] / target.std(), conditions)


class Digits(Measured):
    """8 leading principal components of digits' lower half given 8 of the upper.

    1797 images of 8 x 8 pixels, of integers to which U[0, 1) is added so that there
    is a density; components of all rows together, in standard deviations.
    """

    name = 'digits'
    event_size = condition_size = 8

    def table(self):
        from sklearn import datasets
        pixels = datasets.load_digits().data
        pixels = pixels + np.random.default_rng(0).uniform(size=pixels.shape)
        upper, lower = np.split(pixels - pixels.mean(axis=0), 2, axis=-1)
        return (self._components(lower, self.event_size),
                self._components(upper, self.condition_size))

    @staticmethod
    def _components(x, count):
        left, _, _ = np.linalg.svd(x, full_matrices=False)
        return left[:, :count] * math.sqrt(len(x))


TASKS = {task.name: task for task in (
    TwoMoons(), GaussianMixture(), GaussianLinear(), Diabetes(), Digits())}
