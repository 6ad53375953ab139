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
import functools
import gc
import itertools
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
    # Of nflows and FlowJAX the package itself is empty.
    packages: tuple = ('tensorflow', 'tensorflow_probability', 'tfp_conditional',
                       'torch', 'zuko', 'nflows.flows', 'normflows', 'jax',
                       'flowjax.flows')
    # Mode, and after how many fits the memory is taken, twice.
    fits: tuple = (('graph', 2, 20), ('XLA', 2, 5))
    memory_cases: int = 100                 # at most

    @property
    def samples_architecture(self):
        return dataclasses.replace(self.architecture,
                                   condition_size=self.samples_condition_size)


QUICK = Settings(
    architecture=Architecture(4, 3, 2, (8,)), batches=(4,),
    rounds=2, least_calls=1, seconds=0.01, sweep_seconds=0.01, sweep_batch=4,
    sweeps=(('event_size', (4,)), ('num_layers', (1, 2)), ('condition_size', (3,))),
    samples=(3,), samples_batch=2, samples_condition_size=5, repetitions=1,
    packages=('numpy',), fits=(('graph', 1, 2),), memory_cases=1)


def measure(cells, settings, seconds, bar):
    """Times functions without arguments against each other, by turns.

    Each takes about so many `seconds`, where `least_calls` calls do not take longer.
    The progress bar goes on by 1.

    Returns:
      `dict` of the keys of `cells` -> `dict` with `median`, quartiles `low` and `high`,
      `first`, what the first call took, all in seconds; and the number of `calls`.
    """
    first, calls, rounds = {}, {}, {key: [] for key in cells}
    for key, function in cells.items():
        first[key] = _seconds(function)
        estimate = _seconds(function)
        if estimate < 0.1 * seconds:        # Perhaps still warming up.
            estimate = min(estimate, _seconds(function))
        calls[key] = int(np.clip(seconds / estimate, settings.least_calls,
                                 1000 * settings.rounds))
        bar.update(0.5 / len(cells))
    rng = np.random.default_rng(0)
    for i in range(settings.rounds):
        for index in rng.permutation(len(cells)):
            key, function = list(cells.items())[index]
            # Slow functions are called in some of the rounds, evenly spread.
            share = ((i + 1) * calls[key] // settings.rounds
                     - i * calls[key] // settings.rounds)
            if share > 1:
                function()      # Its data and threads come back to the caches.
            if share:
                rounds[key].append(np.median([_seconds(function)
                                              for _ in range(share)]))
    bar.update(0.5)
    return {key: dict(zip(('low', 'median', 'high'),
                          np.quantile(values, [0.25, 0.5, 0.75])),
                      first=first[key], calls=calls[key])
            for key, values in rounds.items()}


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


def bind(flow, function, *arrays):
    return functools.partial(function, *map(flow.tensor, arrays))


def check_agreement(flows, architecture):
    """Asserts that flows of TensorFlow, of equal weights, compute the same thing.

    That is log-densities, samples for given noise, and gradients. Returns the largest
    difference of log-densities, relative to their size.
    """
    y, c = map(flows[0].tensor, data(architecture, 16, 1))
    results = []
    for flow in flows:
        with tf.GradientTape() as tape:
            log_prob = flow.call('log_prob', y, c)
        results.append((log_prob, flow.call('forward', y, c),
                        *tape.gradient(log_prob, flow.variables)))
    for want, *others in zip(*results, strict=True):
        for got in others:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(
                1., np.abs(want).max()))
    return max(float(np.abs(log_prob / results[0][0] - 1.).max())
               for log_prob, *_ in results)


class Run:
    """The sections, each a method, and the records of what they measured."""

    def __init__(self, settings, out):
        import speed_report     # Of what it imports no case should hold the memory.
        self.settings, self.out, self.report = settings, out, speed_report
        self.results = {'environment': speed_report.report.environment(),
                        'settings': dataclasses.asdict(settings)}

    def save(self):
        self.report.write(self.results, self.out)

    def build(self, names=peers.TENSORFLOW + peers.PEERS, architecture=None):
        built, self.results['absent'] = peers.available(
            architecture or self.settings.architecture, names)
        return built

    def compare(self, section, cases, cells, more=lambda record: [record],
                fields=None, seconds=None):
        """Measures the `cells` of case after case, and stores the records.

        The parts of a cell's key are `fields`, by default those of the section; `more`
        makes records of one.
        """
        records, cases = self.results.setdefault(section, []), list(cases)
        with tqdm.tqdm(total=len(cases), desc=section, bar_format=(
                '{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}')) as bar:
            for case in cases:
                times = measure(cells(*case), self.settings,
                                seconds or self.settings.seconds, bar)
                for key, cell in times.items():
                    records += more(dict(
                        zip(fields or self.report.KEYS[section], key), **cell))
                self.save()

    def main(self):
        """Every operation of every implementation."""
        built = self.build()
        counts = {name: flow.num_parameters for name, flow in built.items()}
        assert len(set(counts.values())) == 1, f'Unequal numbers of parameters: {counts}'
        self.results['parameters'] = counts
        self.results['agreement'] = check_agreement(
            [built[name].perturb() for name in peers.TENSORFLOW],
            self.settings.architecture)

        def cells(operation, batch):
            arrays = data(self.settings.architecture, batch)
            return {(operation, batch, name, mode): bind(
                flow, flow.operation(operation, mode), *arrays)
                    for name, flow in built.items() for mode in flow.modes}

        self.compare('main', itertools.product(
            peers.OPERATIONS, self.settings.batches), cells)

    def eager(self):
        """Calls that are made eagerly, next to the same ones compiled."""
        built, functions = self.build((OURS, STOCK_CLASS) + peers.PEERS), {}
        for name, flow in built.items():
            given = () if name in peers.PEERS else tuple(peers.GIVEN)
            if given:
                flow.perturb()
            for call in peers.CALLS + given:
                for mode in ('eager', 'graph') if name == OURS else flow.modes[:1]:
                    functions[call, name, mode] = flow.operation(call, mode)

        def cells(batch):
            arrays = data(self.settings.architecture, batch)
            return {(call, batch, name, mode): bind(built[name], function, *arrays)
                    for (call, name, mode), function in functions.items()}

        # What is the only way of a package is that of `given` too.
        self.compare('eager', zip(self.settings.batches), cells, lambda record: [
            record, *(dict(record, call=way) for way, call in peers.GIVEN.items()
                      if record['name'] in peers.PEERS and call == record['call'])])

    def hot(self):
        """The least that one call takes from NumPy to NumPy, package by package."""
        batch = self.settings.hot_batch
        built = self.build((OURS,) + peers.PEERS)
        built[OURS].perturb()
        y, c = (array.astype(np.float32)
                for array in data(self.settings.architecture, batch))
        empty = tf.function(lambda c: c, jit_compile=True).get_concrete_function(
            tf.TensorSpec(c.shape, tf.float32))

        def cells(operation):
            return {(operation, 'TensorFlow', 'an empty function, XLA'):
                        lambda: empty(tf.constant(c)).numpy(),
                    **{(operation, name, how): functools.partial(function, y, c)
                       for name, flow in built.items()
                       for how, function in flow.hot(operation, batch).items()}}

        self.compare('hot', zip(peers.CALLS), cells)

    def sweeps(self):
        """Sizes, samples for each condition, and first calls over the couplings."""
        settings, seconds = self.settings, self.settings.sweep_seconds
        operations = (('log_prob', 'graph'), ('log_prob', 'XLA'), ('train', 'graph'))
        points = {}     # Architecture -> the sweeps that it is a point of.
        for field, values in settings.sweeps:
            for value in values:
                points.setdefault(dataclasses.replace(
                    settings.architecture, **{field: value}), {})[field] = value
        # What TensorFlow itself does when first called is nobody's first call.
        warm_up = peers.construct(FLOOR, QUICK.architecture)
        for operation in operations:
            bind(warm_up, warm_up.operation(*operation), *data(QUICK.architecture, 2))()

        def cells(architecture, values):
            found = {}
            for name in (FLOOR, OURS) + (STOCK_TFP,) * ('num_layers' in values):
                start = time.perf_counter()
                flow = peers.construct(name, architecture)
                construction = time.perf_counter() - start
                flow.perturb()
                for operation in operations:
                    found[(*operation, name, construction, tuple(values.items()))] = bind(
                        flow, flow.operation(*operation),
                        *data(architecture, settings.sweep_batch))
            return found

        self.compare('sweeps', points.items(), cells, lambda record: [
            dict(record, sweep=field, value=value)
            for field, value in record.pop('sweeps')], (
                'operation', 'mode', 'name', 'construction', 'sweeps'), seconds)
        self.results['first_call'] = [
            dict(record, sweep='first_call', median=record['first'])
            for record in self.results['sweeps'] if record['sweep'] == 'num_layers']
        pair = {name: peers.construct(name, settings.samples_architecture).perturb()
                for name in (FLOOR, OURS)}
        c = data(settings.samples_architecture, settings.samples_batch)[1]

        def samples(n):
            return {('samples', n, 'sample', name, mode): bind(
                flow, flow.sampler(n, mode), c)
                    for name, flow in pair.items() for mode in ('graph', 'XLA')}

        self.compare('sweeps', zip(settings.samples), samples, seconds=seconds)

    def imports(self):
        """Seconds that importing takes, each in a process of its own."""
        seconds = {package: [] for package in self.settings.packages}
        for package in tqdm.tqdm(self.settings.packages * self.settings.repetitions,
                                 'imports'):
            seconds[package].append(_import_seconds(package))
        self.results['imports'] = [
            dict(name=package, median=np.median(values))
            for package, values in seconds.items() if None not in values]
        self.save()

    def memory(self):
        """The memory that many samples for each condition take."""
        built = self.build((FLOOR, OURS) + peers.PEERS,
                           self.settings.samples_architecture)
        # Of TensorFlow's modes the compiled ones: eagerly it is the graph that runs.
        self.run_cases('memory', [('memory_case', name, mode) for name in built
                                  for mode in built[name].modes[-2:]])

    def fits(self):
        """The memory that fits leave behind, of flows that are let go of."""
        self.run_cases('fits', [('fits_case', name, *map(str, fits))
                                for fits in self.settings.fits for name in FITTED])

    def run_cases(self, section, cases):
        """Runs functions of this module, each in a process of its own, two at once."""
        def run(case):
            process = subprocess.run(
                [sys.executable, __file__] + ['--quick'] * (self.settings is QUICK)
                + ['--case', *case], stdout=subprocess.PIPE, check=True)
            return json.loads(process.stdout.splitlines()[-1])

        cases = cases[:self.settings.memory_cases]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            self.results[section] = list(tqdm.tqdm(
                pool.map(run, cases), total=len(cases), desc=section))
        self.save()


def _import_seconds(package):
    """Seconds of a process that imports it less those of one that does not."""
    def run(code):
        start = time.perf_counter()
        process = subprocess.run([sys.executable, '-c', code], capture_output=True,
                                 check=False)
        return time.perf_counter() - start if process.returncode == 0 else None
    # TFP imports its parts when they are first used.
    seconds = run(f'import {package} as p' + (
        '; p.bijectors.Bijector, p.distributions.Distribution'
        if package == 'tensorflow_probability' else ''))
    return None if seconds is None else seconds - run('pass')


def memory_case(settings, name, mode):
    """By how much this process grows for one implementation's samples."""
    flow = peers.construct(name, settings.samples_architecture)
    c = flow.tensor(data(settings.samples_architecture, settings.samples_batch)[1])
    flow.sampler(1, mode)(c)
    sampler = flow.sampler(settings.samples[-1], mode)
    return dict(name=name, mode=mode, first=_growth(lambda: sampler(c)),
                again=_growth(lambda: sampler(c)), peak=_memory('VmHWM'))


FITTED = {
    'affine couplings': lambda architecture: peers.construct(
        OURS, architecture).distribution,
    '`conditional_density`': lambda architecture: tfpc.conditional_density(
        architecture.event_size, architecture.condition_size)}


def fits_case(settings, name, mode, *counts):
    """The memory that this process takes after so many fits, and so many."""
    y, c = data(settings.architecture, 64)
    taken, graphs, counts = [], [], list(map(int, counts))
    for i in range(counts[-1]):
        tfpc.fit(FITTED[name](settings.architecture), y, c, epochs=2, batch_size=32,
                 jit_compile=mode == 'XLA', verbose=False)
        if i + 1 in counts:
            gc.collect()
            taken.append(_memory('VmRSS'))
            graphs.append(sum(isinstance(thing, tf.__internal__.FuncGraph)
                              for thing in gc.get_objects()))
    return dict(name=name, mode=mode, fits=counts, taken=taken, graphs=graphs)


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
        print(json.dumps(globals()[function](settings, *case)))
        return
    sections = arguments.sections.split(',')
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f'--sections must be among {",".join(SECTIONS)}; got '
                     f'{sorted(unknown)}')
    run = Run(settings, arguments.out)
    for section in SECTIONS:
        if section in sections:
            getattr(run, section)()
    run.report.draw(run.results, arguments.out)
    print(run.report.to_markdown(run.results))


if __name__ == '__main__':
    main()
