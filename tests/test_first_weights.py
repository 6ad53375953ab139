"""What a flow has adapted to remains, unless training gains significantly over it."""

import functools
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfp_conditional as tfpc
from tests import flows
from tests.test_fit import Killed, kill_after, same, values
from tfp_conditional.fitting import data, optimizer, validation, workers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'benchmarks'))
import plain  # pylint: disable=wrong-import-position

EPOCHS = 10


def make():
    return tfpc.conditional_density(1, 3, seed=0, hidden_layers=(16,),
                                    num_coupling_layers=1)


@functools.cache
def rows(kind):
    """Rows to train on, and so few others that they gain by chance."""
    y, c, _ = plain.simulate('Gaussian', 1, 300, np.random.default_rng([3, 300, 1]))
    if kind == 'curve':    # What no regression finds, and a network does.
        y = 3. * np.abs(c[:, :1]) + 0.1 * y
    return (y[30:], c[30:]), (y[:30], c[:30])


def fitted(kind, dist=None, held_out=None, **kwargs):
    train, validation_data = rows(kind)
    dist = make() if dist is None else dist
    return dist, tfpc.fit(dist, *train, held_out or validation_data, epochs=EPOCHS,
                          seed=0, verbose=False, **kwargs)


def adapted(kind):
    dist = make()
    dist.bijector.adapt(*rows(kind)[0])
    return dist


def loss(dist, kind):
    y, c = (tf.constant(x, tf.float32) for x in rows(kind)[1])
    return -np.mean(dist.log_prob(y, **flows.given(c)), dtype=float)


@functools.cache
def plain_fit(kind):
    return fitted(kind)


def check_alike(kind, dist, history):
    """Nearly as `plain_fit`: TensorFlow may sum a float32 gradient in another order
    where it traces it again, which an uninterrupted fit shows, too."""
    expected, expected_history = plain_fit(kind)
    for one, other in zip([*values(dist), *history.values()],
                          [*values(expected), *expected_history.values()], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_gain_by_chance_leaves_the_first_weights():
    dist, history = plain_fit('Gaussian')
    assert same(dist, adapted('Gaussian'))
    assert min(history['val_loss']) < loss(dist, 'Gaussian') - .01
    # Another fit has adapted this one, and no rule is between it and the least loss.
    again, again_history = fitted('Gaussian', adapted('Gaussian'))
    np.testing.assert_allclose(again_history['val_loss'], history['val_loss'],
                               rtol=1e-5)
    assert not same(again, dist)
    np.testing.assert_allclose(loss(again, 'Gaussian'), min(history['val_loss']),
                               rtol=1e-5)


def test_a_clear_gain_stays():
    dist, history = plain_fit('curve')
    assert not same(dist, adapted('curve'))
    np.testing.assert_allclose(loss(dist, 'curve'), min(history['val_loss']),
                               rtol=1e-5)


def test_a_resumed_fit_decides_alike(tmp_path):
    """It would keep the last weights, had it forgotten the first."""
    path = str(tmp_path / 'fit')
    with pytest.raises(Killed):
        fitted('Gaussian', checkpoint=path, callback=kill_after(EPOCHS - 1))
    for _ in range(2):     # The second finds a finished fit.
        check_alike('Gaussian', *fitted('Gaussian', checkpoint=path))


def test_a_dataset_may_shuffle_itself():
    """The gain would be lost in noise, were rows compared with others."""
    batches = tf.data.Dataset.from_tensor_slices(tuple(
        x.astype(np.float32) for x in rows('curve')[1])).shuffle(30, seed=1).batch(8)
    check_alike('curve', *fitted('curve', held_out=batches))


def test_flows_that_do_not_adapt_keep_the_least_loss(monkeypatch):
    monkeypatch.setattr(validation, 'Z', np.inf)
    dist = flows.dist(tfpc.ConditionalRealNVP(
        2, 3, 1, (4,), transformer='affine', dtype=tf.float64, seed=0))
    before = values(dist)
    c = np.random.default_rng(0).normal(size=[60, 3])
    history = tfpc.fit(dist, c[:, :2], c, validation_split=.5, epochs=3, seed=0,
                       verbose=False)
    assert history['val_loss'][-1] == min(history['val_loss'])
    assert not any(np.array_equal(a, b) for a, b in zip(values(dist), before))


@pytest.mark.parametrize('gains, first, stays', [
    ([1., 1., 1.], 0., True),
    ([0., 1.], 0., False),                   # z = 1,
    ([-.31, 1., 1.], 0., True),              # z = 1.29,
    ([-.33, 1., 1.], 0., False),             # z = 1.26;
    ([1.], 0., False),                       # one row has no deviation;
    ([-1., 2.], -np.inf, True),              # a first loss without end is none.
    ([-1., -2.], 0., False)])
def test_gains_are_measured_by_their_standard_error(gains, first, stays):
    weight = tf.Variable(0.)
    updates = optimizer.KerasOptimizer(tf_keras.optimizers.SGD(), None, None, False)
    updates.build([weight])
    held_out = data.Arrays(tf.constant(gains, tf.float64), ())
    trial = validation.Validation(
        held_out, lambda y, _: y if weight > 0. else 0. * y + first, updates, 5,
        workers.Workers(tf.distribute.get_strategy()))
    trial.start(has_adapted=True)
    weight.assign(1.)
    trial.validate()
    trial.finish()
    assert (weight.numpy() == 1.) == stays
