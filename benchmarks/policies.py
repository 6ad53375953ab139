"""Latent-space policies beside Gaussian ones and Stable-Baselines3's.

    python benchmarks/policies.py --out DIR --workers 2

writes `DIR/policies.md` (tables), `DIR/policies.json` (the raw numbers) and pictures.
Every run is a process of its own, of one thread, and leaves a file in
`DIR/policy_runs`: what is there already is not run again. A package that is missing is
reported.

The Gaussian policy is a flow of one elementwise layer, so all but the policy is the
same code. Stable-Baselines3 has the same numbers: learning rate, batch, discount,
widths of the critics, steps before the first update.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import functools
import json
import pathlib
import time

import numpy as np

import processes

FLOW, GAUSSIAN, SB3 = 'flow', 'Gaussian', 'Stable-Baselines3'
EPISODES = 20
PILLARS = ((1.5, 1.5), (-1.5, 1.5), (-1.5, -1.5), (1.5, -1.5))


# What learns. Each has act(observations, deterministic) and learn(...).

class Ours:
    """`LatentSpacePolicy` and `SoftActorCritic`."""

    def __init__(self, kind, env, seed, **settings):
        import tfp_conditional as tfpc
        from tfp_conditional import rl
        flow = None if kind == FLOW else functools.partial(
            tfpc.ConditionalElementwise, hidden_layers=(256, 256), seed=seed)
        self._rl, self._seed = rl, seed
        self.policy = rl.LatentSpacePolicy(
            env.observation_space, env.action_space, flow=flow, seed=seed)
        self.learner = rl.SoftActorCritic(self.policy, seed=seed, **settings)

    def act(self, observations, deterministic=False):
        return self.policy.act(observations, 'zero' if deterministic else 'sample')

    def learn(self, env, steps, evaluation_env, every, warm_up):
        history = self._rl.train(
            env, self.learner, steps, evaluation_env=evaluation_env, warm_up=warm_up,
            evaluate_every=every, episodes=EPISODES, seed=self._seed, verbose=False)
        return history['steps'], [
            float(np.mean(each)) for each in history['returns'] if each]

    def update(self, rows):
        """The update of one batch, as a function without arguments."""
        rng = np.random.default_rng(0)
        buffer = self._rl.ReplayBuffer(self.policy, rows, seed=0)
        shape = self.policy.observation_spec.shape.as_list()
        buffer.add(rng.normal(size=[rows, *shape]),
                   rng.uniform(-1., 1., [rows, *self.policy.action_shape]),
                   rng.normal(size=rows), rng.normal(size=[rows, *shape]),
                   np.zeros(rows))
        return lambda: self.learner.update(buffer.sample(256))


class StableBaselines3:
    """Its soft actor-critic."""

    def __init__(self, kind, env, seed, learning_rate=3e-4, discount=0.99,
                 hidden_layers=(256, 256), temperature=None, initial_temperature=1.,
                 target_entropy='auto'):
        import stable_baselines3
        import torch
        torch.set_num_threads(1)
        self._env = env
        self.model = stable_baselines3.SAC(
            'MlpPolicy', env, learning_rate=learning_rate, gamma=discount, seed=seed,
            policy_kwargs=dict(net_arch=list(hidden_layers)), batch_size=256,
            ent_coef=(f'auto_{initial_temperature}' if temperature is None else
                      temperature), target_entropy=target_entropy, device='cpu')

    def act(self, observations, deterministic=False):
        return self.model.predict(observations, deterministic=deterministic)[0]

    def learn(self, env, steps, evaluation_env, every, warm_up):
        from tfp_conditional import rl
        self.model.learning_starts = warm_up
        found, deterministic = [], functools.partial(self.act, deterministic=True)
        for step in range(0, steps + 1, every):
            if step:
                self.model.learn(every, reset_num_timesteps=step == every)
            found.append((step, float(np.mean(rl.evaluate(
                deterministic, evaluation_env, EPISODES, seed=10_000)))))
        return tuple(map(list, zip(*found)))

    def update(self, rows):
        model = self.model
        rng = np.random.default_rng(0)
        for _ in range(rows):
            one, two = (rng.normal(size=[1, *self._env.observation_space.shape])
                        for _ in range(2))
            model.replay_buffer.add(
                one, two, rng.uniform(-1., 1., [1, *self._env.action_space.shape]),
                rng.normal(size=1), np.zeros(1), [{}])
        model.learn(0)
        return lambda: model.train(gradient_steps=1, batch_size=256)


def agent(kind, *args, **settings):
    return (StableBaselines3 if kind == SB3 else Ours)(kind, *args, **settings)


# Experiments: each a function (kind, seed, quick) -> dict of numbers.

def learning(name, steps, kind, seed, quick, **settings):
    """Soft actor-critic in one of gymnasium's environments."""
    import gymnasium
    make = functools.partial(gymnasium.make, name, **dict(
        max_episode_steps=3) if quick else {})
    env, steps, warm_up = make(), 20 if quick else steps, 5 if quick else 1000
    one = agent(kind, env, seed, **settings)
    wall, cpu = time.perf_counter(), time.process_time()
    at, returns = one.learn(env, steps, make(), max(1, steps // 10), warm_up)
    return dict(steps=at, returns=returns, last=returns[-1], best=max(returns),
                seconds=time.perf_counter() - wall,
                cpu_seconds=time.process_time() - cpu)


def goals(pillars, kind, seed, quick):
    """Which of four equal goals 400 episodes reach, and how many crash."""
    from tfp_conditional.rl import point_mass
    env = point_mass.PointMass(pillars=pillars)
    # Between pillars a policy must be sharp: its temperature falls as it learns.
    temperature = (dict(initial_temperature=5., target_entropy=0.) if pillars else
                   dict(temperature=0.5))
    one = agent(kind, env, seed, learning_rate=1e-3, discount=0.95,
                hidden_layers=(128, 128), **temperature)
    steps = 20 if quick else 8000
    one.learn(env, steps, env, steps, 5 if quick else 500)
    ends = [_end(env, one.act, episode) for episode in range(4 if quick else 400)]
    counts = [ends.count(goal) / len(ends) for goal in range(4)]
    return dict(counts=counts, crashed=ends.count('crash') / len(ends),
                none=ends.count(None) / len(ends),
                kept=sum(count >= 0.05 for count in counts))


def _end(env, act, seed):
    """The goal in which an episode ends, `'crash'` or `None`."""
    observation, _ = env.reset(seed=seed)
    while True:
        observation, _, terminated, truncated, info = env.step(
            act(observation[np.newaxis])[0])
        if terminated or truncated:
            return 'crash' if info['crashed'] else info['goal']


def sparse(kind, seed, quick):
    """A goal behind a pillar, and no other reward: 18,000 steps in all."""
    from tfp_conditional.rl import hierarchy
    from tfp_conditional.rl import point_mass
    task, walk = point_mass.hidden_goal(), point_mass.walk()
    steps, repeat = 40 if quick else 3000, 5
    warm_up = steps // 6
    settings = dict(learning_rate=1e-3, discount=0.95, hidden_layers=(128, 128))
    below, is_stack, _ = kind.partition(' below')
    if not is_stack:
        one = agent(kind, task, seed, temperature=0.1, **settings)
        at, returns = one.learn(task, (1 + repeat) * steps, task, steps // 2, warm_up)
        return dict(steps=at, returns=returns, last=returns[-1])
    lower = Ours(below, walk, seed, temperature=0.5, **settings)
    lower.learn(walk, steps, None, steps, warm_up)
    latents = np.random.default_rng(0).normal(size=[2000, 2])
    paces = np.linalg.norm(lower.policy.forward(latents, np.zeros([2000, 2])), axis=1)
    env = hierarchy.LatentActions(task, lower.policy, repeat=repeat)
    upper = Ours(FLOW, env, seed, temperature=0.1, **settings)
    at, returns = upper.learn(env, steps, env, max(1, steps // 8), warm_up)
    return dict(steps=[steps + repeat * step for step in at], returns=returns,
                last=returns[-1], pace_error=float(np.sqrt(np.mean(
                    (paces - point_mass.PACE)**2))))


def cloning(kind, seed, quick):
    """Two ways round an obstacle, cloned; the share of actions near one of them."""
    import tensorflow as tf
    import tfp_conditional as tfpc
    from tfp_conditional import rl
    rng = np.random.default_rng(seed)
    rows = 200 if quick else 5000

    def demonstrations(n):
        states = rng.uniform(-1., 1., [n, 2])
        return states, _ways(states)[rng.integers(2, size=n), np.arange(n)]
    states, ways = demonstrations(rows)
    actions = ways + 0.05 * rng.normal(size=ways.shape)
    new, _ = demonstrations(2000)

    def near(chosen):
        gaps = np.linalg.norm(_ways(new) - chosen, axis=-1).min(0)
        return float(np.mean(gaps < 0.2))
    epochs = 1 if quick else 100
    if kind == 'mean squared error':
        network = tf.keras.Sequential([
            tf.keras.layers.Dense(128, 'relu'), tf.keras.layers.Dense(128, 'relu'),
            tf.keras.layers.Dense(2)])
        network.compile(tf.keras.optimizers.Adam(1e-3), 'mse')
        tf.keras.utils.set_random_seed(seed)
        network.fit(states, actions, 128, epochs if quick else 30, verbose=0)
        return dict(zero=near(network.predict(new, verbose=0)))
    flow = {FLOW: None, GAUSSIAN: tfpc.ConditionalElementwise}.get(
        kind, functools.partial(tfpc.ConditionalRealNVP, num_coupling_layers=4,
                                transformer='rational_quadratic'))
    policy = rl.LatentSpacePolicy(2, ([-1., -1.], [1., 1.]), flow=flow, seed=seed)
    policy.observe(states)
    tfpc.fit(policy.distribution, actions, states, epochs=epochs, seed=seed,
             validation_split=0.1, verbose=False)
    return {mode: near(policy.act(new, mode, seed=seed))
            for mode in ('sample', 'zero', 'densest')}


def _ways(states):
    """Both right actions `[2, n, 2]`: to either side of what is ahead."""
    angle = np.pi / 4. * states[:, 0]
    way = 0.6 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.stack([way, -way]) + 0.2 * states[:, 1:]


def speed(kind, seed, quick):
    """Gradient steps a second at batch 256, and ms of one action, in turns."""
    import gymnasium
    env = gymnasium.make('HalfCheetah-v5' if kind == 'HalfCheetah' else 'Pendulum-v1')
    agents = {each: agent(each, env, seed, hidden_layers=(256, 256))
              for each in (FLOW, GAUSSIAN, SB3)}
    observation = env.reset(seed=0)[0]
    updates = {each: one.update(2000) for each, one in agents.items()}
    times = {each: {'update': [], 'act': [], 'cpu': []} for each in agents}
    for turn in range(3 if quick else 40):
        for each, one in agents.items():
            count = 2 if quick else 10
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                updates[each]()
            middle, middle_cpu = time.perf_counter(), time.process_time()
            for _ in range(10 * count):
                one.act(observation)
            end = time.perf_counter()
            if turn:
                times[each]['update'].append((middle - wall) / count)
                times[each]['cpu'].append((middle_cpu - cpu) / count)
                times[each]['act'].append((end - middle) / (10 * count))
    return {each: {name: float(np.median(values)) for name, values in found.items()}
            for each, found in times.items()}


HIERARCHIES = ('flow below', 'Gaussian below', FLOW, SB3)
THREE = (FLOW, GAUSSIAN, SB3)
EXPERIMENTS = {
    'Pendulum-v1, 8,000 steps': (functools.partial(
        learning, 'Pendulum-v1', 8000, learning_rate=1e-3), THREE, 5),
    'LunarLanderContinuous-v3, 100,000 steps': (functools.partial(
        learning, 'LunarLanderContinuous-v3', 100_000), THREE, 2),
    'Hopper-v5, 100,000 steps': (functools.partial(
        learning, 'Hopper-v5', 100_000), THREE, 1),
    'four goals': (functools.partial(goals, ()), THREE, 5),
    'four goals, pillars between': (functools.partial(goals, PILLARS), THREE, 5),
    'sparse reward': (sparse, HIERARCHIES, 5),
    'cloning two ways': (cloning, (FLOW, 'spline flow', GAUSSIAN,
                                   'mean squared error'), 5),
    'speed': (speed, ('Pendulum', 'HalfCheetah'), 1)}


def schedule(arguments):
    """All (experiment, kind, seed) that were asked for."""
    return [(name, kind, seed) for name in arguments.experiments
            for seed in range(EXPERIMENTS[name][2]) for kind in EXPERIMENTS[name][1]]


def path(arguments, name, kind, seed):
    return arguments.out / 'policy_runs' / f'{name}, {kind}, {seed}.json'.replace(
        ' ', '_')


def run_all(arguments):
    """Runs what is not stored; returns (experiment, kind) -> why it failed."""
    (arguments.out / 'policy_runs').mkdir(parents=True, exist_ok=True)
    return processes.run_all([(run[:2], [
        __file__, '--out', arguments.out, '--run', *run, *['--quick'] * arguments.quick])
                              for run in schedule(arguments)
                              if not path(arguments, *run).exists()], arguments.workers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    add = parser.add_argument
    add('--out', type=pathlib.Path, default=pathlib.Path('policies'))
    add('--experiments', nargs='+', choices=list(EXPERIMENTS), metavar='EXPERIMENT',
        default=list(EXPERIMENTS), help=', '.join(map(repr, EXPERIMENTS)))
    add('--workers', type=int, default=1, help='runs at once')
    add('--quick', action='store_true', help='tiny sizes, to see that it runs')
    add('--run', nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, kind, seed = arguments.run
        result = dict(experiment=name, kind=kind, seed=int(seed), **EXPERIMENTS[name][0](
            kind=kind, seed=int(seed), quick=arguments.quick))
        processes.store(path(arguments, name, kind, seed), result)
        return
    failed = run_all(arguments)
    import policies_report   # No run needs what it imports.
    print(policies_report.write(arguments.out, [
        json.loads(path(arguments, *run).read_text()) for run in schedule(arguments)
        if path(arguments, *run).exists()], failed))


if __name__ == '__main__':
    main()
