"""Conditional densities to fit: of known optimum, and of measured data.

A `Simulated` task draws a parameter `theta [N, D]` from its prior and an observation
`x [N, S]` from its likelihood, and knows the exact posterior p(theta | x): its
normalised density and independent draws from it. A `Measured` task is a table that
ships with a Python package, cut into folds. All arrays are float64; densities are in
nats.

Two moons, the Gaussian mixture and the Gaussian linear task are those of Lueckmann
et al., "Benchmarking Simulation-Based Inference", 2021. The `FAMILY` is of priors that
are hard-edged, skewed or heavy-tailed, in 1 to 20 dimensions, of 300 to 100,000 rows.
"""

import dataclasses
import functools
import math

import numpy as np
from scipy import special
from scipy import stats

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
      simulations: `int`, those that a model is fitted to, a tenth for validation.
      batch_size: `None`; each package has its own.
    """

    name: str
    event_size: int
    condition_size: int
    optimum: float
    simulations = 10_000
    batch_size = None

    # Subclasses have besides:
    #   simulate(n, rng)               -> theta [n, D], x [n, S]
    #   log_posterior(theta, x)        [n, D], [n, S] or [1, S] -> [n]
    #   sample_posterior(x, n, rng)    [S] -> [n, D]

    def data(self, seed, count=None, test_count=20_000):
        """A tenth of `count` draws, at least 30, for validation.

        The test draws are ever the same. `count` is `simulations` if `None`.

        Returns:
          `Data`.
        """
        # Seeds of one number are the runs', of two the fixed draws'.
        count = count or self.simulations
        theta, x = self.simulate(count, np.random.default_rng(seed))
        held = max(count // 10, min(30, count // 2))
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


@dataclasses.dataclass(frozen=True)
class Axes(Simulated):
    """Independent latent axes, each of one prior, seen through noise.

    z_i ~ prior, theta = z L^T, x_i = f(z_i) + N(0, 0.3^2), with f(z) = z or, nonlinear,
    z + sin(2 z) / 2, and L the identity or, correlated, unit lower triangular.

    The posterior of z_i given x_i is that of one dimension: its evidence is a
    Gauss-Legendre sum over where the likelihood is not 0.

    Attributes:
      prior: one of `PRIORS`.
      event_size: `int` D, of `theta` and of `x`.
      simulations: `int`.
      nonlinear, correlated: `bool`.
    """

    prior: str
    event_size: int
    simulations: int
    nonlinear: bool = False
    correlated: bool = False

    PRIORS = {'box': stats.uniform(-1., 2.), 'triangular': stats.triang(0., 0., 1.5),
              'exponential': stats.expon(), 'Student t(3)': stats.t(3)}
    _noise, _reach = 0.3, 3.5      # No likelihood is left 11 deviations and 0.2 away.

    @property
    def name(self):
        options = [', nonlinear'] * self.nonlinear + [', correlated'] * self.correlated
        return (f'{self.prior}, D = {self.event_size}, N = {self.simulations}'
                + ''.join(options))

    @property
    def condition_size(self):
        return self.event_size

    @functools.cached_property
    def optimum(self):
        """D (H(z) + H(x | z) - H(x)) of one axis: the mixing has determinant 1.

        H(x) is a sum over points whose distances grow with them, for heavy tails.
        """
        u, step = np.linspace(-16., 16., 8001, retstep=True)
        density = np.exp(self._log_evidence(np.sinh(u)))
        noise = 0.5 * (_LOG_2PI + 1.) + math.log(self._noise)
        return self.event_size * float(
            self.PRIORS[self.prior].entropy() + noise
            - step * np.sum(special.entr(density) * np.cosh(u)))

    @functools.cached_property
    def _mixing(self):
        lower = np.random.default_rng([0, 2]).normal(size=[self.event_size] * 2)
        return np.eye(self.event_size) + self.correlated * np.tril(
            lower, -1) / math.sqrt(self.event_size)

    def _mean(self, z):
        return z + 0.5 * np.sin(2. * z) if self.nonlinear else z

    def simulate(self, n, rng):
        z = self.PRIORS[self.prior].rvs([n, self.event_size], random_state=rng)
        x = self._mean(z) + self._noise * rng.normal(size=z.shape)
        return z @ self._mixing.T, x

    def _log_joint(self, z, x):
        # SciPy's density of a normal takes twice as long.
        return (self.PRIORS[self.prior].logpdf(z) - 0.5 * _LOG_2PI
                - math.log(self._noise)
                - 0.5 * ((x - self._mean(z)) / self._noise)**2)

    def _where(self, x):
        """The ends of the interval around `x` that holds all of the posterior."""
        low, high = self.PRIORS[self.prior].support()
        reach = self._reach + 0.5 * self.nonlinear
        # The likelihood of an x far outside has its greatest value at the edge.
        return (np.clip(x - reach, low, high - 1e-6),
                np.clip(x + reach, low + 1e-6, high))

    def _log_evidence(self, x, nodes=128):
        at, weights = np.polynomial.legendre.leggauss(nodes)
        low, high = self._where(x[..., None])
        z = (low + high) / 2. + (high - low) / 2. * at
        return special.logsumexp(self._log_joint(z, x[..., None]),
                                 b=weights * (high - low) / 2., axis=-1)

    def log_posterior(self, theta, x):
        z = np.linalg.solve(self._mixing, theta.T).T
        log_evidence = np.concatenate([
            self._log_evidence(rows) for rows in np.array_split(
                x, max(1, x.size // 20_000))])
        return np.sum(self._log_joint(z, x) - log_evidence, axis=-1)

    def sample_posterior(self, x, n, rng, nodes=20_001):
        z = np.empty([n, self.event_size])
        for i, value in enumerate(x):
            # By inversion of a distribution function that is linear between nodes.
            grid = np.linspace(*self._where(value), nodes)
            log_density = self._log_joint(grid, value)
            density = np.exp(log_density - log_density.max())
            steps = np.cumsum((density[1:] + density[:-1]) / 2.)
            z[:, i] = np.interp(rng.uniform(size=n),
                                np.concatenate([[0.], steps / steps[-1]]), grid)
        return z @ self._mixing.T


FAMILY = (
    Axes('box', 1, 1000),
    Axes('box', 2, 100_000, nonlinear=True, correlated=True),
    Axes('box', 5, 3000, nonlinear=True),
    Axes('box', 20, 3000),
    Axes('triangular', 2, 300),
    Axes('triangular', 5, 10_000, correlated=True),
    Axes('triangular', 10, 10_000, nonlinear=True),
    Axes('exponential', 1, 300, nonlinear=True),
    Axes('exponential', 5, 1000),
    Axes('exponential', 10, 10_000, nonlinear=True, correlated=True),
    Axes('exponential', 20, 10_000),
    Axes('Student t(3)', 1, 1000, nonlinear=True),
    Axes('Student t(3)', 5, 3000, correlated=True),
    Axes('Student t(3)', 10, 10_000))


class Measured:
    """A table of a Python package, of which a seed names the fold that is tested.

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


class Columns(Measured):
    """Some columns of a table given some others, rows with gaps left out.

    Targets are divided by their standard deviations, and else as they were measured:
    rounded, skewed, with outliers.
    """

    def __init__(self, name, source, targets, conditions):
        self.name, self._source = name, source
        self._targets, self._conditions = targets, conditions
        self.event_size, self.condition_size = len(targets), len(conditions)

    def table(self):
        columns = self._source()
        targets, conditions = (
            np.stack([np.asarray(columns[name], float) for name in names], axis=-1)
            for names in (self._targets, self._conditions))
        rows = np.isfinite(targets).all(-1) & np.isfinite(conditions).all(-1)
        return targets[rows] / targets[rows].std(axis=0), conditions[rows]


def _sklearn(loader):
    def source():
        from sklearn import datasets
        bunch = getattr(datasets, f'load_{loader}')()
        return dict(zip(map(str, bunch.feature_names), bunch.data.T))
    return source


def _statsmodels(name):
    def source():
        from statsmodels import datasets
        return dict(getattr(datasets, name).load_pandas().data)
    return source


def _vega(name):
    def source():
        import vega_datasets
        table = getattr(vega_datasets.local_data, name)()
        if 'date' in table:
            angle = 2. * np.pi * table['date'].dt.day_of_year / 365.25
            table = table.assign(sin=np.sin(angle), cos=np.cos(angle))
        if 'Year' in table:
            table = table.assign(Year=table['Year'].dt.year)
        return dict(table)
    return source


_CANCER = ('radius', 'texture', 'smoothness', 'concavity', 'symmetry')
TABLES = (
    Columns('breast cancer', _sklearn('breast_cancer'),
            [f'worst {name}' for name in _CANCER], [f'mean {name}' for name in _CANCER]),
    Columns('wine', _sklearn('wine'), ['alcohol', 'color_intensity', 'proline'],
            ['malic_acid', 'ash', 'total_phenols', 'flavanoids', 'hue']),
    Columns('iris', _sklearn('iris'), ['petal length (cm)', 'petal width (cm)'],
            ['sepal length (cm)', 'sepal width (cm)']),
    Columns('cars', _vega('cars'),
            ['Miles_per_Gallon', 'Horsepower', 'Acceleration'],
            ['Weight_in_lbs', 'Displacement', 'Cylinders', 'Year']),
    Columns('Seattle weather', _vega('seattle_weather'),
            ['temp_max', 'temp_min', 'wind'], ['sin', 'cos', 'precipitation']),
    Columns('Engel', _statsmodels('engel'), ['foodexp'], ['income']),
    Columns('fair', _statsmodels('fair'), ['age', 'yrs_married'],
            ['rate_marriage', 'children', 'religious', 'educ']),
    Columns('Californian schools', _statsmodels('star98'),
            ['AVYRSEXP', 'AVSALK', 'PERSPENK', 'PTRATIO'],
            ['LOWINC', 'PERASIAN', 'PERBLACK', 'PERHISP']),
    Columns('macrodata', _statsmodels('macrodata'), ['infl', 'unemp'],
            ['realgdp', 'tbilrate', 'year']))


TASKS = {task.name: task for task in (
    TwoMoons(), GaussianMixture(), GaussianLinear(), *FAMILY, Diabetes(), Digits(),
    *TABLES)}
