"""How long calls of an export take, next to those of the distribution.

    python benchmarks/serving.py --out DIR

writes `DIR/serving.md`: medians of eager calls of the distribution, and of signatures of
its export, in a process of its own that imports TensorFlow alone. Measure on an idle
machine; it takes about two minutes.
"""

import processes

import functools
import sys
import tempfile
import time

import tensorflow as tf

import measure

CALLS, BATCHES = ('log_prob', 'sample_and_log_prob'), (1, 256)


def cells(functions, data):
    """Calls of functions (y, c), by name, with arrays of each batch."""
    return [(dict(call=call, batch=batch), functools.partial(
        functions[call], *map(tf.constant, arrays)))
            for call in CALLS for batch, arrays in zip(BATCHES, data)]


def serve(path, data, seconds):
    """What the process of the export measures."""
    start = time.perf_counter()
    signatures = tf.saved_model.load(path).signatures
    loading, one = time.perf_counter() - start, tf.constant(1)
    assert not {'tensorflow_probability', 'tfp_conditional'} & sys.modules.keys()
    return loading, measure.by_turns(cells({
        'log_prob': lambda y, c: signatures['log_prob'](events=y, conditions=c),
        'sample_and_log_prob': lambda y, c: signatures['sample_and_log_prob'](
            n=one, conditions=c)}, data), seconds)


def main():
    arguments = processes.options(__doc__, out=processes.OUT, seconds=10., layers=8)
    import peers        # Not where the export is served.
    import report
    architecture = peers.Architecture(num_layers=arguments.layers)
    environment = report.environment()
    data = [architecture.data(batch) for batch in BATCHES]
    dist = peers.construct(peers.OURS, architecture).perturb().distribution
    with tempfile.TemporaryDirectory() as folder:
        dist.export(f'{folder}/model')
        loading, served = processes.call('serving.serve', f'{folder}/model', [
            [x.tolist() for x in arrays] for arrays in data], arguments.seconds)
    eager = measure.by_turns(cells({
        'log_prob': lambda y, c: dist.given(c).log_prob(y),
        'sample_and_log_prob': lambda y, c: dist.given(c).experimental_sample_and_log_prob(1)},
        data), arguments.seconds)
    print(report.write(
        arguments.out / 'serving.md', 'Serving',
        f'Medians in ms, of tensors to tensors; {architecture.num_layers} affine couplings, '
        f'D = {architecture.event_size}, {architecture.condition_size} conditions, hidden '
        f'layers {architecture.hidden_layers}. The export takes {loading:.1f} s to load.\n',
        report.table([{'call': ours['call'], 'batch': ours['batch'],
                       'eager call of the distribution': report.ms(ours['median']),
                       'signature of its export': report.ms(its['median'])}
                      for ours, its in zip(eager, served)]), environment=environment))


if __name__ == '__main__':
    main()
