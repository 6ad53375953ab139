"""`Environments`: one environment or a vector of them, stepped alike."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass
class Transitions:
    """What a step gave, `n` rows; see `ReplayBuffer.add`.

    `next_observations` are those in which the step ended, before any reset; `dones`
    are the episodes that are over, for whichever reason.
    """
    observations: Any
    actions: Any
    rewards: Any
    next_observations: Any
    terminals: Any
    masks: Any
    dones: Any


class Environments:
    """gymnasium's environment or vector environment, with one batch axis in any case.

    Whatever the autoreset mode of a vector is, what a step ended in is what was seen
    before the reset; and the step of `NEXT_STEP` that only resets, whose action is
    ignored, has mask 0.
    """

    def __init__(self, env, action_shape):
        """Wraps an environment.

        Args:
          env: `gymnasium.Env` or `gymnasium.vector.VectorEnv`.
          action_shape: tuple of `int`, of one action.
        """
        self.env, self._action_shape = env, tuple(action_shape)
        self.is_vector = hasattr(env, 'num_envs')
        self.count = env.num_envs if self.is_vector else 1
        mode = env.metadata.get('autoreset_mode') if self.is_vector else None
        self._mode = getattr(mode, 'name', str(mode)).upper()
        self.observations = self._over = None

    def reset(self, seed):
        """Begins all episodes anew, from a seed."""
        observations, _ = self.env.reset(seed=int(seed))
        self.observations = self._batch(observations)
        self._over = np.zeros(self.count, bool)
        _check_finite('observation after a reset', self.observations)
        return self.observations

    def step(self, actions):
        """Returns the `Transitions` of actions `[n, *action_shape]`."""
        before = self.observations
        _check_finite('action of the policy', actions)
        result = self.env.step(actions if self.is_vector else actions[0])
        after, rewards, terminated, truncated, info = result
        after = self._batch(after)
        rewards, terminated, truncated = (
            np.reshape(np.asarray(x, kind), [self.count]) for x, kind in [
                (rewards, np.float32), (terminated, bool), (truncated, bool)])
        masks = np.where(self._over, 0., 1.).astype(np.float32)
        dones = terminated | truncated
        ended = after
        if self.is_vector and self._mode == 'SAME_STEP' and dones.any():
            ended = _with_rows(after, dones, info['final_obs'])
        _check_finite('reward', rewards)
        _check_finite('observation', ended)
        self.observations, self._over = after, np.zeros(self.count, bool)
        if dones.any():
            if not self.is_vector:
                self.observations = self._batch(self.env.reset()[0])
            elif self._mode == 'NEXT_STEP':
                self._over = dones
            elif self._mode == 'DISABLED':
                fresh, _ = self.env.reset(options={'reset_mask': dones})
                self.observations = self._batch(fresh)
        return Transitions(before, actions, rewards, ended,
                           terminated.astype(np.float32), masks, dones)

    def _batch(self, observations):
        def one(leaf):
            leaf = np.array(leaf, np.float32)    # Vectors use theirs again.
            return leaf if self.is_vector else leaf[np.newaxis]
        return tf.nest.map_structure(one, plain(observations))


def plain(observations):
    """Nests in the containers that TensorFlow knows."""
    if hasattr(observations, 'items'):
        return {key: plain(value) for key, value in observations.items()}
    if isinstance(observations, tuple):
        return tuple(map(plain, observations))
    return observations


def _with_rows(observations, rows, values):
    """Observations with some rows replaced by those of an array of observations."""
    observations = tf.nest.map_structure(np.copy, observations)
    for i in np.flatnonzero(rows):
        for leaf, value in zip(*map(tf.nest.flatten, (observations,
                                                      plain(values[i])))):
            leaf[i] = value
    return observations


def _check_finite(label, values):
    for leaf in tf.nest.flatten(values):
        if not np.all(np.isfinite(leaf)):
            raise FloatingPointError(f'The {label} must be finite; got {leaf}.')


def evaluate(policy: Callable[..., Any] | Any, env: Any, episodes: int = 10,
             seed: int = 0, mode: str = 'zero') -> np.ndarray:
    """Returns of whole episodes, whose starts are seeded.

    Args:
      policy: `Policy`, or another function of observations `[1, *shape]` to actions.
      env: `gymnasium.Env`.
      episodes: `int`.
      seed: `int`.
      mode: as in `Policy.act`.

    Returns:
      Array `[episodes]`.
    """
    act = (lambda observation: policy.act(observation, mode)) if hasattr(
        policy, 'act') else policy
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed + episode)
        total, done = 0., False
        while not done:
            action = act(tf.nest.map_structure(
                lambda leaf: np.asarray(leaf, np.float32)[np.newaxis],
                plain(observation)))[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    return np.array(returns)
