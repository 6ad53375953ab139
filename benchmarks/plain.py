"""What the defaults lose on plain data, against least squares.

    python benchmarks/plain.py --out DIR

fits `conditional_density` with all defaults, the same with `support=Identity()`, and
a ridge regression with Gaussian errors to targets that depend linearly on three
conditions, and writes `DIR/plain.md`: the mean log-density of fresh rows, in nats per
dimension, less that of the best of the other two, and less the exact one. Nothing in
the data needs a flow but the shape of the errors. A tenth of the rows, at least 30,
is for validation.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import itertools
import pathlib

import numpy as np
from scipy import stats
import tensorflow as tf
import tensorflow_probability as tfp
import tqdm

import report
import tfp_conditional as tfpc
from tfp_conditional.bijectors import regression

CONDITIONS, TEST_ROWS = 3, 5000


class _Mixture:
    """N(-2, 0.5^2) / 2 + N(2, 0.5^2) / 2."""

    @staticmethod
    def rvs(size, random_state):
        return random_state.choice([-2., 2.], size) + 0.5 * random_state.normal(size=size)

    @staticmethod
    def logpdf(x):
        return np.logaddexp(stats.norm.logpdf(x, -2., 0.5),
                            stats.norm.logpdf(x, 2., 0.5)) - np.log(2.)


# Distributions of the errors.
KINDS = {'Gaussian': stats.norm(), 'Laplace': stats.laplace(), 'mixture': _Mixture,
         'Student t(3)': stats.t(3), 'Student t(1)': stats.t(1),
         'log-normal': stats.lognorm(1.), 'exponential': stats.expon(),
         'rounded': stats.norm(), 'tiny': stats.norm(scale=1e-30)}


def simulate(kind, size, rows, rng):
    """Targets `[rows, size]`, conditions, and the mean log-density, or `None`."""
    slopes = np.random.default_rng(0).normal(size=[CONDITIONS, size])
    conditions = rng.normal(size=[rows, CONDITIONS])
    errors = KINDS[kind].rvs([rows, size], random_state=rng)
    if kind == 'rounded':       # It is so itself, and has no density.
        return np.round(errors, 1), conditions, None
    # Tiny ones depend on conditions as tinily.
    targets = errors + conditions @ slopes * (1e-30 if kind == 'tiny' else 1.)
    return targets, conditions, np.mean(KINDS[kind].logpdf(errors))


def least_squares(train, test):
    """The mean log-density per dimension of independent Gaussian errors."""
    (y, c), (test_y, test_c) = train, test
    center = c.mean(axis=0)
    scale, loc = y.std(axis=0), y.mean(axis=0)
    slope, errors = regression.ridge(c - center, (y - loc) / scale)
    deviation = np.sqrt(np.mean(errors**2, axis=0))
    residuals = ((test_y - loc) / scale - (test_c - center) @ slope) / deviation
    return np.mean(stats.norm.logpdf(residuals) - np.log(deviation * scale))


def flow(train, test, seed, epochs, **arguments):
    """That of `conditional_density`, and of its worst row."""
    (y, c), held = train, max(len(train[0]) // 10, 30)
    dist = tfpc.conditional_density(y.shape[1], CONDITIONS, seed=seed, **arguments)
    tfpc.fit(dist, y[held:], c[held:], (y[:held], c[:held]), epochs=epochs, seed=seed,
             verbose=False)
    y, c = (tf.constant(x, tf.float32) for x in test)
    log_probs = dist.given(c).log_prob(y).numpy() / y.shape[1]
    return float(np.mean(log_probs, dtype=float)), float(np.min(log_probs))


def run(kind, size, rows, seed, epochs):
    """One row of the table."""
    *train, _ = simulate(kind, size, rows, np.random.default_rng([seed, rows, size]))
    *test, exact = simulate(kind, size, TEST_ROWS, np.random.default_rng([0, 1]))
    linear = least_squares(train, test)
    ours, worst = flow(train, test, seed, epochs)
    free, _ = flow(train, test, seed, epochs, support=tfp.bijectors.Identity())
    return {'errors': kind, 'D': size, 'rows': rows, **{
        name: '–' if x is None else f'{x:.3f}' for name, x in (
            ('defaults', ours), ('`support=Identity()`', free),
            ('least squares', linear), ('exact', exact),
            ('defaults less the best', ours - max(free, linear)))},
            'worst row': f'{worst:.1f}'}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS))
    parser.add_argument('--rows', nargs='+', type=int, default=[300, 1000, 3000])
    parser.add_argument('--sizes', nargs='+', type=int, default=[1, 5, 50])
    parser.add_argument('--epochs', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in tqdm.tqdm(list(itertools.product(
            arguments.kinds, arguments.sizes, arguments.rows))):
        rows.append(run(*case, arguments.seed, arguments.epochs))
        # After each: a run that is cut leaves what it has.
        (arguments.out / 'plain.md').write_text(
            '# Plain data\n\nMean log-density of fresh rows, nats per dimension.\n\n'
            + report.table(rows), encoding='utf-8')
    print(report.table(rows))


if __name__ == '__main__':
    main()
