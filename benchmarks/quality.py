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
`DIR/coverage.png` shows how often the credible regions of tfp_conditional hold the
truth.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import concurrent.futures
import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import tqdm

import quality_peers
import tasks

SEEDS = 5
SINGLE_THREADED = {
    'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1',
    'TF_NUM_INTRAOP_THREADS': '1', 'TF_NUM_INTEROP_THREADS': '1', 'NPROC': '1',
    'XLA_FLAGS': '--xla_cpu_multi_thread_eigen=false', 'CUDA_VISIBLE_DEVICES': '',
    'JAX_PLATFORMS': 'cpu'}


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
    """Fits one model to one task.

    Returns:
      `dict` of numbers and of what they were measured with.
    """
    kind = model.load()
    data = task.data(seed, protocol.simulations, protocol.test_draws)
    rows = [np.concatenate(pair) for pair in zip(data.train, data.validation)]
    scalings = [(0., np.ones(x.shape[1])) if model.standardises else
                (x.mean(axis=0), x.std(axis=0)) for x in rows]
    train, validation, test = (
        tuple(((x - mean) / scale).astype(np.float32)
              for x, (mean, scale) in zip(pair, scalings))
        for pair in (data.train, data.validation, data.test))
    (mean, scale), _ = scalings
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = kind('density', task.event_size, task.condition_size, seed=seed,
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
    if isinstance(task, tasks.Simulated):
        optimum = -float(np.mean(task.log_posterior(*data.test)))
        result.update(optimum=optimum, gap=result['loss'] - optimum, c2st=[
            _c2st_at(fitted, task, i, data.test[1][i], test[1][i], mean, scale,
                     protocol)
            for i in range(protocol.observations)])
        if hasattr(fitted, 'levels'):
            # No two curves share draws, whichever of the `SEEDS` seeds they are of.
            curves = protocol.test_draws // (SEEDS * protocol.samples)
            rows = np.arange(curves * protocol.samples)
            levels = fitted.levels(*(
                np.take(x, rows + seed * len(rows), axis=0, mode='wrap')
                for x in test), protocol.samples // 5)
            result['levels'] = np.round(
                np.reshape(levels, [curves, protocol.samples]), 4).tolist()
    return result


def settings(model, task, protocol):
    """The model's, with what the task and the protocol override."""
    result = merged(model.settings, model.tuned.get(task.name, {}))
    training = {}
    if task.batch_size is not None:
        training['batch_size'] = task.batch_size
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


def _c2st_at(fitted, task, index, observation, standardised, mean, scale, protocol):
    count = protocol.samples
    exact = task.sample_posterior(observation, count,
                                  np.random.default_rng([index, 2]))
    return c2st(exact, mean + scale * fitted.draw(standardised, count),
                protocol.iterations)


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


def schedule(arguments):
    """All (model, task, seed) that were asked for."""
    return [(quality_peers.MODELS[model], tasks.TASKS[task], seed)
            for seed in arguments.seeds for task in arguments.tasks
            for model in arguments.packages
            if isinstance(tasks.TASKS[task], tasks.Measured)
            or not quality_peers.MODELS[model].measured_only]


def path(out, model, task, seed):
    """Of the file of one run."""
    return out / 'runs' / f'{task.name}, {model.name}, {seed}.json'.replace(' ', '_')


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


def run_and_store(out, model, task, seed, protocol):
    """Replaces the file of the run at once, so that a kill leaves none by halves."""
    result = run(model, task, seed, protocol)
    file = path(out, model, task, seed)
    part = file.with_suffix('.part')
    part.write_text(json.dumps(result, indent=1), encoding='utf-8')
    part.replace(file)


def run_process(arguments, model, task, seed):
    """Runs this script for one run alone; returns why it failed, or `None`."""
    process = subprocess.run(
        [sys.executable, __file__, '--out', str(arguments.out), '--workers', '0',
         '--packages', model.name, '--tasks', task.name, '--seeds', str(seed),
         '--no-report', *['--quick'] * arguments.quick],
        env={**os.environ, **SINGLE_THREADED}, capture_output=True, text=True,
        check=False)
    return process.stderr.strip().splitlines()[-1] if process.returncode else None


def run_all(arguments, protocol):
    """Runs what is not stored; returns name of package -> why it failed."""
    (arguments.out / 'runs').mkdir(parents=True, exist_ok=True)
    left = [(model, task, seed) for model, task, seed in schedule(arguments)
            if stored(path(arguments.out, model, task, seed), model, task, protocol)
            is None]
    if not arguments.workers:
        for item in left:
            run_and_store(arguments.out, *item, protocol)
        return {}
    failed = {}
    with concurrent.futures.ThreadPoolExecutor(arguments.workers) as pool, tqdm.tqdm(
            total=len(left), desc='runs') as bar:
        futures = {pool.submit(run_process, arguments, *item): item for item in left}
        for future in concurrent.futures.as_completed(futures):
            model, task, seed = futures[future]
            bar.set_postfix_str(f'{model.name}, {task.name}, {seed}')
            bar.update()
            if future.result() is not None:
                failed.setdefault(model.name, future.result())
    return failed


def results(arguments, protocol):
    """All that is stored of what was asked for."""
    found = [stored(path(arguments.out, model, task, seed), model, task, protocol)
             for model, task, seed in schedule(arguments)]
    return [result for result in found if result is not None]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('quality'),
                        help='directory to write to')
    parser.add_argument('--packages', nargs='+', metavar='PACKAGE',
                        choices=list(quality_peers.MODELS),
                        default=list(quality_peers.MODELS),
                        help=', '.join(map(repr, quality_peers.MODELS)))
    parser.add_argument('--tasks', nargs='+', metavar='TASK',
                        choices=list(tasks.TASKS), default=list(tasks.TASKS),
                        help=', '.join(map(repr, tasks.TASKS)))
    parser.add_argument('--seeds', nargs='+', type=int, default=list(range(SEEDS)))
    parser.add_argument('--workers', type=int, default=1,
                        help='runs at once; 0: one after another in this process')
    parser.add_argument('--quick', action='store_true',
                        help='tiny sizes, to see that it runs')
    parser.add_argument('--no-report', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    protocol = QUICK if arguments.quick else Protocol()
    failed = run_all(arguments, protocol)
    if not arguments.no_report:
        import quality_report   # No run needs what it imports.
        print(quality_report.write(arguments.out, protocol,
                                   results(arguments, protocol), failed))


if __name__ == '__main__':
    main()
