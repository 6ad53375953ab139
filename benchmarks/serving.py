"""How long calls of an export take, next to those of the distribution.

    python benchmarks/serving.py --out DIR

writes `DIR/serving.md`: medians of eager calls of the distribution, and of signatures of
its export, in a process of its own that imports TensorFlow alone. Measure on an idle
machine; it takes about two minutes.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

CALLS, BATCHES = ('log_prob', 'sample_and_log_prob'), (1, 256)


def data(event_size, condition_size, batch):
    """Arrays y and c."""
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=[batch, size]).astype(np.float32)
                 for size in (event_size, condition_size))


def medians(functions, seconds):
    """Key -> median seconds of a call with the arrays of a batch, called by turns."""
    for function in functions.values():
        function(), function()
    times = {key: [] for key in functions}
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end:
        for key, function in functions.items():
            start = time.perf_counter()
            function()
            times[key].append(time.perf_counter() - start)
    return {key: float(np.median(values)) for key, values in times.items()}


def serve(path, event_size, condition_size, seconds):
    """What the process of the export prints: seconds, by call and batch."""
    start = time.perf_counter()
    signatures = tf.saved_model.load(path).signatures
    loading, functions = time.perf_counter() - start, {}
    for batch in BATCHES:
        y, c = map(tf.constant, data(event_size, condition_size, batch))
        one = tf.constant(1)
        functions[f'log_prob {batch}'] = (
            lambda y=y, c=c: signatures['log_prob'](events=y, conditions=c))
        functions[f'sample_and_log_prob {batch}'] = (
            lambda c=c: signatures['sample_and_log_prob'](n=one, conditions=c))
    assert not {'tensorflow_probability', 'tfp_conditional'} & sys.modules.keys()
    print(json.dumps({'load': loading, **medians(functions, seconds)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('speed'),
                        help='directory to write to')
    parser.add_argument('--seconds', type=float, default=10., help='for each number')
    parser.add_argument('--layers', type=int, default=8)
    parser.add_argument('--serve', nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        path, *sizes = arguments.serve
        serve(path, *map(int, sizes), arguments.seconds)
        return
    import peers
    import report
    architecture = peers.Architecture(num_layers=arguments.layers)
    sizes = architecture.event_size, architecture.condition_size
    environment = report.environment()
    dist = peers.construct(peers.OURS, architecture).perturb().distribution
    with tempfile.TemporaryDirectory() as folder:
        dist.export(f'{folder}/model')
        process = subprocess.run(
            [sys.executable, __file__, '--seconds', str(arguments.seconds), '--serve',
             f'{folder}/model', *map(str, sizes)], stdout=subprocess.PIPE, check=True)
    served, functions = json.loads(process.stdout), {}
    for batch in BATCHES:
        y, c = map(tf.constant, data(*sizes, batch))
        functions[f'log_prob {batch}'] = lambda y=y, c=c: dist.given(c).log_prob(y)
        functions[f'sample_and_log_prob {batch}'] = (
            lambda c=c: dist.given(c).experimental_sample_and_log_prob(1))
    eager = medians(functions, arguments.seconds)
    rows = [{'call': call, 'batch': batch,
             'eager call of the distribution': report.ms(eager[f'{call} {batch}']),
             'signature of its export': report.ms(served[f'{call} {batch}'])}
            for call in CALLS for batch in BATCHES]
    text = '\n'.join([
        report.heading('Serving', environment),
        f'Medians in ms, of tensors to tensors; {architecture.num_layers} affine '
        f'couplings, D = {sizes[0]}, {sizes[1]} conditions, hidden layers '
        f'{architecture.hidden_layers}. The export takes {served["load"]:.1f} s to '
        'load.\n', report.table(rows)])
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'serving.md').write_text(text, encoding='utf-8')
    print(text)


if __name__ == '__main__':
    main()
