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
import tensorflow as tf
import tqdm

import peers
import report
import speed
from with_tensorflow import compiled, Floor, joint_product


def variants(floor):
    """Log-densities by name."""
    floor.join_kernels()
    kernel, bias = (
        tf.Variable(tf.concat([layer[key] for layer in floor.layers], axis=-1))
        for key in ('condition_kernel', 'bias_0'))

    def log_prob(y, c, **options):
        return floor.call('log_prob', y, c, **options)

    def wide(y, c):
        parts = tf.split(tf.matmul(c, kernel) + bias, len(floor.layers), axis=-1)
        return log_prob(y, c, product=lambda i, layer, units, c, add: (
            tf.matmul(units, layer['unit_kernel']) + parts[i]))

    vary = functools.partial(functools.partial, log_prob)
    return {
        'floor': log_prob, 'floor again': log_prob,
        'one wide product of the conditions for all layers': wide,
        'one product of (units, conditions) in the first layer':
            vary(product=joint_product),
        'halves joined and split again in each layer, as in the package':
            vary(merge=True),
        'one reduction of log-scales, at the end': vary(late=True),
        'biases by `tf.nn.bias_add`': vary(add=tf.nn.bias_add)}


def functions(y, c, gradients, mode):
    """A compiled function of each variant."""
    floor = peers.construct(peers.FLOOR, peers.Architecture()).perturb()
    found = {}
    for name, log_prob in variants(floor).items():
        np.testing.assert_allclose(log_prob(y, c), floor.call('log_prob', y, c),
                                   rtol=1e-3, atol=1e-3)

        def run(y, c, log_prob=log_prob):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(log_prob(y, c))
            return (tape.gradient(loss, tape.watched_variables()) if gradients
                    else log_prob(y, c))

        found[name] = functools.partial(compiled(run, mode), y, c)
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
    records = []
    with tqdm.tqdm(total=len(cases), desc='limits') as bar:
        for gradients, mode, batch in cases:
            y, c = map(Floor.tensor, speed.data(peers.Architecture(), batch))
            times = speed.measure(functions(y, c, gradients, mode), settings, 0., bar)
            records += [dict(
                variant=name,
                case=f'{"gradients" if gradients else "log_prob"}, {mode}, {batch}',
                text=f'{cell["median"] / times["floor"]["median"]:.2f}')
                        for name, cell in times.items()]
    print(report.pivot(records, ['variant'], 'case'))


if __name__ == '__main__':
    main()
