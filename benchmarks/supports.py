"""How far densities on circles, of counts and of point masses are from exact ones.

    python benchmarks/supports.py --out DIR

fits `conditional_density`, and what stands around it, to draws of distributions that are
known, and writes the mean of log p - log q over new draws, in nats per event, to
DIR/supports.md: 0 is exact, and less than 0 a chance of the draws.
"""

import processes

from collections.abc import Callable
import dataclasses
import itertools

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_probability as tfp
import tqdm

import report
import tfp_conditional as tfpc

tfd = tfp.distributions

TEST_ROWS = 10_000


@dataclasses.dataclass(frozen=True)
class Known:
    """Columns y_1 ~ first(c) and, if there is a second, y_2 ~ second(y_1, c)."""

    first: Callable[..., tfd.Distribution]
    second: Callable[..., tfd.Distribution] | None = None
    circle: list | None = None       # What it is as a `support`.
    cells: dict | None = None        # What it is as a `Quantized`.
    wraps: bool = False              # Samples, to [-pi, pi).

    @property
    def size(self):
        return 1 if self.second is None else 2

    def draw(self, c, seed):
        y = self.first(c).sample(seed=seed).numpy()[:, np.newaxis]
        if self.second is not None:
            second = self.second(y[:, 0], c).sample(seed=seed + 1).numpy()
            y = np.stack([y[:, 0], second], -1)
        return np.mod(y + np.pi, 2. * np.pi) - np.pi if self.wraps else y

    def log_prob(self, y, c):
        log_prob = self.first(c).log_prob(y[:, 0])
        if self.second is not None:
            log_prob += self.second(y[:, 0], c).log_prob(y[:, 1])
        return log_prob.numpy()


def angle(c):
    return tfd.VonMises(2. * c[:, 0] + c[:, 1], np.exp(1. + c[:, 1] / 2.))


def count(c):
    return tfd.Poisson(log_rate=1. + c[:, 0])


ANGLES = {
    'von Mises': Known(angle, circle=[tfpc.Circular()]),
    'von Mises × normal': Known(
        angle, lambda theta, c: tfd.Normal(2. * np.cos(theta - c[:, 0]), np.float64(0.3)),
        circle=[tfpc.Circular(), None]),
    'two angles': Known(
        angle, lambda theta, c: tfd.VonMises(2. * theta + c[:, 0], np.float64(3.)),
        circle=[tfpc.Circular()] * 2, wraps=True)}


class Rounded:
    """N(sin(2 c_1), 0.5^2), rounded to 0.5."""

    size = 1
    cells = dict(step=0.5)

    def draw(self, c, seed):
        rng = np.random.default_rng(seed)
        y = np.sin(2. * c[:, :1]) + 0.5 * rng.normal(size=[len(c), 1])
        return np.round(y / 0.5) * 0.5

    def log_prob(self, y, c):
        cdf = tfd.Normal(np.sin(2. * c[:, 0]), np.float64(0.5)).cdf
        return np.log(cdf(y[:, 0] + 0.25) - cdf(y[:, 0] - 0.25))


class Zeros:
    """0 with probability 1 / (1 + exp(-c_1)), else of Gamma(2, exp(c_2 / 2))."""

    size = 1
    cells = dict(low=0.)

    def draw(self, c, seed):
        rng = np.random.default_rng(seed)
        y = rng.gamma(2., np.exp(-c[:, 1] / 2.))
        return np.where(rng.uniform(size=len(c)) < 1. / (1. + np.exp(-c[:, 0])),
                        0., y)[:, np.newaxis]

    def log_prob(self, y, c):
        y = y[:, 0]
        positive = tfd.Gamma(np.float64(2.), np.exp(c[:, 1] / 2.)).log_prob(
            np.where(y > 0., y, 1.))
        return np.where(y > 0., positive - np.logaddexp(0., c[:, 0]),
                        -np.logaddexp(0., -c[:, 0]))


CELLS = {
    'counts': Known(count, cells=dict(step=1., low=0.)),
    'rounded to 0.5': Rounded(), 'zeros, else gamma': Zeros(),
    'two counts': Known(
        count, lambda y, c: tfd.Poisson(1. + y * np.exp(c[:, 1] / 2.) / 2.),
        cells=dict(step=1., low=0.))}


def gap(task, make, rows, epochs, seed):
    """The mean of log p - log q over new draws, for `make(seed)` fitted to `rows`."""
    rng = np.random.default_rng(seed)
    c = rng.normal(size=[rows + TEST_ROWS, 2])
    y = task.draw(c, 10 * seed + 1)
    dist = make(seed)
    tfpc.fit(dist, tf.cast(y[:rows], tf.float32), tf.cast(c[:rows], tf.float32),
             validation_split=0.1, epochs=epochs, seed=seed, verbose=False)
    log_prob = dist.given(tf.cast(c[rows:], tf.float32)).log_prob(
        tf.cast(y[rows:], tf.float32))
    return np.mean(task.log_prob(y[rows:], c[rows:]) - log_prob.numpy())


def angles(task):
    """Column of the table -> what makes a density of a seed."""
    return {label: lambda seed, support=support: tfpc.conditional_density(
        task.size, 2, support=support, seed=seed) for label, support in [
            ('`Circular()`', task.circle), ('`None`', [None] * task.size)]}


def cells(task):
    """The same; those of one column are exact, whatever the noise."""
    return {label: lambda seed, noise=noise: tfpc.Quantized(
        tfpc.conditional_density(task.size, 2, seed=seed), noise=noise, seed=seed,
        **task.cells) for label, noise in [
            ('`Quantized`', 'uniform'), ("`noise='variational'`", 'variational')
        ][:task.size]}


TABLES = {'circles': (ANGLES, angles), 'cells': (CELLS, cells)}


def main():
    arguments = processes.options(
        __doc__, out=processes.OUT, tables=TABLES, rows=[1000, 10_000], epochs=100, seeds=3)
    parts = ['The mean of log p - log q over new draws, in nats per event, and its deviation '
             f'over {arguments.seeds} runs.\n']
    for title in arguments.tables:
        known, makes = TABLES[title]
        frame = pd.DataFrame([
            {'task': name, 'rows': rows, 'column': column, 'gap': gap(
                known[name], make, rows, arguments.epochs, seed)}
            for name, rows, seed in tqdm.tqdm(list(itertools.product(
                known, arguments.rows, range(arguments.seeds))), title)
            for column, make in makes(known[name]).items()])
        parts += [f'## {title.capitalize()}\n', report.pivot(
            frame, ['task', 'rows'], 'column', 'gap', report.spread)]
    print(report.write(arguments.out / 'supports.md', 'Supports', *parts,
                       environment=report.environment()))


if __name__ == '__main__':
    main()
