"""Reinforcement learning with flows for policies; not imported by the package."""

from tfp_conditional.rl.actor import Actor
from tfp_conditional.rl.policy import LatentSpacePolicy
from tfp_conditional.rl.replay import ReplayBuffer
from tfp_conditional.rl.soft_actor_critic import SoftActorCritic

__all__ = ['Actor', 'LatentSpacePolicy', 'ReplayBuffer', 'SoftActorCritic']
