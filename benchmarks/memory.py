"""Greatest memory of a fit to files, by their size: it does not grow with them.

    python benchmarks/memory.py
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

ROW = 128    # Numbers in float32: two are targets.
SHARD = 16   # Megabytes.


def write(directory, megabytes):
    rng = np.random.default_rng(0)
    for shard in range(megabytes // SHARD):
        rows = rng.normal(size=[SHARD * 2**20 // (4 * ROW), ROW]).astype(np.float32)
        rows.tofile(f'{directory}/{shard}.bin')


def fit(directory):
    """One epoch over all files; the most megabytes that the process ever held."""
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    def parse(records):
        rows = tf.reshape(tf.io.decode_raw(records, tf.float32), [-1, ROW])
        return rows[:, :2], rows[:, 2:]

    files = tf.data.Dataset.list_files(f'{directory}/*.bin', seed=0)
    dataset = files.interleave(
        lambda file: tf.data.FixedLengthRecordDataset(file, 4 * ROW), cycle_length=4,
        num_parallel_calls=2).shuffle(4096, seed=0).batch(1024).map(parse).prefetch(2)
    flow = tfpc.Standardized(tfpc.ConditionalRealNVP(2, ROW - 2, num_coupling_layers=2,
                                                     hidden_layers=(16,)))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    tfpc.fit(dist, dataset, epochs=1, verbose=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--megabytes', type=int, nargs='+', default=[64, 512])
    parser.add_argument('--directory', help='of files to fit to, in this process')
    arguments = parser.parse_args()
    if arguments.directory:
        print(f'{fit(arguments.directory):.0f}')
        return
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as directory:
            write(directory, megabytes)
            most = subprocess.run(
                [sys.executable, __file__, '--directory', directory], check=True,
                stdout=subprocess.PIPE, text=True).stdout.split()[-1]
        print(f'{megabytes} MB of files: at most {most} MB of memory')


if __name__ == '__main__':
    main()
