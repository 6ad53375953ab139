"""`fit` on two processes of a MultiWorkerMirroredStrategy, joined by loopback."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import tfp_conditional as tfpc
from tests import test_fit as fits

RUNS = {
    'arrays': dict(dist=fits.adapting_dist, validation_split=.25, ema_decay=.9,
                   batch_size=36, epochs=3, sample_weight=1. + np.arange(96) % 2),
    # The last batch has 16 rows, and the processes get 8 each.
    'dataset': dict(dist=fits.flow_dist, targets=fits.BATCHES, conditions=None,
                    validation_data=fits.BATCHES, epochs=1),
}
ROOT = pathlib.Path(tfpc.__file__).parent.parent
NO_COLLECTIVES = 77


def start(directory, mode):
    """The two processes."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(('127.0.0.1', 0))
    ports = ','.join(str(each.getsockname()[1]) for each in sockets)
    for each in sockets:
        each.close()
    processes = []
    for index in range(2):
        with open(f'{directory}/{mode}_{index}.log', 'w') as log:
            processes.append(subprocess.Popen(
                [sys.executable, '-m', 'tests.worker', str(index), ports, directory,
                 mode], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, 'CUDA_VISIBLE_DEVICES': '',
                     'TF_CPP_MIN_LOG_LEVEL': '3'}))
    return processes


def finish(directory, mode, processes, expected):
    """Waits for both, or for one that ends otherwise than it should."""
    deadline = time.time() + 240
    try:
        while time.time() < deadline:
            codes = [each.poll() for each in processes]
            if None not in codes or any(codes):
                break
            time.sleep(.1)
        time.sleep(.5)
    finally:
        for each in processes:
            each.kill()
            each.wait()
    if NO_COLLECTIVES in codes:
        pytest.skip('TensorFlow has no collectives between processes here')
    said = ''.join(pathlib.Path(f'{directory}/{mode}_{i}.log').read_text()[-3000:]
                   for i in range(2))
    assert codes[1] == expected, said


def results(directory, name):
    """Those of the two, which are the same to the bit, as arrays."""
    files = [np.load(f'{directory}/{name}_{index}.npz') for index in range(2)]
    arrays = [[file[key] for key in file.files] for file in files]
    for one, other in zip(*arrays, strict=True):
        np.testing.assert_array_equal(one, other)
    return arrays[0]


def test_two_processes_are_as_one(tmp_path):
    directory = str(tmp_path)
    # In the end one of them dies, and the other can go no further.
    finish(directory, 'first', start(directory, 'first'), 9)
    alone = {}
    for name, run in RUNS.items():
        dist, history = fits.small(**dict(run, dist=run['dist']()))
        alone[name] = [history['loss'], history['val_loss'], *fits.values(dist)]
        for got, expected in zip(results(directory, name), alone[name], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    assert not list(tmp_path.glob('died*')) and (tmp_path / 'checkpoint').exists()
    finish(directory, 'second', start(directory, 'second'), 0)
    for got, expected in zip(results(directory, 'resumed'), alone['arrays'],
                             strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
