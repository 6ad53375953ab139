"""`fit`: optimum, exact resumption, guards and refusals."""

import functools
import gc
import os
import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow.python.framework import func_graph, ops

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors.mixing import ActNorm
from tfp_conditional.bijectors.standardize import Standardized
from tfp_conditional.fitting.data import Arrays, checked_data, thinned
from tfp_conditional.fitting.fit import fit
from tfp_conditional.fitting.validation import mean_and_error

tfb, tfd = tfp.bijectors, tfp.distributions

RNG = np.random.default_rng(0)
C = RNG.normal(size=[96, 3])
Y = C[:, :2] + .5 * RNG.normal(size=[96, 2])


BATCHES = tf.data.Dataset.from_tensor_slices((Y, C)).batch(40)


def flow_dist(condition_size=3, num_coupling_layers=1, **kwargs):
    """Of one coupling, since a fit does not care how many there are."""
    return flows.dist(tfpc.ConditionalRealNVP(
        2, condition_size, num_coupling_layers, (16,), dtype=tf.float64, seed=0, **kwargs))


def adapting_dist():
    """One that learns from data before the first step."""
    return flows.dist(Standardized(tfpc.ConditionalChain(
        [flow_dist().bijector, ActNorm(2, tf.float64)])))


def gaussian():
    """An unconditional dist of stock parts, with two variables."""
    return tfd.TransformedDistribution(
        flows.base(), tfb.Chain([tfb.Shift(tf.Variable(tf.zeros(2, tf.float64))),
                                 tfb.ScaleMatvecDiag(
                                     tf.Variable(tf.ones(2, tf.float64)))]))


def small(dist=None, targets=Y, conditions=C, **kwargs):
    """A short fit; the dist, its history."""
    dist = flow_dist() if dist is None else dist
    kwargs = {'epochs': 4, 'batch_size': 32, 'seed': 0, 'learning_rate': 1e-2,
              'ema_decay': None, 'verbose': False, **kwargs}
    if kwargs.get('optimizer') is not None:
        del kwargs['learning_rate']
    return dist, fit(dist, targets, conditions, **kwargs)


def values(dist):
    return [tf.convert_to_tensor(v).numpy() for v in dist.trainable_variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(values(one), values(other)))


class Killed(Exception):
    pass


def kill_after(epoch):
    def callback(history):
        if history['epoch'][-1] == epoch:
            raise Killed
    return callback


def test_reaches_the_optimum_of_a_conditional_gaussian():
    rng = np.random.default_rng(1)
    conditions = rng.normal(size=[2000, 1])
    scale = np.exp(.5 * np.tanh(conditions))
    targets = 2. * conditions + scale * rng.normal(size=[2000, 1])
    dist = flows.dist(tfpc.ConditionalRealNVP(1, 1, 1, (16,), activation='tanh',
                                              dtype=tf.float64, seed=0), 1)
    history = fit(dist, targets, conditions, epochs=40, batch_size=100,
                  learning_rate=2e-2, seed=0, verbose=False)
    truth = tfd.Normal(2. * conditions, scale).log_prob(targets)
    assert abs(history['loss'][-1] + np.mean(truth)) < .05
    log_prob = dist.log_prob(targets, **flows.given(tf.constant(conditions)))
    assert abs(np.mean(log_prob) - np.mean(truth)) < .05


def test_unconditional_optimum():
    dist, _ = small(gaussian(), conditions=None, epochs=60, learning_rate=.1)
    deviation = Y.std(0)
    best = np.sum(np.log(deviation) + .5 * np.log(2 * np.pi) + .5)
    assert abs(-np.mean(dist.log_prob(Y)) - best) < .05


def weighted(data, to, size=96):
    """Data and weights as arguments of a fit, of arrays or of a Dataset."""
    targets, conditions, weights = data
    if to == 'arrays':
        return dict(targets=targets, conditions=conditions, sample_weight=weights)
    return dict(targets=tf.data.Dataset.from_tensor_slices(
        (targets, () if conditions is None else conditions, weights)).batch(size),
                conditions=None)


@pytest.mark.parametrize('to', ['arrays', 'dataset'])
def test_weights_fit_another_density_than_that_of_the_rows(to):
    """A Gaussian's weighted maximum has weighted moments; so `val_loss` is known too."""
    weights = np.exp(C[:, 0])
    dist, history = small(gaussian(), validation_data=(Y, None, 7. * weights), epochs=60,
                          learning_rate=.1, **weighted((Y, None, weights), to, 32))
    loc = np.average(Y, axis=0, weights=weights)
    deviation = np.sqrt(np.average((Y - loc)**2, axis=0, weights=weights))
    np.testing.assert_allclose(values(dist)[0], loc, atol=.05)
    np.testing.assert_allclose(values(dist)[1], deviation, atol=.05)
    assert np.all(np.abs(loc - Y.mean(0))[0] > .2)
    best = np.sum(np.log(deviation) + .5 * np.log(2 * np.pi) + .5)
    assert best <= min(history['val_loss']) < best + .01


@pytest.mark.parametrize('to', ['arrays', 'dataset'])
def test_a_row_of_weight_n_is_n_rows(to):
    counts = np.arange(96) % 3          # 0 too.
    rows = np.repeat(np.arange(96), counts)
    settings = dict(epochs=2, batch_size=96, clip_norm=None)
    expected, losses = small(targets=Y[rows], conditions=C[rows],
                             validation_data=(Y[rows], C[rows]), **settings,
                             optimizer=tf_keras.optimizers.SGD(.1))
    got, weighted_losses = small(validation_data=(Y, C, counts), **settings,
                                 **weighted((Y, C, counts), to),
                                 optimizer=tf_keras.optimizers.SGD(.1))
    for one, other in zip(values(got), values(expected)):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weighted_losses['val_loss'], losses['val_loss'])
    np.testing.assert_allclose(weighted_losses['loss'], losses['loss'])


def test_equal_weights_are_none():
    settings = dict(validation_split=.25, ema_decay=.9)
    plain, history = small(adapting_dist(), **settings)
    dist, weighted_history = small(adapting_dist(), sample_weight=np.full(96, .1),
                                   **settings)
    assert same(dist, plain) and weighted_history['loss'] == history['loss']
    np.testing.assert_allclose(weighted_history['val_loss'], history['val_loss'],
                               rtol=1e-12)


@pytest.mark.parametrize('to', ['arrays', 'dataset'])
def test_a_row_of_weight_0_is_not_there(to):
    weights = np.where(np.arange(96) % 4 == 1, 0., 1. + np.arange(96) % 2)
    targets = np.where(weights[:, None] == 0., np.nan, Y)
    there = weights > 0.
    expected, losses = small(adapting_dist(), **weighted(
        (Y[there], C[there], weights[there]), to))
    dist, history = small(adapting_dist(), **weighted((targets, C, weights), to))
    assert same(dist, expected) and history == losses


def test_flows_adapt_to_rows_as_often_as_they_weigh():
    rng = np.random.default_rng(4)
    y = rng.normal(size=[9000, 1])
    for weights, atol in [(np.ones(9000), 0.), (1. + (y[:, 0] > 0), .05),
                          (np.exp(y[:, 0]), .1)]:
        kept = thinned([Arrays(y[:6000], (), weights[:6000]),
                        Arrays(y[6000:], (), weights[6000:])], (0,))
        rows = np.concatenate([batch.targets for batch in kept])
        assert abs(np.mean(rows) - np.average(y[:, 0], weights=weights)) <= atol + 1e-12
        assert len(np.unique(rows)) == len(rows) > .45 * np.sum(weights)**2 / np.sum(
            weights**2)
    assert all(batch.weights == () for batch in kept)
    dist, _ = small(adapting_dist(), sample_weight=1. + (C[:, 0] > 0.), epochs=1)
    rows, = thinned([Arrays(Y, C, 1. + (C[:, 0] > 0.))], (0,))
    np.testing.assert_allclose(dist.bijector.event_loc, np.mean(rows.targets, 0))


def test_the_error_of_a_weighted_mean():
    rng = np.random.default_rng(5)
    x = rng.normal(size=40)
    mean, error = mean_and_error(x, np.full(40, 3.))
    np.testing.assert_allclose([mean, error], [x.mean(), x.std(ddof=1) / np.sqrt(40)])
    # Of weights 0 and 1 it is that of the rows of 1.
    some = mean_and_error(x, np.arange(40.) < 10)
    np.testing.assert_allclose(some, mean_and_error(x[:10], np.ones(10)))
    weights = np.exp(rng.normal(size=40))
    draws = rng.normal(size=[20000, 40])
    errors = [mean_and_error(row, weights)[1]**2 for row in draws[:4000]]
    means = draws @ weights / weights.sum()
    np.testing.assert_allclose(np.mean(errors), np.var(means), rtol=.05)
    assert mean_and_error(x[:1], np.ones(1))[1] == np.inf


def test_every_weight_changes_and_history_is_sane():
    dist = flows.dist(flows.flow())
    before = values(dist)
    _, history = small(dist, validation_split=.25)
    assert all(np.all(a != b) for a, b in zip(before, values(dist)))
    assert history['epoch'] == [1, 2, 3, 4]
    assert all(len(column) == 4 and np.all(np.isfinite(column))
               for column in history.values())
    assert set(history) == {'epoch', 'loss', 'val_loss'}
    assert history['loss'][-1] < history['loss'][0]


def test_loss_is_the_mean_over_all_rows():
    expected = -np.mean(flow_dist().log_prob(Y, **flows.given(tf.constant(C))))
    _, history = small(epochs=1, batch_size=96)
    np.testing.assert_allclose(history['loss'], [expected], rtol=1e-12)


def test_a_step_is_adam_with_decoupled_decay():
    ours, _ = small(epochs=1, batch_size=96, clip_norm=None, weight_decay=.5,
                    dist=flows.dist(flows.flow()))
    dist = flows.dist(flows.flow())
    variables = dist.trainable_variables
    optimizer = tf_keras.optimizers.AdamW(1e-2, weight_decay=.5, beta_2=.99,
                                           jit_compile=False)
    optimizer.exclude_from_weight_decay([v for v in variables if v.shape.rank < 2])
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(dist.log_prob(Y, **flows.given(tf.constant(C))))
    optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
    for one, other in zip(values(ours), values(dist)):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_clip_norm_bounds_the_gradient():
    before = flow_dist()
    dist, _ = small(epochs=1, batch_size=96, clip_norm=1e-3,
                    optimizer=tf_keras.optimizers.SGD(1.))
    moved = np.sqrt(sum(np.sum((a - b)**2)
                        for a, b in zip(values(before), values(dist))))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-6)


SETTINGS = {
    'default': {},
    'all': {'validation_split': .25, 'patience': 3, 'ema_decay': .9,
            'target_noise': .1},
    'keras 3': {'optimizer': lambda: keras.optimizers.Adam(1e-2)},
    'tf_keras': {'optimizer': lambda: tf_keras.optimizers.AdamW(1e-2)},
    'adapting': {'dist': adapting_dist, 'ema_decay': .9},
}


@pytest.mark.parametrize('name', SETTINGS)
def test_a_resumed_fit_ends_like_an_uninterrupted_one(name, tmp_path):
    def run(**more):
        settings = {'dist': flow_dist, **SETTINGS[name]}
        return small(**more, **{
            key: value() if key in ('dist', 'optimizer') else value
            for key, value in settings.items()})

    path = str(tmp_path / 'fit')
    whole, history = run()
    with pytest.raises(Killed):
        run(checkpoint=path, callback=kill_after(2))
    resumed, resumed_history = run(checkpoint=path)
    assert resumed_history == history and same(resumed, whole)
    again, again_history = run(checkpoint=path)        # A finished fit stays so.
    assert again_history == history and same(again, whole)


def statistics(dist):
    return [v.numpy() for v in dist.non_trainable_variables]


def test_flows_adapt_to_the_rows_they_train_on_once():
    dist, _ = small(adapting_dist(), validation_split=.25, epochs=1)
    targets, conditions = (np.asarray(x) for x in Arrays(Y, C).split(.25, (0,))[0][:2])
    assert len(targets) == 72
    flow = dist.bijector
    for got, expected in [(flow.event_loc, targets.mean(0)),
                          (flow.event_scale, targets.std(0)),
                          (flow.condition_loc, conditions.mean(0)),
                          (flow.condition_scale, conditions.std(0))]:
        np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert np.any(flow.bijector.bijectors[1].loc) and flow.adapted
    before = statistics(dist)
    small(dist, Y + 1., C + 1., epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(before, statistics(dist)))


def test_flows_adapt_to_the_first_rows_of_a_dataset_and_in_stock_chains():
    batches = tf.data.Dataset.from_tensor_slices((Y, C)).batch(40)
    dist, _ = small(adapting_dist(), batches, None, epochs=1)
    np.testing.assert_allclose(dist.bijector.event_loc, Y.mean(0), rtol=1e-9)
    norm = ActNorm(2, tf.float64)
    small(tfd.TransformedDistribution(flows.base(), tfb.Chain([norm])),
          tf.data.Dataset.from_tensors(Y), None, epochs=1)
    np.testing.assert_allclose(norm.loc, Y.mean(0), rtol=1e-9)


class Seen(Standardized):
    """Notes the shapes of what it adapts to."""

    def adapt(self, y, conditions=None):
        self.shapes = [y.shape, conditions.shape]
        super().adapt(y, conditions)


@pytest.mark.parametrize('dataset', [False, True])
def test_unconditional_parts_adapt_to_all_rows_and_others_to_so_many(
        dataset, monkeypatch):
    monkeypatch.setattr('tfp_conditional.bijectors.adapt._ADAPTATION_NUMBERS', 60000)
    targets = np.arange(20500.).reshape(-1, 1)
    conditions = np.ones([20500, 2])
    norm = ActNorm(1, tf.float64)
    inner = Seen(tfpc.ConditionalElementwise(1, 2, (4,), dtype=tf.float64, seed=0))
    dist = flows.dist(tfpc.ConditionalChain([norm, inner]), 1)
    data = (targets, conditions)
    if dataset:
        data = tf.data.Dataset.from_tensor_slices(data).batch(3000), None
    small(dist, *data, epochs=1, batch_size=3000)
    # The first four batches of the Dataset; 20,000 rows, at random, of the arrays.
    rows = targets[:12000] if dataset else targets
    np.testing.assert_allclose(norm.loc, np.mean(rows), rtol=1e-6)
    count = 12000 if dataset else 20000
    assert inner.shapes == [[count, 1], [count, 2]]
    assert abs(inner.event_loc[0]) < .01


def test_adapting_in_chunks_is_adapting_at_once(monkeypatch):
    def adapted():
        flow = tfpc.ConditionalChain([
            flows.flow(), ActNorm(2, tf.float64), tfpc.ConditionalEmbedding(
                Standardized(tfpc.ConditionalChain([flows.flow(seed=2), ActNorm(
                    2, tf.float64)])), lambda c: c[..., ::-1], 3)])
        flow.adapt(Y, C)
        return [v.numpy() for v in flow.non_trainable_variables]

    whole = adapted()
    monkeypatch.setattr('tfp_conditional.bijectors.adapt._CHUNK', 7)
    for got, expected in zip(adapted(), whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_some_rows_of_batches(monkeypatch):
    monkeypatch.setattr(adapt_lib, '_ADAPTATION_ROWS', 10)
    monkeypatch.setattr(adapt_lib, '_ADAPTATION_NUMBERS', 1)
    parts = [(0, 1), (1, 40), (40, 42), (42, 96)]
    batches = [(tf.constant(Y[i:j]), {'c': tf.constant(C[i:j])}) for i, j in parts]
    kept = adapt_lib.fewer(batches)
    y = np.concatenate([y for y, _ in kept])
    c = np.concatenate([c['c'] for _, c in kept])
    rows = [int(np.flatnonzero(np.all(Y == row, -1))[0]) for row in y]
    assert len(set(rows)) == 10 and all(len(y) for y, _ in kept)
    np.testing.assert_array_equal(c, C[rows])
    assert adapt_lib.fewer(batches[:1]) == batches[:1]


class Mean(tf.Module):
    """Sets of any size `[B, L, 1]` to `[B, 4]`."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(flows.normal([1, 4]))

    def __call__(self, sets):
        return tf.reduce_mean(tf.nn.relu(sets @ self.kernel), -2)


def sets(seed, sizes=(2, 5, 3, 5)):
    """Batches of sets, each of one size, and 1000 times their means."""
    rng = np.random.default_rng(seed)
    signature = (tf.TensorSpec([None, 2], tf.float64),
                 tf.TensorSpec([None, None, 1], tf.float64))
    data = [rng.normal(size=[16, size, 1]) for size in sizes]
    return tf.data.Dataset.from_generator(
        lambda: ((1e3 * np.repeat(x.mean(1), 2, axis=1), x) for x in data),
        output_signature=signature)


@pytest.mark.parametrize('make', [
    lambda flow: tfpc.ConditionalEmbedding(flow, Mean(), SETS),
    lambda flow: tfpc.ConditionalChain([
        ActNorm(2, tf.float64), tfpc.ConditionalEmbedding(
            tfpc.ConditionalChain([flow, ActNorm(2, tf.float64)]), Mean(), SETS)]),
], ids=['alone', 'in a chain'])
def test_sets_of_several_sizes(make):
    flow = make(Standardized(tfpc.ConditionalRealNVP(2, 4, 2, (8,), dtype=tf.float64,
                                                     seed=0)))
    _, history = small(flows.dist(flow), sets(0), None, validation_data=sets(1))
    assert flow.adapted and history['val_loss'][-1] < history['val_loss'][0] < 20.
    with pytest.raises(ValueError, match='batches of several.*ConditionalEmbedding'):
        small(flows.dist(SetFlow()), sets(0), None)


SETS = tf.TensorSpec([None, 1], tf.float64)


class SetFlow(tfpc.ConditionalBijector):
    """One that adapts, and takes sets without an embedding."""

    adapted = False

    def __init__(self):
        super().__init__(2, SETS, dtype=tf.float64)
        self.loc = tf.Variable(0., dtype=tf.float64)

    def adapt(self, y, conditions):
        raise AssertionError('not reached')


def test_statistics_are_those_of_the_checkpoint(tmp_path):
    """Though a flow that goes on from it has learnt others, or none."""
    path = str(tmp_path / 'fit')
    whole = adapting_dist()
    whole.bijector.adapt(Y + 5., 2. * C)
    small(whole, checkpoint=path)
    fresh, _ = small(adapting_dist(), checkpoint=path)
    assert same(fresh, whole)
    assert all(np.array_equal(a, b)
               for a, b in zip(statistics(fresh), statistics(whole), strict=True))


def test_averages_begin_where_the_flow_has_adapted():
    dist = flows.dist(ActNorm(2, tf.float64))
    small(dist, 1e6 * Y, None, ema_decay=.999, learning_rate=1e-9, epochs=1)
    np.testing.assert_allclose(dist.bijector.log_scale, np.log(1e6 * Y.std(0)),
                               rtol=1e-6)


def test_what_a_flow_has_adapted_to_may_be_the_best():
    dist = flows.dist(ActNorm(2, tf.float64))
    # Steps that leave the one place where the loss is least.
    small(dist, 1e6 * Y, None, validation_data=(1e6 * Y,), learning_rate=1., epochs=1)
    np.testing.assert_allclose(dist.bijector.log_scale, np.log(1e6 * Y.std(0)),
                               rtol=1e-6)


def test_training_goes_on_from_weights_that_a_callback_sets():
    dist, weights = flow_dist(), []

    def callback(history):
        for v in dist.trainable_variables:
            v.assign(v + 1.)
        weights.append(values(dist))

    small(dist, epochs=2, learning_rate=1e-20, weight_decay=0., callback=callback)
    assert all(np.array_equal(a + 1., b) for a, b in zip(*weights))
    assert all(np.array_equal(a, b) for a, b in zip(values(dist), weights[1]))


@pytest.mark.parametrize('make', [
    adapting_dist, lambda: flows.dist(tfpc.ConditionalChain(
        [ActNorm(2, tf.float64), flow_dist().bijector]))],
                         ids=['standardized', 'act_norm'])
def test_the_units_of_data_do_not_matter(make):
    _, expected = small(make())
    for loc, scale in ((0., 1e-6), (1e6, 1e1)):
        _, history = small(make(), loc + scale * Y)
        np.testing.assert_allclose(
            np.array(history['loss']) - 2 * np.log(scale), expected['loss'],
            atol=1e-4)


OTHER_DATA = {
    'targets x 100': (100 * Y, C), 'targets / 20': (Y / 20, C),
    'targets + 100': (Y + 100, C), 'one column': (Y + [0., 100.], C),
    'conditions + 100': (Y, C + 100), 'conditions x 100': (Y, 100 * C)}


def linear_dist():
    return tfpc.conditional_density(2, 3, seed=0, dtype=tf.float64,
                                    transformer='affine',
                                    hidden_layers=(8,), num_coupling_layers=2)


@functools.cache
def adapted_dist():
    """One that no other fit changes."""
    dist = linear_dist()
    dist.bijector.adapt(Y, C)
    return dist


@pytest.mark.parametrize('dataset', [False, True])
@pytest.mark.parametrize('name', OTHER_DATA)
def test_a_second_fit_to_data_of_another_scale_or_place_warns(name, dataset):
    data = OTHER_DATA[name]
    if dataset:
        data = tf.data.Dataset.from_tensor_slices(data).batch(40), None
    with warnings.catch_warnings():     # As an error, it ends the fit before it trains.
        warnings.simplefilter('error', UserWarning)
        with pytest.raises(UserWarning, match='adapted to other data.*make a new dist'):
            small(adapted_dist(), *data, epochs=1)


def test_fits_to_data_of_the_scale_adapted_to_do_not_warn(tmp_path, monkeypatch):
    # It warns before the first epoch.
    monkeypatch.setattr('tfp_conditional.fitting.training.Training.epoch',
                        lambda *args: 0.)
    rng = np.random.default_rng(3)
    others = rng.permutation(96)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        for make in (linear_dist, adapting_dist):
            dist, _ = small(make(), 1e3 * Y + 1e4, epochs=2)      # The first.
            for y, c in [(Y[others[:60]], C[others[:60]]), (Y * 1.3 + .2, C + .2)]:
                small(dist, 1e3 * y + 1e4, c, epochs=1)
        # Nothing in these adapts.
        small(targets=10. * Y, epochs=1)
        small(flows.dist(tfpc.ConditionalEmbedding(
            flow_dist().bijector, lambda c: c, 3)), 10. * Y, epochs=1)
        path = str(tmp_path / 'fit')
        small(adapting_dist(), 100. * Y, checkpoint=path)
        small(adapting_dist(), 100. * Y, checkpoint=path)


@pytest.mark.parametrize('count', [1, 20])
def test_a_fit_to_few_rows_without_validation_warns(count):
    match = f'so few rows, {count}, without validation.*validation_split'
    with pytest.warns(UserWarning, match=match):
        small(targets=Y[:count], conditions=C[:count], epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        small(targets=Y[:count], conditions=C[:count], epochs=1,
              validation_data=(Y, C))


def num_graphs():
    """How many live, and how many entries hold them in TensorFlow's registry."""
    gc.collect()
    return (sum(isinstance(x, func_graph.FuncGraph) for x in gc.get_objects()),
            len(ops.gradient_registry.list()))


LEAKS = {
    'all': {'validation_split': .25, 'ema_decay': .9, 'target_noise': .1,
            'dist': adapting_dist},
    'XLA': {'jit_compile': True}, 'Dataset': {'data': BATCHES},
    'Keras 3': {'optimizer': lambda: keras.optimizers.AdamW(1e-2)},
    'tf_keras': {'optimizer': lambda: tf_keras.optimizers.AdamW(1e-2)}}


@pytest.mark.parametrize('name', LEAKS)
def test_nothing_is_left_of_a_fit(name):
    more = dict(LEAKS[name])
    data = (more.pop('data'), None) if 'data' in more else (Y, C)

    def run():
        small(more.get('dist', flow_dist)(), *data, epochs=1, **{
            key: value() if key == 'optimizer' else value
            for key, value in more.items() if key != 'dist'})

    run()       # What is made once for all.
    before = num_graphs()
    run()
    assert num_graphs() == before


def test_another_optimizer_may_go_on_for_more_epochs(tmp_path):
    path = str(tmp_path / 'fit')
    whole, history = small(optimizer=keras.optimizers.SGD(.1))
    small(optimizer=keras.optimizers.SGD(.1), epochs=2, checkpoint=path)
    resumed, resumed_history = small(optimizer=keras.optimizers.SGD(.1),
                                     checkpoint=path)
    assert resumed_history == history and same(resumed, whole)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = str(tmp_path / 'fit')
    small(checkpoint=path, epochs=1)
    for key, change in {'batch_size': {'batch_size': 48}, 'epochs': {'epochs': 5},
                        'seed': {'seed': 1}, 'data': {'targets': Y + 1}}.items():
        with pytest.raises(ValueError, match=f"other settings: '{key}' was"):
            small(**{'checkpoint': path, 'epochs': 1, **change})
    (tmp_path / 'other').write_text('no checkpoint')
    with pytest.raises(ValueError, match='must be a file that `fit` wrote'):
        small(checkpoint=str(tmp_path / 'other'))


def test_early_stopping_restores_the_best():
    seen = []
    dist = flow_dist(num_coupling_layers=2)
    # Eight rows say where the rest lies, and soon are known by heart.
    _, history = small(dist, Y[:8] + 3, C[:8], epochs=60, patience=4, batch_size=8,
                       learning_rate=5e-2, weight_decay=.4,
                       validation_data=(Y[8:40] + 3, C[8:40]),
                       callback=lambda history: seen.append(values(dist)))
    best = int(np.argmin(history['val_loss']))
    assert len(history['epoch']) == best + 5 < 60
    assert all(np.array_equal(a, b) for a, b in zip(values(dist), seen[best]))
    log_prob = dist.log_prob(Y[8:40] + 3, **flows.given(tf.constant(C[8:40])))
    np.testing.assert_allclose(-np.mean(log_prob), history['val_loss'][best])


@pytest.mark.parametrize('more, epochs', [
    ({}, 2), ({'ema_decay': .9}, 2), ({'patience': None, 'batch_size': 4}, 20),
    ({'patience': None, 'batch_size': 4, 'epochs': 150}, 50), ({'patience': None}, 30)],
                         ids=str)
def test_weights_from_before_the_first_epoch_may_be_the_best(more, epochs):
    dist = flow_dist()
    before = values(dist)
    _, history = small(dist, .01 * Y, validation_data=(2 * Y, C),
                       **{'patience': 2, 'epochs': 30, **more})
    assert len(history['epoch']) == epochs
    assert all(np.array_equal(a, b) for a, b in zip(values(dist), before))


def test_dropout_is_on_in_training_only():
    def fitted(rate):
        return small(flow_dist(conditioner=tfpc.MLP((16, 16), dropout=rate)),
                     validation_data=(Y, C))

    dist, history = fitted(.5)
    again, same_history = fitted(.5)
    assert history == same_history and same(dist, again)
    assert not same(dist, fitted(0.)[0])
    log_prob = dist.log_prob(Y, **flows.given(tf.constant(C)))
    np.testing.assert_allclose(-np.mean(log_prob), min(history['val_loss']))


@pytest.mark.parametrize('more', [{}, {'target_noise': .1}])
def test_seeds_reproduce(more):
    one, history = small(**more)
    other, other_history = small(**more)
    different, _ = small(seed=1, **more)
    assert history == other_history and same(one, other)
    assert not same(one, different)


def test_moving_average_lags_and_noise_widens():
    plain, _ = small()
    averaged, _ = small(ema_decay=.99)
    assert not same(plain, averaged)
    _, plain = small(gaussian(), conditions=None, epochs=60, learning_rate=.1)
    dist, _ = small(gaussian(), conditions=None, epochs=60, learning_rate=.1,
                    target_noise=2.)
    variance = Y.var(0) + 4.
    np.testing.assert_allclose(values(dist)[1]**2, variance, rtol=.2)


class Poisoned(tf.Module):
    """A conditioner whose output, or whose gradient alone, is NaN where c > 50."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.kernel = tf.Variable(.1 * tf.ones([4, 2], tf.float64), name='kernel')

    def __call__(self, units, conditions):
        bad = conditions[..., :1] > 50.
        conditions = tf.where(bad, tf.zeros_like(conditions), conditions)
        result = tf.concat([units, conditions], -1) @ self.kernel
        if self.where == 'loss':
            return tf.where(bad, np.nan * tf.ones_like(result), result)
        zero = tf.where(bad, 0. * result, tf.ones_like(result))
        return result + tf.sqrt(zero) - tf.stop_gradient(tf.sqrt(zero))


def poisoned(where):
    return flows.dist(tfpc.ConditionalCoupling(
        2, 3, conditioner=Poisoned(where), dtype=tf.float64))


@pytest.mark.parametrize('where', ['loss', 'gradient'])
@pytest.mark.parametrize('more', [
    {}, {'optimizer': 'adamw'}, {'jit_compile': True}], ids=str)
def test_what_is_not_finite_changes_nothing(where, more):
    """Row 7 is bad; up to its batch all goes on, and no further."""
    conditions = C.copy()
    conditions[7] = 100.
    order = np.random.default_rng([0, 1]).permutation(96).reshape(3, 32)
    step = int(np.argmax(np.any(order == 7, -1)))
    rows = tf.data.Dataset.from_tensor_slices(
        (Y[order][:step], C[order][:step]))
    bad = tf.data.Dataset.from_tensors((Y[:32], conditions[:32]))
    make = {**more, 'weight_decay': .5}
    if 'optimizer' in more:
        make = {'optimizer': keras.optimizers.AdamW(1e-2, weight_decay=.5)}
    dist = poisoned(where)
    with pytest.raises(FloatingPointError, match=(
            f'Epoch 1, step {step + 1} of 3: not finite: the {where}')):
        small(dist, conditions=conditions, **make)
    assert all(np.all(np.isfinite(v)) for v in values(dist))
    assert step
    if 'optimizer' in more:
        expected = poisoned(where)
        small(expected, rows, None, epochs=1, optimizer=keras.optimizers.AdamW(
            1e-2, weight_decay=.5))
        assert same(dist, expected)
    else:
        expected = poisoned(where)
        with pytest.raises(FloatingPointError):
            small(expected, rows.concatenate(bad), None, **make)
        for one, other in zip(values(dist), values(expected)):
            np.testing.assert_allclose(one, other, rtol=1e-6)


def test_a_step_too_far_goes_back_to_the_start_of_the_epoch():
    dist = gaussian()
    with pytest.raises(FloatingPointError, match='the start of the epoch'):
        small(dist, conditions=None, clip_norm=None,
              optimizer=keras.optimizers.SGD(1e308))
    assert same(dist, gaussian())


def test_datasets():
    batches = tf.data.Dataset.from_tensor_slices((Y, C)).batch(40)
    dist, history = small(targets=batches, conditions=None,
                          validation_data=batches)
    assert history['val_loss'][-1] < history['val_loss'][0]
    alone = tf.data.Dataset.from_tensor_slices(Y).batch(40).filter(lambda y: True)
    _, history = small(gaussian(), alone, None, validation_data=Y)
    assert history['loss'][-1] < history['loss'][0]
    bad = tf.data.Dataset.from_tensor_slices((Y * [[np.nan, 1]], C)).batch(40)
    kept = values(dist)
    with pytest.raises(FloatingPointError, match='step 1 of 3: not finite: the los'):
        small(dist, bad, None)
    assert all(np.array_equal(a, b) for a, b in zip(kept, values(dist)))


@pytest.mark.parametrize('size, conditions', [
    ({'a': 1, 'b': 2}, {'a': C[:, :1], 'b': C[:, 1:]}),
    ((1, 2), (tf.constant(C[:, :1]), C[:, 1:]))], ids=['dict', 'tuple'])
def test_nests_of_conditions(size, conditions):
    _, history = small(flow_dist(size, 2), conditions=conditions, validation_split=.2)
    assert history['val_loss'][-1] < history['val_loss'][0]


def test_jit_compile_gives_the_same():
    _, plain = small(epochs=2, ema_decay=.9)
    _, jitted = small(epochs=2, ema_decay=.9, jit_compile=True)
    np.testing.assert_allclose(plain['loss'], jitted['loss'], rtol=1e-6)


@pytest.mark.parametrize('batch_size, size', [(40, 32), (95, 48), (1000, 96)])
def test_batches_are_equal(batch_size, size):
    """96 rows: ceil(96 / batch_size) steps of one size that leave out few."""
    dist, shapes = flow_dist(), []
    log_prob = dist._call_log_prob
    dist._call_log_prob = lambda value, *args, **kwargs: (
        shapes.append(value.shape[0]), log_prob(value, *args, **kwargs))[1]
    small(dist, epochs=1, batch_size=batch_size)
    assert set(shapes) == {size}


STRATEGY = '''
import sys, numpy as np, tensorflow as tf
cpus = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(
    cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from tests import test_fit as t
# One of them, since TensorFlow takes what two sum in a process for the same.
mirrored = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
for more in ({}, {'optimizer': keras.optimizers.SGD}):
    make = lambda: {k: v(.1) for k, v in more.items()}
    settings = dict(epochs=2, validation_split=.25, ema_decay=.9, batch_size=36)
    make_dist = t.flow_dist if more else t.adapting_dist
    alone, history = t.small(make_dist(), **settings, **make())
    for strategy in (mirrored, tf.distribute.OneDeviceStrategy('CPU:1')):
        with strategy.scope():
            dist = make_dist()
            settings.update(make())
        _, got = t.small(dist, **settings)
        np.testing.assert_allclose(got['loss'], history['loss'], rtol=1e-6)
        np.testing.assert_allclose(got['val_loss'], history['val_loss'], rtol=1e-6)
with mirrored.scope():
    dist = t.flow_dist()
# The last batch has 16 rows, which the replicas share out too.
settings = dict(targets=t.BATCHES, conditions=None, epochs=1, validation_data=t.BATCHES)
expected, history = t.small(**settings)
_, got = t.small(dist, **settings)
np.testing.assert_allclose(got['loss'], history['loss'], rtol=1e-6)
np.testing.assert_allclose(got['val_loss'], history['val_loss'], rtol=1e-6)
for one, other in zip(t.values(dist), t.values(expected)):
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
for kwargs in ({'dist': dist, 'targets': t.BATCHES.map(lambda y, c: (y, c, c[:, 0]**2)),
                'conditions': None}, {'dist': dist, 'jit_compile': True}, {'dist': t.flow_dist()}):
    try:
        with mirrored.scope():
            t.small(**kwargs)
    except ValueError as error:
        assert 'On 2 replicas' in str(error), error
    else:
        raise AssertionError(kwargs)
'''


def test_strategies():
    root = pathlib.Path(tfpc.__file__).parent.parent
    subprocess.run([sys.executable, '-c', STRATEGY], check=True, cwd=root,
                   timeout=300, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3',
                        'CUDA_VISIBLE_DEVICES': ''})


def _nan(row):
    bad = Y.copy()
    bad[row:row + 2] = np.nan
    return bad


def _unused():
    dist = gaussian()
    dist.spare = tf.Variable(0., dtype=tf.float64, name='spare')
    return dist


def _hidden():
    loc = [tf.Variable(0., dtype=tf.float64, name='hidden')]
    stock = tfb.RealNVP(1, shift_and_log_scale_fn=lambda x, n, **_: (
        0. * x + loc[0], None))
    return tfd.TransformedDistribution(flows.base(), tfb.Chain([gaussian().bijector,
                                                                stock]))


def single(targets=Y, conditions=C, dtype='float32', **kwargs):
    """Arguments of a fit of a flow of less than float64."""
    return dict(kwargs, targets=targets, conditions=conditions, dist=flows.dist(
        tfpc.ConditionalRealNVP(2, 3, 1, (4,), dtype=dtype)))


def supported(support, targets, event_size=2, **kwargs):
    """Arguments of a fit onto a support."""
    return dict(kwargs, targets=targets, dist=tfpc.conditional_density(
        event_size, 3, support, dtype=tf.float64, num_coupling_layers=2,
        hidden_layers=(4,)))


UNIT = 1. / (1. + np.exp(-Y))
EDGES = UNIT.copy()
EDGES[5:7, 0], EDGES[9] = 0., 1.
SIMPLEX = np.concatenate([UNIT / 2, 1. - UNIT.sum(-1, keepdims=True) / 2], -1)
SIMPLEX[7] = [0., .5, .5]
BOUNDS = tfpc.support_bijector([0., 0.], [1., 1.], dtype=tf.float64)
TIMES = np.concatenate([C[:, :2], 1.7e9 + 3600 * UNIT[:, :1]], -1)
LEGACY = tf_keras.optimizers.legacy.SGD(.1)
RAGGED = tf.RaggedTensor.from_row_lengths(tf.reshape(tf.constant(C), [-1]), [3] * 96)
MISUSE = {
    'rows': (dict(conditions=C[:5]), ValueError, r'as many rows.*\(5, 3\)'),
    'empty': (dict(targets=Y[:0], conditions=C[:0]), ValueError, 'at least one row'),
    'NaN': (dict(targets=_nan(7)), ValueError, '2 of 96 rows.*first of them row 7'),
    'NaN conditions': (dict(conditions=C * np.nan), ValueError, 'conditions`.*96'),
    'width': (dict(targets=Y[:, :1]), ValueError, r'`targets` must have shape'),
    'scalar': (dict(targets=1.), ValueError, r'`targets` must have shape'),
    'dtype': (dict(targets=tf.cast(Y, tf.float32)), TypeError, 'must have dtype'),
    'no conditions': (dict(conditions=None), TypeError, '`conditions` are required'),
    'width of conditions': (dict(conditions=C[:, :2]), ValueError, 'dimension 3'),
    'conditions for none': (dict(dist=gaussian()), TypeError, 'takes no conditions'),
    'no dist': (dict(dist=flow_dist().bijector), TypeError, 'a tfd.Distribution'),
    'no variables': (dict(dist=flows.base(), conditions=None), ValueError,
                     'must have trainable variables'),
    'batch shape': (dict(dist=flows.dist(flow_dist().bijector.condition(C)),
                         conditions=None), ValueError, r'batch shape \[\]'),
    'unused': (dict(dist=_unused(), conditions=None), ValueError, 'spare'),
    'hidden': (dict(dist=_hidden(), conditions=None), ValueError, 'hidden'),
    'epochs': (dict(epochs=0), ValueError, '`epochs` must be at least 1'),
    'fractional epochs': (dict(epochs=1.5), TypeError, '`epochs` must be an int'),
    'batch_size': (dict(batch_size=0), ValueError, '`batch_size` must be'),
    'patience': (dict(patience=0, validation_split=.2), ValueError, '`patience`'),
    'patience alone': (dict(patience=2), ValueError, 'validation_data'),
    'validation_split': (dict(validation_split=1.), ValueError, 'less than 1'),
    'nothing held out': (dict(validation_split=1e-4), ValueError, 'to both sides'),
    'both validations': (dict(validation_split=.1, validation_data=(Y, C)),
                         ValueError, 'got both'),
    'validation parts': (dict(validation_data=(Y, C, C, C)), ValueError, '4 parts'),
    'validation weights': (dict(validation_data=(Y, C, C)), ValueError,
                           r'`weights of validation_data` must have shape \[96\]'),
    'few weights': (dict(sample_weight=[1.]), ValueError, r'`sample_weight`.*\[96\]'),
    'negative weights': (dict(sample_weight=C[:, 0]), ValueError,
                         '`sample_weight` must be finite and not negative; [0-9]+ of 96'),
    'NaN weights': (dict(sample_weight=np.full(96, np.nan)), ValueError,
                    '96 of 96 are not, the first of them row 0'),
    'no weight': (dict(sample_weight=np.zeros(96)), ValueError, 'all are'),
    'text for weights': (dict(sample_weight='balanced'), TypeError, '`sample_weight`'),
    'masked weights': (dict(sample_weight=np.ma.masked_less(C[:, 0], 0.)), ValueError,
                       'masked'),
    'Dataset and weights': (
        dict(targets=BATCHES, conditions=None, sample_weight=np.ones(96)), ValueError,
        r'`sample_weight` must be None.*\(targets, \(\), weights\)'),
    'negative weights of a Dataset': (
        dict(targets=BATCHES.map(lambda y, c: (y, c, c[:, 0])), conditions=None),
        ValueError, '`weights of targets` must be finite and not negative'),
    'no weight in a Dataset': (
        dict(targets=BATCHES.map(lambda y, c: (y, c, 0. * c[:, 0])), conditions=None),
        ValueError, 'positive and finite sum'),
    'Dataset of a pair for targets alone': (
        dict(targets=BATCHES.map(lambda y, c: (y, c[:, 0])), conditions=None,
             dist=gaussian()), TypeError, r'alone are \(targets, \(\), weights\)'),
    'validation rows': (dict(validation_data=(Y, C[:3])), ValueError, 'validation'),
    'text': (dict(learning_rate='fast'), TypeError, '`learning_rate` must be'),
    'ema_decay': (dict(ema_decay=1.), ValueError, '`ema_decay`'),
    'clip_norm': (dict(clip_norm=-1.), ValueError, '`clip_norm`'),
    'target_noise': (dict(target_noise=np.inf), ValueError, '`target_noise`'),
    'optimizer': (dict(optimizer='adam'), TypeError, '`optimizer` must be'),
    'legacy': (dict(optimizer=LEGACY), TypeError, 'not legacy'),
    'decay twice': (dict(optimizer=keras.optimizers.SGD(.1), weight_decay=.1),
                    ValueError, 'set in `optimizer`'),
    'Dataset and conditions': (dict(targets=BATCHES), ValueError, 'be None'),
    'Dataset, split': (dict(targets=BATCHES, conditions=None, validation_split=.1),
                       ValueError, 'arrays'),
    'endless': (dict(targets=BATCHES.repeat(), conditions=None), ValueError, 'take'),
    'Dataset of rows': (dict(targets=BATCHES.unbatch(), conditions=None), ValueError,
                        r'got targets \(2,\), one event each.*\.batch\('),
    'Dataset of rows of targets': (
        dict(targets=BATCHES.unbatch().map(lambda y, c: y), conditions=None,
             dist=gaussian()), ValueError, r'one event each.*\.batch\('),
    'Dataset of dicts': (
        dict(targets=BATCHES.map(lambda y, c: {'y': y, 'c': c}), conditions=None),
        ValueError, r'must have elements \(targets, conditions\).*\.map\('),
    'Dataset of quadruples': (
        dict(targets=BATCHES.map(lambda y, c: (y, c, c, c)), conditions=None),
        ValueError, r'must have elements \(targets, conditions\)'),
    'Dataset of triples': (
        dict(targets=BATCHES.map(lambda y, c: (y, c, c)), conditions=None),
        ValueError, r'must have weights \[B\]; got .*3'),
    'Dataset of targets alone': (
        dict(targets=BATCHES.map(lambda y, c: y), conditions=None), TypeError,
        '`conditions` are required'),
    'Dataset of other events': (
        dict(targets=BATCHES.map(lambda y, c: (c, c)), conditions=None), ValueError,
        r'events \(2,\); got \(None, 3\)'),
    'Dataset of another dtype': (
        dict(targets=BATCHES.map(lambda y, c: (tf.cast(y, tf.float32), c)),
             conditions=None), TypeError, 'dtype float64; got float32'),
    'Dataset of ragged tensors': (
        dict(targets=BATCHES.map(lambda y, c: (y, tf.RaggedTensor.from_tensor(c))),
             conditions=None), TypeError, 'dense tensors.*to_tensor'),
    'Dataset for validation': (
        dict(validation_data=BATCHES.unbatch()), ValueError, '`validation_data`, a D'),
    # What is not what it looks like.
    'masked targets': (dict(targets=np.ma.masked_less(Y, 0.)), ValueError,
                       '`targets` must have no masked entries; [0-9]+ of 192'),
    'masked conditions': (dict(conditions=np.ma.masked_less(C, 0.)), ValueError,
                          '`conditions` must have no masked'),
    'masked validation': (
        dict(validation_data=(np.ma.masked_less(Y, 0.), C)), ValueError,
        '`validation_data` must have no masked'),
    'ragged conditions': (dict(conditions=RAGGED), TypeError, 'dense.*to_tensor'),
    'sparse conditions': (dict(conditions=tf.sparse.from_dense(C)), TypeError,
                          'dense tensor; got a SparseTensor.*to_dense'),
    'sparse targets': (dict(targets=tf.sparse.from_dense(Y)), TypeError,
                       '`targets` must be a dense'),
    # What float32 rounds away.
    'far targets': (single(Y + [0., 1e8]), ValueError, (
        'float32 is too coarse for column 1 of `targets`: of 96 distinct.* [1-3] remain'
        '.*Subtract an offset.*tf.float64')),
    'far conditions': (single(conditions=TIMES), ValueError,
                       'column 2 of `conditions`'),
    'integer times': (single(conditions=TIMES.astype(np.int64)), ValueError,
                      'column 2 of `conditions`'),
    'short integer times': (single(conditions=TIMES.astype(np.int32)), ValueError,
                            'column 2 of `conditions`'),
    'far validation': (single(validation_data=(Y + 1e8, C)), ValueError,
                       'column 0 of `validation_data`'),
    'a list': (single((Y + 1e8).tolist()), ValueError, 'column 0 of `targets`'),
    'too small': (single(1e-50 * Y), ValueError, 'float32 is too coarse'),
    'far too small': (single(1e-200 * Y), ValueError, 'float32 is too coarse'),
    'too large': (single(1e39 * Y), ValueError, (
        'of column 0 of `targets` must be within those of float32, up to 3.4e.38; '
        '[0-9]+ are not.*tf.float64')),
    'too large conditions': (single(conditions=1e39 * C), ValueError,
                             '`conditions` must be within those of float32'),
    'too large for halves': (single(1e5 * Y, dtype='float16'), ValueError,
                             'within those of float16'),
    # Edges of a support.
    'edges': (supported(BOUNDS, EDGES), ValueError, (
        r"3 of 96 rows of `targets`, the first of them row 5.*edge.*'sigmoid', from "
        r'\[0., 0.\] to \[1., 1.\]')),
    'edges of validation': (
        supported(BOUNDS, UNIT, validation_data=(EDGES, C)), ValueError,
        '3 of 96 rows of `validation_data`'),
    'edges of a Dataset': (
        supported(BOUNDS, tf.data.Dataset.from_tensors((EDGES, C)), conditions=None),
        ValueError, '3 of 96 rows of `targets`'),
    'positive': (supported(tfpc.support_bijector([-2., 0.], dtype=tf.float64), EDGES - [
        2., 0.]), ValueError, r'2 of 96 .*from \[-2., +0.\] to \[inf, inf\]'),
    'mixed': (supported(tfpc.support_bijector(
        [0., -np.inf], [np.inf, 1.], dtype=tf.float64), EDGES), ValueError,
              r'3 of 96 .*from \[  0., -inf\] to \[inf,  1.\]'),
    'simplex': (supported(tfpc.support_bijector(simplex=True), SIMPLEX, 3), ValueError,
                '1 of 96 .*first of them row 7'),
    'Tanh without adapt': (
        dict(targets=2. * EDGES - 1., dist=flows.dist(tfpc.ConditionalChain(
            [tfb.Tanh(), flow_dist().bijector]))), ValueError,
        r"3 of 96 .*'tanh', from \[-1., -1.\] to \[1., 1.\]"),
    'embedded': (
        dict(targets=2. * EDGES - 1., dist=flows.dist(tfpc.ConditionalEmbedding(
            tfpc.ConditionalChain([tfb.Invert(tfb.Chain([tfb.Invert(tfb.Tanh())])),
                                   flow_dist().bijector]), lambda c: c, 3))),
        ValueError, "3 of 96 .*'tanh'"),
    'stock': (dict(targets=EDGES, conditions=None, dist=tfd.TransformedDistribution(
        flows.base(), tfb.Chain([tfb.Sigmoid(), gaussian().bijector]))), ValueError,
              "3 of 96 .*'sigmoid'"),
    'no batch': (dict(targets=BATCHES.take(0), conditions=None), ValueError,
                 'must have batches'),
}


@pytest.mark.parametrize('name', MISUSE)
def test_misuse(name):
    kwargs, error, match = MISUSE[name]
    with pytest.raises(error, match=match):
        small(**kwargs)


@pytest.mark.parametrize('targets, conditions', [
    (Y, np.concatenate([C[:, :2], 0. * Y[:, :1] + .1], -1)),       # Constant,
    (Y, np.concatenate([C[:, :2], .1 + 1e-17 * Y[:, :1]], -1)),    # all but,
    (np.ma.array(Y), C), (Y.tolist(), C.tolist()),
    (Y, np.round(C).astype(np.int64)), (1e5 + Y, 1e-5 * C), (1e30 * Y, 1e-30 * C),
    (np.where(np.arange(192).reshape(96, 2) == 7, 1e9, Y), C)],     # one outlier.
    ids=['constant', 'all but constant', 'no mask', 'lists', 'integers', 'far', 'large',
         'outlier'])
def test_what_float32_keeps_is_taken(targets, conditions):
    fit_data = single(targets, conditions)
    y, c, _ = checked_data(fit_data['dist'], targets, conditions, 'targets')
    np.testing.assert_array_equal(y, np.float32(targets))
    np.testing.assert_array_equal(c, np.float32(conditions))


def test_networks_are_not_run_on_all_rows_to_look_for_edges():
    calls, weight = [], tf.Variable(tf.ones([1, 1], tf.float64))
    network = tfb.RealNVP(1, shift_and_log_scale_fn=lambda x, n, **_: (
        calls.append(len(x)), (x @ weight, None))[1])
    checked_data(tfd.TransformedDistribution(flows.base(), tfb.Chain([
        tfb.Tanh(), network])), np.full([20000, 2], .5), None, 'targets')
    assert calls == [4096]


def test_not_in_a_function():
    with pytest.raises(RuntimeError, match='eagerly'):
        tf.function(lambda: small()[1], autograph=False)()
