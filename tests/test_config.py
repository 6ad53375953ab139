"""Configs that make the same object again, and weights, all of them or none."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_conditional as tfpc
from tfp_conditional.bijectors import settings
from tfp_conditional.fitting import checkpoint
from tests import catalogue
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions
normal = flows.normal


def through_json(value, custom_objects=None):
    text = json.dumps(tfpc.to_config(value, custom_objects), allow_nan=False)
    return tfpc.from_config(json.loads(text, parse_constant=pytest.fail), custom_objects)


# What is no part of this package or TFP, and goes by the name that it is given.
CUSTOM = {'SinhShift': catalogue.SinhShift, 'ShiftByMean': catalogue.ShiftByMean,
          'Sequential': tf_keras.Sequential}
# Objects that a config cannot make, and where.
REFUSED = {'real_nvp_own_activation': 'activation',
           'coupling_own_conditioner': 'conditioner',
           'coupling_conditioner_in_closure': 'conditioner',
           'coupling_template_conditioner': 'conditioner'}
# Those whose first variables no seed decides: of Keras, and what `adapt` has learnt.
NO_SEED = {'embedding', 'density'}


@pytest.mark.parametrize('name', sorted(catalogue.CATALOGUE.keys() - REFUSED.keys()))
def test_the_catalogue_comes_back(name):
    bijector = catalogue.CATALOGUE[name].factory()
    again = through_json(bijector, CUSTOM)
    assert type(again) is type(bijector) and again.name == bijector.name
    assert settings.collect(again) == settings.collect(bijector)
    assert [(v.shape, v.dtype, v.trainable) for v in again.variables] == [
        (v.shape, v.dtype, v.trainable) for v in bijector.variables]
    assert not {id(v) for v in again.variables} & {id(v) for v in bijector.variables}
    if name not in NO_SEED:
        for a, b in zip(again.variables, bijector.variables, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('name', REFUSED)
def test_objects_without_a_name_are_refused_and_with_one_taken(name):
    bijector = catalogue.CATALOGUE[name].factory()
    place = REFUSED[name]
    with pytest.raises(ValueError, match=f'`dist.{place}` cannot be part of a config.*'
                       'got <.*`custom_objects`'):
        tfpc.to_config(bijector)
    own = bijector.parameters[place]
    again = through_json(bijector, {'own': own})
    assert again.parameters[place] is own
    with pytest.raises(ValueError, match="custom_objects={'own': ...}"):
        tfpc.from_config(tfpc.to_config(bijector, {'own': own}))


def test_a_class_that_forgets_its_arguments_is_refused():
    bijector = catalogue.CATALOGUE['coupling_own_conditioner'].factory()
    with pytest.raises(ValueError, match='LinearConditioner does not keep its argument '
                       '`num_units`.*get_config'):
        tfpc.to_config(bijector, {'Linear': catalogue.LinearConditioner})


def test_a_class_of_ones_own_that_derives_from_one_here_is_refused():
    class ConditionalRealNVP(tfpc.ConditionalRealNVP):
        pass

    with pytest.raises(ValueError, match='`dist` cannot be part'):
        tfpc.to_config(ConditionalRealNVP(2, 1, 1, ()))


BASES = {
    'normal': lambda: flows.base(),
    'full': lambda: tfd.MultivariateNormalTriL(
        np.zeros(2), tf.Variable(np.eye(2), dtype=tf.float64)),
    'mixture': lambda: tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable(normal([3]))),
        tfd.Independent(tfd.Normal(tf.Variable(normal([3, 2])), 1.), 1)),
    'infinite': lambda: tfd.Independent(tfd.TruncatedNormal(
        normal([2]), np.float64(1.), np.float64(-1.), np.array([np.inf, 2.])), 1),
    'half': lambda: tfd.Independent(tfd.Normal(tf.zeros(2, tf.bfloat16), 1.), 1),
    'transformed': lambda: tfd.Independent(tfd.Normal(
        np.zeros(2), tfp.util.TransformedVariable(np.ones(2), tfb.Exp())), 1)}


@pytest.mark.parametrize('name', BASES)
def test_bases_come_back(name):
    base = BASES[name]()
    again = through_json(base)
    assert again.dtype == base.dtype and again.event_shape == base.event_shape
    y = tf.cast(normal([5, 2]), base.dtype)
    np.testing.assert_array_equal(again.log_prob(y), base.log_prob(y))


def test_a_random_flow_of_no_seed_is_the_same_map_before_and_after_its_weights(tmp_path):
    flow = tfpc.ConditionalRealNVP(6, {'a': 1}, 3, (4,), mixing='random',
                                   dtype=tf.float64)
    dist = flow(flows.base(6), name='mine')
    again = through_json(dist)
    assert again.name == 'mine'
    y, c = normal([5, 6]), {'a': normal([5, 1])}
    flows.perturb(flow), flows.perturb(again)
    want = dist.given(c).log_prob(y)
    np.testing.assert_array_equal(again.given(c).log_prob(y), want)
    path = tf.train.Checkpoint(dist=dist).write(str(tmp_path / 'weights'))
    flows.perturb(again, seed=5)
    tfpc.load_weights(path, dist=again)
    np.testing.assert_array_equal(again.given(c).log_prob(y), want)


def test_what_has_learnt_from_data_comes_back_with_its_weights(tmp_path):
    dist = catalogue.CATALOGUE['density'].factory()(flows.base())
    again = through_json(dist)
    assert not again.bijector.adapted
    path = tf.train.Checkpoint(dist=dist).save(str(tmp_path / 'weights'))
    tfpc.load_weights(path, dist=again)
    assert again.bijector.adapted
    y, c = normal([5, 2]), normal([5, 3])
    np.testing.assert_array_equal(again.bijector.inverse(y, conditions=c),
                                  dist.bijector.inverse(y, conditions=c))


def test_what_is_shared_stays_shared():
    layer, loc = flows.perturb(catalogue.coupling()), tf.Variable(normal([3]))
    chain = tfpc.ConditionalChain([
        tfb.Shift(loc), layer, tfb.Permute([2, 0, 1]), layer, tfb.Shift(loc)])
    again = through_json(chain)
    first, a, _, b, last = again.bijectors
    assert a is b and first.shift is last.shift
    assert len(again.variables) == len(chain.variables)


@pytest.mark.parametrize('change,message', [
    ({'version': 2, 'tfp_conditional': '9.9'}, 'version 2, of tfp_conditional 9.9; this '
     'is .* reads version 1'),
    ({'version': None}, 'version None'),
    ({'object': {'class': 'tfpc.NoSuch', 'parameters': {}}}, "class 'tfpc.NoSuch'"),
    ({'object': {'class': 'other.Normal', 'parameters': {}}}, "class 'other.Normal'"),
    ({'object': {'class': 'linalg.inv', 'parameters': {}}}, "class 'linalg.inv'"),
    ({'object': {'else': 1}}, r"the keys \['else'\]"),
    ({'object': {'custom': 'net'}}, "part 'net' of its own"),
])
def test_other_configs_are_refused_by_name(change, message):
    config = tfpc.to_config(tfpc.ActNorm(2))
    with pytest.raises(ValueError, match=message):
        tfpc.from_config({**config, **change})


def test_what_is_no_config_is_refused():
    with pytest.raises(TypeError, match='must be a dict.*json.loads.*got str'):
        tfpc.from_config(json.dumps(tfpc.to_config(tfpc.ActNorm(2))))
    with pytest.raises(ValueError, match=r"`version` and `object`; got the keys \['a'\]"):
        tfpc.from_config({'a': 1})
    with pytest.raises(TypeError, match='tfd.Distribution or a tfb.Bijector; got MLP'):
        tfpc.to_config(tfpc.MLP())


# Weights: all or none.


def trainable(count=3, hidden=4, seed=0):
    flow = flows.flow(2, 3, 1, (hidden,), seed=seed)
    base = tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable(normal([count], seed))),
        tfd.Independent(tfd.Normal(tf.Variable(normal([count, 2], seed)), 1.), 1))
    return flow(base)


def cut(name):
    def write(path):
        path = tf.train.Checkpoint(dist=trainable()).write(path)
        with open(f'{path}.{name}', 'r+b') as file:
            file.truncate(os.path.getsize(file.name) // 2)
    return write


def written(**objects):
    return lambda path: tf.train.Checkpoint(**objects).write(path)


@pytest.mark.parametrize('write,message', [
    (cut('index'), ''), (cut('data-00000-of-00001'), ''),
    (lambda path: None, 'Failed to find|Unable to open'),
    (lambda path: open(path + '.index', 'wb').close(), ''),
    # TensorFlow's own `restore` assigns the flow's variables before it finds these.
    (lambda path: written(dist=trainable(count=4))(path), r'shape \(4, 2\)|shape \(4,\)'),
    (lambda path: written(dist=trainable().bijector(flows.base()))(path), 'Variable'),
    (lambda path: written(dist=trainable(hidden=5))(path), r'hidden_layers\[0\]'),
    (lambda path: written(dist=trainable(), more=tf.Variable(1.))(path), 'more'),
    (lambda path: written(flow=trainable())(path), '')])
def test_other_weights_are_refused_and_change_nothing(write, message, tmp_path):
    path, dist = str(tmp_path / 'weights'), trainable(seed=1)
    write(path)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    before = [variable.numpy() for variable in dist.variables]
    with pytest.raises(ValueError, match='(?s)`path` must be that of a checkpoint of '
                       rf"\['dist'\].*nothing was loaded.*({message})"):
        tfpc.load_weights(path, dist=dist)
    for variable, value in zip(dist.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert files == {file: file.read_bytes() for file in tmp_path.iterdir()}


def test_objects_of_other_kinds_are_refused():
    with pytest.raises(TypeError, match=r'`dist` must be a tf.Module.*got \w*Variable'):
        tfpc.load_weights('weights', dist=tf.Variable(1.))
    with pytest.raises(TypeError, match='such as `dist=dist`; got none'):
        tfpc.load_weights('weights')


@pytest.mark.parametrize('fraction', [0., 0.01, 0.5, 0.99])
def test_the_checkpoint_of_a_fit_that_was_cut_short_is_refused(fraction, tmp_path):
    path, dist = tmp_path / 'fit', trainable()
    checkpoint.write(str(path), {'entropy': [1]}, [np.ones(1000), np.zeros(10)])
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * fraction)])
    content, before = path.read_bytes(), [v.numpy() for v in dist.variables]
    with pytest.raises(ValueError, match='a file that `fit` wrote.*cut short'):
        tfpc.fit(dist, normal([200, 2]), normal([200, 3]), validation_split=.1,
                 checkpoint=str(path), verbose=False)
    assert path.read_bytes() == content
    for variable, value in zip(dist.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_checkpoint_of_a_fit_of_another_version_is_refused(tmp_path, monkeypatch):
    path = str(tmp_path / 'fit')
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, 'VERSION', 2)
        checkpoint.write(path, {'entropy': [1]}, [])
    with pytest.raises(ValueError, match='is of version 2.*goes on from version 1'):
        tfpc.fit(trainable(), normal([200, 2]), normal([200, 3]), validation_split=.1,
                 checkpoint=path, verbose=False)
