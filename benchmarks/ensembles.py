"""What ensembles gain, and what conformal regions hold.

    python benchmarks/ensembles.py --out DIR

fits five members of `conditional_density`, all defaults, a tenth of the rows for
validation, another for each, and writes `DIR/ensembles.md`: for mixtures of K of them
the gap, which is the mean -log q of fresh rows less that of the exact posterior (of a
table the loss itself), and the coverage error, which is the mean distance of the
`coverage_curve` from the diagonal. Conformal are the regions that half of the fresh rows
make, on the other half. In the band are the curves of 1000 rows that lie within the 95 %
band of exact calibration from end to end. CPU seconds are those of the first member, and
of each later one, by one thread. What is in `DIR/runs` already is not run again.
"""

import processes

import itertools
import json
import time

import numpy as np
from scipy import special
import tensorflow as tf

import report
import tasks
import tfp_conditional as tfpc
from tfp_conditional import calibration

SIZES = (1, 3, 5)
CURVE = 1000
NAMES = ('two moons', 'Gaussian mixture', 'Gaussian linear', 'breast cancer', 'digits')


def run(task, rows, seed, epochs=100, test_rows=8000, samples=30, **flow):
    """The numbers of members fitted to one set of data."""
    data = task.data(seed, rows, test_rows)
    y, c = (np.concatenate(pair) for pair in zip(data.train, data.validation))
    ensemble = tfpc.ConditionalEnsemble([
        tfpc.conditional_density(task.event_size, task.condition_size,
                                 seed=100 * seed + k, **flow) for k in range(SIZES[-1])])
    starts, clock = {}, [time.process_time()]

    def callback(history):
        starts.setdefault(history['member'][-1], clock[-1])
        clock.append(time.process_time())

    batch = {} if task.batch_size is None else dict(batch_size=task.batch_size)
    history = tfpc.fit(ensemble, y, c, validation_split=0.1, epochs=epochs, seed=seed,
                       verbose=False, callback=callback, **batch)
    optimum = (0. if isinstance(task, tasks.Measured) else
               np.mean(task.log_posterior(*data.test)))
    of_test, of_draws = evaluate(ensemble.members, *data.test, samples)
    result = dict(cpu=np.diff([*starts.values(), clock[-1]]).tolist(),
                  epochs=np.bincount(history['member']).tolist())
    for size in SIZES:
        found = [mixture(of_test[part], of_draws[part, part], seed) for part in (
            [slice(k, k + 1) for k in range(SIZES[-1])] if size == 1 else [slice(size)])]
        result[f'gap {size}'] = float(optimum - np.mean([loss for loss, _ in found]))
        result[f'levels {size}'] = [np.round(x, 4).tolist() for _, x in found]
    return result


def evaluate(members, y, c, samples):
    """Log-probs of targets, `[K, N]`, and of draws of member j by k, `[K, K, L, N]`."""
    of_test, of_draws = [], []
    for rows in np.array_split(np.arange(len(y)), -(-len(y) // 250)):
        given = [member.given(tf.constant(c[rows], tf.float32)) for member in members]
        events = tf.concat([y[rows][np.newaxis].astype(np.float32), *[
            each.sample(samples, seed=k) for k, each in enumerate(given)]], 0)
        log_probs = np.stack([each.log_prob(events) for each in given])
        of_test.append(log_probs[:, 0])
        of_draws.append(log_probs[:, 1:].reshape(
            len(members), len(members), samples, len(rows)))
    return np.concatenate(of_test, -1), np.concatenate(of_draws, -1)


def mixture(of_test, of_draws, seed):
    """The mean log-prob of targets, and the levels of regions that just hold them."""
    rng = np.random.default_rng(seed)
    of_test = special.logsumexp(of_test, 0) - np.log(len(of_test))
    of_draws = special.logsumexp(of_draws, 0) - np.log(len(of_draws))
    drawn = rng.integers(len(of_draws), size=of_draws.shape[1:])
    of_draws = np.take_along_axis(of_draws, drawn[np.newaxis], 0)[0]
    ranks = np.sum(of_draws > of_test, 0) + rng.uniform(size=of_test.shape)
    return np.mean(of_test, dtype=float), ranks / (len(of_draws) + 1)


def conformal(levels):
    """Those of every other target, by their rank among the rest."""
    held, rest = np.sort(levels[::2]), np.asarray(levels[1::2])
    return (np.searchsorted(held, rest, 'right') + 0.5) / (len(held) + 1)


def error(levels):
    """The mean distance of the coverage curve from the diagonal."""
    alphas, found = calibration.coverage_curve(levels)
    return np.mean(np.abs(found - alphas)[1:-1])


def in_band(levels):
    """How many curves lie within the band of exact calibration, of how many."""
    curves = np.reshape(levels[:len(levels) // CURVE * CURVE], [-1, CURVE])
    return np.array([report.in_band(curves), len(curves)])


def summary(results):
    """A row of the table, for results of several seeds."""
    row = {f'gap, K = {k}': f"{np.mean([r[f'gap {k}'] for r in results]):.3f}"
           for k in SIZES}
    for change, size in itertools.product((np.asarray, conformal), (1, SIZES[-1])):
        levels = [change(x) for r in results for x in r[f'levels {size}']]
        label = f'K = {size}' + ', conformal' * (change is conformal)
        row[f'coverage error, {label}'] = f'{np.mean([*map(error, levels)]):.3f}'
        row[f'in the band, {label}'] = '{} of {}'.format(*np.sum([*map(in_band, levels)], 0))
    first, *later = np.mean([r['cpu'] for r in results], 0)
    return {**row, 'CPU s': f'{first:.0f}, then {np.mean(later):.0f}'}


def main():
    arguments = processes.options(
        __doc__, out=processes.OUT, tasks=tasks.TASKS, rows=[1000, 10_000], seeds=[0, 1],
        quick=False)
    if arguments.tasks == list(tasks.TASKS):
        arguments.tasks = NAMES             # The others only where asked for.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    runs = arguments.out / 'runs'
    runs.mkdir(parents=True, exist_ok=True)
    quick = dict(epochs=1, test_rows=50, samples=9, num_coupling_layers=1,
                 hidden_layers=(8,)) if arguments.quick else {}
    for rows, seed, name in itertools.product(
            arguments.rows, arguments.seeds, arguments.tasks):
        task = tasks.TASKS[name]
        path = runs / f'{name}-{rows}-{seed}.json'.replace(' ', '_')
        # A table has the rows that it has.
        if not path.exists() and (
                not isinstance(task, tasks.Measured) or rows == arguments.rows[0]):
            path.write_text(json.dumps(run(task, rows, seed, **quick)))
    write(arguments.out)


def write(out):
    """`ensembles.md`, of all that there is."""
    found = {}
    for path in sorted((out / 'runs').glob('*.json')):
        name, rows, _ = path.stem.replace('_', ' ').rsplit('-', 2)
        found.setdefault((name, int(rows)), []).append(json.loads(path.read_text()))
    table = report.table([{'task': name, 'N': rows, 'seeds': len(results),
                           **summary(results)}
                          for (name, rows), results in sorted(found.items())])
    (out / 'ensembles.md').write_text(f'# Ensembles\n\nNats per event.\n\n{table}',
                                      encoding='utf-8')
    print(table)


if __name__ == '__main__':
    main()
