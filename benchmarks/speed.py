"""How fast this package is, next to hand-written TensorFlow and to others.

    python benchmarks/speed.py --out DIR

writes `DIR/speed.md` (targets, tables of medians and ratios), `DIR/speed.json` (the
raw numbers), `DIR/speed.png` and `DIR/sweeps.png`; the first two as it goes. All
implementations have the same architecture and number of parameters, which is
asserted, and are called by turns in one process; those of TensorFlow also have the same
weights and must give the same numbers. A package that is missing is reported.

Measure on an idle machine; two cores take about twenty minutes. Memory is that of
processes of their own, two at once.
"""

import processes

import concurrent.futures
import dataclasses
import functools
import gc
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm

import measure
import peers
from peers import FLOOR, OURS, STOCK_TFP, Architecture
import tfp_conditional as tfpc


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured."""
    architecture: Architecture = Architecture()
    batches: tuple = (1, 256, 4096)
    rounds: int = 15
    least: int = 5              # calls
    seconds: float = 0.4        # for a cell, about, where that makes enough calls
    sweep_batch: int = 256
    sweeps: tuple = (('event_size', (2, 8, 32, 128)), ('num_layers', (2, 8, 32)),
                     ('condition_size', (1, 16, 128, 1024)))
    samples: tuple = (1, 30, 1000)
    samples_batch: int = 8
    samples_architecture: Architecture = Architecture(condition_size=512)
    repetitions: int = 2
    # Of nflows and FlowJAX the package itself is empty.
    packages: tuple = ('tensorflow', 'tensorflow_probability', 'tfp_conditional', 'torch',
                       'zuko', 'nflows.flows', 'normflows', 'jax', 'flowjax.flows')
    # Mode, and after how many fits the memory is taken, twice.
    fits: tuple = (('graph', (2, 20)), ('XLA', (2, 5)))
    memory_cases: int = 100     # at most


QUICK = Settings(
    architecture=Architecture(4, 3, 2, (8,)), batches=(4,), rounds=2, least=1, seconds=0.01,
    sweep_batch=4,
    sweeps=(('event_size', (4,)), ('num_layers', (1, 2)), ('condition_size', (3,))),
    samples=(3,), samples_batch=2, samples_architecture=Architecture(4, 5, 2, (8,)), repetitions=1,
    packages=('numpy',), fits=(('graph', (1, 2)),), memory_cases=1)


def bind(flow, function, *arrays):
    return functools.partial(function, *map(flow.tensor, arrays))


def check_agreement(flows, architecture):
    """Asserts that flows of TensorFlow, of equal weights, compute the same thing.

    That is log-densities, samples for given noise, and gradients. Returns the largest
    difference of log-densities, relative to their size.
    """
    y, c = map(flows[0].tensor, architecture.data(16, 1))

    def results(flow):
        with tf.GradientTape() as tape:
            log_prob = flow.call('log_prob', y, c)
        return [log_prob, flow.call('forward', y, c), *tape.gradient(log_prob, flow.variables)]

    first, *others = map(results, flows)
    for other in others:
        for got, want in zip(other, first, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(
                1., np.abs(want).max()))
    return max(float(np.abs(other[0] / first[0] - 1.).max()) for other in others)


class Run:
    """The sections, each a method, and the records of what they measured."""

    def __init__(self, settings, out):
        import speed_report     # Of what it imports no case should hold the memory.
        self.settings, self.out, self.report = settings, out, speed_report
        self.results = {'environment': speed_report.report.environment(),
                        'settings': dataclasses.asdict(settings), 'records': []}

    def add(self, section, records):
        self.results['records'] += [dict(record, section=section) for record in records]
        self.report.write(self.results, self.out)

    def build(self, names, architecture):
        built, self.results['failed'] = peers.available(architecture, names)
        return built

    def compare(self, section, cases):
        """Measures one list of cells after another."""
        for cells in tqdm.tqdm(cases, section):
            self.add(section, measure.by_turns(
                list(cells), self.settings.seconds, self.settings.rounds, self.settings.least))

    def calls(self):
        """Every operation of every implementation."""
        architecture = self.settings.architecture
        built = self.build(peers.TENSORFLOW + peers.PEERS, architecture)
        counts = {name: flow.num_parameters for name, flow in built.items()}
        assert len(set(counts.values())) == 1, f'Unequal numbers of parameters: {counts}'
        self.results['parameters'] = counts
        self.results['agreement'] = check_agreement(
            [built[name].perturb() for name in peers.TENSORFLOW], architecture)
        functions = [(dict(operation=operation, name=name, mode=mode), flow,
                      flow.operation(operation, mode))
                     for name, flow in built.items() for operation, mode in flow.ways()]
        self.compare('calls', (
            [(dict(record, batch=batch), bind(flow, function, *architecture.data(batch)))
             for record, flow, function in functions] for batch in self.settings.batches))

    def hot(self):
        """The least that one call takes from NumPy to NumPy, package by package."""
        built = self.build((OURS,) + peers.PEERS, self.settings.architecture)
        built[OURS].perturb()
        y, c = self.settings.architecture.data(1)
        empty = tf.function(lambda c: c, jit_compile=True).get_concrete_function(
            tf.TensorSpec(c.shape, tf.float32))
        nothing = {'TensorFlow': {'an empty function, XLA': lambda y, c: empty(
            tf.constant(c)).numpy()}}
        self.compare('hot', ([
            (dict(operation=operation, name=name, mode=mode), functools.partial(function, y, c))
            for name, functions in (nothing | {
                name: flow.hot(operation) for name, flow in built.items()}).items()
            for mode, function in functions.items()] for operation in peers.CALLS))

    def sweeps(self):
        """Sizes, and samples for each condition; first calls over the couplings."""
        settings = self.settings
        operations = (('log_prob', 'graph'), ('log_prob', 'XLA'), ('train', 'graph'))
        # What TensorFlow itself does when first called is nobody's first call.
        warm_up = peers.construct(FLOOR, QUICK.architecture)
        for operation in operations:
            bind(warm_up, warm_up.operation(*operation), *QUICK.architecture.data(2))()

        def cells(field, value):
            architecture = dataclasses.replace(settings.architecture, **{field: value})
            for name in (FLOOR, OURS) + (STOCK_TFP,) * (field == 'num_layers'):
                start = time.perf_counter()
                flow = peers.construct(name, architecture)
                construction = time.perf_counter() - start
                flow.perturb()
                for operation, mode in operations:
                    yield (dict(sweep=field, value=value, operation=operation, name=name,
                                mode=mode, construction=construction),
                           bind(flow, flow.operation(operation, mode),
                                *architecture.data(settings.sweep_batch)))

        self.compare('sweeps', (
            cells(field, value) for field, values in settings.sweeps for value in values))
        pair = {name: peers.construct(name, settings.samples_architecture).perturb()
                for name in (FLOOR, OURS)}
        arrays = settings.samples_architecture.data(settings.samples_batch)
        self.compare('sweeps', (
            [(dict(sweep='samples', value=n, operation='sample', name=name, mode=mode),
              bind(flow, flow.operation('many', mode, n), *arrays))
             for name, flow in pair.items() for mode in ('graph', 'XLA')]
            for n in settings.samples))

    def imports(self):
        """Seconds that importing takes, each in a process of its own."""
        for package in tqdm.tqdm(self.settings.packages, 'imports'):
            seconds = [_import_seconds(package) for _ in range(self.settings.repetitions)]
            if None not in seconds:
                self.add('imports', [dict(name=package, median=np.median(seconds))])

    def memory(self):
        """The memory that many samples for each condition take."""
        settings = self.settings
        built = self.build((FLOOR, OURS) + peers.PEERS, settings.samples_architecture)
        # Of TensorFlow's modes the compiled ones: eagerly it is the graph that runs.
        self.run_cases('memory', 'speed.memory_case', [
            (name, mode, dataclasses.asdict(settings.samples_architecture),
             settings.samples_batch, settings.samples[-1])
            for name in built for mode in built[name].modes[-2:]])

    def fits(self):
        """The memory that fits leave behind, of flows that are let go of."""
        self.run_cases('fits', 'speed.fits_case', [
            (name, mode, dataclasses.asdict(self.settings.architecture), counts)
            for mode, counts in self.settings.fits for name in FITTED])

    def run_cases(self, section, where, cases):
        """Runs a function in processes of their own, two at once."""
        cases = cases[:self.settings.memory_cases]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            self.add(section, tqdm.tqdm(pool.map(
                lambda case: processes.call(where, *case), cases), section, len(cases)))


def _import_seconds(package):
    """Seconds of a process that imports it less those of one that does not."""
    def run(code):
        start = time.perf_counter()
        process = subprocess.run([sys.executable, '-c', code], capture_output=True, check=False)
        return time.perf_counter() - start if process.returncode == 0 else None
    # TFP imports its parts when they are first used.
    seconds = run(f'import {package} as p' + (
        '; p.bijectors.Bijector, p.distributions.Distribution'
        if package == 'tensorflow_probability' else ''))
    return None if seconds is None else seconds - run('pass')


def memory_case(name, mode, architecture, batch, n):
    """By how much this process grows for one implementation's samples."""
    architecture = Architecture(**architecture)
    flow = peers.construct(name, architecture)
    arrays = architecture.data(batch)
    bind(flow, flow.operation('many', mode, 1), *arrays)()
    sample = bind(flow, flow.operation('many', mode, n), *arrays)
    return dict(name=name, mode=mode, first=measure.growth(sample), again=measure.growth(sample))


FITTED = {
    'affine couplings': lambda architecture: peers.construct(OURS, architecture).distribution,
    '`conditional_density`': lambda architecture: tfpc.conditional_density(
        architecture.event_size, architecture.condition_size)}


def fits_case(name, mode, architecture, counts):
    """The memory that this process takes after so many fits, and so many."""
    architecture = Architecture(**architecture)
    y, c = architecture.data(64)
    taken = []
    for i in range(counts[-1]):
        tfpc.fit(FITTED[name](architecture), y, c, epochs=2, batch_size=32,
                 jit_compile=mode == 'XLA', verbose=False)
        gc.collect()
        if i + 1 in counts:
            taken.append(measure.memory('VmRSS'))
    graphs = sum(isinstance(thing, tf.__internal__.FuncGraph) for thing in gc.get_objects())
    return dict(name=name, mode=mode, fits=counts, taken=taken, graphs=graphs)


def main():
    sections = {name: getattr(Run, name) for name in (
        'calls', 'hot', 'sweeps', 'imports', 'memory', 'fits')}
    arguments = processes.options(__doc__, out=processes.OUT, sections=sections, quick=False)
    # Every function that is timed is new to TensorFlow, which warns of retracing.
    tf.get_logger().setLevel('ERROR')
    run = Run(QUICK if arguments.quick else Settings(), arguments.out)
    for section in arguments.sections:
        sections[section](run)
    run.report.draw(run.results, arguments.out)
    print((arguments.out / 'speed.md').read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
