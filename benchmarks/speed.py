"""How fast this package is, next to hand-written TensorFlow and to others.

    python benchmarks/speed.py --out DIR

writes `DIR/speed.md` (targets, tables of medians and ratios), `DIR/speed.json` (the
raw numbers), `DIR/speed.png` and `DIR/sweeps.png`; the first two as it goes. All
implementations have the same architecture and number of parameters, which is
asserted, and run in one process; those of TensorFlow also have the same weights and
must give the same numbers. A package that is missing is reported.

Every round calls each implementation in turn, in an order shuffled anew, so that
whatever else the machine does falls on all alike. A median is that of the rounds'.
Measure on an idle machine; two cores take about twenty minutes. Memory is that of
processes of their own, two at once.
"""

import os
# PyTorch's OpenMP threads would otherwise spin after each call, on the cores on
# which the next implementation is being timed.
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import concurrent.futures
import ctypes
import dataclasses
import gc
import json
import pathlib
import re
import resource
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm

import peers
from peers import FLOOR, OURS, STOCK_CLASS, STOCK_TFP, Architecture
import tfp_conditional as tfpc

SECTIONS = ('main', 'eager', 'hot', 'sweeps', 'imports', 'memory', 'fits')
# Of nflows and FlowJAX the package itself is empty.
PACKAGES = ('tensorflow', 'tensorflow_probability', 'tfp_conditional', 'torch',
            'zuko', 'nflows.flows', 'normflows', 'jax', 'flowjax.flows')

@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured."""
    architecture: Architecture = Architecture()
    batches: tuple = (1, 256, 4096)
    hot_batch: int = 1
    rounds: int = 15
    least_calls: int = 5
    seconds: float = 0.4        # for a cell, about, where that makes enough calls
    sweep_seconds: float = 0.3
    sweep_batch: int = 256
    sweeps: tuple = (('event_size', (2, 8, 32, 128)),
                     ('num_layers', (2, 8, 32)),
                     ('condition_size', (1, 16, 128, 1024)))
    samples: tuple = (1, 30, 1000)
    samples_batch: int = 8
    samples_condition_size: int = 512
    repetitions: int = 2
    packages: tuple = PACKAGES
    # Mode, and after how many fits the memory is taken, twice.
    fits: tuple = (('graph', 2, 20), ('XLA', 2, 5))
    memory_cases: int = 100                 # at most


QUICK = Settings(
    architecture=Architecture(4, 3, 2, (8,)), batches=(4,),
    rounds=2, least_calls=1, seconds=0.01,
    sweep_seconds=0.01, sweep_batch=4,
    sweeps=(('event_size', (4,)), ('num_layers', (1, 2)), ('condition_size', (3,))),
    samples=(3,), samples_batch=2, samples_condition_size=5, repetitions=1,
    packages=('numpy',), fits=(('graph', 1, 2),), memory_cases=1)


def measure(cells, settings, seconds, bar):
    """Times functions against each other.

    Args:
      cells: `dict` of key -> function without arguments.
      settings: `Settings`.
      seconds: about how long to spend on each, where `least_calls` calls do not
        take longer.
      bar: progress bar, updated once for each cell.

    Returns:
      `dict` of key -> `dict` with `median`, quartiles `low` and `high`, `first`,
      what the first call took, all in seconds; and the number of `calls`.
    """
    first, calls = {}, {}
    for key, function in cells.items():
        first[key] = _seconds(function)
        estimate = _seconds(function)
        if estimate < 0.1 * seconds:        # Perhaps still warming up.
            estimate = min(estimate, _seconds(function))
        calls[key] = int(np.clip(seconds / estimate, settings.least_calls,
                                 1000 * settings.rounds))
        bar.update(0.5)
    rng = np.random.default_rng(0)
    rounds = {key: [] for key in cells}
    for i in range(settings.rounds):
        for index in rng.permutation(len(cells)):
            key, function = list(cells.items())[index]
            # Slow functions are called in some of the rounds, evenly spread.
            share = ((i + 1) * calls[key] // settings.rounds
                     - i * calls[key] // settings.rounds)
            if share > 1:
                function()      # Its data and threads come back to the caches.
            if share:
                rounds[key].append(np.median(
                    [_seconds(function) for _ in range(share)]))
    bar.update(0.5 * len(cells))
    result = {}
    for key, values in rounds.items():
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        result[key] = dict(median=median, low=low, high=high, first=first[key],
                           calls=calls[key])
    return result


def _seconds(function):
    # TensorFlow on a CPU and PyTorch return when they are done; JAX is made to.
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def data(architecture, batch, seed=0):
    """Arrays `y [batch, D]` and `c [batch, S]`."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=[batch, architecture.event_size]),
            rng.normal(size=[batch, architecture.condition_size]))


def check_agreement(implementations, architecture):
    """Asserts that TensorFlow implementations compute the same thing.

    Log-densities, their gradients, and samples for given noise.

    Args:
      implementations: at least two, with equal weights.
      architecture: `Architecture` of them all.

    Returns:
      The largest difference of log-densities, relative to their size.
    """
    y, c = (tf.constant(array, tf.float32) for array in data(architecture, 16, 1))
    results = []
    for implementation in implementations:
        with tf.GradientTape() as tape:
            log_prob = implementation.log_prob(y, c)
        results.append((log_prob, implementation.forward(y, c),
                        *tape.gradient(log_prob, implementation.variables)))
    for result in results[1:]:
        for want, got in zip(results[0], result, strict=True):
            np.testing.assert_allclose(
                got, want, rtol=1e-5,
                atol=1e-5 * max(1., float(tf.reduce_max(tf.abs(want)))))
    return max(float(tf.reduce_max(tf.abs(result[0] / results[0][0] - 1.)))
               for result in results)


def run_main(settings, results, progress, save):
    """Every operation of every implementation."""
    built, results['absent'] = peers.available(settings.architecture)
    counts = {name: built[name].num_parameters for name in built}
    assert len(set(counts.values())) == 1, f'Unequal numbers of parameters: {counts}'
    results['parameters'] = counts
    results['agreement'] = check_agreement(
        [built[name].perturb() for name in peers.TENSORFLOW], settings.architecture)

    results['main'] = []
    cases = [(operation, batch) for operation in peers.OPERATIONS
             for batch in settings.batches]
    with progress(len(cases) * sum(len(flow.modes) for flow in built.values()),
                  'main') as bar:
        for operation, batch in cases:
            arrays = data(settings.architecture, batch)
            record(results['main'], {
                (operation, batch, name, mode): _bind(
                    flow.operation(operation, mode), *map(flow.tensor, arrays))
                for name, flow in built.items() for mode in flow.modes},
                   ('operation', 'batch', 'name', 'mode'), settings, bar)
            save()


def record(records, cells, fields, settings, bar, seconds=None):
    """Adds what `measure` finds, with the parts of the keys as `fields`."""
    times = measure(cells, settings, seconds or settings.seconds, bar)
    records += [dict(zip(fields, key), **cell) for key, cell in times.items()]


def _bind(function, *arguments):
    return lambda: function(*arguments)


def run_eager(settings, results, progress, save):
    """Calls that are made eagerly, next to the same ones compiled."""
    built, results['absent'] = peers.available(
        settings.architecture, (OURS, STOCK_CLASS) + peers.PEERS)
    cases = {}
    for name, flow in built.items():
        given = () if name in peers.PEERS else tuple(peers.GIVEN)
        if given:
            flow.perturb()
        for call in peers.CALLS + given:
            for mode in ('eager', 'graph') if name == OURS else flow.modes[:1]:
                cases[call, name, mode] = flow.operation(call, mode)
    results['eager'] = []
    with progress(len(cases) * len(settings.batches), 'eager') as bar:
        for batch in settings.batches:
            arrays, found = data(settings.architecture, batch), []
            record(found, {
                (call, batch, name, mode): _bind(
                    function, *map(built[name].tensor, arrays))
                for (call, name, mode), function in cases.items()},
                   ('call', 'batch', 'name', 'mode'), settings, bar)
            # What is the only way of a package is that of `given` too.
            results['eager'] += found + [
                dict(cell, call=way) for cell in found if cell['name'] in peers.PEERS
                for way, call in peers.GIVEN.items() if call == cell['call']]
            save()


def run_hot(settings, results, progress, save):
    """The least that one call takes from NumPy to NumPy, package by package."""
    batch = settings.hot_batch
    built, results['absent'] = peers.available(
        settings.architecture, (OURS,) + peers.PEERS)
    built[OURS].perturb()
    y, c = (array.astype(np.float32) for array in data(settings.architecture, batch))
    empty = tf.function(lambda c: c, jit_compile=True).get_concrete_function(
        tf.TensorSpec(c.shape, tf.float32))
    results['hot'] = []
    with progress(0, 'hot') as bar:
        for operation in peers.CALLS:
            cells = {(operation, 'TensorFlow', 'an empty function, XLA'):
                         lambda: empty(tf.constant(c)).numpy()}
            for name, flow in built.items():
                for how, function in flow.hot(operation, batch).items():
                    cells[operation, name, how] = _bind(function, y, c)
            bar.total += len(cells)
            record(results['hot'], cells, ('operation', 'name', 'how'), settings, bar)
            save()


def run_sweeps(settings, results, progress, save):
    """Sizes, samples for each condition, and first calls over the couplings."""
    records, first_calls = results['sweeps'], results['first_call'] = [], []
    fields, seconds = ('name', 'operation', 'mode'), settings.sweep_seconds
    cases = (('log_prob', 'graph'), ('log_prob', 'XLA'), ('train', 'graph'))
    points = {}
    for field, values in settings.sweeps:
        for value in values:
            architecture = dataclasses.replace(
                settings.architecture, **{field: value})
            points.setdefault(architecture, {})[field] = value
    names = {architecture: (FLOOR, OURS) + (STOCK_TFP,) * ('num_layers' in values)
             for architecture, values in points.items()}
    total = len(cases) * sum(map(len, names.values()))
    with progress(total + 4 * len(settings.samples), 'sweeps') as bar:
        # What TensorFlow itself does when first called is nobody's first call.
        warm_up = _construct(FLOOR, QUICK.architecture)
        for case in cases:
            warm_up.operation(*case)(*map(warm_up.tensor, data(QUICK.architecture, 2)))
        for architecture, values in points.items():
            arrays = data(architecture, settings.sweep_batch)
            cells, construction, found = {}, {}, []
            for name in names[architecture]:
                start = time.perf_counter()
                flow = _construct(name, architecture)
                construction[name] = time.perf_counter() - start
                flow.perturb()
                for case in cases:
                    cells[name, *case] = _bind(flow.operation(*case),
                                               *map(flow.tensor, arrays))
            record(found, cells, fields, settings, bar, seconds)
            records += [dict(cell, sweep=field, value=value) for cell in found
                        for field, value in values.items()]
            if 'num_layers' in values:
                first_calls += [
                    dict({field: cell[field] for field in fields}, sweep='first_call',
                         value=architecture.num_layers, median=cell['first'],
                         construction=construction[cell['name']]) for cell in found]
            save()
        architecture = _samples_architecture(settings)
        pair = {name: _construct(name, architecture).perturb()
                for name in (FLOOR, OURS)}
        c = data(architecture, settings.samples_batch)[1]
        for n in settings.samples:
            record(records, {
                ('samples', n, 'sample', name, mode): _bind(
                    flow.sampler(n, mode), flow.tensor(c))
                for name, flow in pair.items() for mode in ('graph', 'XLA')},
                   ('sweep', 'value', 'operation', 'name', 'mode'), settings, bar,
                   seconds)
            save()


def _construct(name, architecture):
    return peers.load(peers.CLASSES[name])('real_nvp', architecture)


def _samples_architecture(settings):
    return dataclasses.replace(settings.architecture,
                               condition_size=settings.samples_condition_size)


def run_imports(settings, results, progress, save):
    """Seconds that importing takes, each in a process of its own."""
    records = results['imports'] = []
    with progress(len(settings.packages) * settings.repetitions, 'imports') as bar:
        times = []
        for _ in range(settings.repetitions):
            times.append([])
            for package in settings.packages:
                times[-1].append(_import_seconds(package))
                bar.update()
        records += [dict(name=package, median=np.median(values)) for package, *values
                    in zip(settings.packages, *times) if None not in values]
    save()


def _import_seconds(package):
    """Seconds of a process that imports it less those of one that does not."""
    def run(code):
        start = time.perf_counter()
        process = subprocess.run([sys.executable, '-c', code], env=os.environ,
                                 capture_output=True, check=False)
        return time.perf_counter() - start if process.returncode == 0 else None
    # TFP imports its parts when they are first used.
    code = f'import {package} as p' + (
        '; p.bijectors.Bijector, p.distributions.Distribution'
        if package == 'tensorflow_probability' else '')
    seconds = run(code)
    return None if seconds is None else seconds - run('pass')


def run_memory(settings, results, progress, save):
    """The memory that many samples for each condition take."""
    built, results['absent'] = peers.available(
        _samples_architecture(settings), (FLOOR, OURS) + peers.PEERS)
    # Of TensorFlow's modes the compiled ones: eagerly it is the graph that runs.
    cases = [('memory_case', name, mode) for name in built
             for mode in built[name].modes[-2:]]
    _run_cases('memory', cases, settings, results, progress, save)


def run_fits(settings, results, progress, save):
    """The memory that fits leave behind, of flows that are let go of."""
    cases = [('fits_case', name, *map(str, fits)) for fits in settings.fits
             for name in FITTED]
    _run_cases('fits', cases, settings, results, progress, save)


def _run_cases(section, cases, settings, results, progress, save):
    """Runs functions of this module, each in a process of its own, two at once."""
    def run(case):
        process = subprocess.run(
            [sys.executable, __file__] + ['--quick'] * (settings is QUICK)
            + ['--case', *case], stdout=subprocess.PIPE, check=True)
        return json.loads(process.stdout.splitlines()[-1])

    records = results[section] = []
    cases = cases[:settings.memory_cases]
    with concurrent.futures.ThreadPoolExecutor(2) as pool, progress(
            len(cases), section) as bar:
        for found in pool.map(run, cases):
            records.append(found)
            bar.update()
            save()


def memory_case(settings, name, mode):
    """Prints by how much this process grows for one implementation's samples."""
    architecture = _samples_architecture(settings)
    flow = _construct(name, architecture)
    c = flow.tensor(data(architecture, settings.samples_batch)[1])
    flow.sampler(1, mode)(c)
    sampler = flow.sampler(settings.samples[-1], mode)
    print(json.dumps(dict(name=name, mode=mode, first=_growth(lambda: sampler(c)),
                          again=_growth(lambda: sampler(c)),
                          peak=_memory('VmHWM'))))


FITTED = {
    'affine couplings': lambda architecture: _construct(OURS, architecture).distribution,
    '`conditional_density`': lambda architecture: tfpc.conditional_density(
        architecture.event_size, architecture.condition_size)}


def fits_case(settings, name, mode, *counts):
    """Prints the memory that this process takes after so many fits, and so many."""
    y, c = data(settings.architecture, 64)
    taken, graphs = [], []
    counts = list(map(int, counts))
    for i in range(counts[-1]):
        tfpc.fit(FITTED[name](settings.architecture), y, c, epochs=2, batch_size=32,
                 jit_compile=mode == 'XLA', verbose=False)
        if i + 1 in counts:
            gc.collect()
            taken.append(_memory('VmRSS'))
            graphs.append(sum(isinstance(thing, tf.__internal__.FuncGraph)
                              for thing in gc.get_objects()))
    print(json.dumps(dict(name=name, mode=mode, fits=counts, taken=taken,
                          graphs=graphs)))


def _growth(function):
    """Bytes by which a call raises this process's peak over what it held before."""
    try:
        # What earlier calls have freed must not serve this one unseen.
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    except (OSError, AttributeError):
        pass        # Not Linux with glibc: growth beyond any earlier peak.
    before = _memory('VmHWM')
    function()
    return _memory('VmHWM') - before


def _memory(field):
    """Bytes, from Linux's account of this process.

    `ru_maxrss` would be at least what the parent had in use when it forked, and
    stands in only where there is no such account.
    """
    try:
        status = pathlib.Path('/proc/self/status').read_text(encoding='ascii')
        return 1024 * int(re.search(rf'{field}:\s+(\d+)', status)[1])
    except (OSError, TypeError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('speed'),
                        help='directory to write to')
    parser.add_argument('--sections', default=','.join(SECTIONS),
                        help='which to run, separated by commas')
    parser.add_argument('--quick', action='store_true',
                        help='tiny sizes; the numbers mean nothing')
    parser.add_argument('--case', nargs='+', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    # Every function that is timed is new to TensorFlow, which warns of retracing.
    tf.get_logger().setLevel('ERROR')
    if arguments.case:
        function, *case = arguments.case
        globals()[function](settings, *case)
        return
    import speed_report     # Of what it imports no case should hold the memory.
    sections = arguments.sections.split(',')
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f'--sections must be among {",".join(SECTIONS)}; got '
                     f'{sorted(unknown)}')
    results = {'environment': speed_report.report.environment(),
               'settings': dataclasses.asdict(settings)}

    def progress(total, label):
        return tqdm.tqdm(total=total, desc=label, bar_format=(
            '{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}'))

    for section in SECTIONS:
        if section in sections:
            globals()[f'run_{section}'](
                settings, results, progress, lambda: speed_report.write(results, arguments.out))
    speed_report.draw(results, arguments.out)
    print(speed_report.to_markdown(results))


if __name__ == '__main__':
    main()
