"""How far densities on circles, of counts and of point masses are from exact ones.

    python benchmarks/supports.py --out DIR

fits `conditional_density`, and what stands around it, to draws of distributions that are
known, and writes the mean of log p - log q over new draws, in nats per event, to
DIR/supports.md: 0 is exact, and less than 0 a chance of the draws.
"""

import argparse
import os
import pathlib

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc

tfd = tfp.distributions

TEST_ROWS = 10_000


class VonMises:
    """Angles: theta ~ VonMises(2 c_1 + c_2, exp(1 + c_2 / 2))."""

    size = 1
    circle = [tfpc.Circular()]
    plain = [None]

    def theta(self, c):
        return tfd.VonMises(2. * c[:, 0] + c[:, 1], np.exp(1. + c[:, 1] / 2.))

    def draw(self, c, seed):
        return self.theta(c).sample(seed=seed).numpy()[:, np.newaxis]

    def log_prob(self, y, c):
        return self.theta(c).log_prob(y[:, 0]).numpy()


class VonMisesNormal(VonMises):
    """An angle and a number: theta as above, x ~ N(2 cos(theta - c_1), 0.3^2)."""

    size = 2
    circle = [tfpc.Circular(), None]
    plain = [None, None]

    def number(self, theta, c):
        return tfd.Normal(2. * np.cos(theta - c[:, 0]), np.float64(0.3))

    def draw(self, c, seed):
        theta = self.theta(c).sample(seed=seed).numpy()
        x = self.number(theta, c).sample(seed=seed + 1).numpy()
        return np.stack([theta, x], -1)

    def log_prob(self, y, c):
        return (self.theta(c).log_prob(y[:, 0])
                + self.number(y[:, 0], c).log_prob(y[:, 1])).numpy()


class Torus(VonMises):
    """Two angles: theta as above, phi ~ VonMises(2 theta + c_1, 3)."""

    size = 2
    circle = [tfpc.Circular()] * 2
    plain = [None] * 2

    def second(self, theta, c):
        return tfd.VonMises(2. * theta + c[:, 0], np.float64(3.))

    def draw(self, c, seed):
        theta = self.theta(c).sample(seed=seed).numpy()
        phi = self.second(theta, c).sample(seed=seed + 1).numpy()
        return np.mod(np.stack([theta, phi], -1) + np.pi, 2. * np.pi) - np.pi

    def log_prob(self, y, c):
        return (self.theta(c).log_prob(y[:, 0])
                + self.second(y[:, 0], c).log_prob(y[:, 1])).numpy()


ANGLES = {'von Mises': VonMises(), 'von Mises × normal': VonMisesNormal(),
          'two angles': Torus()}


class Counts:
    """Poisson counts of mean exp(1 + c_1)."""

    size = 1
    cells = dict(step=1., low=0.)

    def count(self, c):
        return tfd.Poisson(log_rate=1. + c[:, 0])

    def draw(self, c, seed):
        return self.count(c).sample(seed=seed).numpy()[:, np.newaxis]

    def log_prob(self, y, c):
        return self.count(c).log_prob(y[:, 0]).numpy()


class TwoCounts(Counts):
    """Two counts: y_1 as above, y_2 ~ Poisson(1 + y_1 exp(c_2 / 2) / 2)."""

    size = 2

    def second(self, y, c):
        return tfd.Poisson(1. + y * np.exp(c[:, 1] / 2.) / 2.)

    def draw(self, c, seed):
        y = self.count(c).sample(seed=seed).numpy()
        return np.stack([y, self.second(y, c).sample(seed=seed + 1).numpy()], -1)

    def log_prob(self, y, c):
        return (self.count(c).log_prob(y[:, 0])
                + self.second(y[:, 0], c).log_prob(y[:, 1])).numpy()


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


CELLS = {'counts': Counts(), 'rounded to 0.5': Rounded(), 'zeros, else gamma': Zeros(),
         'two counts': TwoCounts()}


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


def angles(arguments):
    """Rows of the table of circles."""
    for name, task in ANGLES.items():
        for rows in arguments.rows:
            yield [name, rows] + [
                [gap(task, lambda seed: tfpc.conditional_density(
                    task.size, 2, support=support, seed=seed), rows, arguments.epochs,
                     seed) for seed in range(arguments.seeds)]
                for support in (task.circle, task.plain)]


def cells(arguments):
    """Rows of the table of cells: those of one column are exact, whatever the noise."""
    for name, task in CELLS.items():
        for rows in arguments.rows:
            yield [name, rows] + [
                [gap(task, lambda seed: tfpc.Quantized(
                    tfpc.conditional_density(task.size, 2, seed=seed), noise=noise,
                    seed=seed, **task.cells), rows, arguments.epochs, seed)
                 for seed in range(arguments.seeds)]
                for noise in (['uniform', 'variational'] if task.size > 1 else
                              ['uniform'])]


def table(title, columns, rows):
    """Markdown of a table, as it is made."""
    yield f'\n## {title}\n\n| | rows | {" | ".join(columns)} |'
    yield '| --- | --: |' + ' --: |' * len(columns)
    for name, count, *gaps in rows:
        cells = [f'{np.mean(x):.3f} ± {np.std(x):.3f}' if len(x) > 1 else f'{x[0]:.3f}'
                 for x in gaps]
        cells += [''] * (len(columns) - len(cells))
        yield f'| {name} | {count} | {" | ".join(cells)} |'


def main(arguments):
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / 'supports.md', 'w') as file:
        def write(line):
            print(line, flush=True)
            file.write(line + '\n')

        write('# Supports\n\nThe mean of log p - log q over new draws, in nats per event, '
              f'and its deviation over {arguments.seeds} runs.')
        for title, columns, rows in [
                ('Circles', ['`Circular()`', '`None`'], angles(arguments)),
                ('Cells', ['`Quantized`', "`noise='variational'`"], cells(arguments))]:
            if title.lower() in arguments.tables:
                for line in table(title, columns, rows):
                    write(line)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--tables', nargs='+', default=['circles', 'cells'])
    parser.add_argument('--rows', type=int, nargs='+', default=[1000, 10_000])
    parser.add_argument('--epochs', type=int, default=100)
    parser.add_argument('--seeds', type=int, default=3)
    main(parser.parse_args())
