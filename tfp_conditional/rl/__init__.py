"""Reinforcement learning with flows for policies; not imported by the package.

`hierarchy` needs gymnasium, and is imported by itself.
"""

from tfp_conditional.rl.actor import Actor
from tfp_conditional.rl.environments import evaluate
from tfp_conditional.rl.policy import LatentSpacePolicy
from tfp_conditional.rl.replay import ReplayBuffer
from tfp_conditional.rl.soft_actor_critic import SoftActorCritic
from tfp_conditional.rl.training import draw_learning_curve
from tfp_conditional.rl.training import train

__all__ = ['Actor', 'LatentSpacePolicy', 'ReplayBuffer', 'SoftActorCritic',
           'draw_learning_curve', 'evaluate', 'train']
