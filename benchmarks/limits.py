"""What could be faster than straight-line TensorFlow, and is not.

    python benchmarks/limits.py

times variants of one conditional Real NVP (D = 8, 16 conditions, 8 couplings, hidden
layers (128, 128)), log-densities and their gradients, and prints ratios of medians to
`floor`, whose second row is the noise. All compute the same, which is asserted.
"""

import processes

import functools
import itertools

import numpy as np
import pandas as pd
import tensorflow as tf
import tqdm

import measure
import peers
import report
from with_tensorflow import compiled


def variants(floor):
    """Log-densities by name."""
    kernel, bias = (tf.Variable(tf.concat([layer[key] for layer in floor.layers], axis=-1))
                    for key in ('condition_kernel', 'bias_0'))

    def wide(y, c):
        parts = tf.split(tf.matmul(c, kernel) + bias, len(floor.layers), axis=-1)
        return floor.call('log_prob', y, c, first=lambda i, units, c: (
            tf.matmul(units, floor.layers[i]['unit_kernel']) + parts[i]))

    vary = functools.partial(functools.partial, floor.call, 'log_prob')
    return {
        'floor': vary(), 'floor again': vary(),
        'one wide product of the conditions for all layers': wide,
        'one product of (units, conditions) in the first layer': vary(first=floor.joint()),
        'halves joined and split again in each layer, as in the package': vary(merge=True),
        'one reduction of log-scales, at the end': vary(late=True)}


def cells(y, c, gradients, mode):
    """A compiled function of each variant."""
    floor = peers.construct(peers.FLOOR, peers.Architecture()).perturb()
    y, c = floor.tensor(y), floor.tensor(c)
    for name, log_prob in variants(floor).items():
        np.testing.assert_allclose(log_prob(y, c), floor.call('log_prob', y, c),
                                   rtol=1e-3, atol=1e-3)

        def run(y, c, log_prob=log_prob):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(log_prob(y, c))
            return tape.gradient(loss, tape.watched_variables()) if gradients else loss

        yield dict(variant=name), functools.partial(compiled(run, mode), y, c)


def main():
    arguments = processes.options(__doc__, rounds=60, batches=[1, 256, 4096])
    tf.get_logger().setLevel('ERROR')
    found = []
    for gradients, mode, batch in tqdm.tqdm(list(itertools.product(
            (False, True), ('graph', 'XLA'), arguments.batches))):
        # As many calls as rounds.
        frame = pd.DataFrame(measure.by_turns(
            list(cells(*peers.Architecture().data(batch), gradients, mode)), 0.,
            arguments.rounds, arguments.rounds))
        found.append(frame.assign(
            case=f'{"gradients" if gradients else "log_prob"}, {mode}, {batch}',
            text=(frame['median'] / frame['median'][0]).map('{:.2f}'.format)))
    print(report.pivot(pd.concat(found), ['variant'], 'case'))


if __name__ == '__main__':
    main()
