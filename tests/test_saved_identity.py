"""What a flow is is saved with it: restored to the same map, or refused by name."""

import copy
import json
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tfp_conditional.bijectors import settings
from tests import flows

tfb = tfp.bijectors


def real_nvp(event_size=4, condition_size=3, num_coupling_layers=2,
             hidden_layers=(6,), dtype=tf.float64, seed=0, **kwargs):
    return flows.perturb(tfpc.ConditionalRealNVP(
        event_size, condition_size, num_coupling_layers, hidden_layers, dtype=dtype,
        seed=seed, **kwargs), scale=1.)


def coupling(**kwargs):
    return flows.perturb(tfpc.ConditionalCoupling(
        4, 3, hidden_layers=(6,), dtype=tf.float64, **kwargs))


def assert_same(a, b, event_size=4, condition_size=3):
    x, c = flows.normal([5, event_size]), flows.normal([5, condition_size], 1)
    for one, other in zip(a.inverse_and_log_det(x, conditions=c),
                          b.inverse_and_log_det(x, conditions=c)):
        np.testing.assert_array_equal(one, other)


def through_checkpoint(a, b, path):
    tf.train.Checkpoint(flow=b).read(
        tf.train.Checkpoint(flow=a).write(str(path / 'ckpt'))).assert_consumed()


def through_fit(a, b, path):
    """A fit that is resumed, with a flow that was made anew, after its last epoch."""
    rng = np.random.default_rng(0)
    for flow in (a, b):
        tfpc.fit(flows.dist(flow, 4), rng.normal(size=[64, 4]),
                 np.ones([64, 3]), epochs=1, seed=0, verbose=False,
                 checkpoint=str(path / 'fit'))
        rng = np.random.default_rng(0)


# Random permutations, by whatever restores variables.


@pytest.mark.parametrize('how,layers,seed', [
    (through_checkpoint, 5, None), (through_checkpoint, 2, 1), (through_fit, 2, None)])
def test_random_permutations_are_restored(how, seed, layers, tmp_path):
    a = real_nvp(num_coupling_layers=layers, mixing='random', seed=None)
    b = real_nvp(num_coupling_layers=layers, mixing='random', seed=seed)
    x, c = flows.normal([5, 4]), flows.normal([5, 3], 1)
    traced = tf.function(lambda: b.inverse_and_log_det(x, conditions=c))
    traced(), b.inverse(x, conditions=c)     # What is compiled must read them again.
    how(a, b, tmp_path)
    assert_same(a, b)
    np.testing.assert_allclose(traced()[0], a.inverse(x, conditions=c), rtol=1e-9)


@pytest.mark.parametrize('event_size,layers', [(1, 2), (3, 1), (3, 2), (8, 3)])
def test_random_halves_complement_each_other_and_a_new_flow_is_the_identity(
        event_size, layers):
    flow = tfpc.ConditionalRealNVP(event_size, 3, layers, (4,), mixing='random',
                                   dtype=tf.float64)
    x, c = flows.normal([5, event_size]), flows.normal([5, 3], 1)
    np.testing.assert_array_equal(flow.forward(x, conditions=c), x)
    flows.perturb(flow, scale=1.)
    jacobian = np.any(tfp.math.value_and_gradient(
        lambda x: tf.reduce_sum(flow.forward(x, conditions=c)), x)[1] != 1., axis=0)
    assert layers == 1 or jacobian.all()


def test_random_flows_of_different_seeds_differ():
    halves = {tuple(real_nvp(8, mixing='random', seed=seed).bijectors[0]
                    .permutation.numpy()) for seed in range(5)}
    assert len(halves) == 5


# Other arguments.

DIFFERENT = {
    'mixing': (lambda: real_nvp(5), lambda: real_nvp(5, mixing='reverse'), 'mask'),
    'shift_range': (lambda: real_nvp(transformer='additive'),
                    lambda: real_nvp(transformer=tfpc.Additive(5.)),
                    r'transformer.shift_range` was 10.0, and is 5.0 here'),
    'max_log_scale': (lambda: real_nvp(transformer=tfpc.Affine(1.)), real_nvp,
                      'transformer.max_log_scale'),
    'transformer': (lambda: real_nvp(transformer=tfpc.Affine()),
                    lambda: real_nvp(transformer=Shift2()), 'transformer'),
    'own transformer': (lambda: real_nvp(transformer=Shift2()),
                        lambda: real_nvp(transformer=Shift2(3.)), 'transformer.size'),
    'activation': (real_nvp, lambda: real_nvp(activation='elu'),
                   "activation` was 'relu', and is 'elu' here"),
    'activation function': (
        real_nvp, lambda: real_nvp(activation=tf.nn.elu), 'activation'),
    'conditioning': (
        lambda: real_nvp(conditioner=tfpc.MLP((6, 6))),
        lambda: real_nvp(conditioner=tfpc.MLP((6, 6), conditioning='glu')),
        'conditioner.conditioning'),
    'residual activation': (
        lambda: real_nvp(conditioner=tfpc.ResidualNetwork(4, 1)),
        lambda: real_nvp(conditioner=tfpc.ResidualNetwork(4, 1, 'silu')),
        'conditioner.activation'),
    'condition_size': (lambda: real_nvp(condition_size={'a': 1, 'b': 2}),
                       lambda: real_nvp(condition_size={'a': 2, 'b': 1}),
                       'condition_size.a'),
    'mask': (coupling, lambda: coupling(mask=[True, False, True, False]),
             r'mask\[1\]` was True, and is False here'),
    **{f'spline {key}': (
        lambda: real_nvp(transformer=tfpc.RationalQuadratic(3)),
        lambda key=key, value=value: real_nvp(
            transformer=tfpc.RationalQuadratic(3, **{key: value})),
        f'transformer.{key}') for key, value in {
            'bound': 4., 'min_bin_size': .1, 'min_derivative': .1}.items()},
    'part of a chain': (
        lambda: tfpc.ConditionalChain([tfb.Tanh(), coupling()]),
        lambda: tfpc.ConditionalChain([tfb.Tanh(), coupling(activation='elu')]),
        'activation'),
    'inverted part': (
        lambda: tfpc.ConditionalChain([tfb.Invert(coupling())]),
        lambda: tfpc.ConditionalChain([tfb.Invert(coupling(activation='elu'))]),
        'activation'),
    'stock part': (
        lambda: tfpc.ConditionalChain([tfb.Permute([1, 0, 2, 3]), coupling()]),
        lambda: tfpc.ConditionalChain([tfb.Permute([0, 1, 2, 3]), coupling()]),
        r'bijectors\[0\].permutation\[0\]'),
    'other stock part': (
        lambda: tfpc.ConditionalChain([tfb.Tanh(), coupling()]),
        lambda: tfpc.ConditionalChain([tfb.Sigmoid(), coupling()]), r'bijectors\[0\]'),
    'support': (
        lambda: tfpc.ConditionalChain([tfpc.support_bijector(
            [0., -np.inf, 0., 0.], [1., np.inf, 1., np.inf], dtype=tf.float64),
                                       coupling()]),
        lambda: tfpc.ConditionalChain([tfpc.support_bijector(
            [0., -np.inf, 0., 0.], [1., np.inf, 2., np.inf], dtype=tf.float64),
                                       coupling()]), r'bijectors\[0\].bijectors\[2\].high'),
    'order': (
        lambda: tfpc.ConditionalAutoregressive(3, 3, [0, 1, 2], (4,)),
        lambda: tfpc.ConditionalAutoregressive(3, 3, [0, 2, 1], (4,)), r'order\[1\]'),
    'autoregressive': (
        lambda: tfpc.ConditionalMaskedAutoregressiveFlow(3, 3, 2, (4,)),
        lambda: tfpc.ConditionalMaskedAutoregressiveFlow(3, 3, 2, (4,), 'elu'),
        'activation'),
    'autoregressive gates': (
        lambda: tfpc.ConditionalMaskedAutoregressiveFlow(
            3, 3, 2, conditioner=tfpc.MLP((4, 4))),
        lambda: tfpc.ConditionalMaskedAutoregressiveFlow(
            3, 3, 2, conditioner=tfpc.MLP((4, 4), conditioning='glu')), 'modulation'),
    'standardized': (
        lambda: tfpc.Standardized(coupling()),
        lambda: tfpc.Standardized(coupling(activation='elu')), 'activation'),
}


class Shift2(tfpc.Transformer):
    """Of two parameters, as `Affine` is."""

    num_parameters = 2

    def __init__(self, size=2.):
        self.size = size

    def forward_and_log_det(self, x, parameters):
        return x + self.size * tf.tanh(tf.reduce_sum(parameters, -2)), 0. * x

    def inverse_and_log_det(self, y, parameters):
        return y - self.size * tf.tanh(tf.reduce_sum(parameters, -2)), 0. * y


@pytest.mark.parametrize('case', DIFFERENT)
def test_a_checkpoint_of_another_map_is_refused(case, tmp_path):
    make, make_other, message = DIFFERENT[case]
    flow, other = make(), make_other()
    before = [v.numpy() for v in other.variables]
    path = tf.train.Checkpoint(flow=flow).write(str(tmp_path / 'ckpt'))
    for read in (tf.train.Checkpoint(flow=other).read,
                 tf.train.Checkpoint(flow=other).restore):
        with pytest.raises(ValueError, match=f'another map than.*{message}'):
            read(path)
    with pytest.raises(ValueError, match=message):
        settings.check(other, settings.collect(flow))
    for variable, value in zip(other.variables, before):
        np.testing.assert_array_equal(variable, value)
    through_checkpoint(flow, make(), tmp_path)


@pytest.mark.parametrize('kwargs', [
    dict(activation=tf.nn.relu), dict(hidden_layers=[np.int64(6)]),
    dict(transformer=tfpc.Affine(8.)), dict(transformer=tfpc.Affine(8. + 1e-7)),
    dict(conditioner=tfpc.MLP((6,))), dict(conditioner=tfpc.MLP((6,), dropout=.5)),
    dict(seed=3), dict(name='other'), dict(validate_args=True),
    dict(condition_size=np.int64(3)), dict(activation=lambda x: tf.maximum(x, 0.))])
def test_the_same_map_in_other_words_is_not_refused(kwargs, tmp_path):
    flow, other = real_nvp(), real_nvp(**kwargs)
    through_checkpoint(flow, other, tmp_path)
    through_checkpoint(other, flow, tmp_path)


@pytest.mark.parametrize('clone', [
    copy.copy, copy.deepcopy, lambda b: b.copy(name='other')])
def test_copies_have_settings_and_are_no_other_maps(clone, tmp_path):
    flow = real_nvp(5, mixing='random', transformer='rational_quadratic')
    other = clone(flow)
    through_checkpoint(flow, other, tmp_path)
    with pytest.raises(ValueError, match='transformer'):
        through_checkpoint(other, real_nvp(5, mixing='random'), tmp_path)


def test_pickle_keeps_settings_and_permutations():
    flow = real_nvp(5, mixing='random')
    other = pickle.loads(pickle.dumps(flow))
    assert settings.collect(other) == settings.collect(flow) != []
    assert_same(flow, other, 5)


def test_a_checkpoint_without_settings_is_read_but_not_consumed(tmp_path):
    """One that was written before there were any."""
    flow, other = coupling(), coupling()
    del flow._settings
    path = tf.train.Checkpoint(flow=flow).write(str(tmp_path / 'ckpt'))
    status = tf.train.Checkpoint(flow=other).read(path)
    assert_same(flow, other)
    with pytest.raises(AssertionError, match='not bound to checkpointed values'):
        status.assert_consumed()


def test_other_numbers_of_bijectors_differ():
    with pytest.raises(ValueError, match=r'settings of \d+ bijectors, and here are \d+'):
        settings.check(real_nvp(num_coupling_layers=3), settings.collect(real_nvp()))


def test_exporting_says_nothing_of_settings(tmp_path, caplog):
    flow = tf.Module()
    flow.flow = real_nvp()
    flow.f = tf.function(lambda x, c: flow.flow.forward(x, conditions=c),
                         input_signature=[tf.TensorSpec([None, 4], tf.float64),
                                          tf.TensorSpec([None, 3], tf.float64)])
    tf.saved_model.save(flow, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert 'python values' not in caplog.text and 'py_state' not in caplog.text
    x, c = flows.normal([5, 4]), flows.normal([5, 3])
    np.testing.assert_array_equal(loaded.f(x, c), flow.f(x, c))


def test_descriptions():
    described = settings.describe({
        'stock': tfb.Chain([tfb.Shift(np.ones(2)), tfb.Scale(tf.Variable(2.))]),
        'own': coupling(), 'tensor': tf.constant([1., 2.]), 'none': None,
        'function': lambda x: x, 1: tf.nn.relu, 'infinite': np.inf})
    assert json.loads(json.dumps(described)) == described
    stock = described.pop('stock')
    assert stock['class'] == 'Chain' and stock['bijectors'] == [
        {'class': 'Shift', 'shift': [1., 1.]},
        {'class': 'Scale', 'scale': '?', 'log_scale': None}]
    assert described == {
        'own': {'class': 'ConditionalCoupling'}, 'tensor': [1., 2.], 'none': None,
        'function': '?', '1': 'relu', 'infinite': np.inf}
