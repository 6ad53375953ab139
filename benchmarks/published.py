"""The tasks of sbibm as they ship, by its own protocol (Lueckmann et al. 2021).

`pip install --no-deps sbibm==1.1.0` is enough: its wheel has ten observations and
10,000 draws of the posterior of each. Its code, which asks for packages of its time, is
not imported; the simulators are those of `tasks.py`, and here that of the Bernoulli GLM.
"""

import dataclasses
import functools
import importlib.util
import pathlib

import numpy as np
from scipy import special

import tasks


def _files(folder):
    found = importlib.util.find_spec('sbibm')
    if found is None:
        raise ImportError('sbibm is not installed: pip install --no-deps sbibm==1.1.0')
    return pathlib.Path(found.submodule_search_locations[0], 'tasks', folder, 'files')


class BernoulliGLM(tasks.Simulated):
    """100 spikes, or none, of a neuron whose filter is asked for.

    theta ~ N(0, B), smooth by its second differences; x_t ~ Bernoulli(sigmoid(V theta)_t),
    of a stimulus in V that is the same for all.
    """

    name, event_size, condition_size = 'Bernoulli GLM raw', 10, 100

    @functools.cached_property
    def _prior(self):
        """The covariance, from the precision as sbibm has it."""
        size = self.event_size - 1
        difference = np.eye(size) - np.eye(size, k=-1)
        factor = difference @ difference + np.diag(np.sqrt(np.arange(size) / size))
        precision = np.zeros([size + 1] * 2)
        precision[0, 0], precision[1:, 1:] = 0.5, factor.T @ factor
        return np.linalg.inv(precision)

    @functools.cached_property
    def _design(self):
        """An offset, and the stimulus now and 8 steps back."""
        # The generator that sbibm froze its stimulus with.
        stimulus = np.random.RandomState(42).randn(100)  # pylint: disable=no-member
        return np.stack([np.ones(100), *(
            np.concatenate([np.zeros(lag), stimulus[:100 - lag]])
            for lag in range(9))], axis=-1)

    def simulate(self, n, rng):
        theta = rng.multivariate_normal(np.zeros(self.event_size), self._prior, n)
        rate = special.expit(theta @ self._design.T)
        return theta, (rng.uniform(size=rate.shape) < rate).astype(float)


@dataclasses.dataclass(frozen=True)
class Published(tasks.Simulated):
    """A task of sbibm, of its own observations.

    Attributes:
      simulator: a `tasks.Simulated`, of which no more than its rows are asked.
      folder, file: `str`, sbibm's names of the task and of its observations.
      bound: `float`, that of a box that is the prior's support: draws beyond are drawn
        again, of all packages.
      anchors: `dict` of what was published of so many simulations, name -> C2ST.
    """

    simulator: tasks.Simulated
    folder: str
    simulations: int
    bound: float = np.inf
    file: str = 'observation.csv'
    anchors: dict = dataclasses.field(default_factory=dict, hash=False)

    protocol = dict(observations=10, samples=10_000)
    event_size = property(lambda self: self.simulator.event_size)
    condition_size = property(lambda self: self.simulator.condition_size)
    name = property(
        lambda self: f'sbibm: {self.simulator.name}, N = {self.simulations}')

    def simulate(self, n, rng):
        return self.simulator.simulate(n, rng)

    def observed(self, count, samples, test):
        for number in range(1, count + 1):
            folder = _files(self.folder) / f'num_observation_{number}'
            x, theta = (np.loadtxt(folder / file, delimiter=',', skiprows=1, ndmin=2)
                        for file in (self.file, 'reference_posterior_samples.csv.bz2'))
            yield x[0], theta[:samples]

    def accepted(self, draw, count):
        theta = draw(2 * count)
        theta = theta[np.all(np.abs(theta) <= self.bound, axis=-1)]
        if len(theta) < count:
            raise ValueError(f'{self.name}: of {2 * count} draws only {len(theta)} lie '
                             "within the prior's support")
        return theta[:count]


NPE, BEST = 'neural posterior estimation, published', 'best published'
TASKS = {task.name: task for count, anchors in (
    (1000, None), (10_000, ((0.606, 0.522), (0.615, 0.511), (0.552, 0.509),
                            (0.765, 0.658)))) for task in (
    Published(simulator, folder, count, *more, anchors=dict(zip(
        (NPE, BEST), anchors[i])) if anchors else {})
    for i, (simulator, folder, *more) in enumerate((
        (tasks.TASKS['two moons'], 'two_moons', 1.),
        (tasks.TASKS['Gaussian mixture'], 'gaussian_mixture', 10.),
        (tasks.TASKS['Gaussian linear'], 'gaussian_linear'),
        (BernoulliGLM(), 'bernoulli_glm', np.inf, 'observation_raw.csv'))))}
