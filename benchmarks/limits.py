"""What could be faster than straight-line TensorFlow, and is not.

    python benchmarks/limits.py

times variants of one conditional Real NVP (D = 8, 16 conditions, 8 couplings, hidden
layers (128, 128)), log-densities and their gradients, and prints ratios of medians to
`floor`, whose second row is the noise. All compute the same, which is asserted.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import functools
import itertools

import numpy as np
import pandas as pd
import tensorflow as tf
import tqdm

import peers
import report
import speed
from tfp_conditional.networks.network import UNIT_RANGE
from tfp_conditional.transformers.transformer import soften
from with_tensorflow import AFFINE, Floor

VARIANTS = {
    'floor': {},
    'floor again': {},
    'one wide product of the conditions for all layers': {'wide': True},
    'one product of (units, conditions) in the first layer': {'joint': True},
    'halves joined and split again in each layer, as in the package': {'merge': True},
    'one reduction of log-scales, at the end': {'late': True},
    'biases by `tf.nn.bias_add`': {'fused': True},
}


def log_density(layers, y, c, wide=None, joint=None, merge=False, late=False,
                fused=False):
    """`[B]` up to a constant; `wide` and `joint` are variables in another layout."""
    add = tf.nn.bias_add if fused else tf.add
    if wide is not None:
        projections = tf.split(add(tf.matmul(c, wide[0]), wide[1]), len(layers), -1)
    halves, scales, total = tf.split(y, 2, axis=-1), [], 0.
    for i, layer in enumerate(layers):
        masked, soft = i % 2, soften(halves[i % 2], UNIT_RANGE)
        if wide is not None:
            hidden = tf.matmul(soft, layer['unit_kernel']) + projections[i]
        elif joint is not None:
            hidden = add(tf.matmul(tf.concat([soft, c], -1), joint[i]), layer['bias_0'])
        else:
            hidden = tf.matmul(soft, layer['unit_kernel']) + add(
                tf.matmul(c, layer['condition_kernel']), layer['bias_0'])
        for kernel, bias in (('kernel_1', 'bias_1'), ('kernel_2', 'bias_2')):
            hidden = add(tf.matmul(tf.nn.relu(hidden), layer[kernel]), layer[bias])
        shift, log_scale = tf.split(hidden, 2, axis=-1)
        log_scale = AFFINE.max_log_scale * tf.tanh(log_scale / AFFINE.max_log_scale)
        halves[1 - masked] = tf.exp(-log_scale) * (
            halves[1 - masked] - soften(shift, AFFINE.shift_range))
        scales.append(log_scale)
        if not late:
            total -= tf.reduce_sum(log_scale, axis=-1)
        if merge:
            halves = tf.split(tf.concat(halves, axis=-1), 2, axis=-1)
    if late:
        total = -tf.reduce_sum(tf.add_n(scales), axis=-1)
    return total - 0.5 * tf.reduce_sum(tf.concat(halves, axis=-1)**2, axis=-1)


def functions(y, c, gradients, mode):
    """A compiled function of each variant."""
    layers = Floor('real_nvp', peers.Architecture()).perturb().layers
    reference = log_density(layers, y, c)
    found = {}
    for name, options in VARIANTS.items():
        options, replaced = dict(options), set()
        if options.get('wide'):
            replaced = {'condition_kernel', 'bias_0'}
            options['wide'] = [tf.Variable(tf.concat([n[key] for n in layers], -1))
                               for key in ('condition_kernel', 'bias_0')]
        if options.get('joint'):
            replaced = {'condition_kernel', 'unit_kernel'}
            options['joint'] = [tf.Variable(tf.concat(
                [n['unit_kernel'], n['condition_kernel']], 0)) for n in layers]
        value = functools.partial(log_density, layers, **options)
        np.testing.assert_allclose(value(y, c), reference, rtol=1e-3, atol=1e-3)
        variables = [n[key] for n in layers for key in n if key not in replaced]
        variables += options.get('wide', []) + options.get('joint', [])

        def run(y, c, value=value, variables=variables):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(value(y, c))
            return tape.gradient(loss, variables) if gradients else value(y, c)

        found[name] = Floor.compiled(run, mode)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 256, 4096])
    arguments = parser.parse_args()
    tf.get_logger().setLevel('ERROR')
    # As many calls as rounds.
    settings = speed.Settings(rounds=arguments.rounds, least_calls=arguments.rounds)
    cases = list(itertools.product((False, True), ('graph', 'XLA'), arguments.batches))
    columns = {'variant': list(VARIANTS)}
    with tqdm.tqdm(total=len(cases) * len(VARIANTS), desc='limits') as bar:
        for gradients, mode, batch in cases:
            y, c = map(Floor.tensor, speed.data(peers.Architecture(), batch))
            cells = {name: functools.partial(function, y, c) for name, function
                     in functions(y, c, gradients, mode).items()}
            times = speed.measure(cells, settings, 0., bar)
            columns[f'{"gradients" if gradients else "log_prob"}, {mode}, {batch}'] = [
                f'{times[name]["median"] / times["floor"]["median"]:.2f}'
                for name in VARIANTS]
    print(report.table(pd.DataFrame(columns)))


if __name__ == '__main__':
    main()
