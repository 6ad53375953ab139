"""Greatest memory of a fit to files, by their size: it does not grow with them.

    python benchmarks/memory.py
"""

import processes

import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import measure
import tfp_conditional as tfpc

ROW = 128    # Numbers in float32: two are targets.
SHARD = 16   # Megabytes.


def write(directory, megabytes):
    rng = np.random.default_rng(0)
    for shard in range(megabytes // SHARD):
        rng.normal(size=[SHARD * 2**20 // (4 * ROW), ROW]).astype(np.float32).tofile(
            f'{directory}/{shard}.bin')


def fit(directory):
    """One epoch over all files; the most bytes that the process ever held."""
    def parse(records):
        rows = tf.reshape(tf.io.decode_raw(records, tf.float32), [-1, ROW])
        return rows[:, :2], rows[:, 2:]

    files = tf.data.Dataset.list_files(f'{directory}/*.bin', seed=0)
    dataset = files.interleave(
        lambda file: tf.data.FixedLengthRecordDataset(file, 4 * ROW), cycle_length=4,
        num_parallel_calls=2).shuffle(4096, seed=0).batch(1024).map(parse).prefetch(2)
    flow = tfpc.Standardized(tfpc.ConditionalRealNVP(2, ROW - 2, num_coupling_layers=2,
                                                     hidden_layers=(16,)))
    base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))
    tfpc.fit(flow(base), dataset, epochs=1, verbose=False)
    return measure.memory()


def main():
    for megabytes in processes.options(__doc__, megabytes=[64, 512]).megabytes:
        with tempfile.TemporaryDirectory() as directory:
            write(directory, megabytes)
            most = processes.call('memory.fit', directory) / 2**20
        print(f'{megabytes} MB of files: at most {most:.0f} MB of memory')


if __name__ == '__main__':
    main()
