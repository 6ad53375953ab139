"""How fast this package is, next to hand-written TensorFlow and to others.

    python benchmarks/speed.py --out DIR

writes `DIR/speed.md` (tables of medians and ratios), `DIR/speed.json` (the raw
numbers), `DIR/speed.png` and `DIR/sweeps.png`. All implementations have the same
architecture and number of parameters, which is asserted, and run in one process;
those of TensorFlow also have the same weights and must give the same numbers. A
package that is missing is reported.

Every round calls each implementation in turn, in an order shuffled anew, so that
whatever else the machine does falls on all alike. A median is that of the rounds'.
Measure on an idle machine.
"""

import os
# PyTorch's OpenMP threads would otherwise spin after each call, on the cores on
# which the next implementation is being timed.
os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import ctypes
import dataclasses
import datetime
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

SECTIONS = ('main', 'sweeps', 'first_call', 'memory')
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
    rounds: int = 15
    seconds: float = 1.         # for a cell of the main table, about
    sweep_seconds: float = 0.4
    sweep_batch: int = 256
    sweeps: tuple = (('event_size', (2, 8, 32, 128)),
                     ('num_layers', (2, 8, 32)),
                     ('condition_size', (1, 16, 128, 1024)))
    samples: tuple = (1, 10, 100, 1000)
    samples_batch: int = 8
    samples_condition_size: int = 512
    first_call_layers: tuple = (2, 8, 32)
    first_call_seconds: float = 20.         # after which nothing is repeated
    repetitions: int = 3
    packages: tuple = PACKAGES
    memory_cases: int = 100                 # at most


QUICK = Settings(
    architecture=Architecture(4, 3, 2, (8,)), batches=(4,), rounds=2,
    seconds=0.01, sweep_seconds=0.01, sweep_batch=4,
    sweeps=(('event_size', (2,)), ('num_layers', (1,)), ('condition_size', (5,))),
    samples=(3,), samples_batch=2, samples_condition_size=5,
    first_call_layers=(2,), repetitions=1, packages=('numpy',), memory_cases=1)


def measure(cells, settings, seconds, bar):
    """Times functions against each other.

    Args:
      cells: `dict` of key -> function without arguments.
      settings: `Settings`.
      seconds: about how long to spend on each, where `rounds` calls do not take
        longer.
      bar: progress bar, updated once for each cell.

    Returns:
      `dict` of key -> `dict` with `median`, quartiles `low` and `high`, and
      `first`, what the first call took; all in seconds.
    """
    first, calls = {}, {}
    for key, function in cells.items():
        first[key] = _seconds(function)
        function()
        estimate = min(_seconds(function), _seconds(function))
        calls[key] = int(np.clip(seconds / settings.rounds / estimate, 1, 1000))
        bar.update(0.5)
    rng = np.random.default_rng(0)
    rounds = {key: [] for key in cells}
    for _ in range(settings.rounds):
        for index in rng.permutation(len(cells)):
            key, function = list(cells.items())[index]
            if calls[key] > 1:
                function()      # Its data and threads come back to the caches.
            rounds[key].append(np.median(
                [_seconds(function) for _ in range(calls[key])]))
    bar.update(0.5 * len(cells))
    result = {}
    for key, values in rounds.items():
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        result[key] = dict(median=median, low=low, high=high, first=first[key],
                           calls=calls[key] * settings.rounds)
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


def tensorflow_pair(architecture):
    """The floor and this package with equal weights, asserted to agree."""
    pair = {kind.name: kind(architecture).perturb() for kind in (Floor, Ours)}
    check_agreement(pair.values(), architecture)
    return pair


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


def run_main(settings, results, progress):
    """Every operation of every implementation, and the yardsticks."""
    architecture = settings.architecture
    built, results['absent'] = peers.available(architecture)
    counts = {name: built[name].num_parameters for name in built}
    assert len(set(counts.values())) == 1, f'Unequal numbers of parameters: {counts}'
    results['parameters'] = counts
    ours = [built[kind.name].perturb() for kind in peers.TENSORFLOW]
    results['agreement'] = check_agreement(ours, architecture)

    records = results['main'] = []
    modes = [(name, mode) for name in built for mode in built[name].modes]
    with progress(len(peers.OPERATIONS) * len(settings.batches) * len(modes),
                  'main') as bar:
        for operation in peers.OPERATIONS:
            for batch in settings.batches:
                cells = {
                    (name, mode): _bind(built[name].operation(operation, mode),
                                        *map(built[name].tensor,
                                             data(architecture, batch)))
                    for name, mode in modes}
                for (name, mode), times in measure(
                        cells, settings, settings.seconds, bar).items():
                    records.append(dict(operation=operation, batch=batch, name=name,
                                        mode=mode, **times))

    records = results['yardsticks'] = []
    cells = {batch: yardsticks(built, *data(architecture, batch))
             for batch in settings.batches}
    with progress(sum(map(len, cells.values())), 'yardsticks') as bar:
        for batch in settings.batches:
            for name, times in measure(
                    cells[batch], settings, settings.seconds, bar).items():
                records.append(dict(name=name, batch=batch, **times))


def _bind(function, *arguments):
    return lambda: function(*arguments)


def yardsticks(built, y, c):
    """Eager calls, and the least that they could consist of."""
    ours = built[Ours.name]
    y, c = ours.tensor(y), ours.tensor(c)
    batch = y.shape[0]
    identity = tfd.TransformedDistribution(ours.base, tfb.Identity())
    inverse = tf.function(
        lambda y, c: ours.flow.inverse_and_log_det(y, conditions=c))
    forward = tf.function(lambda x, c: ours.flow.forward(x, conditions=c))
    cells = {
        'log_prob': lambda: ours.log_prob(y, c),
        'log_prob of `tfb.Identity()` + the compiled pass called directly':
            lambda: (identity.log_prob(tf.identity(y)), inverse(y, c)),
        'log_prob of `tfb.Identity()` alone':
            lambda: identity.log_prob(tf.identity(y)),
        'sample': lambda: ours.sample(y, c),
        'sample of `tfb.Identity()` + the compiled pass called directly':
            lambda: (identity.sample(batch), forward(y, c)),
        'sample of `tfb.Identity()` alone': lambda: identity.sample(batch),
        '`flow.inverse_and_log_det`':
            lambda: ours.flow.inverse_and_log_det(y, conditions=c),
        'the compiled pass called directly': lambda: inverse(y, c),
    }
    zuko = built.get(peers.Zuko.name)
    if zuko is not None:
        transform = zuko.operation('call_and_ladj', 'eager')
        cells["zuko's `call_and_ladj`"] = _bind(transform, zuko.tensor(y.numpy()),
                                                zuko.tensor(c.numpy()))
    return cells


def run_sweeps(settings, results, progress):
    """This package and the floor over sizes, and over samples per condition."""
    records = results['sweeps'] = []
    modes = ('graph', 'XLA')
    total = 4 * len(modes) * sum(len(values) for _, values in settings.sweeps)
    with progress(total + 2 * len(modes) * len(settings.samples), 'sweeps') as bar:
        for field, values in settings.sweeps:
            for value in values:
                architecture = dataclasses.replace(
                    settings.architecture, **{field: value})
                pair = tensorflow_pair(architecture)
                y, c = map(Ours.tensor, data(architecture, settings.sweep_batch))
                cells = {
                    (name, mode, operation):
                        _bind(pair[name].operation(operation, mode), y, c)
                    for name in pair for mode in modes
                    for operation in ('log_prob', 'train')}
                for (name, mode, operation), times in measure(
                        cells, settings, settings.sweep_seconds, bar).items():
                    records.append(dict(sweep=field, value=value, name=name,
                                        mode=mode, operation=operation, **times))
        architecture = _samples_architecture(settings)
        pair = tensorflow_pair(architecture)
        pair[Floor.name].concatenate_kernels()
        c = Ours.tensor(data(architecture, settings.samples_batch)[1])
        for n in settings.samples:
            cells = {
                (name, mode): _bind(pair[name].sampler(n, mode), c)
                for name in pair for mode in modes}
            for (name, mode), times in measure(
                    cells, settings, settings.sweep_seconds, bar).items():
                records.append(dict(sweep='samples', value=n, name=name, mode=mode,
                                    operation='sample', **times))


def _samples_architecture(settings):
    return dataclasses.replace(settings.architecture,
                               condition_size=settings.samples_condition_size)


def run_first_call(settings, results, progress):
    """Imports; and construction and first calls over the number of couplings."""
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

    records = results['first_call'] = []
    cases = (('log_prob', 'graph'), ('log_prob', 'XLA'), ('train', 'graph'))
    with progress(len(settings.first_call_layers) * len(peers.TENSORFLOW)
                  * settings.repetitions, 'first calls') as bar:
        for layers in settings.first_call_layers:
            architecture = dataclasses.replace(settings.architecture,
                                               num_layers=layers)
            y, c = map(Ours.tensor, data(architecture, settings.sweep_batch))
            times, begin = {}, time.perf_counter()
            for _ in range(settings.repetitions):
                if time.perf_counter() - begin > settings.first_call_seconds:
                    bar.update(len(peers.TENSORFLOW))
                    continue
                for kind in peers.TENSORFLOW:
                    start = time.perf_counter()
                    flow = kind(architecture)
                    times.setdefault((kind.name, 'construct', ''), []).append(
                        time.perf_counter() - start)
                    for operation, mode in cases:
                        function = flow.operation(operation, mode)
                        times.setdefault((kind.name, operation, mode), []).append(
                            _seconds(_bind(function, y, c)))
                    bar.update()
            for (name, operation, mode), values in times.items():
                records.append(dict(
                    sweep='first_call', value=layers, name=name, mode=mode,
                    operation=operation, median=np.median(values),
                    calls=len(values)))


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


def run_memory(settings, results, progress):
    """The memory that many samples for each condition take, one process a case."""
    records = results['memory'] = []
    built, results['absent'] = peers.available(_samples_architecture(settings))
    # Of TensorFlow's modes the compiled ones: eagerly it is the graph that runs.
    cases = [(name, mode) for name in built
             for mode in built[name].modes[-2:]][:settings.memory_cases]
    with progress(len(cases), 'memory') as bar:
        for name, mode in cases:
            process = subprocess.run(
                [sys.executable, __file__, '--memory-case', name, mode]
                + ['--quick'] * (settings is QUICK),
                stdout=subprocess.PIPE, check=True)
            records.append(dict(name=name, mode=mode,
                                **json.loads(process.stdout.splitlines()[-1])))
            bar.update()


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
    print(json.dumps(dict(first=_growth(lambda: sampler(c)),
                          again=_growth(lambda: sampler(c)),
                          peak=_memory('VmHWM'))))


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
    if 'main' in results:
        parts += _main_tables(results['main'], settings['batches'])
        parts += _yardstick_table(results['yardsticks'], settings['batches'])
    if 'sweeps' in results:
        parts += _sweep_tables(results['sweeps'], settings)
    if 'first_call' in results:
        parts += _first_call_tables(results)
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
    return '\n'.join(parts)


def _main_tables(records, batches):
    parts = ['## Operations\n\nMedians in ms; `/floor` and `/ours` are ratios to '
             f'{Floor.name} and to {Ours.name} in the same mode (FlowJAX: to XLA), '
             'so more than 1 in `/ours` is slower than this package. `first` is the '
             'first call, the median over batch sizes.\n']
    index = {(r['operation'], r['name'], r['mode'], r['batch']): r for r in records}
    for operation in peers.OPERATIONS:
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


def _yardstick_table(records, batches):
    index = {(r['name'], r['batch']): r['median'] for r in records}
    return ['## Yardsticks of eager calls\n\nMedians in ms.\n', table(
        ['call', *(f'batch {batch}' for batch in batches)],
        [[name, *(ms(index[name, batch]) for batch in batches)]
         for name in dict.fromkeys(r['name'] for r in records)])]


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
        for value in dict.fromkeys(r['value'] for r in records
                                   if r['sweep'] == sweep):
            row = [value]
            for operation, mode in columns:
                mine, floor = (index[sweep, value, kind.name, mode, operation]
                               for kind in (Ours, Floor))
                row.append(f'{ms(mine)} ({mine / floor:.2f})')
            rows.append(row)
        note = ''
        if sweep == 'samples':
            note = (f' ({settings["samples_batch"]} conditions of width '
                    f'{settings["samples_condition_size"]}, `flow.condition(c)`; '
                    'the floor concatenates the conditions to every sample)')
        parts += [f'### {SWEEP_TITLES[sweep]}{note}\n', table(
            [sweep, *(f'`{operation}` {mode}' for operation, mode in columns)],
            rows)]
    return parts


def _first_call_tables(results):
    parts = ['## Import\n\nSeconds of a process that does nothing else.\n', table(
        ['package', 's'], [[r['name'], f'{r["median"]:.2f}']
                           for r in results['imports']])]
    records = results['first_call']
    columns = dict.fromkeys((r['operation'], r['mode']) for r in records)
    index = {(r['value'], r['name'], r['operation'], r['mode']): r['median']
             for r in records}
    rows = [[value, name, *(ms(index[value, name, *column]) for column in columns)]
            for value, name in dict.fromkeys(
                (r['value'], r['name']) for r in records)]
    return parts + ['## Construction and first calls\n\nMedians in ms.\n', table(
        ['couplings', 'implementation',
         *(f'`{operation}` {mode}' if mode else 'construction'
           for operation, mode in columns)], rows)]


COLOURS = {Ours.name: '#d62728', Floor.name: '#000000', 'stock TFP': '#7f7f7f',
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
            times = [next(1e3 * r['median'] for r in records if (
                r['operation'], r['name'], r['mode'], r['batch']) == (
                    operation, name, mode, batch)) for batch in batches]
            axis.plot(times, [y] * len(times), color=COLOURS[name], lw=1, zorder=1)
            for time_, marker in zip(times, 'o^s'):
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
    records = results.get('sweeps', []) + [
        r for r in results.get('first_call', []) if r['operation'] != 'construct']
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
            points = [(r['value'], 1e3 * r['median']) for r in chosen
                      if (r['name'], r['mode']) == (name, mode)]
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
    """Writes the report, the raw numbers and the pictures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'speed.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    (out / 'speed.md').write_text(to_markdown(results), encoding='utf-8')
    if 'main' in results:
        draw_main(results, out / 'speed.png')
    if 'sweeps' in results or 'first_call' in results:
        draw_sweeps(results, out / 'sweeps.png')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('speed'),
                        help='directory to write to')
    parser.add_argument('--sections', default=','.join(SECTIONS),
                        help='which to run, separated by commas')
    parser.add_argument('--quick', action='store_true',
                        help='tiny sizes; the numbers mean nothing')
    parser.add_argument('--memory-case', nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    # Every function that is timed is new to TensorFlow, which warns of retracing.
    tf.get_logger().setLevel('ERROR')
    if arguments.memory_case:
        memory_case(settings, *arguments.memory_case)
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
            globals()[f'run_{section}'](settings, results, progress)
            write(results, arguments.out)
    print(to_markdown(results))


if __name__ == '__main__':
    main()
