"""`copy`, `copy.copy`, `copy.deepcopy`, pickle, cloudpickle and checkpoints."""

import copy
import pickle

import cloudpickle
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions

X, C = flows.normal([5, 2]), flows.normal([5, 3], 1)


class Conditioner(tf.Module):
    """An own conditioner that owns its variables."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(flows.normal([4, 2], 9))

    def __call__(self, units, conditions):
        return tf.tensordot(tf.concat([units, conditions], -1), self.kernel, 1)


MAKERS = {
    'nest': lambda: flows.flow(2, {'b': 2, 'a': 1}),
    'own_conditioner': lambda: tfpc.ConditionalCoupling(
        2, 3, conditioner=Conditioner(), dtype=tf.float64),
    'elementwise': lambda: flows.perturb(
        tfpc.ConditionalElementwise(2, 3, (4,), dtype=tf.float64), scale=1.),
    'chain': lambda: tfpc.ConditionalChain(
        [tfb.Tanh(), coupling(), tfb.Permute([1, 0]), tfb.Invert(coupling(5))]),
    'condition': lambda: coupling().condition(C),
}


def coupling(seed=0):
    return flows.perturb(tfpc.ConditionalCoupling(
        2, 3, hidden_layers=(4,), dtype=tf.float64, seed=seed), scale=1.)


def _conditions(name):
    return ({} if name == 'condition' else
            {'conditions': {'a': C[:, :1], 'b': C[:, 1:]} if name == 'nest' else C})


def _same(a, b, kwargs):
    for x, y in zip(a.forward_and_log_det(X, **kwargs),
                    b.forward_and_log_det(X, **kwargs)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('name', MAKERS)
def test_an_independent_copy_is_independent(name):
    bijector, kwargs = MAKERS[name](), _conditions(name)
    bijector.forward(X, **kwargs)      # so that there is something compiled to drop
    first = [v.numpy() for v in bijector.trainable_variables]
    for how in (copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b)),
                lambda b: pickle.loads(cloudpickle.dumps(b))):
        clone = how(bijector)
        assert clone is not bijector and clone != bijector
        assert type(clone) is type(bijector) and clone.name == bijector.name
        with tf.GradientTape() as tape:
            before = clone.forward(X, **kwargs)
        assert all(g is not None
                   for g in tape.gradient(before, clone.trainable_variables))
        np.testing.assert_array_equal(before, bijector.forward(X, **kwargs))
        own = {v.ref() for v in bijector.trainable_variables}
        assert len(clone.trainable_variables) == len(own)
        assert not own & {v.ref() for v in clone.trainable_variables}
        for variable in bijector.trainable_variables:
            variable.assign_add(tf.ones_like(variable))
        np.testing.assert_array_equal(clone.forward(X, **kwargs), before)
        # The copy's variables are what the copy computes with.
        for variable in clone.trainable_variables:
            variable.assign_add(tf.ones_like(variable))
        _same(clone, bijector, kwargs)
        for variable, value in zip(bijector.trainable_variables, first):
            variable.assign(value)


@pytest.mark.parametrize('name', MAKERS)
def test_a_shallow_copy_shares_variables_and_nothing_else(name):
    bijector, kwargs = MAKERS[name](), _conditions(name)
    bijector.forward(X, **kwargs)
    clones = copy.copy(bijector), bijector.copy(name='other')
    for clone in clones:
        assert clone != bijector
        assert ([v.ref() for v in clone.trainable_variables]
                == [v.ref() for v in bijector.trainable_variables])
        _same(clone, bijector, kwargs)
    for variable in bijector.trainable_variables:
        variable.assign_add(0.1 * tf.ones_like(variable))
    for clone in clones:
        _same(clone, bijector, kwargs)
    del bijector
    clone.forward(X, **kwargs)


def test_copy_with_other_arguments_makes_a_new_flow():
    flow = flows.flow()
    deeper = flow.copy(num_coupling_layers=4)
    assert len(deeper.trainable_variables) == 2 * len(flow.trainable_variables)
    checked = flow.copy(validate_args=True)
    assert checked.validate_args and not flow.validate_args
    assert checked.trainable_variables[0] is flow.trainable_variables[0]
    with pytest.raises(tf.errors.InvalidArgumentError):
        checked.forward(X / 0., conditions=C)


def test_a_conditioner_in_a_closure_cannot_be_deep_copied():
    kernel = tf.Variable(tf.ones([4, 2]))
    layer = tfpc.ConditionalCoupling(
        2, 3, conditioner=lambda u, c: tf.concat([u, c], -1) @ kernel)
    with pytest.raises(TypeError, match='no attributes of a tf.Module'):
        copy.deepcopy(layer)


def test_stock_networks_in_a_chain_are_tracked_and_not_copied_wrongly():
    template = tfpc.conditional_real_nvp_template(
        (4,), input_size=1, output_units=1, condition_size=1, dtype=tf.float64)
    ones = tf.ones([1], tf.float64)

    def closure(x, units):
        return template(x, units, conditions=ones)

    for function in (closure, tfb.real_nvp_default_template((4,))):
        chain = tfpc.ConditionalChain([
            tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=function), flows.flow()])
        with tf.GradientTape() as tape:
            chain.forward(X, conditions=C)
        assert ({v.ref() for v in tape.watched_variables()}
                == {v.ref() for v in chain.trainable_variables})
        with pytest.raises(TypeError, match=(
                'cannot be copied' if function is closure else None)):
            copy.deepcopy(chain)


def test_a_distribution_is_copied_around_a_copied_flow():
    dist = flows.dist(flows.flow())
    target = dist.copy(bijector=copy.deepcopy(dist.bijector))
    before = target.log_prob(X, **flows.given(C))
    for variable in dist.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    np.testing.assert_array_equal(target.log_prob(X, **flows.given(C)), before)


@pytest.mark.parametrize('name', ['nest', 'chain'])
def test_what_pickle_has_loaded_is_tracked_as_before(name, tmp_path):
    """TensorFlow tracks parts as attributes are set, and pickle sets none."""
    bijector, kwargs = MAKERS[name](), _conditions(name)
    clone = pickle.loads(pickle.dumps(bijector))
    path = tf.train.Checkpoint(flow=clone).write(str(tmp_path / 'ckpt'))
    other = pickle.loads(pickle.dumps(MAKERS[name]()))
    for variable in other.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    tf.train.Checkpoint(flow=other).read(path).assert_consumed()
    _same(other, bijector, kwargs)


def test_an_exported_module_reproduces_log_prob_bit_for_bit(tmp_path):
    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.flow = coupling()
            self.dist = flows.dist(self.flow)

        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float64),
                                      tf.TensorSpec([None, 3], tf.float64)])
        def log_prob(self, y, c):
            return self.dist.log_prob(y, **flows.given(c))

    served = Served()
    served.flow.forward(X, conditions=C)
    tf.saved_model.save(served, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.log_prob(X, C), served.log_prob(X, C))
    np.testing.assert_array_equal(loaded.log_prob(X[:2], C[:2]),
                                  served.dist.log_prob(X[:2], **flows.given(C[:2])))
