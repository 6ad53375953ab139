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

from collections.abc import Callable
import dataclasses
import functools
import importlib
import math
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy import stats

NUM_FOLDS = 5


class Data(NamedTuple):
    """Rows `(targets [n, D], conditions [n, S])` to train on, validate and test."""
    train: tuple
    validation: tuple
    test: tuple


class Simulated:
    """A simulator with its exact posterior.

    Subclasses have `simulate(n, rng)`, which gives theta `[n, D]` and x `[n, S]`;
    `log_posterior(theta, x)` `[n]`, of x `[n, S]` or `[1, S]`; and
    `sample_posterior(x, n, rng)` `[n, D]`, of x `[S]`.

    Attributes:
      name, event_size, condition_size: `str`; D, the width of theta; S, that of x.
      optimum: `float`, E[-log p(theta | x)], the least mean loss there is; or `None`.
      simulations: `int`, those that a model is fitted to, a tenth for validation.
      batch_size: `None`; each package has its own.
      protocol: `dict`, of what a `quality.Protocol` must be for it alone.
    """

    simulations, batch_size, protocol, optimum = 10_000, None, {}, None

    def data(self, seed, count=None, test_count=20_000):
        """`Data`, of `simulations` if `count` is `None`; test draws are ever the same.

        A tenth, at least 30, is for validation.
        """
        # Seeds of one number are the runs', of two the fixed draws'.
        count = count or self.simulations
        theta, x = self.simulate(count, np.random.default_rng(seed))
        held = max(count // 10, min(30, count // 2))
        return Data((theta[held:], x[held:]), (theta[:held], x[:held]),
                    self.simulate(test_count, np.random.default_rng([0, 1])))

    def observed(self, count, samples, test):
        """Pairs of an observation `[S]` and draws `[samples, D]` of its posterior."""
        for i in range(count):
            yield test[1][i], self.sample_posterior(
                test[1][i], samples, np.random.default_rng([i, 2]))

    @staticmethod
    def accepted(draw, count):
        """So many of the rows that `draw(n)` gives, all within the prior's support."""
        return draw(count)


class TwoMoons(Simulated):
    """Two crescents, which the edge of the prior may cut.

    theta ~ U[-1, 1]^2; x = p(a, r) + (1/4 - |theta_1 + theta_2|, theta_2 - theta_1)
    / sqrt(2) but for the 1/4, where p = r (cos a, sin a), a ~ U[-pi/2, pi/2] and
    r ~ N(0.1, 0.01^2).
    """

    name, event_size, condition_size, optimum = 'two moons', 2, 2, -3.793
    _mean, _scale, _shift = 0.1, 0.01, 0.25

    def _crescent(self, n, rng):
        angle = rng.uniform(-np.pi / 2., np.pi / 2., n)
        radius = rng.normal(self._mean, self._scale, n)
        return (radius * np.stack([np.cos(angle), np.sin(angle)])).T

    def _place(self, theta):
        """Where the crescent of a theta is."""
        return np.stack([self._shift - np.abs(theta[..., 0] + theta[..., 1]) / math.sqrt(2.),
                         (theta[..., 1] - theta[..., 0]) / math.sqrt(2.)], axis=-1)

    def simulate(self, n, rng):
        theta = rng.uniform(-1., 1., [n, 2])
        return theta, self._crescent(n, rng) + self._place(theta)

    def log_posterior(self, theta, x):
        first, second = np.moveaxis(x - self._place(theta), -1, 0)
        radius = np.hypot(first, second)
        # Polar coordinates, of a radius that is negative once in 1e23 draws.
        log_likelihood = stats.norm.logpdf(
            np.copysign(radius, first), self._mean, self._scale) - np.log(np.pi * radius)
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
        left, up = x[:, :1] - self._shift, x[:, 1:]
        low, high = left / cos, np.inf
        for slope, bound in [(cos - sin, math.sqrt(2.) + left - up),
                             (cos + sin, math.sqrt(2.) + left + up)]:
            high = np.where(slope > 0., np.minimum(high, bound / slope), high)
            low = np.where(slope < 0., np.maximum(low, bound / slope), low)
        low, high = (special.ndtr((edge - self._mean) / self._scale) for edge in (low, high))
        return np.mean(np.maximum(high - low, 0.), axis=-1)

    def sample_posterior(self, x, n, rng):
        draws = np.empty([0, 2])
        while len(draws) < n:
            across, along = (self._crescent(4 * n, rng) - x + (self._shift, 0.)).T * [[1.], [-1.]]
            good = (across >= 0.) & (across + np.abs(along) <= math.sqrt(2.))
            across *= rng.choice([-1., 1.], 4 * n)
            draws = np.concatenate([draws, np.stack(
                [across - along, across + along], axis=-1)[good] / math.sqrt(2.)])
        return draws[:n]


class GaussianMixture(Simulated):
    """theta ~ U[-10, 10]^2, x ~ N(theta, I) / 2 + N(theta, 0.1^2 I) / 2."""

    name, event_size, condition_size, optimum = 'Gaussian mixture', 2, 2, 1.015
    _bound, _scales = 10., np.array([1., 0.1])

    def simulate(self, n, rng):
        theta = rng.uniform(-self._bound, self._bound, [n, 2])
        noise = rng.choice(self._scales, [n, 1]) * rng.normal(size=[n, 2])
        return theta, theta + noise

    def _weights(self, x):
        """The probability of the box under each component around x, [..., 2]."""
        # Of |x|: reflected to the side where the difference of tails is exact.
        low, high = (special.ndtr((edge - np.abs(x)[..., None]) / self._scales)
                     for edge in (-self._bound, self._bound))
        return np.prod(high - low, axis=-2)

    def log_posterior(self, theta, x):
        log_densities = np.sum(stats.norm.logpdf(
            (x - theta)[..., None], scale=self._scales), axis=-2)
        inside = np.all(np.abs(theta) <= self._bound, axis=-1)
        return np.where(inside, special.logsumexp(log_densities, axis=-1)
                        - np.log(np.sum(self._weights(x), axis=-1)), -np.inf)

    def sample_posterior(self, x, n, rng):
        weights = self._weights(x)
        scale = rng.choice(self._scales, [n, 1], p=weights / weights.sum())
        low, high = ((edge - x) / scale for edge in (-self._bound, self._bound))
        return x + scale * stats.truncnorm.ppf(rng.uniform(size=[n, 2]), low, high)


class GaussianLinear(Simulated):
    """theta ~ N(0, 0.1 I), x ~ N(theta, 0.1 I); p(theta | x) = N(x / 2, 0.05 I)."""

    name, event_size, condition_size, optimum = 'Gaussian linear', 10, 10, -0.789
    _scale, _posterior_scale = math.sqrt(0.1), math.sqrt(0.05)

    def simulate(self, n, rng):
        theta = rng.normal(scale=self._scale, size=[n, self.event_size])
        return theta, theta + rng.normal(scale=self._scale, size=theta.shape)

    def log_posterior(self, theta, x):
        return np.sum(stats.norm.logpdf(theta, x / 2., self._posterior_scale), axis=-1)

    def sample_posterior(self, x, n, rng):
        return rng.normal(x / 2., self._posterior_scale, [n, self.event_size])


@dataclasses.dataclass(frozen=True)
class Axes(Simulated):
    """Independent latent axes, each of one prior, seen through noise.

    z_i ~ prior, theta = z L^T, x_i = f(z_i) + N(0, 0.3^2), with f(z) = z or, nonlinear,
    z + sin(2 z) / 2, and L the identity or, correlated, unit lower triangular.

    The posterior of z_i given x_i is that of one dimension: its evidence is a
    Gauss-Legendre sum over where the likelihood is not 0.
    """

    prior: str              # One of `PRIORS`.
    event_size: int
    simulations: int
    nonlinear: bool = False
    correlated: bool = False

    PRIORS = {'box': stats.uniform(-1., 2.), 'triangular': stats.triang(0., 0., 1.5),
              'exponential': stats.expon(), 'Student t(3)': stats.t(3)}
    _noise, _reach = 0.3, 3.5      # No likelihood is left 11 deviations and 0.2 away.
    condition_size = property(lambda self: self.event_size)

    @property
    def name(self):
        options = [', nonlinear'] * self.nonlinear + [', correlated'] * self.correlated
        return (f'{self.prior}, D = {self.event_size}, N = {self.simulations}'
                + ''.join(options))

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
        return (self.PRIORS[self.prior].logpdf(z) - 0.5 * ((x - self._mean(z)) / self._noise)**2
                - math.log(math.sqrt(2. * math.pi) * self._noise))

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
    Axes('box', 1, 1000), Axes('box', 2, 100_000, nonlinear=True, correlated=True),
    Axes('box', 5, 3000, nonlinear=True), Axes('box', 20, 3000),
    Axes('triangular', 2, 300), Axes('triangular', 5, 10_000, correlated=True),
    Axes('triangular', 10, 10_000, nonlinear=True),
    Axes('exponential', 1, 300, nonlinear=True), Axes('exponential', 5, 1000),
    Axes('exponential', 10, 10_000, nonlinear=True, correlated=True),
    Axes('exponential', 20, 10_000), Axes('Student t(3)', 1, 1000, nonlinear=True),
    Axes('Student t(3)', 5, 3000, correlated=True), Axes('Student t(3)', 10, 10_000))


@dataclasses.dataclass(frozen=True)
class Measured:
    """A table of a Python package, of which a seed names the fold that is tested.

    `table` is a function that gives targets `[N, D]` and conditions `[N, S]`. Nobody
    knows the optimum. Rows are few: batches are small, for all packages.
    """

    name: str
    event_size: int
    condition_size: int
    table: Callable
    batch_size, protocol, optimum = 32, {}, None

    def data(self, seed, count=None, test_count=None):
        """`Data`: fold `seed` modulo 5 as the test, a tenth of the rest to validate.

        The first `count` and `test_count` of the rows for each, if given.
        """
        table = self.table()
        order = np.random.default_rng(0).permutation(len(table[0]))
        fold = order[seed % NUM_FOLDS::NUM_FOLDS]
        rest = np.random.default_rng(seed).permutation(
            np.setdiff1d(order, fold))[:count]
        held = len(rest) // 10
        return Data(*(tuple(x[rows] for x in table)
                      for rows in (rest[held:], rest[:held], fold[:test_count])))


def _digits(count=8):
    """8 leading principal components of digits' lower half given 8 of the upper.

    1797 images of 8 x 8 pixels, of integers to which U[0, 1) is added so that there
    is a density; components of all rows together, in standard deviations.
    """
    from sklearn import datasets
    pixels = datasets.load_digits().data
    pixels = pixels + np.random.default_rng(0).uniform(size=pixels.shape)
    upper, lower = np.split(pixels - pixels.mean(axis=0), 2, axis=-1)
    return tuple(np.linalg.svd(half, full_matrices=False)[0][:, :count]
                 * math.sqrt(len(half)) for half in (lower, upper))


# Tables of each package, as frames, by name.
_SOURCES = {
    'sklearn.datasets': lambda module, name: getattr(module, f'load_{name}')(
        as_frame=True, **{'scaled': False} if name == 'diabetes' else {}).frame,
    'statsmodels.datasets': lambda module, name: getattr(
        module, name).load_pandas().data,
    'vega_datasets': lambda module, name: getattr(module.local_data, name)()}


def _columns(name, package, source, targets, conditions):
    """Some columns of a table given some others, rows with gaps left out.

    Targets are divided by their standard deviations, and else as they were measured:
    rounded, skewed, with outliers.
    """
    def table():
        frame = _SOURCES[package](importlib.import_module(package), source)
        if 'date' in frame:
            angle = 2. * np.pi * frame['date'].dt.day_of_year / 365.25
            frame = frame.assign(sin=np.sin(angle), cos=np.cos(angle))
        if 'Year' in frame:
            frame = frame.assign(Year=frame['Year'].dt.year)
        frame = frame[[*targets, *conditions]].astype(float).dropna()
        y, c = (np.ascontiguousarray(frame[names]) for names in (targets, conditions))
        return y / y.std(axis=0), c
    return Measured(name, len(targets), len(conditions), table)


_CANCER = ('radius', 'texture', 'smoothness', 'concavity', 'symmetry')
TABLES = (
    _columns('breast cancer', 'sklearn.datasets', 'breast_cancer',
             [f'worst {name}' for name in _CANCER], [f'mean {name}' for name in _CANCER]),
    _columns('wine', 'sklearn.datasets', 'wine',
             ['alcohol', 'color_intensity', 'proline'],
             ['malic_acid', 'ash', 'total_phenols', 'flavanoids', 'hue']),
    _columns('iris', 'sklearn.datasets', 'iris',
             ['petal length (cm)', 'petal width (cm)'],
             ['sepal length (cm)', 'sepal width (cm)']),
    _columns('cars', 'vega_datasets', 'cars',
             ['Miles_per_Gallon', 'Horsepower', 'Acceleration'],
             ['Weight_in_lbs', 'Displacement', 'Cylinders', 'Year']),
    _columns('Seattle weather', 'vega_datasets', 'seattle_weather',
             ['temp_max', 'temp_min', 'wind'], ['sin', 'cos', 'precipitation']),
    _columns('Engel', 'statsmodels.datasets', 'engel', ['foodexp'], ['income']),
    _columns('fair', 'statsmodels.datasets', 'fair', ['age', 'yrs_married'],
             ['rate_marriage', 'children', 'religious', 'educ']),
    _columns('Californian schools', 'statsmodels.datasets', 'star98',
             ['AVYRSEXP', 'AVSALK', 'PERSPENK', 'PTRATIO'],
             ['LOWINC', 'PERASIAN', 'PERBLACK', 'PERHISP']),
    _columns('macrodata', 'statsmodels.datasets', 'macrodata', ['infl', 'unemp'],
             ['realgdp', 'tbilrate', 'year']))


# Progression of diabetes in a year given ten others, of 442 patients: Efron et al.,
# "Least Angle Regression", 2004.
DIABETES = _columns('diabetes', 'sklearn.datasets', 'diabetes', ['target'],
                    ['age', 'sex', 'bmi', 'bp', *(f's{i}' for i in range(1, 7))])
TASKS = {task.name: task for task in (
    TwoMoons(), GaussianMixture(), GaussianLinear(), *FAMILY, DIABETES,
    Measured('digits', 8, 8, _digits), *TABLES)}
