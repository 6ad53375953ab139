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
import time

import numpy as np
import tensorflow as tf
import tqdm

UNITS, CONDITIONS, LAYERS, WIDTH, BOUND = 8, 16, 8, 128, 2.
HALF = UNITS // 2

VARIANTS = {
    'floor': {},
    'floor again': {},
    'one wide product of the conditions for all layers': {'wide': True},
    'one product of (units, conditions) in the first layer': {'joint': True},
    'halves joined and split again in each layer, as in the package': {'merge': True},
    'one reduction of log-scales, at the end': {'late': True},
    'biases by `tf.nn.bias_add`': {'fused': True},
}


def networks(rng):
    """The variables of each layer."""
    def variable(*shape):
        return tf.Variable(rng.normal(scale=shape[0]**-0.5, size=shape),
                           dtype=tf.float32)

    return [dict(c=variable(CONDITIONS, WIDTH), u=variable(HALF, WIDTH),
                 k1=variable(WIDTH, WIDTH), k2=variable(WIDTH, UNITS),
                 b0=variable(WIDTH), b1=variable(WIDTH), b2=variable(UNITS))
            for _ in range(LAYERS)]


def log_density(layers, y, c, wide=None, joint=None, merge=False, late=False,
                fused=False):
    """`[B]` up to a constant; `wide` and `joint` are variables in another layout."""
    add = tf.nn.bias_add if fused else tf.add
    if wide is not None:
        projections = tf.split(add(tf.matmul(c, wide[0]), wide[1]), LAYERS, axis=-1)
    halves, scales, total = tf.split(y, 2, axis=-1), [], 0.
    for i, layer in enumerate(layers):
        masked, units = halves if i % 2 == 0 else halves[::-1]
        soft = 10. * tf.asinh(masked / 10.)
        if wide is not None:
            hidden = tf.matmul(soft, layer['u']) + projections[i]
        elif joint is not None:
            hidden = add(tf.matmul(tf.concat([soft, c], -1), joint[i]), layer['b0'])
        else:
            hidden = tf.matmul(soft, layer['u']) + add(tf.matmul(c, layer['c']),
                                                       layer['b0'])
        for kernel, bias in (('k1', 'b1'), ('k2', 'b2')):
            hidden = add(tf.matmul(tf.nn.relu(hidden), layer[kernel]), layer[bias])
        shift, log_scale = tf.split(hidden, 2, axis=-1)
        log_scale = BOUND * tf.tanh(log_scale / BOUND)
        units = (units - 10. * tf.asinh(shift / 10.)) * tf.exp(-log_scale)
        scales.append(log_scale)
        if not late:
            total -= tf.reduce_sum(log_scale, axis=-1)
        halves = [masked, units] if i % 2 == 0 else [units, masked]
        if merge:
            halves = tf.split(tf.concat(halves, axis=-1), 2, axis=-1)
    if late:
        total = -tf.reduce_sum(tf.add_n(scales), axis=-1)
    return total - 0.5 * tf.reduce_sum(tf.concat(halves, axis=-1)**2, axis=-1)


def functions(y, c, gradients, mode):
    """A compiled function of each variant."""
    layers = networks(np.random.default_rng(0))
    reference = log_density(layers, y, c)
    found = {}
    for name, options in VARIANTS.items():
        options = dict(options)
        skipped = set()
        if options.get('wide'):
            options['wide'] = [tf.Variable(tf.concat([n[key] for n in layers], -1))
                               for key in ('c', 'b0')]
            skipped = {'c', 'b0'}
        if options.get('joint'):
            options['joint'] = [tf.Variable(tf.concat([n['u'], n['c']], 0))
                                for n in layers]
            skipped = {'c', 'u'}
        value = functools.partial(log_density, layers, **options)
        np.testing.assert_allclose(value(y, c), reference, rtol=1e-3, atol=1e-3)
        variables = [n[key] for n in layers for key in n if key not in skipped]
        variables += options.get('wide', []) + options.get('joint', [])

        def run(y, c, value=value, variables=variables):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(value(y, c))
            return tape.gradient(loss, variables) if gradients else value(y, c)

        found[name] = tf.function(run, jit_compile=True if mode == 'XLA' else None)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--rounds', type=int, default=60)
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 256, 4096])
    arguments = parser.parse_args()
    tf.get_logger().setLevel('ERROR')
    rng = np.random.default_rng(1)
    cases = [(gradients, mode, batch) for gradients in (False, True)
             for mode in ('graph', 'XLA') for batch in arguments.batches]
    columns = {name: [] for name in VARIANTS}
    for gradients, mode, batch in tqdm.tqdm(cases, desc='limits'):
        y, c = (tf.constant(rng.normal(size=[batch, size]), tf.float32)
                for size in (UNITS, CONDITIONS))
        timed = functions(y, c, gradients, mode)
        times = {name: [] for name in timed}
        for i in range(arguments.rounds + 3):
            for name in rng.permutation(list(timed)):
                start = time.perf_counter()
                tf.nest.flatten(timed[name](y, c))[-1].numpy()
                if i >= 3:
                    times[name].append(time.perf_counter() - start)
        for name in VARIANTS:
            columns[name].append(np.median(times[name]) / np.median(times['floor']))
    header = [f'{"gradients" if gradients else "log_prob"}, {mode}, {batch}'
              for gradients, mode, batch in cases]
    print('| variant | ' + ' | '.join(header) + ' |')
    print('|---' + '|--:' * len(header) + '|')
    for name, ratios in columns.items():
        print(f'| {name} | ' + ' | '.join(f'{ratio:.2f}' for ratio in ratios) + ' |')


if __name__ == '__main__':
    main()
