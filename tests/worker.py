"""One of the processes of `test_workers.py`: `worker.py INDEX PORTS DIRECTORY MODE`."""

import json
import os
import sys

index, ports, directory, mode = sys.argv[1:]
index = int(index)
os.environ['TF_CONFIG'] = json.dumps({
    'cluster': {'worker': [f'127.0.0.1:{port}' for port in ports.split(',')]},
    'task': {'type': 'worker', 'index': index}})

import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(2)
try:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
except tf.errors.OpError as error:
    print(error)
    sys.exit(77)

import keras
import numpy as np

from tests import test_fit as fits
from tests.test_workers import RUNS

with strategy.scope():
    dists = {name: run['dist']() for name, run in RUNS.items()}


def refused(match, **kwargs):
    try:
        fits.small(dists['arrays'], **kwargs)
    except ValueError as error:
        assert match in str(error), error
    else:
        raise AssertionError(match)


def die(history):
    if index == 1 and len(history['epoch']) == 2:
        os._exit(9)


def fit_and_save(name, label, **kwargs):
    _, history = fits.small(**dict(RUNS[name], dist=dists[name], **kwargs))
    np.savez(f'{directory}/{label}_{index}.npz', history['loss'], history['val_loss'],
             *fits.values(dists[name]))


checkpoint = f'{directory}/checkpoint'
if mode == 'first':
    refused('needs a `seed`', seed=None)
    refused('Arguments of `fit` must be the same', batch_size=32 + index)
    refused('Data must be the same', targets=fits.Y + index)
    refused('must be one of tf_keras', optimizer=keras.optimizers.SGD(.1))
    variables = dists['arrays'].variables
    weights = [tf.convert_to_tensor(v).numpy() for v in variables]
    for name in RUNS:
        fit_and_save(name, name)
    for variable, value in zip(variables, weights):
        variable.assign(value)
    fit_and_save('arrays', 'died', checkpoint=checkpoint, callback=die)
else:
    fit_and_save('arrays', 'resumed', checkpoint=checkpoint)
