"""Flows in Keras 3 and tf_keras: the same tests for both."""

import contextlib
import copy
import functools
import importlib
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import catalogue, flows

tfd, tfb = tfp.distributions, tfp.bijectors

ROOT = pathlib.Path(__file__).parent.parent
D, S, N = 2, 3, 50
SMALL = dict(event_size=D, condition_size=S, num_coupling_layers=2,
             hidden_layers=(8,), activation='tanh')
PACKAGES = {'keras': 'tfp_conditional.keras',
            'tf_keras': 'tfp_conditional.keras.tf_keras'}


class Kit:
    """The Keras of that name, and this package's classes for it."""

    def __init__(self, name):
        self.name = name
        self.keras = importlib.import_module(name)
        self.tfpk = importlib.import_module(PACKAGES[name])

    @functools.cached_property
    def shared(self):
        """What many tests share, since each trace is slow; each finds it as it was."""
        layer, dense = new_layer(self), self.keras.layers.Dense(S)
        perturb(layer.flow)
        models, everything = separate_models(self, layer, dense)
        shared = types.SimpleNamespace(
            layer=layer, dense=dense, models=models, everything=everything,
            ready=new_model(self))
        variables = [*layer.flow.variables, *shared.ready.flow.variables]
        first = [variable.numpy() for variable in variables], dense.get_weights()

        def restore():
            for variable, value in zip(variables, first[0]):
                variable.assign(value)
            dense.set_weights(first[1])
        shared.restore = restore
        return shared


both = functools.cache(Kit)


@pytest.fixture(params=sorted(PACKAGES))
def k(request):
    k = both(request.param)
    k.keras.utils.set_random_seed(0)
    yield k
    if 'shared' in vars(k):
        k.shared.restore()


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return (rng.normal(size=[N, S]).astype('float32'),
            rng.normal(size=[N, D]).astype('float32'))


def base():
    return tfd.Independent(tfd.Normal(tf.zeros(D), 1.), 1)


def new_layer(k, **kwargs):
    flow = tfpc.ConditionalRealNVP(**{**SMALL, **kwargs})
    return k.tfpk.FlowLayer(tfd.TransformedDistribution(base(), flow))


def perturb(obj, seed=0):
    """Away from the identity, at which anything passes."""
    rng = np.random.default_rng(seed)
    for variable in obj.variables:
        variable.assign(variable + tf.cast(
            rng.normal(scale=.2, size=variable.shape), variable.dtype))
    return obj


def new_model(k, **kwargs):
    model = k.tfpk.LearnableConditionalRealNVP(**{**SMALL, **kwargs})
    perturb(model.flow)
    return model


def sgd(k, model, rate=.1, **kwargs):
    model.compile(k.keras.optimizers.SGD(rate), jit_compile=False, **kwargs)
    return model


def values(flow):
    return [variable.numpy() for variable in flow.trainable_variables]


def all_changed(before, flow):
    return all(np.any(a != b) for a, b in zip(before, values(flow)))


def separate_models(k, layer, preprocessor):
    """One model for each question, over one flow, and one for all of them."""
    Input, Model = k.keras.Input, k.keras.Model
    states, value = Input([S]), Input([D])
    conditions = preprocessor(states)
    answers = {name: getattr(layer, name)(value, conditions=conditions)
               for name in ('log_prob', 'forward', 'inverse')}
    draws = {name: getattr(layer, name)(conditions)
             for name in ('sample', 'sample_and_log_prob', 'deterministic')}
    return ({**{name: Model([states, value], y) for name, y in answers.items()},
             **{name: Model(states, y) for name, y in draws.items()}},
            Model([states, value], [*answers.values(), *draws.values()]))


def density_of(k, model):
    """A functional model of its log-probs, of what `fit` takes."""
    states, value = k.keras.Input([S]), k.keras.Input([D])
    return k.keras.Model([states, value], model.log_prob(value, conditions=states))


# 1. The layer.


def test_layer_owns_the_variables_of_the_flow(k):
    layer, model = k.shared.layer, k.shared.models['sample_and_log_prob']
    own = layer.flow.trainable_variables
    weights = [getattr(w, '_value', w) for w in layer.trainable_weights]
    assert {id(w) for w in weights} == {id(v) for v in own}
    assert len(weights) == len(own)
    assert layer.count_params() == sum(int(np.prod(v.shape)) for v in own)
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    assert str(layer.count_params()) in '\n'.join(lines).replace(',', '')
    count = model.count_params()
    layer.trainable = False
    try:
        assert not layer.trainable_weights
        assert len(model.trainable_weights) == len(k.shared.dense.trainable_weights)
        assert model.count_params() == count
    finally:
        layer.trainable = True
    assert len(model.trainable_weights) == len(own) + 2


def test_frozen_flow_stays_while_preprocessor_trains(k, data):
    layer, dense = k.shared.layer, k.shared.dense
    before, kernel = values(layer.flow), dense.get_weights()[0]
    layer.trainable = False
    try:
        sgd(k, k.shared.models['log_prob'], loss=k.tfpk.negative_log_likelihood).fit(
            data, data[1], verbose=0)
    finally:
        layer.trainable = True
    assert all(np.array_equal(a, b) for a, b in zip(before, values(layer.flow)))
    assert np.any(kernel != dense.get_weights()[0])


def test_methods_agree_on_arrays_and_symbols(k, data):
    layer, (states, actions) = k.shared.layer, data
    conditions = np.array(k.shared.dense(states))
    kwargs = {'conditions': conditions}
    log_prob, forward, inverse, samples, both_, zero = k.shared.everything.predict(
        [states, actions], batch_size=16, verbose=0)
    for symbols, eager, truth in [
            (log_prob, layer.log_prob(actions, **kwargs),
             layer.distribution.log_prob(actions, bijector_kwargs=kwargs)),
            (forward, layer.forward(actions, **kwargs),
             layer.flow.forward(actions, **kwargs)),
            (inverse, layer.inverse(actions, **kwargs),
             layer.flow.inverse(actions, **kwargs)),
            (zero, layer.deterministic(conditions),
             layer.flow.forward(np.zeros([N, D]), **kwargs))]:
        np.testing.assert_array_equal(eager, truth)
        np.testing.assert_allclose(symbols, truth, rtol=1e-5, atol=1e-5)
    for draws, log_probs in layer.sample_and_log_prob(conditions), both_:
        assert log_probs.shape == (N,)
        np.testing.assert_allclose(
            log_probs, layer.log_prob(draws, **kwargs), atol=1e-4)
    assert samples.shape == (N, D) and len(np.unique(samples[:, 0])) == N
    assert layer.sample(conditions).shape == layer(conditions).shape == (N, D)


def test_conditions_may_be_a_nest_of_integers_and_doubles(k):
    model = new_model(k, condition_size={'a': 1, 'b': 2})
    conditions = {'a': np.arange(5)[:, np.newaxis], 'b': np.ones([5, 2])}
    inputs = {'a': k.keras.Input([1]), 'b': k.keras.Input([2])}
    result = k.keras.Model(inputs, model.deterministic(inputs))(conditions)
    np.testing.assert_allclose(result, model.deterministic(conditions),
                               rtol=1e-5, atol=1e-5)
    assert len(np.unique(result[:, 0])) == 5
    before = values(model.flow)
    sgd(k, model).fit(conditions, np.ones([5, D]), verbose=0)
    assert all_changed(before, model.flow)
    again = type(model).from_config(model.get_config())
    assert again.flow.condition_size == model.flow.condition_size


# 2. The ready model.


def test_ready_model_answers(k, data):
    model, states = k.shared.ready, data[0]
    for samples, log_probs in [
            model.samples_and_log_probs(states), model(states),
            model.predict(states, batch_size=16, verbose=0),
            model.samples_and_log_probs_np(states.tolist())]:
        assert samples.shape == (N, D) and log_probs.shape == (N, 1)
        np.testing.assert_allclose(
            log_probs[:, 0], model.log_prob(samples, conditions=states), atol=1e-4)
    assert isinstance(model.samples_and_log_probs_np(states)[0], np.ndarray)


def test_noise_is_fresh_and_fixed_by_set_random_seed(k, data):
    model = k.shared.ready

    def draws():
        return [f()[0] for _ in range(2) for f in (
            lambda: model.predict(data[0], batch_size=16, verbose=0),
            lambda: model.samples_and_log_probs_np(data[0]))]

    first = draws()
    k.keras.utils.set_random_seed(1)
    one = draws()
    k.keras.utils.set_random_seed(1)
    again = draws()
    k.keras.utils.set_random_seed(2)
    two = draws()
    np.testing.assert_array_equal(one, again)
    everything = np.array([first, one, two])[..., 0].ravel()
    assert len(np.unique(everything)) == everything.size


def test_noise_of_compiled_functions_is_fresh_and_reseeds(k, data):
    def draw():
        return k.shared.everything.predict(list(data), batch_size=16, verbose=0)[3]
    k.shared.layer.reseed(1)
    one, two = draw(), draw()
    k.shared.layer.reseed(1)
    np.testing.assert_array_equal(one, draw())
    assert not np.any(one == two)


def test_fit_evaluate_and_callbacks(k, data, tmp_path, capsys):
    model = sgd(k, k.shared.ready, .01)
    before = values(model.flow)
    callbacks = [
        k.keras.callbacks.EarlyStopping('val_loss', patience=1, min_delta=100),
        k.keras.callbacks.ModelCheckpoint(str(tmp_path / 'best.keras'))]
    history = model.fit(*data, validation_data=data, epochs=20, batch_size=16,
                        callbacks=callbacks, verbose=1).history
    assert 'val_loss' in capsys.readouterr().out
    assert len(history['loss']) == len(history['val_loss']) == 2
    assert all_changed(before, model.flow)
    log_probs = model.log_prob(data[1], conditions=data[0])
    for result in (model.evaluate(*data, batch_size=16, verbose=0),
                   history['val_loss'][-1]):
        np.testing.assert_allclose(result, -np.mean(log_probs), rtol=1e-5)
    np.testing.assert_array_equal(
        k.keras.models.load_model(tmp_path / 'best.keras').log_prob(
            data[1], conditions=data[0]), log_probs)
    weight = np.arange(N) / 10.
    np.testing.assert_allclose(
        model.evaluate(*data, sample_weight=weight, batch_size=N, verbose=0),
        -np.mean(weight * log_probs), rtol=1e-5)
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(16)
    np.testing.assert_allclose(
        model.evaluate(dataset, verbose=0), -np.mean(log_probs), rtol=1e-5)


def test_a_step_is_that_of_the_likelihood_and_the_regularizers(k, data):
    dense = k.keras.layers.Dense(S, kernel_regularizer='l2')
    model = sgd(k, new_model(k, preprocessor=dense), .1)
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(model.log_prob(data[1], conditions=data[0]))
        loss += .01 * tf.reduce_sum(tf.convert_to_tensor(dense.kernel)**2)
    before = model.get_weights()
    weights = [getattr(w, '_value', w) for w in model.trainable_weights]
    assert len(weights) == len(before) == len(model.flow.trainable_variables) + 2
    steps = [-.1 * g for g in tape.gradient(loss, weights)]
    assert all(np.any(step) for step in steps)
    history = model.fit(*data, batch_size=N, verbose=0).history
    np.testing.assert_allclose(history['loss'], [loss], rtol=1e-5)
    for old, step, new in zip(before, steps, model.get_weights(), strict=True):
        np.testing.assert_allclose(new - old, step, rtol=1e-3, atol=1e-6)


def test_jit_compile(k, data):
    model = new_model(k, num_coupling_layers=1, hidden_layers=(4,))
    model.compile('sgd', jit_compile=True)
    before = values(model.flow)
    model.fit(*data, batch_size=N, verbose=0)
    assert all_changed(before, model.flow)
    one, two = (model.predict(data[0], batch_size=N, verbose=0)[0]
                for _ in range(2))
    assert not np.any(one == two)


# 3. and 4. Separate models, one flow; where gradients go.


def test_a_step_on_any_model_trains_all(k, data):
    layer, models = k.shared.layer, k.shared.models
    own = len(layer.flow.trainable_variables)

    def answers():
        return [np.array(models[name](list(data)))
                for name in ('log_prob', 'forward', 'inverse')]

    for name, model in models.items():
        weights = model.trainable_weights
        assert len(weights) == len({id(w) for w in weights}) == own + 2, name
        before, old = values(layer.flow), answers()
        with tf.GradientTape() as tape:
            outputs = model(data[0] if len(model.inputs) == 1 else list(data))
            loss = sum(tf.reduce_mean(tf.sin(output))
                       for output in tf.nest.flatten(outputs))
        gradients = tape.gradient(loss, weights)
        assert all(g is not None and np.all(np.isfinite(g)) for g in gradients)
        for weight, gradient in zip(weights, gradients):
            weight.assign(weight - .1 * gradient)
        changed = np.mean([np.any(a != b)
                           for a, b in zip(before, values(layer.flow))])
        assert changed > .7, name       # latents 0 and dead units have no gradient
        assert all(np.any(a != b) for a, b in zip(old, answers())), name


def test_a_critic_trains_the_actor_through_its_samples(k, data):
    layer, dense = k.shared.layer, k.shared.dense
    critic = k.keras.Sequential([k.keras.Input([D]), k.keras.layers.Dense(
        1, kernel_initializer='ones')])
    critic.trainable = False
    states = k.keras.Input([S])
    actor = sgd(k, k.keras.Model(states, critic(layer.sample(dense(states)))),
                loss=lambda _, q: q)
    before, kernel = values(layer.flow), dense.get_weights()[0]
    first = np.mean(actor(data[0]))
    actor.fit(data[0], np.zeros([N, 1]), epochs=3, verbose=0)
    assert np.mean(actor(data[0])) < first - .5
    assert any(np.any(a != b) for a, b in zip(before, values(layer.flow)))
    assert np.any(kernel != dense.get_weights()[0])


# 5. Persistence.


def test_weights_and_config_round_trip(k, data, tmp_path):
    model = new_model(k, preprocessor=k.keras.layers.Dense(S))
    expected = model.log_prob(data[1], conditions=data[0])
    path = str(tmp_path / 'flow.weights.h5')
    model(data[0])                              # Builds it, for Keras.
    model.save_weights(path)
    other = type(model).from_config(model.get_config())
    other(data[0])
    assert np.any(other.log_prob(data[1], conditions=data[0]) != expected)
    other.load_weights(path)
    assert not {id(v) for v in model.flow.variables} & {
        id(v) for v in other.flow.variables}
    np.testing.assert_array_equal(other.log_prob(data[1], conditions=data[0]), expected)


def test_copies_are_independent(k, data):
    model = k.shared.ready
    clone = copy.deepcopy(model)
    before = model.log_prob(data[1], conditions=data[0])
    np.testing.assert_array_equal(
        clone.log_prob(data[1], conditions=data[0]), before)
    perturb(clone.flow)
    np.testing.assert_array_equal(
        model.log_prob(data[1], conditions=data[0]), before)


def test_config_of_other_distributions(k, data):
    flow = tfpc.ConditionalChain([
        tfb.Shift([1., 2.]),
        tfpc.ConditionalCoupling(D, S, mask=[False, True], hidden_layers=[4],
                                 transformer=tfpc.Affine(max_log_scale=1.))])
    loc = tf.Variable([1., 2.], name='loc')
    layer = k.tfpk.FlowLayer(tfd.TransformedDistribution(
        tfd.Independent(tfd.StudentT(5., loc, 1.), 1), flow))
    perturb(layer.distribution)
    assert len(layer.trainable_weights) == len(flow.variables) + 1
    again = type(layer).from_config(layer.get_config())
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again.log_prob(data[1], conditions=data[0]),
                                  layer.log_prob(data[1], conditions=data[0]))
    callable_layer = new_layer(k, activation=tf.nn.relu)
    with pytest.raises(ValueError, match='dist.bijector.activation.*strin'):
        callable_layer.get_config()


# What is saved and loaded, of each kind that Keras could lose a weight of.
SAVED = {
    'base that is not trained': lambda: tfpc.ConditionalRealNVP(**SMALL)(
        tfd.Independent(tfd.StudentT(
            5., tf.Variable([0., 1.], trainable=False), tfp.util.TransformedVariable(
                [1., 2.], tfb.Softplus(), trainable=False)), 1)),
    'base with an operator': lambda: tfpc.ConditionalRealNVP(**SMALL)(
        tfd.MultivariateStudentTLinearOperator(
            5., [0., 1.], tf.linalg.LinearOperatorLowerTriangular(
                tf.Variable([[1., 0.], [.5, 2.]])))),
    'mixture': lambda: tfpc.ConditionalRealNVP(**SMALL)(tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable([0., 1.])), tfd.MultivariateNormalDiag(
            tf.Variable([[0., 0.], [1., 1.]]), [1., 2.]))),
    **{f'density of {name}': functools.partial(
        tfpc.conditional_density, D, S, num_coupling_layers=2, hidden_layers=(8,),
        transformer='affine', seed=seed)
       for name, seed in [('no seed', None), ('a long seed', (2**64 - 1, 1))]},
    'permutations of no seed': lambda: tfpc.ConditionalRealNVP(**{
        **SMALL, 'num_coupling_layers': 4, 'mixing': 'random'})(base()),
    **{name: functools.partial(
        lambda name: (flow := catalogue.CATALOGUE[name].factory())(
            flows.base(flow.event_size)), name)
       for name in ('coupling_additive_dict', 'chain_permute_shift',
                    'masked_autoregressive_flow')}}


@pytest.mark.parametrize('name', SAVED)
def test_saves_loads_and_clones(k, name, tmp_path):
    layer = k.tfpk.FlowLayer(SAVED[name]())
    flow = layer.flow
    assert len(layer.weights) == len(layer.distribution.variables)
    perturb(types.SimpleNamespace(variables=layer.distribution.trainable_variables))

    def new_input(size):
        return k.keras.Input([size], dtype=flow.dtype.name)
    conditions = tf.nest.map_structure(new_input, flow.condition_size)
    events = new_input(flow.event_size)
    inputs = [*tf.nest.flatten(conditions), events]
    model = k.keras.Model(inputs, layer.log_prob(events, conditions=conditions))
    data = [flows.normal([N, *x.shape[1:]], i, flow.dtype) for i, x in enumerate(inputs)]
    expected = model(data)
    model.save(tmp_path / 'model.keras')
    model.save_weights(tmp_path / 'model.weights.h5')
    loaded = k.keras.models.load_model(tmp_path / 'model.keras')
    clone = k.keras.models.clone_model(model)
    first = clone.get_weights()
    for fill in (lambda: clone.set_weights(model.get_weights()),
                 lambda: clone.load_weights(tmp_path / 'model.weights.h5')):
        clone.set_weights(first)
        assert np.any(clone(data) != expected)
        fill()
        np.testing.assert_array_equal(clone(data), expected)
    np.testing.assert_array_equal(loaded(data), expected)
    for each in (loaded, clone):
        for collection in ('trainable_weights', 'non_trainable_weights'):
            assert len(getattr(each, collection)) == len(getattr(model, collection))


def test_weights_of_another_map_are_refused(k, tmp_path):
    """`test_saved_identity.py` has what makes another map."""
    models = []
    for more in ({}, dict(activation='elu')):
        layer, states = new_layer(k, **more), k.keras.Input([S])
        models.append(k.keras.Model(states, layer.deterministic(states)))
    model, other = models
    path = str(tmp_path / 'model.weights.h5')
    model.save_weights(path)
    before = other.get_weights()
    with pytest.raises(ValueError, match='another map.*activation'):
        other.load_weights(path)
    for one, two in zip(before, other.get_weights()):
        np.testing.assert_array_equal(one, two)
    model.load_weights(path)


def test_time_distributed(k):
    layer = k.shared.layer
    sequence = k.keras.Input([4, S])
    model = k.keras.Model(sequence, k.keras.layers.TimeDistributed(layer)(sequence))
    assert tuple(model.output_shape) == (None, 4, D)
    samples = model.predict(np.ones([5, 4, S]), verbose=0)
    assert samples.shape == (5, 4, D) and len(np.unique(samples)) == samples.size
    # The shapes of other methods are their own.
    states, events = k.keras.Input([S]), k.keras.Input([D])
    assert tuple(layer.log_prob(events, conditions=states).shape) == (None,)


def test_conditions_that_are_no_vectors(k):
    """Images and integers: see `ConditionalEmbedding`."""
    class Embedding(tf.Module):
        def __call__(self, conditions):
            return tf.concat([tf.reduce_mean(conditions['image'], [1, 2]),
                              tf.one_hot(conditions['label'], 2)], -1)

    flow = tfpc.ConditionalEmbedding(
        tfpc.ConditionalRealNVP(**SMALL), Embedding(),
        {'image': tf.TensorSpec([4, 4, 1]), 'label': tf.TensorSpec([], tf.int32)})
    layer = k.tfpk.FlowLayer(flows.dist(perturb(flow)))
    conditions = {'image': np.ones([5, 4, 4, 1]), 'label': np.arange(5) % 2}
    inputs = {'image': k.keras.Input([4, 4, 1]),
              'label': k.keras.Input([], dtype='int32')}
    model = k.keras.Model(inputs, layer.deterministic(inputs))
    assert tuple(model.output_shape) == (None, D)
    for result in (layer.deterministic(conditions),
                   model.predict(conditions, verbose=0)):
        np.testing.assert_allclose(result, flow.forward(
            tf.zeros([5, D]), conditions={
                'image': tf.ones([5, 4, 4, 1]), 'label': tf.range(5) % 2}), rtol=1e-5)


def test_export(k, data, tmp_path):
    model, density = k.shared.ready, density_of(k, k.shared.ready)
    for name, m in ('model', model), ('density', density):
        m.export(tmp_path / name)
    loaded = tf.saved_model.load(tmp_path / 'model')
    for n in 1, 7:
        samples, log_probs = loaded.serve(data[0][:n])
        assert samples.shape == (n, D)
        np.testing.assert_allclose(
            log_probs[:, 0], model.log_prob(samples, conditions=data[0][:n]),
            atol=1e-4)
    assert not np.any(loaded.serve(data[0])[0] == loaded.serve(data[0])[0])
    loaded = tf.saved_model.load(tmp_path / 'density')
    np.testing.assert_array_equal(loaded.serve([data[0], data[1]]),
                                  model.log_prob(data[1], conditions=data[0]))


FRESH = '''
import importlib, sys
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices('CPU')[0],
    [tf.config.LogicalDeviceConfiguration()] * 2)
import tfp_conditional
assert not any('tfp_conditional.keras' in name for name in sys.modules)
states, actions = np.load('data.npy', allow_pickle=True)
for name, package in {packages!r}.items():
    keras, tfpk = importlib.import_module(name), importlib.import_module(package)
    expected = np.load(name + '.npy')
    ready = keras.models.load_model(name + '_ready.keras')
    np.testing.assert_array_equal(
        ready.log_prob(actions, conditions=states), expected)
    density = keras.models.load_model(name + '_density.keras')
    np.testing.assert_array_equal(density([states, actions]), expected)
    np.testing.assert_array_equal(density.layers[-1].log_prob(
        actions, conditions=states), expected)

    strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
    with strategy.scope():
        model = tfpk.LearnableConditionalRealNVP(
            2, 3, num_coupling_layers=2, hidden_layers=(4,), seed=0)
        model.compile(keras.optimizers.SGD(.1), jit_compile=False)
    twin = tfpk.LearnableConditionalRealNVP(
        2, 3, num_coupling_layers=2, hidden_layers=(4,), seed=0)
    twin.compile(keras.optimizers.SGD(.1), jit_compile=False)
    for m in model, twin:
        m.fit(states, actions, batch_size=10, epochs=1, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        *(m.evaluate(states, actions, batch_size=10, verbose=0)
          for m in (model, twin)), rtol=1e-5)
    samples, log_probs = model.predict(states, batch_size=10, verbose=0)
    assert samples.shape == actions.shape and log_probs.shape == (len(states), 1)
    assert len(np.unique(samples[:, 0])) == len(samples)
print('all well')
'''


def test_fresh_process_loads_the_same_density_and_strategies_train(data, tmp_path):
    np.save(tmp_path / 'data.npy', np.array([*data, None], object)[:2])
    for name in PACKAGES:
        k = both(name)
        model = k.shared.ready
        density = density_of(k, model)
        model.save(tmp_path / f'{name}_ready.keras')
        density.save(tmp_path / f'{name}_density.keras')
        np.save(tmp_path / f'{name}.npy', model.log_prob(
            data[1], conditions=data[0]))
    result = subprocess.run(
        [sys.executable, '-c', FRESH.format(packages=PACKAGES)], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert 'all well' in result.stdout, result.stderr[-4000:]


# 6. Mixed precision.


@contextlib.contextmanager
def policy(k, name):
    set_policy = (k.keras.config.set_dtype_policy if k.name == 'keras' else
                  k.keras.mixed_precision.set_global_policy)
    set_policy(name)
    try:
        yield
    finally:
        set_policy('float32')


@pytest.mark.parametrize('name', ['mixed_float16', 'bfloat16'])
def test_mixed_precision(k, name, data):
    with policy(k, name):
        seen = []
        preprocessor = k.keras.Sequential(
            [k.keras.Input([S]), k.keras.layers.Dense(S),
             k.keras.layers.Lambda(lambda x: (seen.append(x.dtype), x)[1])])
        model = new_model(k, preprocessor=preprocessor)
        before = values(model.flow)
        sgd(k, model).fit(*data, verbose=0)
        assert tf.as_dtype(seen[-1]).name == name.removeprefix('mixed_')
        assert all_changed(before, model.flow)
        samples, log_probs = model.samples_and_log_probs_np(data[0])
        assert samples.dtype == log_probs.dtype == 'float32'
        assert np.isfinite(log_probs).all()
        # Neither conditions nor events are rounded on their way.
        plain = new_model(k)
        np.testing.assert_array_equal(
            plain.log_prob(data[1], conditions=data[0]),
            plain.distribution.log_prob(
                data[1], bijector_kwargs={'conditions': data[0]}))
        np.testing.assert_allclose(
            sgd(k, plain).evaluate(*data, verbose=0),
            -np.mean(plain.log_prob(data[1], conditions=data[0])), rtol=1e-5)


def test_float64(k, data):
    with policy(k, 'float64'):
        model = new_model(k)
    sgd(k, model).fit(*data, verbose=0)
    assert model.log_prob(data[1], conditions=data[0]).dtype == 'float64'


# Misuse.


def _other(k):
    return both('keras' if k.name == 'tf_keras' else 'tf_keras')


def _second_layer(k):
    k.tfpk.FlowLayer(tfd.TransformedDistribution(base(), k.shared.layer.flow))


def _unbuilt(k):
    new_model(k, preprocessor=k.keras.layers.Dense(S)).count_params()


MISUSE = {
    'layer on an input of the other Keras': (
        lambda k: k.shared.layer.sample(_other(k).keras.Input([S])),
        TypeError, 'Use the classes of `tfp_conditional.keras'),
    'layer called on an input of the other Keras': (
        lambda k: k.shared.layer(_other(k).keras.Input([S])),
        TypeError, 'Use the classes of'),
    'model on an input of the other Keras': (
        lambda k: k.shared.ready(_other(k).keras.Input([S])),
        TypeError, 'Use the classes of'),
    'preprocessor of the other Keras': (
        lambda k: new_model(k, preprocessor=_other(k).keras.layers.Dense(S)),
        TypeError, 'Use the classes of'),
    'preprocessor that is no layer': (
        lambda k: new_model(k, preprocessor=lambda x: x),
        TypeError, 'must be a Keras layer or model; got function'),
    'wrong order, by keyword': (
        lambda k: k.shared.layer.log_prob(np.ones([4, S]), conditions=np.ones([4, D])),
        ValueError, r'`conditions` must have last dimension 3; got shape \[4, 2\]'),
    'wrong order, symbolic': (
        lambda k: k.shared.layer.log_prob(
            k.keras.Input([S]), conditions=k.keras.Input([D])),
        ValueError, '`conditions` must have last dimension 3'),
    'wrong order in fit': (
        lambda k: sgd(k, new_model(k)).fit(
            np.ones([4, D]), np.ones([4, S]), verbose=0),
        ValueError, '`conditions` must have last dimension 3'),
    'conditions by position': (
        lambda k: k.shared.layer.log_prob(np.ones([4, D]), np.ones([4, S])),
        TypeError, 'positional'),
    'conditions of the wrong width': (
        lambda k: k.shared.layer.sample(k.keras.Input([S + 1])),
        ValueError, '`conditions` must have last dimension 3'),
    'conditions of the wrong width, predict': (
        lambda k: k.shared.ready.predict(np.ones([4, S + 1]), verbose=0),
        ValueError, '`conditions` must have last dimension 3|expected.*3'),
    'preprocessor of the wrong width': (
        lambda k: new_model(k, preprocessor=k.keras.layers.Dense(S + 1)).sample(
            np.ones([4, 7])),
        ValueError, '`conditions` must have last dimension 3'),
    'before build': (_unbuilt, ValueError, 'build|built'),
    'two layers over one flow': (
        _second_layer, ValueError, 'Use that layer in as many models as you like'),
    'method without its value': (
        lambda k: k.shared.layer(np.ones([4, S]), method='log_prob'),
        TypeError, '`log_prob` takes conditions and events; got no `value`'),
    'unknown method': (
        lambda k: k.shared.layer(np.ones([4, S]), method='logprob'),
        ValueError, '`method` must be one of'),
    'a flow where a distribution should be': (
        lambda k: k.tfpk.FlowLayer(tfpc.ConditionalRealNVP(**SMALL)),
        TypeError, r'write `flow\(base\)`'),
    'a bijector that is not conditional': (
        lambda k: k.tfpk.FlowLayer(
            tfd.TransformedDistribution(base(), tfb.Shift([1., 2.]))),
        TypeError, 'must be a ConditionalBijector; got'),
    'a base with a batch shape': (
        lambda k: k.tfpk.FlowLayer(tfd.TransformedDistribution(
            tfd.Independent(tfd.Normal(tf.zeros([5, D]), 1.), 1),
            tfpc.ConditionalRealNVP(**SMALL))),
        ValueError, r'batch shape \[\]'),
    'a loss': (
        lambda k: sgd(k, new_model(k), loss='mse').fit(
            np.ones([4, S]), np.ones([4, D]), verbose=0),
        ValueError, '`compile` takes no other'),
    'no targets': (
        lambda k: sgd(k, new_model(k)).fit(np.ones([4, S]), verbose=0),
        ValueError, 'need targets'),
}


@pytest.mark.parametrize('case', MISUSE)
def test_misuse(k, case):
    function, error, message = MISUSE[case]
    with pytest.raises(error, match=message):
        function(k)


def test_flow_is_free_again_when_its_layer_is_gone(k):
    layer = new_layer(k)
    distribution = layer.distribution
    del layer
    k.tfpk.FlowLayer(distribution)
