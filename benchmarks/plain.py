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

import tfp_conditional as tfpc
from tfp_conditional.bijectors import regression

CONDITIONS, TEST_ROWS, EPOCHS = 3, 5000, 100
_PAIR = stats.norm(scale=0.5)


def _mixture(size, rng):
    return rng.choice([-2., 2.], size) + 0.5 * rng.normal(size=size)


def _log_mixture(x):
    return np.logaddexp(_PAIR.logpdf(x - 2.), _PAIR.logpdf(x + 2.)) - np.log(2.)


def _frozen(distribution):
    return (lambda size, rng: distribution.rvs(size, random_state=rng),
            distribution.logpdf)


# Errors: how to draw them, and their log-density, `None` for none.
KINDS = {
    'Gaussian': _frozen(stats.norm()),
    'Laplace': _frozen(stats.laplace()),
    'mixture': (_mixture, _log_mixture),
    'Student t(3)': _frozen(stats.t(3)),
    'Student t(1)': _frozen(stats.t(1)),
    'log-normal': _frozen(stats.lognorm(1.)),
    'exponential': _frozen(stats.expon()),
    'rounded': (lambda size, rng: np.round(rng.normal(size=size), 1), None),
    'tiny': (lambda size, rng: 1e-30 * rng.normal(size=size),
             lambda x: stats.norm.logpdf(x / 1e-30) - np.log(1e-30))}


def simulate(kind, size, rows, rng):
    """Targets `[rows, size]`, conditions, and the mean log-density, or `None`."""
    draw, log_density = KINDS[kind]
    slopes = np.random.default_rng(0).normal(size=[CONDITIONS, size])
    conditions = rng.normal(size=[rows, CONDITIONS])
    errors = draw([rows, size], rng)
    # Rounded data are so themselves; tiny ones depend on conditions as tinily.
    linear = 0. if kind == 'rounded' else conditions @ slopes
    targets = errors + linear * (1e-30 if kind == 'tiny' else 1.)
    return targets, conditions, (
        None if log_density is None else np.mean(log_density(errors)))


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
    held = max(len(train[0]) // 10, 30)
    y, c = train
    dist = tfpc.conditional_density(y.shape[1], CONDITIONS, seed=seed, **arguments)
    tfpc.fit(dist, y[held:], c[held:], (y[:held], c[:held]), epochs=epochs, seed=seed,
             verbose=False)
    log_probs = dist.log_prob(*(tf.constant(x, tf.float32) for x in test[:1]),
                              bijector_kwargs={'conditions': tf.constant(
                                  test[1], tf.float32)}).numpy() / y.shape[1]
    return float(np.mean(log_probs, dtype=float)), float(np.min(log_probs))


def run(kind, size, rows, seed, epochs):
    """One row of the table."""
    *train, _ = simulate(kind, size, rows, np.random.default_rng([seed, rows, size]))
    *test, exact = simulate(kind, size, TEST_ROWS, np.random.default_rng([0, 1]))
    regression = least_squares(train, test)
    ours, worst = flow(train, test, seed, epochs)
    free, _ = flow(train, test, seed, epochs, support=tfp.bijectors.Identity())
    return (kind, size, rows, *(
        '–' if x is None else f'{x:.3f}' for x in (
            ours, free, regression, exact, ours - max(free, regression))),
            f'{worst:.1f}')


HEAD = ('errors', 'D', 'rows', 'defaults', '`support=Identity()`', 'least squares',
        'exact', 'defaults less the best', 'worst row')


def table(rows):
    """Markdown."""
    lines = [HEAD, ['---'] * 3 + ['--:'] * (len(HEAD) - 3), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, required=True)
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=list(KINDS))
    parser.add_argument('--rows', nargs='+', type=int, default=[300, 1000, 3000])
    parser.add_argument('--sizes', nargs='+', type=int, default=[1, 5, 50])
    parser.add_argument('--epochs', type=int, default=EPOCHS)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = list(itertools.product(arguments.kinds, arguments.sizes, arguments.rows))
    rows = []
    for kind, size, count in tqdm.tqdm(settings):
        rows.append(run(kind, size, count, arguments.seed, arguments.epochs))
        # After each: a run that is cut leaves what it has.
        (arguments.out / 'plain.md').write_text(
            '# Plain data\n\nMean log-density of fresh rows, nats per dimension.\n\n'
            f'{table(rows)}\n', encoding='utf-8')
    print(table(rows))


if __name__ == '__main__':
    main()
