"""What the defaults lose on plain data, against least squares.

    python benchmarks/plain.py --out DIR

fits `conditional_density` with all defaults, the same with `support=Identity()`, and
a linear regression with Gaussian errors to targets that depend linearly on three
conditions, and writes `DIR/plain.md`: the mean log-density of fresh rows, in nats per
dimension, less that of the best of the other two, and less the exact one. Nothing in
the data needs a flow but the shape of the errors. A tenth of the rows, at least 30,
is for validation.
"""

import processes

import itertools

import numpy as np
from scipy import stats
import tqdm

import peers
import report

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
MODELS = {'defaults': ('with_tensorflow.Ours', {}),
          '`support=Identity()`': ('with_tensorflow.OursWithoutBounds', {}),
          'least squares': ('peers.LinearGaussian', dict(correlated=False))}


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


def log_probs(model, train, test, seed=0, **training):
    """Log-densities of the rows to test on per dimension, by one of `MODELS`."""
    (y, c), held = train, max(len(train[0]) // 10, 30)
    where, settings = MODELS[model]
    fitted = peers.load(where)('density', event_size=y.shape[1], condition_size=CONDITIONS,
                               seed=seed, training=training, **settings)
    fitted.fit((y[held:], c[held:]), (y[:held], c[:held]))
    return fitted.evaluate(*test).astype(float) / y.shape[1]


def run(kind, size, rows, seed, epochs):
    """One row of the table."""
    *train, _ = simulate(kind, size, rows, np.random.default_rng([seed, rows, size]))
    *test, exact = simulate(kind, size, TEST_ROWS, np.random.default_rng([0, 1]))
    found = {model: log_probs(model, train, test, seed, epochs=epochs) for model in MODELS}
    ours, *others = means = [np.mean(each) for each in found.values()]
    return {'errors': kind, 'D': size, 'rows': rows, **{
        name: '–' if x is None else f'{x:.3f}' for name, x in zip(
            [*MODELS, 'exact', 'defaults less the best'], [*means, exact, ours - max(others)])},
        'worst row': f'{np.min(found["defaults"]):.1f}'}


def main():
    arguments = processes.options(
        __doc__, out=processes.OUT, kinds=KINDS, rows=[300, 1000, 3000], sizes=[1, 5, 50],
        epochs=100, seed=0)
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
