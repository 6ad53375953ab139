"""Latent-space policies beside Gaussian ones and Stable-Baselines3's.

    python benchmarks/policies.py --out DIR --workers 2

writes `DIR/policies.md` (tables), `DIR/policies.json` (the raw numbers) and
`DIR/policies.png`. Every run is a process of its own, of one thread, and leaves a file in
`DIR/policy_runs`: what is there already is not run again. A package that is missing is
reported.

The Gaussian policy is a flow of one elementwise layer, so all but the policy is the
same code. Stable-Baselines3 has the same numbers: learning rate, batch, discount,
widths of the critics, steps before the first update.
"""

import processes

import functools
import json
import pathlib
import sys
import time

import gymnasium
import numpy as np
import pandas as pd

import measure
import report
import tfp_conditional as tfpc
from tfp_conditional import rl
from tfp_conditional.rl import hierarchy
from tfp_conditional.rl import point_mass

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / 'examples'))
import behaviour_cloning

FLOW, SPLINE, GAUSSIAN, SB3 = 'flow', 'spline flow', 'Gaussian', 'Stable-Baselines3'
# What is not the default, of as many couplings and units as that has.
FLOWS = {
    SPLINE: functools.partial(tfpc.ConditionalRealNVP, num_coupling_layers=4,
                              hidden_layers=(64, 64), transformer='rational_quadratic'),
    GAUSSIAN: functools.partial(tfpc.ConditionalElementwise, hidden_layers=(256, 256))}
EPISODES = 20
PILLARS = ((1.5, 1.5), (-1.5, 1.5), (-1.5, -1.5), (1.5, -1.5))


# What learns. Each has act(observations, deterministic) and learn(...).

class Ours:
    """`LatentSpacePolicy` and `SoftActorCritic`."""

    def __init__(self, kind, env, seed, **settings):
        flow = FLOWS.get(kind) and functools.partial(FLOWS[kind], seed=seed)
        self._seed = seed
        self.policy = rl.LatentSpacePolicy(
            env.observation_space, env.action_space, flow=flow, seed=seed)
        self.learner = rl.SoftActorCritic(self.policy, seed=seed, **settings)

    def act(self, observations, deterministic=False):
        return self.policy.act(observations, 'zero' if deterministic else 'sample')

    def learn(self, env, steps, evaluation_env, every, warm_up):
        history = rl.train(
            env, self.learner, steps, evaluation_env=evaluation_env, warm_up=warm_up,
            evaluate_every=every, episodes=EPISODES, seed=self._seed, verbose=False)
        return history['steps'], [
            float(np.mean(each)) for each in history['returns'] if each]

    def update(self, rows):
        """The update of one batch, as a function without arguments."""
        rng = np.random.default_rng(0)
        buffer = rl.ReplayBuffer(self.policy, rows, seed=0)
        shape = self.policy.observation_spec.shape.as_list()
        buffer.add(rng.normal(size=[rows, *shape]),
                   rng.uniform(-1., 1., [rows, *self.policy.action_shape]),
                   rng.normal(size=rows), rng.normal(size=[rows, *shape]), np.zeros(rows))
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
        self.model.learning_starts = warm_up
        found, deterministic = [], functools.partial(self.act, deterministic=True)
        for step in range(0, steps + 1, every):
            if step:
                self.model.learn(every, reset_num_timesteps=step == every)
            found.append((step, float(np.mean(rl.evaluate(
                deterministic, evaluation_env, EPISODES, seed=10_000)))))
        return tuple(map(list, zip(*found)))

    def update(self, rows):
        model, rng = self.model, np.random.default_rng(0)
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
    make = functools.partial(gymnasium.make, name, **dict(
        max_episode_steps=3) if quick else {})
    env, steps, warm_up = make(), 20 if quick else steps, 5 if quick else 1000
    one = agent(kind, env, seed, **settings)
    cpu = time.process_time()
    at, returns = one.learn(env, steps, make(), max(1, steps // 10), warm_up)
    cpu = time.process_time() - cpu
    sampled = float(np.mean(rl.evaluate(one.act, make(), EPISODES, seed=10_000)))
    return dict(steps=at, returns=returns, last=returns[-1], best=max(returns),
                sampled=sampled, cpu_seconds=cpu)


def goals(pillars, kind, seed, quick):
    """Which of four equal goals 400 episodes reach, and how many crash."""
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
    task, walk = point_mass.hidden_goal(), point_mass.walk()
    steps, repeat = 40 if quick else 3000, 5
    warm_up = steps // 6
    settings = dict(learning_rate=1e-3, discount=0.95, hidden_layers=(128, 128))
    below, is_stack, above = kind.partition(' below')
    if not is_stack:
        one = agent(kind, task, seed, temperature=0.1, **settings)
        at, returns = one.learn(task, (1 + repeat) * steps, task, steps // 2, warm_up)
        return dict(steps=at, returns=returns, last=returns[-1])
    lower = Ours(below, walk, seed, temperature=0.5, **settings)
    lower.learn(walk, steps, None, steps, warm_up)
    latents = np.random.default_rng(0).normal(size=[2000, 2])
    paces = np.linalg.norm(lower.policy.forward(latents, np.zeros([2000, 2])), axis=1)
    env = hierarchy.LatentActions(task, lower.policy, repeat=repeat)
    upper = agent(SB3 if SB3 in above else FLOW, env, seed, temperature=0.1, **settings)
    at, returns = upper.learn(env, steps, env, max(1, steps // 8), warm_up)
    return dict(steps=[steps + repeat * step for step in at], returns=returns,
                last=returns[-1], pace_error=float(np.sqrt(np.mean(
                    (paces - point_mass.PACE)**2))))


def cloning(kind, seed, quick):
    """Two ways round an obstacle, cloned; the share of actions near one of them."""
    rng = np.random.default_rng(seed)

    def ways(states):
        # To either side of what is ahead, and both moved by a second number.
        return behaviour_cloning.ways(states) + 0.2 * states[:, 1:]

    states = rng.uniform(-1., 1., [200 if quick else 5000, 2])
    actions = behaviour_cloning.take(ways(states), rng)
    new = rng.uniform(-1., 1., [2000, 2])

    def near(chosen):
        gaps = np.linalg.norm(ways(new) - chosen, axis=-1).min(0)
        return float(np.mean(gaps < 0.2))
    if kind == 'mean squared error':
        return dict(zero=near(behaviour_cloning.least_squares(
            states, actions, 1 if quick else 30)(new)))
    # With the widths that layers have by default.
    flow = {FLOW: None, GAUSSIAN: tfpc.ConditionalElementwise}.get(
        kind, functools.partial(FLOWS[SPLINE], hidden_layers=(128, 128)))
    policy = behaviour_cloning.clone(flow, states, actions, 1 if quick else 100, seed,
                                     verbose=False)
    return {mode: near(policy.act(new, mode, seed=seed))
            for mode in ('sample', 'zero', 'densest')}


def speed(kind, seed, quick):
    """Seconds of a gradient step at batch 256, of wall and CPU, and of one action."""
    env = gymnasium.make('HalfCheetah-v5' if kind == 'HalfCheetah' else 'Pendulum-v1')
    observation = env.reset(seed=0)[0]
    agents = {each: agent(each, env, seed, hidden_layers=(256, 256)) for each in THREE}
    cells = [cell for each, one in agents.items() for cell in (
        (dict(kind=each, what='update'), one.update(2000)),
        (dict(kind=each, what='act'), functools.partial(one.act, observation)))]
    found = {(row['kind'], row['what']): row for row in measure.by_turns(
        cells, 0. if quick else 4., 2 if quick else 40)}
    return {each: dict(update=found[each, 'update']['median'], cpu=found[each, 'update']['cpu'],
                       act=found[each, 'act']['median']) for each in THREE}


THREE = (FLOW, GAUSSIAN, SB3)
EXPERIMENTS = {
    'Pendulum-v1, 8,000 steps': (functools.partial(
        learning, 'Pendulum-v1', 8000, learning_rate=1e-3), THREE, 5),
    'LunarLanderContinuous-v3, 100,000 steps': (functools.partial(
        learning, 'LunarLanderContinuous-v3', 100_000), THREE, 2),
    'Hopper-v5, 100,000 steps': (functools.partial(
        learning, 'Hopper-v5', 100_000), THREE, 1),
    'four goals': (functools.partial(goals, ()), THREE, 5),
    'four goals, pillars between': (
        functools.partial(goals, PILLARS), (FLOW, SPLINE, GAUSSIAN, SB3), 5),
    'sparse reward': (sparse, ('flow below', 'Gaussian below', f'flow below, {SB3} above',
                               FLOW, SB3), 5),
    'cloning two ways': (cloning, (FLOW, SPLINE, GAUSSIAN, 'mean squared error'), 5),
    'speed': (speed, ('Pendulum', 'HalfCheetah'), 1)}


def run(row):
    return EXPERIMENTS[row['experiment']][0](
        kind=row['kind'], seed=row['seed'], quick=row.get('quick', False))


MEASURES = {'last': 'return, last evaluation', 'best': 'return, best evaluation',
            'sampled': 'return at the end, actions at random', 'cpu_seconds': 'CPU seconds',
            'kept': 'goals that 5 % of episodes reach',
            'crashed': 'episodes that crash', 'none': 'episodes that reach none',
            'pace_error': 'lower level: error of its pace', 'sample': 'at random',
            'zero': 'latents 0, or the mean', 'densest': 'densest of 32'}
RATES = {'update': ('gradient steps a second', lambda seconds: 1. / seconds),
         'cpu': ('CPU ms a gradient step', lambda seconds: 1e3 * seconds),
         'act': ('ms an action', lambda seconds: 1e3 * seconds)}


def lines(frame):
    """The tables of runs, experiment by experiment."""
    for name, part in frame[frame['experiment'] != 'speed'].groupby('experiment', sort=False):
        yield f'## {name}\n'
        long = part.rename(columns=MEASURES).melt('kind', [
            label for key, label in MEASURES.items() if key in part], var_name='')
        yield report.pivot(long.dropna(), [''], 'kind', 'value', functools.partial(
            report.spread, mean='.3g', deviation='.2g'), '–', part['kind'].unique())
        shares = [f'{row["kind"]} ' + '/'.join(f'{100 * share:.0f}' for share in row['counts'])
                  for row in part.to_dict('records') if isinstance(row.get('counts'), list)]
        seeds = ', '.join(f'{kind} {n}' for kind, n in part['kind'].value_counts(
            sort=False).items())
        yield f'Seeds: {seeds}.' + (
            f' Per cent of episodes to each goal: {", ".join(shares)}.' if shares else '') + '\n'
    for row in frame[frame['experiment'] == 'speed'].to_dict('records'):
        yield f'## Speed, {row["kind"]}\n'
        yield report.table([{'': label, **{
            each: f'{scale(row[each][key]):.3g}' for each in THREE}}
            for key, (label, scale) in RATES.items()])


def draw(file, frame):
    """Learning curves: a panel for each task, each kind's mean and its seeds."""
    groups = frame.dropna(subset='returns').groupby('experiment', sort=False)
    figure, axes = report.panels(len(groups))
    colours = {}
    for ax, (name, part) in zip(axes, groups):
        for kind, runs in part.groupby('kind', sort=False):
            colour = colours.setdefault(kind, f'C{len(colours)}')
            for run in runs.itertuples():
                ax.plot(run.steps, run.returns, color=colour, alpha=0.25, linewidth=0.8)
            ax.plot(run.steps, np.mean([*runs['returns']], 0), color=colour, label=kind,
                    linewidth=2)
        ax.set(xlabel='steps in the environment', ylabel='return')
        ax.set_title(name, fontsize=10)
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(file)


def write(out, results, failed):
    """Writes `policies.md`, `policies.json` and the picture; returns the tables."""
    (out / 'policies.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    frame = pd.DataFrame(results)
    if 'returns' in frame:
        draw(out / 'policies.png', frame)
    return report.write(
        out / 'policies.md', 'Policies', 'Means ± standard deviations over seeds, of '
        '`python benchmarks/policies.py --out benchmarks/results`.\n', *lines(frame),
        *report.not_measured(failed, 'experiment', 'kind'), environment=report.environment())


def main():
    arguments = processes.options(__doc__, out=processes.OUT, experiments=EXPERIMENTS,
                                  workers=1, quick=False)
    print(write(arguments.out, *processes.run_all('policies.run', [
        dict(experiment=name, kind=kind, seed=seed, **{'quick': True} if arguments.quick else {})
        for name in arguments.experiments for seed in range(EXPERIMENTS[name][2])
        for kind in EXPERIMENTS[name][1]], arguments.out / 'policy_runs', arguments.workers)))


if __name__ == '__main__':
    main()
