"""How well conditional densities are learnt, package by package.

    python benchmarks/quality.py --out DIR --workers 2

fits each package's flow to simulations of known optimum and to measured data, five
times each, and writes `DIR/quality.md` (tables), `DIR/quality.json` (the raw
numbers), `DIR/quality.png` and `DIR/coverage.png`, how often the credible regions of
tfp_conditional hold the truth. Every run is a process of its own, of one thread, and
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
"""

import processes

import dataclasses
import time

import numpy as np

from peers import MODELS, load
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
    quick: bool = False             # whether models are small and train one epoch


QUICK = Protocol(simulations=200, test_draws=300, observations=1, samples=40, quick=True)


def merged(settings, overrides):
    """`settings` with some replaced, and so in the `dict`s within."""
    return {**settings, **{
        key: merged(settings[key], value) if isinstance(value, dict) else value
        for key, value in overrides.items()}}


def row(model, task, seed, protocol):
    """What must be equal for a result to be used again, and is all that `run` is told."""
    settings = merged(model.settings, model.tuned.get(task.name, {}))
    training = {} if task.batch_size is None else dict(batch_size=task.batch_size)
    if protocol.quick:
        training['epochs'] = 1
        settings = merged(settings, model.quick)
    else:
        protocol = dataclasses.replace(protocol, **task.protocol)
    if 'training' in settings:
        settings = merged(settings, dict(training=training))
    return dict(task=task.name, model=model.name, seed=seed, settings=settings,
                standardises=model.standardises, protocol=dataclasses.asdict(protocol))


def run(row):
    """Fits the model of a row to its task: numbers."""
    task, model, seed = TASKS[row['task']], MODELS[row['model']], row['seed']
    protocol = Protocol(**row['protocol'])
    kind = load(model.where)    # Its import is no part of the time of a fit.
    data = task.data(seed, protocol.simulations, protocol.test_draws)
    rows = [np.concatenate(pair) for pair in zip(data.train, data.validation)]
    scalings = [(0., np.ones(x.shape[1])) if model.standardises else
                (x.mean(axis=0), x.std(axis=0)) for x in rows]
    train, validation, test = (
        tuple(((x - mean) / scale).astype(np.float32)
              for x, (mean, scale) in zip(pair, scalings)) for pair in data)
    (mean, scale), (center, width) = scalings
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = kind('density', event_size=task.event_size, seed=seed,
                  condition_size=task.condition_size, **row['settings'])
    epochs = fitted.fit(train, validation)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    log_probs = np.concatenate([fitted.evaluate(*(x[i:i + 5000] for x in test))
                                for i in range(0, len(test[0]), 5000)])
    result = dict(loss=float(np.sum(np.log(scale)) - np.mean(log_probs, dtype=float)),
                  seconds=wall, cpu_seconds=cpu, epochs=epochs,
                  parameters=int(fitted.num_parameters))
    if isinstance(task, tasks.Measured):
        return result
    from tfp_conditional import calibration     # No peer needs it for its fit.

    pairs = [(reference, task.accepted(lambda n, x=x: mean + scale * fitted.draw(
        ((x - center) / width).astype(np.float32), n), protocol.samples))
        for x, reference in task.observed(protocol.observations, protocol.samples, data.test)]
    if isinstance(task, published.Published):
        from c2st import accuracies
        return dict(result, c2st=accuracies(pairs).tolist())
    result['c2st'] = [
        calibration.classifier_two_sample_test(*pair, seed=1)[0] if np.isfinite(pair).all()
        else 1. for pair in pairs]
    optimum = -float(np.mean(task.log_posterior(*data.test)))
    result.update(optimum=optimum, gap=result['loss'] - optimum)
    if hasattr(fitted, 'levels'):
        # No two curves share draws, whichever of the `SEEDS` seeds they are of.
        count = protocol.samples
        curves = protocol.test_draws // (SEEDS * count)
        rows = np.arange(curves * count) + seed * curves * count
        levels = fitted.levels(*(np.take(x, rows, axis=0, mode='wrap') for x in test),
                               count // 5)
        result['levels'] = np.round(np.reshape(levels, [curves, count]), 4).tolist()
    return result


def main():
    arguments = processes.options(
        __doc__, out=processes.OUT, packages=MODELS, tasks=TASKS, seeds=list(range(SEEDS)),
        workers=1, quick=False)
    if arguments.tasks == list(TASKS):
        arguments.tasks = list(tasks.TASKS)     # The published ones only where asked for.
    protocol = QUICK if arguments.quick else Protocol()
    found, failed = processes.run_all('quality.run', [
        row(MODELS[model], TASKS[task], seed, protocol)
        for seed in arguments.seeds for task in arguments.tasks for model in arguments.packages
        if isinstance(TASKS[task], tasks.Measured) or not MODELS[model].measured_only],
        arguments.out / 'runs', arguments.workers)
    import quality_report       # No run needs what it imports.
    print(quality_report.write(arguments.out, protocol, found, failed))


if __name__ == '__main__':
    main()
