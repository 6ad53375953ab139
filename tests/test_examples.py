"""The examples run, in a quick form, and do what they say."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'examples' / 'latent_space_policy.py'

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
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path)},
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
    squashed = np.abs((actions - policy._center) / policy._half_range)
    inner = np.all(squashed < 0.95, axis=-1)
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
