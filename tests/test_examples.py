"""The examples run, in a quick form, and do what they say."""

import functools
import importlib.util
import pathlib
import subprocess

import numpy as np
import pytest

import tfp_conditional as tfpc
from tfp_conditional import rl
from tfp_conditional.rl import policy as policy_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'examples' / 'latent_space_policy.py'


def quick_example(monkeypatch):
    """The example of the main job as a module, of small policies and few evaluations."""
    train = rl.train
    monkeypatch.setattr(rl, 'train', lambda *args, **kwargs: train(
        *args, **{**kwargs, 'evaluate_every': 100, 'episodes': 2}))
    monkeypatch.setattr(rl, 'LatentSpacePolicy', functools.partial(
        rl.LatentSpacePolicy, flow=functools.partial(
            tfpc.ConditionalRealNVP, num_coupling_layers=1, hidden_layers=(4,))))
    spec = importlib.util.spec_from_file_location('latent_space_policy', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NEW_PROCESS = '''
import sys
import pytest
from tests import test_examples
sys.exit(test_examples.quick_example(pytest.MonkeyPatch()).main(sys.argv[1:]))
'''


def test_the_main_job_runs_and_agrees_to_the_bit_with_what_a_new_process_loads(
        tmp_path, monkeypatch, capfd):
    from matplotlib import image
    example, run = quick_example(monkeypatch), subprocess.run

    def run_quickly(command, check):
        python, script, *arguments = command
        assert pathlib.Path(script) == SCRIPT
        return run([python, '-c', NEW_PROCESS, *arguments], check=check, cwd=ROOT)
    monkeypatch.setattr(subprocess, 'run', run_quickly)
    status = example.main(['--steps', '24', '--target-return=-1000', '--seed', '1',
                           '--out', str(tmp_path)])
    said = capfd.readouterr().out
    assert status == 0, said
    differences = {line.split()[0]: float(line.rpartition(' ')[2])
                   for line in said.splitlines() if 'largest difference' in line}
    assert differences['untrained'] > 0.
    assert differences['checkpoint'] == differences['SavedModel'] == 0.

    pixels = image.imread(tmp_path / 'latent_space_policy.png')
    assert pixels.shape[0] > 400 and pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape([-1, pixels.shape[-1]]), axis=0)) > 100

    # The verification notices one bit.
    samples = dict(np.load(tmp_path / 'samples.npz'))
    samples['log_probs'][0] = np.nextafter(samples['log_probs'][0], np.float32(1e3))
    np.savez(tmp_path / 'samples.npz', **samples)
    assert example.main(['--verify', '--out', str(tmp_path), '--seed', '1']) != 0


def test_a_missed_target_and_a_failed_verification_fail_the_run(
        tmp_path, monkeypatch, capsys):
    example = quick_example(monkeypatch)
    monkeypatch.setattr(example, 'draw', lambda *args: None)
    monkeypatch.setattr(example, 'paths', lambda *args, **kwargs: None)
    monkeypatch.setattr(example, 'learn', lambda *args, **kwargs: {
        'steps': [0], 'returns': [[0.]]})
    monkeypatch.setattr(rl, 'evaluate', lambda *args, **kwargs: np.array([5., 6.]))
    monkeypatch.setattr(policy_lib.Policy, 'export', lambda self, path: None)
    for code, target, message in [(0, '5.6', 'misses the target'), (1, '5.4', 'not the one')]:
        monkeypatch.setattr(subprocess, 'run', lambda command, check, code=code:
                            subprocess.CompletedProcess(command, code))
        assert example.main([f'--target-return={target}', '--out', str(tmp_path)]) != 0
        assert message in capsys.readouterr().out


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
