"""The examples run, in a quick form, and do what they say."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tfp_conditional as tfpc

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
        [sys.executable, str(SCRIPT), '--steps', '24', '--target-return=-1000',
         '--seed', '1', '--out', str(out)],
        # Which Keras is TensorFlow's own does not matter; other tests have the default.
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(path),
             'TF_USE_LEGACY_KERAS': '1'},
        capture_output=True, text=True, check=False, timeout=600)
    return process, out


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


def test_verification_notices_one_bit(example, quick_run, tmp_path):
    out = tmp_path / 'copy'
    shutil.copytree(quick_run[1], out)
    arguments = ['--verify', '--out', str(out), '--seed', '1']
    assert example.main(arguments) == 0

    samples = dict(np.load(out / 'samples.npz'))
    samples['log_probs'][0] = np.nextafter(samples['log_probs'][0], np.float32(1e3))
    np.savez(out / 'samples.npz', **samples)
    assert example.main(arguments) != 0


def test_a_missed_target_fails_the_run(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example.subprocess, 'run', lambda command, check:
                        subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(example, 'draw', lambda *args: None)
    # Too few steps for an update: there is nothing to trace.
    monkeypatch.setattr(example, 'learn', lambda *args, **kwargs: {
        'steps': [0], 'returns': [[0.]]})
    assert example.main(['--target-return', '11', '--out', str(tmp_path)]) != 0
    assert 'misses the target' in capsys.readouterr().out


def _main(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPT.with_name(f'{name}.py'))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_a_flow_clones_both_ways_and_least_squares_neither(tmp_path):
    shares = _main('behaviour_cloning')(['--rows', '1000', '--epochs', '15', '--out',
                                         str(tmp_path / 'picture.png')])
    assert shares['demonstrator'] < 0.01 and shares['least squares'] > 0.9
    assert shares['flow, densest of 32'] < 0.05 < 0.3 > shares['flow, at random']
    assert (tmp_path / 'picture.png').stat().st_size > 10_000


def test_a_second_round_is_near_what_was_observed(tmp_path, monkeypatch):
    full = tfpc.ConditionalRealNVP    # A spline flow takes long to trace.
    monkeypatch.setattr(tfpc, 'ConditionalRealNVP', lambda *sizes, **_: full(
        *sizes, num_coupling_layers=2, hidden_layers=(8,), seed=0))
    gaps = _main('sequential')(['--simulations', '200', '--epochs', '15', '--out',
                                str(tmp_path / 'picture.png')])
    assert max(gaps.values()) < np.log(36.)      # That of the prior.
    assert (tmp_path / 'picture.png').stat().st_size > 10_000


def test_stable_baselines3_acts_by_latents():
    pytest.importorskip('stable_baselines3')
    returns = _main('with_stable_baselines3')(['--steps', '60'])
    assert all(np.isfinite(value) for value in returns.values())
