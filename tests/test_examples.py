"""The examples run, in a quick form, and do what they say."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'examples' / 'latent_space_policy.py'
MOST = np.finfo(np.float32).max

# One run serves all tests of this file: they keep to one process.
pytestmark = pytest.mark.xdist_group('examples')


@pytest.fixture(scope='module')
def example():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location('latent_space_policy', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def quick_run(tmp_path_factory):
    """A quick run in a process of its own, and the directory that it wrote."""
    out = tmp_path_factory.mktemp('latent_space_policy')
    path = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    process = subprocess.run(
        [sys.executable, str(SCRIPT), '--steps', '200', '--warm-up', '50',
         '--batch-size', '64', '--evaluate-every', '100', '--episodes', '1',
         '--target-return', '-10000', '--seed', '1', '--out', str(out)],
        # Which Keras is TensorFlow's own does not matter; other tests have the default.
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path),
             'TF_USE_LEGACY_KERAS': '1'},
        capture_output=True, text=True, check=False, timeout=600)
    return process, out


def _restored(example, out):
    policy = example.Policy(**json.loads((out / 'settings.json').read_text()))
    tf.train.Checkpoint(policy=policy).read(
        str(out / 'checkpoint')).assert_consumed()
    return policy


def test_runs_and_agrees_with_what_a_new_process_loads(quick_run):
    process, _ = quick_run
    assert process.returncode == 0, process.stderr
    differences = {
        line.split()[0]: float(line.rsplit(maxsplit=1)[1])
        for line in process.stdout.splitlines() if 'largest difference' in line}
    assert differences['untrained'] > 0.
    assert differences['checkpoint'] == differences['SavedModel'] == 0.


def test_draws_a_picture(quick_run):
    from matplotlib import image
    pixels = image.imread(quick_run[1] / 'latent_space_policy.png')
    height, width = pixels.shape[:2]
    assert width > 1000 and height > 400
    assert len(np.unique(pixels.reshape([-1, pixels.shape[-1]]), axis=0)) > 100


def test_trains_with_finite_losses(example, quick_run):
    _, out = quick_run
    history = np.load(out / 'history.npz')
    assert history['steps'].tolist() == [0, 100, 200]
    assert history['returns'].shape == (3, 1)
    for name in ('critic_loss', 'actor_loss', 'entropy', 'temperature'):
        assert history[name].shape == (2,) and np.isfinite(history[name]).all(), name
    assert history['temperature'][-1] != history['temperature'][0]

    settings = json.loads((out / 'settings.json').read_text())
    before = example.Policy(**settings, seed=1)
    after = _restored(example, out)
    assert len(after.trainable_variables) == len(before.trainable_variables) > 0
    for old, new in zip(before.trainable_variables, after.trainable_variables):
        assert np.isfinite(new.numpy()).all(), new.name
        assert np.any(new.numpy() != old.numpy()), new.name


def _assert_density_of_inner_actions(policy, states, actions, log_probs):
    # Next to a bound the action has lost the digits that tell its noise.
    bounds = policy.bijector.bijectors[0]
    gap = np.minimum(actions - bounds.low, bounds.high - actions)
    inner = np.all(gap > 0.02 * (bounds.high - bounds.low), axis=-1)
    assert inner.any()
    np.testing.assert_allclose(
        log_probs.numpy()[inner], policy.log_prob(actions, states).numpy()[inner],
        atol=1e-2)


def test_policy_is_a_density_over_the_actions(example, quick_run):
    policy = _restored(example, quick_run[1])
    edges = np.linspace(-2., 2., 20_001, dtype=np.float32)[:, np.newaxis]
    centers = (edges[1:] + edges[:-1]) / 2
    states = np.random.default_rng(0).normal(size=[3, 3]).astype(np.float32)
    for state in states:
        log_probs = policy.log_prob(centers, np.tile(state, [len(centers), 1]))
        mass = np.exp(log_probs.numpy().astype(np.float64)).mean() * 4.
        assert mass == pytest.approx(1., abs=1e-2)

    many = np.repeat(states, 1000, axis=0)
    actions, log_probs = policy.sample_and_log_prob(many)
    assert np.all(np.abs(actions) <= 2.)
    _assert_density_of_inner_actions(policy, many, actions, log_probs)


def test_policy_of_two_actions_fills_its_own_box(example):
    policy = example.Policy(4, low=[-1., 10.], high=[1., 13.], seed=0)
    rng = np.random.default_rng(0)
    for variable in policy.trainable_variables:
        variable.assign_add(0.1 * rng.normal(size=variable.shape))
    states = rng.normal(size=[500, 4]).astype(np.float32)
    actions, log_probs = policy.sample_and_log_prob(states)
    assert np.all(actions >= [-1., 10.]) and np.all(actions <= [1., 13.])
    assert np.all(np.std(actions, axis=0) > [0.2, 0.3])
    _assert_density_of_inner_actions(policy, states, actions, log_probs)
    assert policy.act(states).shape == [500, 2]


def test_one_action_for_each_state_of_any_batch_shape(example):
    policy = example.Policy(3, low=[-1., 10.], high=[1., 13.], seed=0)
    for batch in ([], [5], [5, 4], [0]):
        states = np.ones([*batch, 3], np.float32)
        actions, log_probs = policy.sample_and_log_prob(states)
        assert actions.shape == [*batch, 2] and log_probs.shape == batch
        for answer in (policy.sample(states), policy.act(states)):
            assert answer.shape == [*batch, 2]
        assert policy.log_prob(actions, states).shape == batch
    for ask in (policy.act, policy.sample, policy.sample_and_log_prob):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError),
                           match='last dimension'):
            ask(np.ones([5, 6], np.float32))


def test_actions_at_the_bounds_have_finite_densities(example):
    policy = example.Policy(3, low=[-1., 10.], high=[1., 13.], seed=0)
    actions = np.array([[-1., 10.], [1., 13.], [1., 10.]], np.float32)
    assert np.all(np.isfinite(policy.log_prob(actions, np.ones([3, 3], np.float32))))


@pytest.mark.parametrize('low,high', [
    ([-1., 0.], [1., 0.]), ([[-1.]], [[1.]]), ([-np.inf], [1.]), ([0., 0.], [1.])])
def test_policies_of_impossible_bounds_are_refused(example, low, high):
    with pytest.raises(ValueError, match='`low`'):
        example.Policy(3, low, high)


class Environment(gymnasium.Env):
    """Two steps an episode, and what goes wrong in the step of that number."""

    def __init__(self, box=None, bad_reward=0, bad_observation=0, bad_reset=0):
        box = box or dict(low=-1., high=1., shape=(1,))
        self.action_space = gymnasium.spaces.Box(**box)
        self.observation_space = gymnasium.spaces.Box(-1., 1., (3,))
        self._bad = bad_reward, bad_observation, bad_reset
        self._steps, self._resets = 0, 0

    def _state(self, bad):
        return np.array([0., np.nan if bad else 0., 0.], np.float32)

    def reset(self, seed=None, options=None):
        self._resets += 1
        return self._state(self._resets == self._bad[2]), {}

    def step(self, action):
        self._steps += 1
        reward = np.nan if self._steps == self._bad[0] else 1.
        return (self._state(self._steps == self._bad[1]), reward,
                self._steps % 2 == 0, False, {})


def _run(example, monkeypatch, tmp_path, *arguments, **kwargs):
    monkeypatch.setattr(example.gym, 'make', lambda name: Environment(**kwargs))
    monkeypatch.setattr(example, 'draw', lambda *args: None)
    monkeypatch.setattr(example.subprocess, 'run', lambda command, check:
                        subprocess.CompletedProcess(command, 0))
    return example.main(['--env', 'Own', '--steps', '20', '--warm-up', '10',
                         '--batch-size', '4', '--evaluate-every', '10',
                         '--episodes', '1', '--out', str(tmp_path), *arguments])


@pytest.mark.parametrize('bad,message', [
    (dict(bad_reward=7), r'reward of the action \[.*must be finite; got nan'),
    (dict(bad_reward=1), 'reward of the action'),
    (dict(bad_observation=7), 'observation after the action'),
    (dict(bad_reset=1), 'observation after a reset'),
    (dict(bad_reset=4), 'observation after a reset')], ids=str)
def test_what_is_not_finite_ends_the_run_when_it_happens(
        example, monkeypatch, tmp_path, bad, message):
    with pytest.raises(FloatingPointError, match=message):
        _run(example, monkeypatch, tmp_path, **bad)


def test_a_loss_that_is_not_finite_ends_the_run(example, monkeypatch, tmp_path):
    update = example.SoftActorCritic.update
    monkeypatch.setattr(
        example.SoftActorCritic, 'update',
        lambda self, batch: {**update(self, batch), 'critic_loss': np.float32('inf')})
    with pytest.raises(FloatingPointError, match='critic_loss is inf.*before step 20'):
        _run(example, monkeypatch, tmp_path)


@pytest.mark.parametrize('box', [
    dict(low=-1., high=1., shape=(1, 1)), dict(low=-np.inf, high=1., shape=(1,)),
    dict(low=-1, high=1, shape=(1,), dtype=np.int32),
    dict(low=np.zeros(2, np.float32), high=np.array([1., 0.], np.float32)),
    dict(low=-MOST, high=MOST, shape=(1,))], ids=str)
def test_environments_of_other_actions_are_refused(
        example, monkeypatch, tmp_path, box):
    with pytest.raises(ValueError, match='Own must have a vector of actions'):
        _run(example, monkeypatch, tmp_path, box=box)


@pytest.mark.parametrize('given,value', [
    (['--target-return', '-1e9'], -1e9), (['--target-return=-1e9'], -1e9),
    (['--target-return', '-10'], -10.), (['--target-return', '-inf'], -np.inf),
    (['--target-return', '-1.5E+3', '--steps', '7'], -1500.)])
def test_negative_targets(example, given, value):
    assert example.parse_arguments(given).target_return == value


def test_verification_notices_one_bit(example, quick_run, tmp_path):
    out = tmp_path / 'copy'
    shutil.copytree(quick_run[1], out)
    assert example.main(['--verify', str(out)]) == 0

    samples = dict(np.load(out / 'samples.npz'))
    samples['log_probs'][0] = np.nextafter(samples['log_probs'][0], np.float32(1e3))
    np.savez(out / 'samples.npz', **samples)
    assert example.main(['--verify', str(out)]) != 0


def test_a_missed_target_fails_the_run(example, tmp_path, monkeypatch, capsys):
    # Without an update there is nothing to verify, and nothing to trace.
    monkeypatch.setattr(example.subprocess, 'run', lambda command, check:
                        subprocess.CompletedProcess(command, 0))
    status = example.main(['--steps', '10', '--warm-up', '10', '--episodes', '1',
                           '--target-return', '1', '--out', str(tmp_path)])
    assert status != 0
    assert 'misses the target' in capsys.readouterr().out


def test_replay_buffer_is_a_ring(example):
    buffer = example.ReplayBuffer(3, observation_size=2, action_size=1, seed=0)
    for i in range(5):
        buffer.add(states=[i, i], actions=[i], rewards=i, next_states=[i + 1, i + 1],
                   terminals=i == 4)
    batch = buffer.sample(200)
    assert set(batch['rewards']) == {2., 3., 4.}
    np.testing.assert_array_equal(batch['next_states'], batch['states'] + 1)
    np.testing.assert_array_equal(batch['terminals'], batch['rewards'] == 4)
