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
import datetime
import gc
import importlib.metadata
import json
import pathlib
import platform
import re
import resource
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tqdm

import tfp_conditional as tfpc
import peers
from peers import Architecture, Floor, Ours

tfd, tfb = tfp.distributions, tfp.bijectors

SECTIONS = ('main', 'eager', 'hot', 'sweeps', 'imports', 'memory', 'fits')
# Of nflows and FlowJAX the package itself is empty.
PACKAGES = ('tensorflow', 'tensorflow_probability', 'tfp_conditional', 'torch',
            'zuko', 'nflows.flows', 'normflows', 'jax', 'flowjax.flows')
# The mode of TensorFlow that the only mode of others is compared with.
EQUIVALENT = {'jit': 'XLA'}


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
    architecture = settings.architecture
    built, results['absent'] = peers.available(architecture)
    counts = {name: built[name].num_parameters for name in built}
    assert len(set(counts.values())) == 1, f'Unequal numbers of parameters: {counts}'
    results['parameters'] = counts
    ours = [built[kind.name].perturb() for kind in peers.TENSORFLOW]
    results['agreement'] = check_agreement(ours, architecture)

    records = results['main'] = []
    modes = [(name, mode) for name in built for mode in built[name].modes]
    cases = [(operation, batch) for operation in peers.OPERATIONS
             for batch in settings.batches]
    with progress(len(cases) * len(modes), 'main') as bar:
        for operation, batch in cases:
            arrays = data(architecture, batch)
            cells = {
                (name, mode): _bind(built[name].operation(operation, mode),
                                    *map(built[name].tensor, arrays))
                for name, mode in modes}
            for (name, mode), times in measure(
                    cells, settings, settings.seconds, bar).items():
                records.append(dict(operation=operation, batch=batch, name=name,
                                    mode=mode, **times))
            save()


def _bind(function, *arguments):
    return lambda: function(*arguments)


def run_eager(settings, results, progress, save):
    """Calls that are made eagerly, next to the same ones compiled."""
    built, results['absent'] = peers.available(
        settings.architecture, (Ours, peers.StockClass) + peers.PEERS)
    records = results['eager'] = []
    cases = {}
    for name, flow in built.items():
        calls = peers.CALLS
        if isinstance(flow, Ours):
            flow.perturb()
            calls += tuple(peers.GIVEN)
        modes = ('eager', 'graph') if name == Ours.name else flow.modes[:1]
        for call in calls:
            for mode in modes:
                cases[call, name, mode] = flow.operation(call, mode)
    with progress(len(cases) * len(settings.batches), 'eager') as bar:
        for batch in settings.batches:
            arrays = data(settings.architecture, batch)
            times = measure(
                {case: _bind(function, *map(built[case[1]].tensor, arrays))
                 for case, function in cases.items()},
                settings, settings.seconds, bar)
            for (call, name, mode), cell in times.items():
                ways = [call] if isinstance(built[name], Ours) else [
                    call, *(way for way in peers.GIVEN if peers.GIVEN[way] == call)]
                records += [dict(call=way, batch=batch, name=name, mode=mode, **cell)
                            for way in ways]
            save()


EMPTY = 'an empty function, XLA'


def run_hot(settings, results, progress, save):
    """The least that one call takes from NumPy to NumPy, package by package."""
    built, results['absent'] = peers.available(
        settings.architecture, (Ours,) + peers.PEERS)
    built[Ours.name].perturb()
    y, c = (array.astype(np.float32) for array in data(
        settings.architecture, settings.hot_batch))
    empty = tf.function(lambda c: c, jit_compile=True).get_concrete_function(
        tf.TensorSpec(c.shape, tf.float32))
    records = results['hot'] = []
    with progress(0, 'hot') as bar:
        for operation in peers.CALLS:
            cells = {('TensorFlow', EMPTY): lambda: empty(tf.constant(c)).numpy()}
            for name, flow in built.items():
                for how, function in flow.hot(operation, settings.hot_batch).items():
                    cells[name, how] = _bind(function, y, c)
            bar.total += len(cells)
            for (name, how), times in measure(
                    cells, settings, settings.seconds, bar).items():
                records.append(dict(operation=operation, name=name, how=how, **times))
            save()


def run_sweeps(settings, results, progress, save):
    """Sizes, samples for each condition, and first calls over the couplings."""
    records, first_calls = [], []
    results.update(sweeps=records, first_call=first_calls)
    cases = (('log_prob', 'graph'), ('log_prob', 'XLA'), ('train', 'graph'))
    points = {}
    for field, values in settings.sweeps:
        for value in values:
            architecture = dataclasses.replace(
                settings.architecture, **{field: value})
            points.setdefault(architecture, {})[field] = value
    kinds = {architecture: (Floor, Ours) + (peers.StockTFP,) * ('num_layers' in fields)
             for architecture, fields in points.items()}
    total = len(cases) * sum(map(len, kinds.values()))
    with progress(total + 4 * len(settings.samples), 'sweeps') as bar:
        # What TensorFlow itself does when first called is nobody's first call.
        y, c = map(Ours.tensor, data(QUICK.architecture, 2))
        warm_up = Floor(QUICK.architecture)
        for operation, mode in cases:
            warm_up.operation(operation, mode)(y, c)
        for architecture, fields in points.items():
            y, c = map(Ours.tensor, data(architecture, settings.sweep_batch))
            cells, construction = {}, {}
            for kind in kinds[architecture]:
                start = time.perf_counter()
                flow = kind(architecture)
                construction[kind.name] = time.perf_counter() - start
                for operation, mode in cases:
                    cells[kind.name, operation, mode] = _bind(
                        flow.perturb().operation(operation, mode), y, c)
            times = measure(cells, settings, settings.sweep_seconds, bar)
            for (name, operation, mode), cell in times.items():
                labels = dict(name=name, operation=operation, mode=mode)
                records += [dict(sweep=field, value=value, **labels, **cell)
                            for field, value in fields.items()]
                if 'num_layers' in fields:
                    first_calls.append(dict(
                        sweep='first_call', value=architecture.num_layers,
                        construction=construction[name], **labels,
                        median=cell['first']))
            save()
        architecture = _samples_architecture(settings)
        pair = {kind.name: kind(architecture).perturb() for kind in (Floor, Ours)}
        pair[Floor.name].concatenate_kernels()
        c = Ours.tensor(data(architecture, settings.samples_batch)[1])
        for n in settings.samples:
            cells = {(name, mode): _bind(pair[name].sampler(n, mode), c)
                     for name in pair for mode in ('graph', 'XLA')}
            for (name, mode), times in measure(
                    cells, settings, settings.sweep_seconds, bar).items():
                records.append(dict(sweep='samples', value=n, name=name, mode=mode,
                                    operation='sample', **times))
            save()


def _samples_architecture(settings):
    return dataclasses.replace(settings.architecture,
                               condition_size=settings.samples_condition_size)


def run_imports(settings, results, progress, save):
    """Seconds that importing takes, each in a process of its own."""
    records = results['imports'] = []
    with progress(len(settings.packages) * settings.repetitions, 'imports') as bar:
        times = {package: [] for package in settings.packages}
        for _ in range(settings.repetitions):
            for package in settings.packages:
                times[package].append(_import_seconds(package))
                bar.update()
        for package, values in times.items():
            if None not in values:
                records.append(dict(name=package, median=np.median(values)))
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
        _samples_architecture(settings), (Floor, Ours) + peers.PEERS)
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
        for record in pool.map(run, cases):
            records.append(record)
            bar.update()
            save()


def memory_case(settings, name, mode):
    """Prints by how much this process grows for one implementation's samples."""
    kind = next(kind for kind in peers.TENSORFLOW + peers.PEERS if kind.name == name)
    architecture = _samples_architecture(settings)
    flow = kind(architecture)
    if kind is Floor:
        flow.concatenate_kernels()
    c = flow.tensor(data(architecture, settings.samples_batch)[1])
    flow.sampler(1, mode)(c)
    sampler = flow.sampler(settings.samples[-1], mode)
    print(json.dumps(dict(name=name, mode=mode, first=_growth(lambda: sampler(c)),
                          again=_growth(lambda: sampler(c)),
                          peak=_memory('VmHWM'))))


FITTED = {
    'affine couplings': lambda architecture: Ours(architecture).distribution,
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


def environment():
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    try:
        cpu = re.search(r'model name\s*: (.*)', pathlib.Path(
            '/proc/cpuinfo').read_text(encoding='utf-8'))[1]
    except (OSError, TypeError):
        pass
    record = {
        'date': datetime.date.today().isoformat(), 'CPU': cpu,
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                 else os.cpu_count(),
        'load before': round(os.getloadavg()[0], 2),
        'system': platform.system(), 'Python': platform.python_version(),
        'tfp_conditional': tfpc.__version__}
    for package in ('numpy', 'tensorflow', 'keras', 'tensorflow-probability',
                    'torch', 'zuko', 'nflows', 'normflows', 'jax', 'flowjax'):
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[package] = 'not installed'
    return record


def ms(seconds):
    """A time in milliseconds, three digits."""
    return f'{1e3 * seconds:.3g}' if seconds < 1. else f'{1e3 * seconds:.0f}'


def table(header, rows):
    """A table in markdown; all columns but the first are numbers."""
    lines = [header, ['---'] + ['--:'] * (len(header) - 1), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |'
                     for line in lines) + '\n'


def to_markdown(results):
    """The report of all sections that were run."""
    settings = results['settings']
    architecture = settings['architecture']
    parts = ['# Speed\n', ', '.join(
        f'{key}: {value}' for key, value in results['environment'].items()) + '.\n']
    if 'parameters' in results:
        parts.append(
            'Conditional affine Real NVP, D = {event_size}, {condition_size} '
            'conditions, {num_layers} couplings, hidden layers {hidden_layers}, '
            'float32, '.format(**architecture)
            + f'{set(results["parameters"].values()).pop()} parameters in each of '
            + ', '.join(results['parameters']) + '. Log-densities of the TensorFlow '
            f'implementations agree to {results["agreement"]:.1e} (relative), and '
            'so do gradients and samples. `train` is the loss, the gradients of all '
            "parameters and a step of the framework's own Adam. PyTorch runs under "
            '`no_grad` where nothing is trained.\n')
    for name, reason in results.get('absent', {}).items():
        parts.append(f'Not measured: {name}: {reason}.\n')
    parts += ['## Targets\n\nThe worst of all cases, with where it was.\n', table(
        ['target', 'measured', 'met'],
        [(text, measured, 'yes' if met else 'NO')
         for text, measured, met in targets(results)])]
    if 'main' in results:
        parts += _summary_table(results['main'])
        parts += _main_tables(results['main'])
    if 'eager' in results:
        parts += _eager_table(results['eager'])
    if 'hot' in results:
        parts += _hot_table(results['hot'], settings['hot_batch'])
    if 'sweeps' in results:
        parts += _sweep_tables(results['sweeps'], settings)
        parts += _first_call_table(results['first_call'])
    if 'imports' in results:
        parts += ['## Import\n\nSeconds of a process that does nothing else.\n',
                  table(['package', 's'], [[r['name'], f'{r["median"]:.2f}']
                                           for r in results['imports']])]
    if 'memory' in results:
        parts.append(
            f'## Memory\n\n{settings["samples"][-1]} samples for each of '
            f'{settings["samples_batch"]} conditions of width '
            f'{settings["samples_condition_size"]}: by how much the peak of a '
            'process of its own exceeds what it held before the call. The first '
            'call for this number of samples traces and compiles. MB.\n')
        parts.append(table(
            ['implementation', 'mode', 'first call', 'later call'],
            [[r['name'], r['mode'], f'{r["first"] / 1e6:.1f}',
              f'{r["again"] / 1e6:.1f}'] for r in results['memory']]))
    if 'fits' in results:
        parts += _fits_table(results['fits'])
    return '\n'.join(parts)


def targets(results):
    """What was asked for, as far as the sections that were run can tell.

    Returns:
      A list of target, measured and met: `str`, `str` and `bool`.
    """
    rows = []

    def add(text, ratios, bound, least=False):
        """Holds the worst of `ratios`, place -> ratio, against a bound."""
        if ratios:
            place = (min if least else max)(ratios, key=ratios.get)
            worst = ratios[place]
            rows.append((text, f'{worst:.3g} ({place})',
                         bool(worst >= bound if least else worst <= bound)))

    if 'eager' in results:
        times = _medians(results['eager'], 'call', 'batch', 'name', 'mode')

        def over(name, mode, largest=np.inf):
            return {f'{_call(call)}, batch {batch}':
                        times[call, batch, Ours.name, 'eager'] / seconds
                    for (call, batch, *of), seconds in times.items()
                    if of == [name, mode] and batch <= largest}

        add('eager: at most 1.3 times the same call in a held `tf.function`, at '
            'batches up to 256', over(Ours.name, 'graph', 256), 1.3)
        for peer in (peers.Zuko, peers.NFlows):
            add(f'eager: at most the time of {peer.name}', over(peer.name, 'eager'), 1.)
    if 'hot' in results:
        times = _medians(results['hot'], 'operation', 'name', 'how')
        for how, bound in (('`compiled`, XLA', 1.2), ('`compiled`, XLA, frozen', 1.)):
            add(f"hot loop, {how}: at most {bound:.1f} times FlowJAX's jit",
                {_call(operation): times[operation, Ours.name, how] / seconds
                 for (operation, *of), seconds in times.items()
                 if of == [peers.FlowJAX.name, 'jit']}, bound)
    if 'main' in results:
        times = _medians(results['main'], 'operation', 'batch', 'name', 'mode')
        for mode in ('graph', 'XLA'):
            add(f'compiled, {mode}: at most 1.1 times {Floor.name}',
                {f'`{operation}`, batch {batch}': seconds
                 / times[operation, batch, Floor.name, mode]
                 for (operation, batch, *of), seconds in times.items()
                 if of == [Ours.name, mode]}, 1.1)
        best = _compiled(results['main'])
        for peer in (peers.FlowJAX, peers.Zuko, peers.NFlows):
            add(f'compiled, the faster mode: at most the time of {peer.name}',
                {f'`{operation}`, batch {batch}':
                     best[operation, batch, Ours.name] / seconds
                 for (operation, batch, name), seconds in best.items()
                 if name == peer.name}, 1.)
    if 'sweeps' in results:
        times = _medians(results['sweeps'], 'sweep', 'value', 'mode', 'name')
        most = results['settings']['samples'][-1]
        add(f'{most} samples for each condition: at least 4 times faster than '
            'concatenating',
            {mode: times['samples', most, mode, Floor.name]
             / times['samples', most, mode, Ours.name]
             for mode in ('graph', 'XLA')
             if ('samples', most, mode, Ours.name) in times}, 4., least=True)
        first = _medians(results['first_call'], 'operation', 'mode', 'value', 'name')
        layers = sorted({value for _, _, value, _ in first})[-2:]
        add('first call: at most linear in the couplings (1 is linear)',
            {f'`{operation}` {mode}, from {layers[0]} to {layers[1]}':
                 first[operation, mode, layers[1], name] / seconds
                 * layers[0] / layers[1]
             for (operation, mode, value, name), seconds in first.items()
             if len(layers) == 2 and (value, name) == (layers[0], Ours.name)}, 1.)
        add("first call: at most stock TFP's time",
            {f'`{operation}` {mode}, couplings: {value}':
                 first[operation, mode, value, Ours.name] / seconds
             for (operation, mode, value, name), seconds in first.items()
             if name == peers.StockTFP.name}, 1.)
    if 'memory' in results:
        peak = {(r['name'], r['mode']): r['again'] for r in results['memory']}
        add('the memory of these samples: at most that of concatenating',
            {mode: peak[name, mode] / max(peak[Floor.name, mode], 1)
             for name, mode in peak if name == Ours.name}, 1.)
    if 'fits' in results:
        add('memory after the last fit without XLA: at most 1.05 times that after '
            'the second', {r['name']: r['taken'][1] / r['taken'][0]
                           for r in results['fits'] if r['mode'] == 'graph'}, 1.05)
        add('live `FuncGraph`s after the last fit: none',
            {f'{r["name"]}, {r["mode"]}': r['graphs'][1]
             for r in results['fits']}, 0)
    return rows


def _medians(records, *fields):
    return {tuple(r[field] for field in fields): r['median'] for r in records}


def _compiled(records):
    """(operation, batch, name) -> median in the faster compiled mode, if any."""
    times = {}
    for r in records:
        if r['mode'] != 'eager' or r['name'] in (peers.Zuko.name, peers.NFlows.name):
            key = r['operation'], r['batch'], r['name']
            times[key] = min(r['median'], times.get(key, np.inf))
    return times


def _summary_table(records):
    times = _compiled(records)
    names = dict.fromkeys(name for _, _, name in times if name != Ours.name)
    rows = []
    for case in dict.fromkeys(key[:2] for key in times):
        ours = times[(*case, Ours.name)]
        others = [times[(*case, name)] for name in names]
        rows.append([f'`{case[0]}`', case[1], *_over(ours, others)])
    return ['## Summary\n\nMedians in ms and, in brackets, how many times that of '
            f'{Ours.name}. Each compiled, in the faster of its modes, but PyTorch '
            'eager.\n', table(['operation', 'batch', Ours.name, *names], rows)]


def _main_tables(records):
    parts = ['## Operations\n\nMedians in ms; `/floor` and `/ours` are ratios to '
             f'{Floor.name} and to {Ours.name} in the same mode (FlowJAX: to XLA), '
             'so more than 1 in `/ours` is slower than this package. `first` is the '
             'first call, the median over batch sizes.\n']
    index = {(r['operation'], r['name'], r['mode'], r['batch']): r for r in records}
    for operation in dict.fromkeys(r['operation'] for r in records):
        batches = dict.fromkeys(r['batch'] for r in records
                                if r['operation'] == operation)
        rows = []
        for name, mode in dict.fromkeys((r['name'], r['mode']) for r in records):
            cells = [index[operation, name, mode, batch] for batch in batches]
            row = [name, mode, ms(np.median([cell['first'] for cell in cells]))]
            for batch, cell in zip(batches, cells):
                row.append(f'**{ms(cell["median"])}**')
                for other in (Floor.name, Ours.name):
                    reference = index[operation, other,
                                      EQUIVALENT.get(mode, mode), batch]
                    row.append(f'{cell["median"] / reference["median"]:.2f}')
            rows.append(row)
        header = ['implementation', 'mode', 'first']
        for batch in batches:
            header += [f'batch {batch}', '/floor', '/ours']
        parts += [f'### `{operation}`\n', table(header, rows)]
    return parts


def _call(call):
    """A call as it is written."""
    return f'`{call.replace("given_", "given(c).")}`'


def _over(first, others):
    """Cells: a time in bold, and others with how many times that they are."""
    return [f'**{ms(first)}**',
            *(f'{ms(other)} ({other / first:.2f})' for other in others)]


def _eager_table(records):
    times = _medians(records, 'call', 'batch', 'name', 'mode')
    columns = dict.fromkeys(key[2:] for key in times)
    rows = []
    for case in sorted(dict.fromkeys(key[:2] for key in times),
                       key=lambda case: [*peers.CALLS, *peers.GIVEN].index(case[0])):
        first, *others = [times[case + column] for column in columns]
        rows.append([_call(case[0]), case[1], *_over(first, others)])
    return ['## Eager calls\n\nMedians in ms and, in brackets, how many times that of '
            f'{Ours.name} called eagerly. `graph` is the same call in a held '
            '`tf.function`. What other packages do for `given(c)` is their only way.\n',
            table(['call', 'batch', *map(', '.join, columns)], rows)]


def _hot_table(records, batch):
    times = _medians(records, 'operation', 'name', 'how')
    reference = (Ours.name, '`compiled`, XLA')
    operations = list(dict.fromkeys(r['operation'] for r in records))
    rows = []
    for case in dict.fromkeys((r['name'], r['how']) for r in records):
        row = list(case)
        for operation in operations:
            seconds = times.get((operation, *case))
            row.append('–' if seconds is None else f'{ms(seconds)} '
                       f'({seconds / times[(operation, *reference)]:.2f})')
        rows.append(row)
    return [f'## Hot loop\n\nOne call at batch {batch}, from NumPy to NumPy. Medians '
            f'in ms and, in brackets, how many times that of {", ".join(reference)}. '
            '`frozen`: the weights are constants. Keys of FlowJAX are split by its '
            'compiled function, or before it. The empty function is what a call of '
            'TensorFlow costs in any case.\n',
            table(['implementation', 'call', *map(_call, operations)], rows)]


def _fits_table(records):
    rows = []
    for r in records:
        (early, late), (before, after) = r['fits'], r['taken']
        rows.append([r['name'], r['mode'], f'{before / 1e6:.0f} ({early})',
                     f'{after / 1e6:.0f} ({late})',
                     f'{(after - before) / (late - early) / 1e6:.1f}',
                     f'{100. * (after / before - 1.):.1f} %', r['graphs'][1]])
    return ['## Memory after fits\n\nOf one process, each fit of a new distribution '
            'that is let go of. MB after so many fits, in brackets; TensorFlow keeps '
            'what XLA has compiled for as long as the process lives.\n', table(
                ['flow', 'mode', 'early', 'late', 'a fit more', 'growth',
                 'live `FuncGraph`s'], rows)]


SWEEP_TITLES = {'event_size': 'Units D', 'num_layers': 'Couplings',
                'condition_size': 'Width of the conditions',
                'samples': 'Samples for each condition',
                'first_call': 'First call, by couplings'}


def _sweep_tables(records, settings):
    parts = ['## Sweeps\n\nMedians of this package in ms, batch '
             f'{settings["sweep_batch"]}; in brackets the ratio to {Floor.name}.\n']
    index = {(r['sweep'], r['value'], r['name'], r['mode'], r['operation']):
             r['median'] for r in records}
    for sweep in dict.fromkeys(r['sweep'] for r in records):
        columns = dict.fromkeys((r['operation'], r['mode']) for r in records
                                if r['sweep'] == sweep)
        rows = []
        for value in sorted({r['value'] for r in records if r['sweep'] == sweep}):
            row = [value]
            for operation, mode in columns:
                mine, floor = (index[sweep, value, kind.name, mode, operation]
                               for kind in (Ours, Floor))
                row.append(f'{ms(mine)} ({mine / floor:.2f})')
            rows.append(row)
        note = ''
        if sweep == 'samples':
            note = (f' ({settings["samples_batch"]} conditions of width '
                    f'{settings["samples_condition_size"]}, `given(c)`; '
                    'the floor concatenates the conditions to every sample)')
        parts += [f'### {SWEEP_TITLES[sweep]}{note}\n', table(
            [sweep, *(f'`{operation}` {mode}' for operation, mode in columns)],
            rows)]
    return parts


def _first_call_table(records):
    columns = dict.fromkeys((r['operation'], r['mode']) for r in records)
    index = {(r['value'], r['name'], r['operation'], r['mode']): r for r in records}
    rows = []
    for value, name in sorted(dict.fromkeys(
            (r['value'], r['name']) for r in records), key=lambda case: case[0]):
        cells = [index[value, name, *column] for column in columns]
        rows.append([value, name, ms(cells[0]['construction']),
                     *(ms(cell['median']) for cell in cells)])
    return ['## Construction and first calls\n\nms.\n', table(
        ['couplings', 'implementation', 'construction',
         *(f'`{operation}` {mode}' for operation, mode in columns)], rows)]


COLOURS = {Ours.name: '#d62728', Floor.name: '#000000', 'stock TFP': '#7f7f7f',
           peers.StockClass.name: '#ff7f0e',
           'zuko': '#1f77b4', 'nflows': '#2ca02c', 'FlowJAX': '#9467bd'}
STYLES = {'graph': '--', 'XLA': '-', 'jit': '-', 'eager': ':', '': '-.'}


def _pyplot():
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    pyplot.rcParams.update({'font.size': 10, 'axes.spines.top': False,
                            'axes.spines.right': False})
    return pyplot


def draw_main(results, path):
    """One panel for each operation: a row for each implementation and mode."""
    pyplot = _pyplot()
    batches = results['settings']['batches']
    records = results['main']
    rows = list(dict.fromkeys((r['name'], r['mode']) for r in records))[::-1]
    figure, axes = pyplot.subplots(
        2, 2, figsize=(11, 2 + 0.5 * len(rows)), sharey=True, layout='constrained')
    for axis, operation in zip(axes.flat, peers.OPERATIONS):
        for y, (name, mode) in enumerate(rows):
            times = {r['batch']: 1e3 * r['median'] for r in records if (
                r['operation'], r['name'], r['mode']) == (operation, name, mode)}
            axis.plot(times.values(), [y] * len(times), color=COLOURS[name], lw=1,
                      zorder=1)
            for time_, marker in ((times[batch], marker) for batch, marker
                                  in zip(batches, 'o^s') if batch in times):
                axis.scatter(time_, y, color=COLOURS[name], marker=marker, s=36,
                             zorder=2)
        axis.set(title=operation, xscale='log')
        axis.set_yticks(range(len(rows)), [f'{name}, {mode}' for name, mode in rows])
        for label, (name, _) in zip(axis.get_yticklabels(), rows):
            label.set_color(COLOURS[name])
        axis.grid(axis='x', which='both', color='#e5e5e5', lw=0.6)
        axis.set_axisbelow(True)
    for axis in axes[1]:
        axis.set_xlabel('median, ms')
    handles = [pyplot.Line2D([], [], color='#444444', marker=marker, ls='',
                             label=f'batch {batch}')
               for batch, marker in zip(batches, 'o^s')]
    figure.legend(handles=handles, loc='outside upper center', ncols=len(handles),
                  frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_sweeps(results, path):
    """One panel for each sweep and operation."""
    pyplot = _pyplot()
    records = results['sweeps'] + results['first_call']
    panels = [(sweep, operation) for operation in ('log_prob', 'train')
              for sweep in ('event_size', 'num_layers', 'condition_size')]
    panels += [('samples', 'sample'), ('first_call', 'log_prob'),
               ('first_call', 'train')]
    panels = [panel for panel in panels if any(
        (r['sweep'], r['operation']) == panel for r in records)]
    figure, axes = pyplot.subplots(
        -(-len(panels) // 3), 3, figsize=(12, 3.4 * -(-len(panels) // 3)),
        squeeze=False, layout='constrained')
    lines = {}
    for axis, (sweep, operation) in zip(axes.flat, panels):
        chosen = [r for r in records
                  if (r['sweep'], r['operation']) == (sweep, operation)]
        for name, mode in dict.fromkeys((r['name'], r['mode']) for r in chosen):
            points = sorted((r['value'], 1e3 * r['median']) for r in chosen
                            if (r['name'], r['mode']) == (name, mode))
            lines[f'{name}, {mode}'], = axis.plot(
                *zip(*points), color=COLOURS[name], ls=STYLES[mode], marker='o',
                ms=4)
        values = sorted({r['value'] for r in chosen})
        axis.set(xscale='log', yscale='log', ylabel='ms',
                 xlabel=SWEEP_TITLES[sweep].split(', by ')[-1],
                 title=operation if sweep != 'first_call'
                 else f'first call of {operation}')
        axis.set_xticks(values, values)
        axis.minorticks_off()
        axis.yaxis.set_minor_locator(pyplot.LogLocator(subs=(2, 5)))
        axis.yaxis.set_major_formatter(pyplot.FuncFormatter('{0:g}'.format))
        axis.yaxis.set_minor_formatter(pyplot.FuncFormatter('{0:g}'.format))
        axis.tick_params(axis='y', which='minor', labelsize=7)
        axis.grid(which='both', color='#e5e5e5', lw=0.6)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    figure.legend(lines.values(), lines.keys(), loc='outside upper center', ncols=3,
                  frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def write(results, out):
    """Writes the report and the raw numbers."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'speed.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    (out / 'speed.md').write_text(to_markdown(results), encoding='utf-8')


def draw(results, out):
    """Draws the pictures."""
    if 'main' in results:
        draw_main(results, out / 'speed.png')
    if 'sweeps' in results:
        draw_sweeps(results, out / 'sweeps.png')


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
    sections = arguments.sections.split(',')
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f'--sections must be among {",".join(SECTIONS)}; got '
                     f'{sorted(unknown)}')
    results = {'environment': environment(),
               'settings': dataclasses.asdict(settings)}

    def progress(total, label):
        return tqdm.tqdm(total=total, desc=label, bar_format=(
            '{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}'))

    for section in SECTIONS:
        if section in sections:
            globals()[f'run_{section}'](
                settings, results, progress, lambda: write(results, arguments.out))
    draw(results, arguments.out)
    print(to_markdown(results))


if __name__ == '__main__':
    main()
