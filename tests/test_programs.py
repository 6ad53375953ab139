"""A second fit of a distribution uses what the first compiled, and nothing stale."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfp_conditional as tfpc
from tests import flows
from tests import test_fit as fits
from tests.test_fit import BATCHES, C, Y, small, values
from tfp_conditional.bijectors.unconditional import Adaptive
from tfp_conditional.fitting import programs


def restart(dist, first=None):
    """Returns all variables as arrays; given those, goes back to them."""
    for variable, value in zip(dist.variables, first or ()):
        variable.assign(value)
    return [v.numpy() for v in dist.variables]


AGAIN = {
    'adapting': dict(dist=fits.adapting_dist, validation_split=.25, ema_decay=.9),
    'density': dict(dist=fits.linear_dist, target_noise=.1),
    'stock': dict(dist=fits.gaussian, conditions=None),
    'Dataset': dict(dist=fits.adapting_dist, targets=BATCHES, conditions=None),
    'weights': dict(sample_weight=1. + np.arange(96) % 2),
    'XLA': dict(dist=fits.adapting_dist, jit_compile=True),
    'early': dict(validation_data=(2. * Y, C), epochs=3, patience=2),
}


@pytest.mark.parametrize('name', AGAIN)
def test_a_second_fit_from_the_first_weights_is_the_first_and_traces_nothing(
        name, graphs):
    settings = {'dist': fits.flow_dist, **AGAIN[name]}
    dist = settings.pop('dist')()
    first = restart(dist)
    _, history = small(dist, **settings)
    fitted = restart(dist)
    assert graphs
    restart(dist, first)
    graphs.clear()
    again = small(dist, **settings)[1]
    assert not graphs
    for key, column in history.items():
        np.testing.assert_allclose(again[key], column, rtol=1e-12)
    for one, other in zip(restart(dist), fitted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_an_optimizer_of_the_users_goes_on_in_the_same_program(graphs):
    dist, optimizer = fits.gaussian(), tf_keras.optimizers.SGD(.1)
    small(dist, conditions=None, optimizer=optimizer)
    graphs.clear()
    small(dist, conditions=None, optimizer=optimizer)
    assert not graphs and int(optimizer.iterations) == 24
    optimizer.learning_rate.assign(1e-30)
    before = values(dist)
    small(dist, conditions=None, optimizer=optimizer)
    np.testing.assert_allclose(values(dist), before, rtol=1e-12)


@pytest.mark.parametrize('change', [
    dict(learning_rate=.02), dict(epochs=3), dict(batch_size=48), dict(ema_decay=.9),
    dict(clip_norm=1e-3), dict(weight_decay=1.), dict(target_noise=.5),
    dict(targets=Y[:60]), dict(seed=1),
    dict(optimizer=tf_keras.optimizers.SGD(.1))], ids=lambda change: next(iter(change)))
def test_other_settings_are_not_those_of_the_last_fit(change):
    dist = fits.gaussian()
    first = restart(dist)
    small(dist, conditions=None)
    restart(dist, first)
    expected, history = small(fits.gaussian(), **{'conditions': None, **change})
    if 'optimizer' in change:
        change = dict(optimizer=tf_keras.optimizers.SGD(.1))
    _, again = small(dist, **{'conditions': None, **change})
    assert again == history and fits.same(dist, expected)


class Centred(Adaptive):
    """One of the users', that learns a number of Python's, which traces keep."""

    def __init__(self):
        super().__init__(2, tf.float64, {}, 'centred')
        self.loc = 0.

    def _learn(self, y):
        self.loc = float(np.mean(y))

    def unchecked_pass(self, direction, value, conditions=None):
        sign = 1. if direction == 'forward' else -1.
        return value + sign * self.loc, tf.zeros([], tf.float64)


def test_what_python_holds_is_noticed():
    def make():
        return flows.dist(tfpc.ConditionalChain([Centred(), fits.flow_dist().bijector]))

    dist = make()
    first = restart(dist)
    small(dist)
    restart(dist, first)          # It adapts again, to others.
    _, history = small(dist, Y + 100.)
    expected, expected_history = small(make(), Y + 100.)
    assert history == expected_history and fits.same(dist, expected)
    assert history['loss'][0] < 20.
    dist.bijector.bijectors[0].loc = 0.
    with pytest.warns(UserWarning, match='adapted to other data'):
        _, history = small(dist, Y + 100.)
    assert history['loss'][0] > 20.


def test_python_state():
    def scaled(rate):
        return lambda x: rate * x

    module = tf.Module()
    module.parts, module.function = [1., np.arange(3), tf.Variable(1.)], scaled(2.)
    module.itself = module

    def is_same_after(change):
        before = programs.python_state(module)
        change()
        return programs.same(before, programs.python_state(module))

    assert is_same_after(lambda: module.parts[2].assign(2.))
    for change in (lambda: module.parts.append(2),
                   lambda: setattr(module, 'function', scaled(3.)),
                   lambda: module.parts[1].__setitem__(0, 7),
                   lambda: module.parts.__setitem__(2, tf.Variable(1.))):
        assert not is_same_after(change)


def test_the_program_is_the_distributions_own():
    dist = fits.flow_dist().bijector(flows.base())
    names = [v.name for v in dist.variables]
    small(dist, epochs=1)
    assert [v.name for v in dist.variables] == names
    kept = values(dist)
    for clone in (copy.deepcopy(dist), pickle.loads(pickle.dumps(dist))):
        assert programs._SLOT not in vars(clone)
        small(clone, epochs=1)
        assert not fits.same(dist, clone)
    assert all(np.array_equal(a, b) for a, b in zip(kept, values(dist)))


def test_a_fit_in_a_callback_of_another_has_moments_of_its_own():
    def callback(history):
        if len(history['epoch']) == 2:
            kept = restart(dist)
            small(dist)
            restart(dist, kept)

    dist = fits.flow_dist()
    _, history = small(dist, callback=callback)
    expected, expected_history = small()
    assert history == expected_history and fits.same(dist, expected)
