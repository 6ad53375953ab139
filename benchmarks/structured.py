"""Sets, time series and images whose posterior is known, and networks that see them.

    python benchmarks/structured.py --out DIR

fits `conditional_density`, with each network of `tfpc.embeddings` that suits, to
simulations of mixed sizes, one fit for all of them, and writes `DIR/structured.md`: for
each size the mean -log density of fresh parameters under the exact posterior, under the
fit, and their difference, in nats.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import dataclasses
import math
import pathlib
import time

import numpy as np
from scipy import special
import tensorflow as tf
import tqdm

import report
import tfp_conditional as tfpc

_LOG_2PI = math.log(2. * math.pi)


def _log_normal(x, precision, loc):
    """Log-density of N(loc, 1 / precision), summed over the last axis."""
    return -0.5 * np.sum(precision * (x - loc)**2 + _LOG_2PI - np.log(precision), -1)


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

    def network(self, kind, seed):
        return getattr(tfpc.embeddings, kind)(
            self.event_size, mask='entries' if self.missing else 'elements', seed=seed)

    def simulate(self, sizes, rng):
        """Theta `[B, D]` and conditions, of B sizes."""
        count, most = len(sizes), max(self.sizes)
        theta = rng.normal(size=[count, self.event_size])
        values = theta[:, np.newaxis] + rng.normal(size=[count, most, self.event_size])
        mask = np.arange(most) < sizes[:, np.newaxis]
        if self.missing:
            mask = mask[..., np.newaxis] & (rng.uniform(size=values.shape) >= self.missing)
        # What stands where nothing is must not matter.
        there = mask if self.missing else mask[..., np.newaxis]
        return theta, {'values': np.where(there, values, -99.), 'mask': mask}

    def log_posterior(self, theta, conditions):
        values, mask = conditions['values'], conditions['mask']
        mask = mask if self.missing else mask[..., np.newaxis]
        precision = 1. + mask.sum(1)
        return _log_normal(theta, precision, np.sum(values * mask, 1) / precision)


class AutoregressiveSeries:
    """theta ~ N(0, 0.3^2), x_1 ~ N(0, 1), x_t = theta x_{t-1} + N(0, 1), T steps.

    p(theta | x) is that of a linear regression of x_t on x_{t-1}.
    """

    name, event_size, sizes = 'AR(1) series', 1, (8, 16, 32)
    networks = ('TimeSeriesNetwork', 'DeepSet')
    _deviation = 0.3

    def network(self, kind, seed):
        return getattr(tfpc.embeddings, kind)(1, mask='elements', seed=seed)

    def simulate(self, sizes, rng):
        count, most = len(sizes), max(self.sizes)
        theta = self._deviation * rng.normal(size=[count, 1])
        values = rng.normal(size=[count, most, 1])
        for t in range(1, most):
            values[:, t] += theta * values[:, t - 1]
        mask = np.arange(most) < sizes[:, np.newaxis]
        return theta, {'values': np.where(mask[..., np.newaxis], values, 0.), 'mask': mask}

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

    name, event_size, sizes, networks = 'blobs in images', 2, (64, 128, 256), ('ImageNetwork',)
    _side, _height, _width, _grid = 16, 2., 0.25, 101

    def network(self, kind, seed):
        return getattr(tfpc.embeddings, kind)(
            (self._side, self._side, 1), mask='elements', seed=seed)

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
        rows, columns = self._profiles(theta).swapaxes(0, 1)
        found = []
        for part in np.array_split(np.arange(len(theta)), 1 + len(theta) // 500):
            # All at once would be gigabytes.
            evidence = special.logsumexp(log_likelihood(
                images[part], mask[part], grid, grid, 'ri,bij,cj->brc'), axis=(1, 2))
            found.append(log_likelihood(images[part], mask[part], rows[part],
                                        columns[part], 'bi,bij,bj->b') - evidence)
        return np.concatenate(found) - 2. * math.log(step)


TASKS = (GaussianSets(), GaussianSets(0.3, 2), AutoregressiveSeries(), Blobs())


def mixed(task, count, rng):
    """Simulations whose sizes are log-uniform between the least and the greatest."""
    low, high = np.log([min(task.sizes), max(task.sizes) + 1])
    return task.simulate(np.exp(rng.uniform(low, high, count)).astype(int), rng)


def run(task, kind, count, test_count, epochs, seed):
    """Rows of the table: one for each size."""
    dist = tfpc.conditional_density(
        task.event_size, (network := task.network(kind, seed)).condition_size,
        embedding=network, seed=seed)
    start = time.perf_counter()
    tfpc.fit(dist, *mixed(task, count, np.random.default_rng([seed, 1])),
             validation_split=0.1, epochs=epochs, seed=seed, verbose=False)
    seconds = time.perf_counter() - start
    rows = []
    for size in task.sizes:
        losses = {'exact': [], 'fit': []}
        # In parts, since grids of all images at once would fill the memory.
        rng = np.random.default_rng([0, 2])
        for part in range(0, test_count, 500):
            theta, conditions = task.simulate(
                np.full(min(500, test_count - part), size), rng)
            losses['exact'].extend(-task.log_posterior(theta, conditions))
            conditions = {key: x if x.dtype == bool else x.astype(np.float32)
                          for key, x in conditions.items()}
            losses['fit'].extend(-dist.given(conditions).log_prob(
                tf.constant(theta, tf.float32)).numpy().astype(float))
        exact, fit = (np.array(losses[key]) for key in ('exact', 'fit'))
        error = np.std(fit - exact) / math.sqrt(test_count)
        rows.append({'task': task.name, 'network': f'`{kind}`', 'size': size,
                     'exact': f'{exact.mean():.3f}', 'fit': f'{fit.mean():.3f}',
                     'gap': f'{np.mean(fit - exact):.3f} ± {error:.3f}'})
    print(f'{task.name}, {kind}: {seconds:.0f} s', flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--tasks', nargs='+', type=int, default=range(len(TASKS)),
                        help='their places in TASKS')
    parser.add_argument('--simulations', type=int, default=10_000)
    parser.add_argument('--test', type=int, default=5000, help='fresh draws of each size')
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for task, kind in tqdm.tqdm([(TASKS[i], kind) for i in arguments.tasks
                                 for kind in TASKS[i].networks]):
        rows += run(task, kind, arguments.simulations, arguments.test, arguments.epochs,
                    arguments.seed)
        # After each: a run that is cut leaves what it has.
        (arguments.out / 'structured.md').write_text(
            report.heading('Sets, time series and images', report.environment())
            + f'\nMean -log density of {arguments.test} fresh parameters for each size, '
            f'in nats: one fit of {arguments.simulations} simulations of all sizes, '
            f'{arguments.epochs} epochs.\n\n' + report.table(rows), encoding='utf-8')
    print(report.table(rows))


if __name__ == '__main__':
    main()
