"""A hierarchy of latent-space policies, trained, drawn, saved and loaded again.

    python examples/latent_space_policy.py

A point has to find a goal behind a pillar, and is rewarded nowhere else. As in Haarnoja
et al. 2018 (arXiv 1804.02808) a lower policy first learns to walk, in any direction: a
flow, whose latents are directions then. A higher policy learns to act by these latents.
Soft actor-critic on bare actions has as many steps, and never meets the goal.

It takes two minutes on two CPU cores. Both levels are then one policy, which a new
process loads, to check that its log-probabilities are the same to the last bit.
"""

import argparse
import pathlib
import subprocess
import sys
import time

import matplotlib
import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tfp_conditional import rl
from tfp_conditional.rl import hierarchy
from tfp_conditional.rl import point_mass

REPEAT = 5            # Steps for which the higher level holds a latent.
TEMPERATURE = 0.1
TARGET = 8.           # The goal is worth 10, less what the way costs.
NOISE = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))


def make_policies(seed):
    """The lower policy, the higher one, and both as one."""
    task = point_mass.hidden_goal()
    lower = rl.LatentSpacePolicy(task.observation_space, task.action_space, seed=seed)
    # Latents have no bounds; that the lower level knows those near 0 best is said by
    # the prior of `learn`.
    upper = rl.LatentSpacePolicy(task.observation_space, lower.action_size, squash=None,
                                 seed=seed + 1)
    return lower, upper, hierarchy.stacked(upper, lower, seed=seed)


def learn(label, policy, env, steps, seed, evaluation_env=None, temperature=TEMPERATURE,
          log_prior=None):
    """Soft actor-critic; returns `train`'s history."""
    print(f'{label}, {steps} steps')
    learner = rl.SoftActorCritic(
        policy, hidden_layers=(128, 128), learning_rate=1e-3, discount=0.95,
        temperature=temperature, log_prior=log_prior, seed=seed)
    return rl.train(env, learner, steps, evaluation_env=evaluation_env,
                    warm_up=min(500, steps // 4), evaluate_every=max(1, steps // 12),
                    seed=seed)


def log_prior(latents):
    """Of the higher level: the lower one is as it was trained where latents are noise."""
    return TEMPERATURE * NOISE.log_prob(latents)


def paths(policy, env, episodes, seed):
    """Positions `[T, 2]` of episodes in which the policy acts at random."""
    result = []
    for episode in range(episodes):
        positions, done = [env.reset(seed=seed + episode)[0]], False
        while not done:
            position, _, terminated, truncated, _ = env.step(policy.act(positions[-1]))
            positions.append(position)
            done = terminated or truncated
        result.append(np.array(positions))
    return result


def draw(path, histories, lower, walks):
    """Draws learning curves, the lower level's latents and actions, and paths.

    Args:
      path: of the picture.
      histories: label -> evaluations: `steps` `[n]` and `returns` `[n, episodes]`.
      lower: the lower policy.
      walks: label -> list of paths.
    """
    colours = dict(zip(histories, ['tab:blue', 'tab:gray']))
    with matplotlib.rc_context({'font.size': 10, 'axes.spines.top': False,
                                'axes.spines.right': False}):
        figure = matplotlib.figure.Figure(figsize=(15., 4.), layout='constrained')
        axes = figure.subplots(1, 4, width_ratios=[1.25, 1., 1., 1.])
        for label, (steps, returns) in histories.items():
            axes[0].plot(steps, returns.mean(1), color=colours[label], label=label)
            axes[0].fill_between(steps, returns.min(1), returns.max(1), alpha=0.2,
                                 color=colours[label], linewidth=0)
        axes[0].set(title='Learning the task', xlabel='steps in the environment',
                    ylabel='return: mean, worst and best episode')
        axes[0].legend(frameon=False)

        latents = NOISE.sample(4000, seed=0).numpy()
        actions = lower.forward(latents, np.zeros([len(latents), 2]))
        angle = np.arctan2(actions[:, 1], actions[:, 0])
        for part, points, title in [(axes[1], latents, 'Latents of the lower level'),
                                    (axes[2], actions, 'and the steps that they are')]:
            part.scatter(*points.T, c=angle, cmap='hsv', s=3)
            part.set(title=title, aspect='equal')

        task = point_mass.hidden_goal()
        for label, lines in reversed(walks.items()):
            for i, line in enumerate(lines):
                axes[3].plot(*line.T, color=colours[label], linewidth=0.8,
                             label=None if i else label)
        for places, colour, name in [(task.goals, 'tab:green', 'goal'),
                                     (task.pillars, 'tab:red', 'pillar')]:
            for place in places:
                axes[3].add_patch(matplotlib.patches.Circle(
                    place, point_mass.REACH, color=colour, alpha=0.5, label=name))
        bound = point_mass.BOUND
        axes[3].set(title='Episodes, at random', aspect='equal',
                    xlim=(-bound, bound), ylim=(-bound, bound))
        axes[3].legend(frameon=False, fontsize=8, loc='lower right')
        figure.savefig(path, dpi=110)


def verify(out, seed):
    """Returns whether what was saved gives the log-probabilities that were saved."""
    samples = np.load(out / 'samples.npz')
    policy = make_policies(seed)[2]

    def differs(label, candidate):
        log_probs = np.asarray(candidate.log_prob(samples['actions'],
                                                  samples['observations']))
        difference = np.abs(log_probs - samples['log_probs']).max()
        print(f'{label:<12}largest difference of {len(log_probs)} log-probabilities: '
              f'{difference:g}')
        return difference != 0.

    untrained = differs('untrained', policy)   # Or the comparison would show nothing.
    tf.train.Checkpoint(policy=policy).read(
        str(out / 'checkpoint')).assert_consumed()
    loaded = tf.saved_model.load(str(out / 'saved_model'))
    return (untrained & (not differs('checkpoint', policy))
            & (not differs('SavedModel', loaded)))


def main(arguments=None):
    """Trains, draws, saves and verifies; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--steps', type=int, default=3000,
        help=f'of the lower level, and of the higher one, of {REPEAT} steps each')
    add('--target-return', type=float, default=TARGET,
        help='mean return below which the run fails')
    add('--seed', type=int, default=0)
    add('--out', type=pathlib.Path, default=pathlib.Path('latent_space_policy'),
        help='directory for the picture and the saved policy')
    add('--verify', action='store_true', help='only check what is in that directory')
    args = parser.parse_args(arguments)
    if args.verify:
        return 0 if verify(args.out, args.seed) else 1

    start, task = time.time(), point_mass.hidden_goal()
    args.out.mkdir(parents=True, exist_ok=True)
    lower, upper, policy = make_policies(args.seed)
    learn('Lower level: walking', lower, point_mass.walk(), args.steps, args.seed,
          temperature=0.5)
    env = hierarchy.LatentActions(task, lower, repeat=REPEAT)
    higher = learn('Higher level: the task, by latents', upper, env, args.steps,
                   args.seed, evaluation_env=env, log_prior=log_prior)
    flat_policy = rl.LatentSpacePolicy(task.observation_space, task.action_space,
                                       seed=args.seed)
    flat = learn('For comparison: the task, by actions', flat_policy, task,
                 (1 + REPEAT) * args.steps, args.seed, evaluation_env=task)

    histories = {'hierarchy': (args.steps + REPEAT * np.array(higher['steps']),
                               np.array(higher['returns'])),
                 'flat': (np.array(flat['steps']), np.array(flat['returns']))}
    draw(args.out / 'latent_space_policy.png', histories, lower,
         {'hierarchy': paths(policy, task, 20, seed=1000),
          'flat': paths(flat_policy, task, 5, seed=1000)})

    observations = point_mass.walk().observation_space.low * np.random.default_rng(
        args.seed).uniform(-1., 1., [1000, 2]).astype(np.float32)
    actions = policy.sample(observations)
    np.savez(args.out / 'samples.npz', observations=observations, actions=actions,
             log_probs=policy.log_prob(actions, observations))
    tf.train.Checkpoint(policy=policy).write(str(args.out / 'checkpoint'))
    policy.export(args.out / 'saved_model')

    # Other starts than those by which the best weights were chosen.
    returns = {label: rl.evaluate(candidate, task, seed=20_000).mean()
               for label, candidate in [('hierarchy', policy), ('flat', flat_policy)]}
    for label, value in returns.items():
        print(f'mean return of 10 new episodes, {label}: {value:.1f}')
    print(f'after {time.time() - start:.0f} s')
    # A new process shares nothing with this one but the files.
    verification = subprocess.run(
        [sys.executable, __file__, '--verify', '--out', str(args.out), '--seed',
         str(args.seed)], check=False)
    status = 0
    if verification.returncode != 0:
        print('The saved policy is not the one that was trained.')
        status = 1
    if not returns['hierarchy'] >= args.target_return:
        print(f'This misses the target of {args.target_return:g}.')
        status = 1
    return status


if __name__ == '__main__':
    sys.exit(main())
