"""Sets, time series and images whose posterior is known, and networks that see them.

    python benchmarks/structured.py --out DIR

fits `conditional_density`, with each network of `tfpc.embeddings` that suits, to
simulations of mixed sizes, one fit for all of them, and writes `DIR/structured.md`: for
each size the mean -log density of fresh parameters under the exact posterior, under the
fit, and their difference, in nats.
"""

import processes

import dataclasses
import math

import numpy as np
from scipy import special
import tensorflow as tf
import tqdm

import report
import tfp_conditional as tfpc

PART = 500      # Rows at a time: grids of all images at once would fill the memory.


def _log_normal(x, precision, loc):
    """Log-density of N(loc, 1 / precision), summed over the last axis."""
    return -0.5 * np.sum(precision * (x - loc)**2 + np.log(2. * np.pi / precision), -1)


def _there(sizes, most):
    """Which of `most` elements are there, `[N, most, 1]`."""
    return (np.arange(most) < sizes[:, np.newaxis])[..., np.newaxis]


@dataclasses.dataclass(frozen=True)
class GaussianSets:
    """theta ~ N(0, I), a set of n draws of N(theta, I), of which numbers may be missing.

    `missing` is the probability of each number to be; with m_d numbers of dimension d,
    of mean a_d, p(theta_d | x) = N(m_d a_d / (1 + m_d), 1 / (1 + m_d)).
    """

    missing: float = 0.
    event_size: int = 1
    sizes = (1, 4, 16, 32)      # One network sees all of them, padded to the greatest.
    networks = ('DeepSet', 'SetTransformer')

    @property
    def name(self):
        return 'sets of Gaussian draws' + (
            f', {self.missing:.0%} missing' if self.missing else '')

    @property
    def masked(self):
        return 'entries' if self.missing else 'elements'

    @property
    def shape(self):
        return self.event_size

    def simulate(self, sizes, rng):
        """Theta `[B, D]` and conditions, of B sizes."""
        theta = rng.normal(size=[len(sizes), 1, self.event_size])
        values = theta + rng.normal(size=[len(sizes), max(self.sizes), self.event_size])
        there = _there(sizes, max(self.sizes))
        if self.missing:
            there = there & (rng.uniform(size=values.shape) >= self.missing)
        # What stands where nothing is must not matter.
        return theta[:, 0], {'values': np.where(there, values, -99.),
                             'mask': there if self.missing else there[..., 0]}

    def log_posterior(self, theta, conditions):
        values, mask = conditions['values'], conditions['mask']
        there = mask if self.missing else mask[..., np.newaxis]
        precision = 1. + there.sum(1)
        return _log_normal(theta, precision, np.sum(values * there, 1) / precision)


class AutoregressiveSeries:
    """theta ~ N(0, 0.3^2), x_1 ~ N(0, 1), x_t = theta x_{t-1} + N(0, 1), T steps.

    p(theta | x) is that of a linear regression of x_t on x_{t-1}.
    """

    name, event_size, sizes = 'AR(1) series', 1, (8, 16, 32)
    networks, masked, shape = ('TimeSeriesNetwork', 'DeepSet'), 'elements', 1
    _deviation = 0.3

    def simulate(self, sizes, rng):
        theta = self._deviation * rng.normal(size=[len(sizes), 1])
        values = rng.normal(size=[len(sizes), max(self.sizes), 1])
        for t in range(1, max(self.sizes)):
            values[:, t] += theta * values[:, t - 1]
        there = _there(sizes, max(self.sizes))
        return theta, {'values': values * there, 'mask': there[..., 0]}

    def log_posterior(self, theta, conditions):
        before, after = conditions['values'][:, :-1], conditions['values'][:, 1:]
        precision = self._deviation**-2 + np.sum(
            before**2 * conditions['mask'][:, 1:, np.newaxis], 1)
        return _log_normal(theta, precision, np.sum(before * after, 1) / precision)


class Blobs:
    """theta ~ U[-1, 1]^2, 16 x 16 pixels of a Gaussian blob at theta, and N(0, 1).

    A pixel at p, in [-1, 1]^2, has the mean 2 exp(-|p - theta|^2 / (2 0.25^2)); a size
    is how many pixels are there, at random places. Sums over pixels on a grid of thetas
    are products of matrices, as the mean is one of a row's and a column's.
    """

    name, event_size, sizes = 'blobs in images', 2, (64, 128, 256)
    networks, masked, shape = ('ImageNetwork',), 'elements', (16, 16, 1)
    _side, _height, _width, _grid = 16, 2., 0.25, 101

    def _profiles(self, theta):
        """`[..., side]` of `[...]`, whose products are the mean of pixels."""
        at = (np.arange(self._side) + 0.5) * 2. / self._side - 1.
        return math.sqrt(self._height) * np.exp(
            -0.5 * ((at - theta[..., np.newaxis]) / self._width)**2)

    def simulate(self, sizes, rng):
        shape = [len(sizes), self._side, self._side]
        theta = rng.uniform(-1., 1., [len(sizes), 2])
        rows, columns = self._profiles(theta).swapaxes(0, 1)
        values = rows[:, :, np.newaxis] * columns[:, np.newaxis] + rng.normal(size=shape)
        order = rng.uniform(size=[len(sizes), self._side**2]).argsort(-1).argsort(-1)
        mask = (order < sizes[:, np.newaxis]).reshape(shape)
        return theta, {'values': np.where(mask, values, 0.)[..., np.newaxis], 'mask': mask}

    def log_posterior(self, theta, conditions):
        images, mask = conditions['values'][..., 0], conditions['mask'] * 1.

        def log_likelihood(images, mask, rows, columns, product):
            return (np.einsum(product, rows, images, columns, optimize=True)
                    - 0.5 * np.einsum(product, rows**2, mask, columns**2, optimize=True))

        # A midpoint rule, in steps of less than half a deviation of a posterior.
        step = 2. / self._grid
        grid = self._profiles((np.arange(self._grid) + 0.5) * step - 1.)
        evidence = special.logsumexp(log_likelihood(
            images, mask, grid, grid, 'ri,bij,cj->brc'), axis=(1, 2))
        return log_likelihood(images, mask, *self._profiles(theta).swapaxes(0, 1),
                              'bi,bij,bj->b') - evidence - 2. * math.log(step)


TASKS = {task.name: task for task in (
    GaussianSets(), GaussianSets(0.3, 2), AutoregressiveSeries(), Blobs())}


def mixed(task, count, rng):
    """Simulations whose sizes are log-uniform between the least and the greatest."""
    low, high = np.log([min(task.sizes), max(task.sizes) + 1])
    return task.simulate(np.exp(rng.uniform(low, high, count)).astype(int), rng)


def run(task, kind, simulations, draws, epochs, seed):
    """Rows of the table: one for each size."""
    network = getattr(tfpc.embeddings, kind)(task.shape, mask=task.masked, seed=seed)
    dist = tfpc.conditional_density(task.event_size, network.condition_size,
                                    embedding=network, seed=seed)
    tfpc.fit(dist, *mixed(task, simulations, np.random.default_rng([seed, 1])),
             validation_split=0.1, epochs=epochs, seed=seed, verbose=False)
    for size in task.sizes:
        losses, rng = [], np.random.default_rng([0, 2])
        for part in range(0, draws, PART):
            theta, conditions = task.simulate(np.full(min(PART, draws - part), size), rng)
            given = dist.given({key: x if x.dtype == bool else x.astype(np.float32)
                                for key, x in conditions.items()})
            losses.append([-task.log_posterior(theta, conditions),
                           -given.log_prob(tf.constant(theta, tf.float32)).numpy()])
        exact, fit = np.concatenate(losses, -1)
        yield {'task': task.name, 'network': f'`{kind}`', 'size': size,
               'exact': f'{exact.mean():.3f}', 'fit': f'{fit.mean():.3f}',
               'gap': f'{np.mean(fit - exact):.3f} ± '
                      f'{np.std(fit - exact) / math.sqrt(draws):.3f}'}


def main():
    arguments = processes.options(__doc__, out=processes.OUT, tasks=TASKS, simulations=10_000,
                                  draws=5000, epochs=20, seed=0)
    rows, environment = [], report.environment()
    for task, kind in tqdm.tqdm([(TASKS[name], kind) for name in arguments.tasks
                                 for kind in TASKS[name].networks]):
        rows += run(task, kind, arguments.simulations, arguments.draws, arguments.epochs,
                    arguments.seed)
        # After each: a run that is cut leaves what it has.
        text = report.write(
            arguments.out / 'structured.md', 'Sets, time series and images',
            f'Mean -log density of {arguments.draws} fresh parameters for each size, '
            f'in nats: one fit of {arguments.simulations} simulations of all sizes, '
            f'{arguments.epochs} epochs.\n', report.table(rows), environment=environment)
    print(text)


if __name__ == '__main__':
    main()
