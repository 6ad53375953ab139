"""`export`: signatures for servers, the same bits, whole or not there."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tfp_conditional.core import serving
from tests import flows

tfd = tfp.distributions

SIZES = {'state': 3, 'a goal': (1, 2)}
ROWS = {f'conditions_{name}': np.random.default_rng(i).normal(
    size=[5, size]).astype(np.float32) for i, (name, size) in enumerate([
        ('state', 3), ('a_goal_0', 1), ('a_goal_1', 2)])}
SEEDS = [[1, 2], [-3, 4]]


def conditions(rows):
    return {'state': rows['conditions_state'],
            'a goal': (rows['conditions_a_goal_0'], rows['conditions_a_goal_1'])}


def small(condition_size=3):
    return flows.perturb(tfpc.ConditionalElementwise(
        2, condition_size, hidden_layers=(), dtype=tf.float64))(flows.base())


def load(path):
    return tf.saved_model.load(str(path)).signatures


# Of the standard library, NumPy and TensorFlow alone, as a server is.
CLIENT = '''
import sys
sys.modules['tensorflow_probability'] = sys.modules['tfp_conditional'] = None
import numpy as np
import tensorflow as tf
tf.random.set_seed(1)
path, policy, out = sys.argv[1:]
data = dict(np.load(out + '/in.npz'))
signatures = tf.saved_model.load(path).signatures
found = {}

def call(label, name, **inputs):
    for key, value in signatures[name](**{
            key: tf.constant(value) for key, value in inputs.items()}).items():
        found[f'{label}/{key}'] = value.numpy()

for rows in (1, 5):
    c = {key: value[:rows] for key, value in data.items() if key != 'events'}
    y = data['events'][:rows]
    call(f'{rows}/log_prob', 'log_prob', events=y, **c)
    call(f'{rows}/inverse', 'inverse', events=y, **c)
    call(f'{rows}/forward', 'forward', latents=y, **c)
    for seed in ([1, 2], [-3, 4]):
        for name in ('sample', 'sample_and_log_prob'):
            call(f'{rows}/{seed}/{name}', name + '_with_seed', n=7, seed=seed, **c)
    for i in range(2):
        for name in ('sample', 'sample_and_log_prob'):
            call(f'fresh/{rows}/{name}/{i}', name, n=7, **c)
        call(f'fresh/{rows}/default/{i}', 'serving_default', **c)

policy = tf.saved_model.load(policy)
rows = {'a': tf.ones([4, 2]), 'b': tf.zeros([4, 1])}
for i, seed in enumerate(([1, 2], [1, 2], [3, 4])):
    found[f'policy/act/{i}'] = policy.act(rows, tf.constant(seed)).numpy()
found['policy/log_prob'] = policy.log_prob(found['policy/act/0'], rows).numpy()
found['policy/forward'] = policy.forward(tf.zeros([4, 1]), rows).numpy()
np.savez(out + '/out.npz', **found)
'''


@pytest.fixture(scope='module')
def acting(tmp_path_factory):
    """A policy, and where it is exported."""
    from tfp_conditional import rl
    policy = rl.LatentSpacePolicy(
        {'a': 2, 'b': 1}, ([-1.], [1.]), seed=0, flow=tfpc.ConditionalElementwise(
            1, 3, hidden_layers=(4,)))
    flows.perturb(policy)
    policy.observe({'a': flows.normal([9, 2]).numpy() + 1., 'b': flows.normal([9, 1]).numpy()})
    path = tmp_path_factory.mktemp('acting') / 'policy'
    policy.export(path)
    return policy, path


@pytest.fixture(scope='module')
def served(tmp_path_factory, acting):
    """A distribution, what a process without TFP answers for it, and what this does."""
    path = tmp_path_factory.mktemp('served')
    # What these networks are made of is fused in other ways in nested functions.
    flow = tfpc.ConditionalRealNVP(
        2, SIZES, 2, mixing='random',
        conditioner=tfpc.ResidualNetwork(64, 1, 'silu', 'concatenate', layer_norm=True))
    dist = flows.perturb(flow(flows.base(dtype=tf.float32)))
    events = np.random.default_rng(9).normal(size=[5, 2]).astype(np.float32)
    np.savez(path / 'in.npz', events=events, **ROWS)
    dist.export(path / 'models' / '1')
    subprocess.run(
        [sys.executable, '-c', CLIENT, str(path / 'models' / '1'), str(acting[1]),
         str(path)],
        check=True, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3'}, cwd=path)
    assert os.listdir(path / 'models') == ['1']
    return (dist, events, dict(np.load(path / 'out.npz')),
            tf.saved_model.load(str(path / 'models' / '1')))


def test_a_process_without_tfp_has_the_same_bits(served):
    dist, events, answers, _ = served
    answers = dict(answers)
    for rows in (1, 5):
        c = conditions({key: value[:rows] for key, value in ROWS.items()})
        y, given = events[:rows], dist.given(c)

        def same(label, want, rows=rows):
            np.testing.assert_array_equal(answers.pop(f'{rows}/{label}'), want)

        same('log_prob/log_probs', given.log_prob(y))
        same('inverse/latents', dist.bijector.inverse(y, conditions=c))
        same('forward/events', dist.bijector.forward(y, conditions=c))
        for seed in SEEDS:
            same(f'{seed}/sample/samples', given.sample(7, seed=seed))
            for key, want in zip(('samples', 'log_probs'),
                                 given.experimental_sample_and_log_prob(7, seed=seed)):
                same(f'{seed}/sample_and_log_prob/{key}', want)
    assert {label.partition('/')[0] for label in answers} == {'fresh', 'policy'}


def test_noise_without_a_seed_is_fresh_in_each_call_and_process(served):
    dist, _, answers, loaded = served
    tf.random.set_seed(1)       # As in that process.
    for rows in (1, 5):
        inputs = {key: tf.constant(value[:rows]) for key, value in ROWS.items()}
        for name, shape in [('sample', [7, rows]), ('sample_and_log_prob', [7, rows]),
                            ('default', [rows])]:
            draws = [answers[f'fresh/{rows}/{name}/{i}/samples'] for i in range(2)]
            draws.append((loaded.signatures['serving_default'](**inputs)
                          if name == 'default' else loaded.signatures[name](
                              n=tf.constant(7), **inputs))['samples'].numpy())
            assert all(draw.shape == (*shape, 2) for draw in draws)
            assert len(np.unique(draws)) == np.size(draws)
            if name != 'sample':
                c = conditions({key: value[:rows] for key, value in ROWS.items()})
                np.testing.assert_allclose(
                    answers[f'fresh/{rows}/{name}/0/log_probs'],
                    dist.given(c).log_prob(draws[0]), rtol=1e-3, atol=1e-3)


def test_signatures_name_their_tensors(served):
    _, _, _, loaded = served
    found = {name: (sorted(call.structured_input_signature[1].keys() - ROWS.keys()),
                    list(call.structured_outputs))
             for name, call in loaded.signatures.items()}
    both = ['log_probs', 'samples']
    assert {name: (inputs, sorted(outputs)) for name, (inputs, outputs) in
            found.items()} == {
        'serving_default': ([], both),
        'sample': (['n'], ['samples']),
        'sample_with_seed': (['n', 'seed'], ['samples']),
        'sample_and_log_prob': (['n'], both),
        'sample_and_log_prob_with_seed': (['n', 'seed'], both),
        'log_prob': (['events'], ['log_probs']), 'inverse': (['events'], ['latents']),
        'forward': (['latents'], ['events'])}
    for call in loaded.signatures.values():
        for name, row in ROWS.items():
            assert call.structured_input_signature[1][name].shape.as_list() == [
                None, row.shape[-1]]
    # The methods for Python are there, too.
    c = conditions(ROWS)
    np.testing.assert_array_equal(loaded.sample(3, c, tf.constant([1, 2])),
                                  loaded.sample(3, c, seed=tf.constant([1, 2])))


def test_signatures_of_what_takes_no_conditions(tmp_path):
    dist, norm = small(), tfpc.ActNorm(2, tf.float64)
    flows.perturb(norm)
    cases = {'given': dist.given(flows.normal([5, 3])), 'norm': norm(flows.base())}
    for name, given in cases.items():
        given.export(tmp_path / name)
        signatures = load(tmp_path / name)
        assert 'serving_default' not in signatures
        y = given.sample(7, seed=[1, 2])
        np.testing.assert_array_equal(signatures['sample_with_seed'](
            n=tf.constant(7), seed=tf.constant([1, 2]))['samples'], y)
        np.testing.assert_allclose(signatures['log_prob'](events=y)['log_probs'],
                                   given.log_prob(y), rtol=1e-12)
        latents = signatures['inverse'](events=y)['latents']
        np.testing.assert_allclose(signatures['forward'](latents=latents)['events'], y)
        assert signatures['sample'](n=tf.constant(3))['samples'].shape[1:] == y.shape[1:]


def test_a_stock_distribution_exports_through_exportable(tmp_path):
    dist = small()
    stock = tfd.TransformedDistribution(dist.distribution, dist.bijector)
    tfpc.Exportable(stock).export(tmp_path / 'model')
    y, c = flows.normal([5, 2]), flows.normal([5, 3])
    np.testing.assert_array_equal(
        load(tmp_path / 'model')['log_prob'](events=y, conditions=c)['log_probs'],
        dist.given(c).log_prob(y))


def test_policies_have_signatures_and_methods_without_tfp(acting, served):
    policy, path = acting
    signatures = load(path)
    rows = {'observation_a': tf.ones([4, 2]), 'observation_b': tf.zeros([4, 1])}
    observation = {'a': tf.ones([4, 2]), 'b': tf.zeros([4, 1])}
    action = signatures['act_with_seed'](seed=tf.constant([1, 2]), **rows)['actions']
    np.testing.assert_allclose(action, policy.sample(observation, seed=[1, 2]), rtol=1e-6)
    np.testing.assert_allclose(
        signatures['log_prob'](action=action, **rows)['log_probs'],
        policy.log_prob(action, observation), rtol=1e-5)
    latents = tf.zeros([4, 1])
    np.testing.assert_allclose(signatures['forward'](latents=latents, **rows)['actions'],
                               policy.forward(latents, observation), atol=1e-7)
    draws = [signatures[name](**rows)['actions'] for name in ('act', 'serving_default')]
    assert np.all(draws[0] != draws[1]) and draws[0].shape == [4, 1]
    # In the process without TFP.
    acts = [served[2][f'policy/act/{i}'] for i in range(3)]
    np.testing.assert_array_equal(acts[0], acts[1])
    np.testing.assert_allclose(acts[0], action, rtol=1e-6)
    assert np.all(acts[0] != acts[2])
    np.testing.assert_allclose(served[2]['policy/log_prob'],
                               policy.log_prob(acts[0], observation), rtol=1e-5)
    np.testing.assert_allclose(served[2]['policy/forward'],
                               policy.forward(latents, observation), atol=1e-6)


# Refusals, and what is lost: nothing.


def test_refusals(tmp_path):
    dist = small()
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'directory').mkdir()
    (tmp_path / 'directory' / 'file').write_text('mine')
    for name, what in [('file', 'a file'), ('directory', 'a directory of other files')]:
        with pytest.raises(ValueError, match=f'`path` must be.*{name}. is {what}'):
            dist.export(tmp_path / name)
    for base in (flows.base(batch_shape=[5]), tfd.Sample(flows.base(), 4)):
        with pytest.raises(ValueError, match=r'must have batch shape \[\] and vectors'):
            dist.bijector(base).export(tmp_path / 'model')
    with pytest.raises(RuntimeError, match='outside of `training'), tfpc.training():
        dist.export(tmp_path / 'model')
    clash = small({'a': (1,), 'a_0': 2})
    with pytest.raises(ValueError, match='different names of inputs'):
        clash.export(tmp_path / 'model')
    assert sorted(os.listdir(tmp_path)) == ['directory', 'file']
    assert (tmp_path / 'file').read_text() == (
        tmp_path / 'directory' / 'file').read_text() == 'mine'


@pytest.mark.parametrize('when', ['before', 'after'])
def test_an_export_that_is_killed_leaves_what_was_there(when, tmp_path, monkeypatch):
    path = tmp_path / 'model'

    def export(value):
        serving.save(serving.checked_path(path), [], {}, {'value': serving.signature(
            lambda: tf.constant(value), ['value'])})

    def killed(module, path, save=tf.saved_model.save, **kwargs):
        if when == 'after':
            save(module, path, **kwargs)
        else:
            os.makedirs(path)
        raise KeyboardInterrupt

    for old, new in [(None, 1.), (1., 2.)]:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patched:
            patched.setattr(tf.saved_model, 'save', killed)
            export(new)
        if old is None:
            assert not path.exists()
        else:
            assert load(path)['value']()['value'] == old
        export(new)         # Replaces it, and clears up.
        assert load(path)['value']()['value'] == new
        assert os.listdir(tmp_path) == ['model']
