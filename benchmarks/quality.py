"""How well conditional densities are learnt, package by package.

    python benchmarks/quality.py --out DIR --workers 2

fits each package's flow to simulations of known optimum and to measured data, five
times each, and writes `DIR/quality.md` (tables), `DIR/quality.json` (the raw
numbers) and `DIR/quality.png`. Every run is a process of its own, of one thread, and
leaves a file in `DIR/runs`: what is there already is not run again, so a run that
was cut goes on where it was. Remove the files of a package whose code changed; new
settings are noticed. A package that is missing is reported.

The gap is the mean of -log q(theta | x) less that of -log p(theta | x), over fresh
draws that are the same for all runs: a KL divergence in nats, 0 for the exact
posterior. C2ST is the accuracy with which a classifier tells draws from q and from p
apart at given observations (Lueckmann et al. 2021): 0.5 at best and 1 at worst.
The published benchmark by its own protocol, which takes hours, is fitted on request:

    python benchmarks/quality.py --out DIR --workers 2 --seeds 0 \
        --packages tfp_conditional zuko 'sbi, NPE' --tasks 'sbibm: two moons, N = 10000'

`DIR/coverage.png` shows how often the credible regions of tfp_conditional hold the
truth.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import dataclasses
import json
import pathlib
import time

import numpy as np

from peers import MODELS, load
import processes
import published
import tasks

SEEDS = 5
TASKS = {**tasks.TASKS, **published.TASKS}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What is the same for all packages."""
    simulations: int = None         # the task's own number; a tenth for validation
    test_draws: int = 20_000
    observations: int = 5           # at which C2ST is taken
    samples: int = 1000             # of each side for it
    iterations: int = 1000          # at most, of its classifier
    quick: bool = False             # whether models are small and train one epoch


QUICK = Protocol(simulations=200, test_draws=300, observations=1, samples=40,
                 iterations=20, quick=True)


def run(model, task, seed, protocol):
    """Fits one model to one task: numbers, and what they were measured with."""
    kind = load(model.where)    # Its import is no part of the time of a fit.
    data = task.data(seed, protocol.simulations, protocol.test_draws)
    rows = [np.concatenate(pair) for pair in zip(data.train, data.validation)]
    scalings = [(0., np.ones(x.shape[1])) if model.standardises else
                (x.mean(axis=0), x.std(axis=0)) for x in rows]
    train, validation, test = (
        tuple(((x - mean) / scale).astype(np.float32)
              for x, (mean, scale) in zip(pair, scalings)) for pair in data)
    mean, scale = scalings[0]
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = kind('density', event_size=task.event_size,
                  condition_size=task.condition_size, seed=seed,
                  **settings(model, task, protocol))
    epochs = fitted.fit(train, validation)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    log_density = float(np.mean([
        np.mean(fitted.evaluate(*(x[rows] for x in test)), dtype=float)
        for rows in _chunks(len(test[0]))]) - np.sum(np.log(scale)))
    result = dict(
        model=model.name, task=task.name, seed=seed, loss=-log_density,
        seconds=wall, cpu_seconds=cpu, epochs=epochs,
        parameters=int(fitted.num_parameters), **_key(model, task, protocol))
    if isinstance(task, tasks.Measured):
        return result
    own = protocol if protocol.quick else dataclasses.replace(protocol, **task.protocol)
    count, (center, width) = own.samples, scalings[1]
    result['c2st'] = [
        c2st(reference, task.accepted(lambda n, x=x: mean + scale * fitted.draw(
            ((x - center) / width).astype(np.float32), n), count), own.iterations)
        for x, reference in task.observed(own.observations, count, data.test)]
    if isinstance(task, published.Published):
        return result
    optimum = -float(np.mean(task.log_posterior(*data.test)))
    result.update(optimum=optimum, gap=result['loss'] - optimum)
    if hasattr(fitted, 'levels'):
        # No two curves share draws, whichever of the `SEEDS` seeds they are of.
        curves = protocol.test_draws // (SEEDS * count)
        rows = np.arange(curves * count) + seed * curves * count
        levels = fitted.levels(*(np.take(x, rows, axis=0, mode='wrap') for x in test),
                               count // 5)
        result['levels'] = np.round(np.reshape(levels, [curves, count]), 4).tolist()
    return result


def settings(model, task, protocol):
    """The model's, with what the task and the protocol override."""
    result = merged(model.settings, model.tuned.get(task.name, {}))
    training = {} if task.batch_size is None else dict(batch_size=task.batch_size)
    if protocol.quick:
        training['epochs'] = 1
        result = merged(result, model.quick)
    return merged(result, {'training': training}) if 'training' in result else result


def merged(settings, overrides):
    """`settings` with some replaced, and so in the `dict`s within."""
    return {**settings, **{
        key: merged(settings[key], value) if isinstance(value, dict) else value
        for key, value in overrides.items()}}


def _key(model, task, protocol):
    """What must be equal for a result to be used again, as JSON gives it back."""
    return json.loads(json.dumps(dict(
        protocol=dataclasses.asdict(protocol),
        settings=settings(model, task, protocol),
        standardises=model.standardises)))


def _chunks(count, size=5000):
    # Of one size, or the mean of their means would not be the mean.
    parts = max(1, count // size)
    return np.arange(count - count % parts).reshape(parts, -1)


def c2st(reference, samples, iterations=1000, seed=1):
    """Cross-validated accuracy of a network that classifies `[n, D]` and `[n, D]`.

    Folds, network and scaling are those of sbibm.
    """
    from sklearn import model_selection, neural_network
    x = np.concatenate([reference, samples])
    x = (x - reference.mean(axis=0)) / reference.std(axis=0)
    if not np.all(np.isfinite(x)):
        return 1.
    classifier = neural_network.MLPClassifier(
        (10 * x.shape[1],) * 2, activation='relu', solver='adam',
        max_iter=iterations, random_state=seed)
    return float(np.mean(model_selection.cross_val_score(
        classifier, x, np.repeat([0, 1], [len(reference), len(samples)]),
        cv=model_selection.KFold(5, shuffle=True, random_state=seed))))


def stored(file, model, task, protocol):
    """The result in a file, or `None` where there is none of these settings."""
    if not file.exists():
        return None
    result = json.loads(file.read_text(encoding='utf-8'))
    key = _key(model, task, protocol)
    before = result.get('protocol', {})
    if key['protocol']['simulations'] is None and before.get('simulations') == getattr(
            task, 'simulations', 10_000):
        # So it says where the number was not yet the task's own.
        before['simulations'] = None
    return result if {name: result.get(name) for name in key} == key else None


def run_all(arguments, runs, protocol):
    """Runs what is not stored; returns name of package -> why it failed."""
    left = [item for item in runs if stored(*item[:3], protocol) is None]
    if arguments.workers:
        return processes.run_all([(model.name, [
            __file__, '--out', arguments.out, '--workers', 0, '--packages', model.name,
            '--tasks', task.name, '--seeds', seed, '--no-report',
            *['--quick'] * arguments.quick])
                                  for _, model, task, seed in left], arguments.workers)
    for file, *what in left:
        processes.store(file, run(*what, protocol))
    return {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('quality'),
                        help='directory to write to')
    for option, known in (('package', MODELS), ('task', TASKS)):
        parser.add_argument(f'--{option}s', nargs='+', metavar=option.upper(),
                            choices=list(known), default=[
                                name for name in known if name not in published.TASKS],
                            help=', '.join(map(repr, known)))
    parser.add_argument('--seeds', nargs='+', type=int, default=list(range(SEEDS)))
    parser.add_argument('--workers', type=int, default=1,
                        help='runs at once; 0: one after another in this process')
    parser.add_argument('--quick', action='store_true',
                        help='tiny sizes, to see that it runs')
    parser.add_argument('--no-report', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    protocol = QUICK if arguments.quick else Protocol()
    folder = arguments.out / 'runs'
    folder.mkdir(parents=True, exist_ok=True)
    runs = [(folder / f'{task}, {model}, {seed}.json'.replace(' ', '_'),
             MODELS[model], TASKS[task], seed)
            for seed in arguments.seeds for task in arguments.tasks
            for model in arguments.packages
            if isinstance(TASKS[task], tasks.Measured)
            or not MODELS[model].measured_only]
    failed = run_all(arguments, runs, protocol)
    if not arguments.no_report:
        import quality_report   # No run needs what it imports.
        found = [stored(*item[:3], protocol) for item in runs]
        print(quality_report.write(arguments.out, protocol, [
            result for result in found if result is not None], failed))


if __name__ == '__main__':
    main()
