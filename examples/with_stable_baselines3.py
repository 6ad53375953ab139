"""A flow below, Stable-Baselines3 above: latents as actions for any trainer.

    pip install stable-baselines3
    python examples/with_stable_baselines3.py

A lower policy learns to walk; the soft actor-critic of Stable-Baselines3 learns by its
latents, and that package evaluates both as it evaluates its own policies.
"""

import argparse

import stable_baselines3
from stable_baselines3.common import evaluation
from tfp_conditional import rl
from tfp_conditional.rl import hierarchy
from tfp_conditional.rl import point_mass


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--steps', type=int, default=3000, help='of each level')
    steps = parser.parse_args(arguments).steps

    walk, task = point_mass.walk(), point_mass.hidden_goal()
    lower = rl.LatentSpacePolicy(walk.observation_space, walk.action_space, seed=0)
    learner = rl.SoftActorCritic(lower, hidden_layers=(128, 128), learning_rate=1e-3,
                                 discount=0.9, temperature=0.5, seed=0)
    rl.train(walk, learner, steps, warm_up=steps // 6, seed=0)

    env = hierarchy.LatentActions(task, lower, repeat=5)
    upper = stable_baselines3.SAC(
        'MlpPolicy', env, learning_rate=1e-3, gamma=0.95, ent_coef=0.1,
        learning_starts=steps // 6, policy_kwargs={'net_arch': [128, 128]}, seed=0)
    upper.learn(steps)

    returns = {}
    for label, model, model_env in [('lower level, walking', lower, walk),
                                    ('higher level, the task', upper, env)]:
        mean, deviation = evaluation.evaluate_policy(model, model_env, 10, warn=False)
        print(f'{label:<24} mean return {mean:.1f} ± {deviation:.1f}')
        returns[label] = mean
    return returns


if __name__ == '__main__':
    main()
