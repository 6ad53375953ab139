"""`LatentActions` and `stacked`: a level of a hierarchy acts by the latents of another.

A flow is invertible, so the level above loses nothing of what the level below can do
(Haarnoja et al. 2018, arXiv 1804.02808): whatever the lower level was trained for, any
action is still the image of a latent.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfp_conditional.bijectors import chain
from tfp_conditional.bijectors import embedding as embedding_lib
from tfp_conditional.rl import environments
from tfp_conditional.rl import features as features_lib
from tfp_conditional.rl import policy as policy_lib


class LatentActions(gymnasium.Wrapper):
    """An environment in which an action is a latent of a frozen lower policy.

    Any trainer can be the level above: `train`, Stable-Baselines3.

    ```python
    import gymnasium
    from tfp_conditional import rl
    from tfp_conditional.rl import hierarchy

    env = gymnasium.make('Pendulum-v1')
    lower = rl.LatentSpacePolicy(env.observation_space, env.action_space, seed=0)
    env = hierarchy.LatentActions(env, lower, repeat=3)
    observation, _ = env.reset(seed=0)
    observation, reward, *_ = env.step(env.action_space.sample())
    ```
    """

    def __init__(self, env: gymnasium.Env, policy: policy_lib.Policy,
                 select: Callable[[Any], Any] | None = None, repeat: int = 1,
                 bound: float = 3.) -> None:
        """Wraps an environment.

        Args:
          env: `gymnasium.Env`.
          policy: `Policy`, the lower level. Its weights are read, and never changed.
          select: function from an observation of `env` to one of `policy`; default the
            same.
          repeat: `int`, steps for which one latent is held; rewards are summed.
          bound: `float`, of the latents that are actions. Three standard deviations
            are all but 0.3 % of what the lower level does by itself.
        """
        super().__init__(env)
        if repeat < 1:
            raise ValueError(f'`repeat` must be at least 1; got {repeat}.')
        self._policy, self._select = policy, select or (lambda observation: observation)
        self._repeat, self._observation = int(repeat), None
        self.action_space = gymnasium.spaces.Box(
            -bound, bound, [policy.action_size], np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        self._observation, info = self.env.reset(**kwargs)
        return self._observation, info

    def step(self, action: npt.ArrayLike) -> tuple[Any, float, bool, bool, dict]:
        total = 0.
        for _ in range(self._repeat):
            lower = self._policy.act(
                environments.plain(self._select(self._observation)), 'latent',
                latents=np.asarray(action, np.float32))
            self._observation, reward, terminated, truncated, info = (
                self.env.step(lower))
            total += float(reward)
            if terminated or truncated:
                break
        return self._observation, total, terminated, truncated, info


class StackedPolicy(policy_lib.Policy):
    """Two levels as one density; see `stacked`."""

    def __init__(self, upper: policy_lib.Policy, lower: policy_lib.Policy,
                 select: Callable[[Any], Any] | None, seed: int | None,
                 name: str = 'stacked_policy') -> None:
        inner = lower.bijector if select is None else embedding_lib.ConditionalEmbedding(
            lower.bijector, select, upper.observation_spec, name='lower')
        flow = chain.ConditionalChain([inner, upper.bijector])
        low, high = (None if bound is None else bound.ravel()
                     for bound in (lower.low, lower.high))
        super().__init__(
            flow(upper.distribution.distribution), lower.action_shape, low, high, seed, name)
        self._upper = upper

    @property
    def trainable_variables(self) -> tuple[tf.Variable, ...]:
        """Those of the upper level: the lower one is frozen."""
        return self._upper.trainable_variables

    @property
    def moments(self) -> features_lib.RunningMoments | None:
        return self._upper.moments

    @property
    def observation_spec(self) -> Any:
        return self._upper.observation_spec


def stacked(upper: policy_lib.Policy, lower: policy_lib.Policy,
            select: Callable[[Any], Any] | None = None,
            seed: int | None = None) -> StackedPolicy:
    """Returns the policy of two levels: `action = g_lower(g_upper(x | s) | select(s))`.

    ```none
    log pi(a | s) = log N(x; 0, I) - log |det dg_upper/dx| - log |det dg_lower/dz|
    ```

    Its `trainable_variables` are those of the upper level, and gradients flow through
    the lower one, which stays as it is. It is a policy like any other, so it may be the
    lower level of a third.

    ```python
    import numpy as np
    from tfp_conditional import rl
    from tfp_conditional.rl import hierarchy

    lower = rl.LatentSpacePolicy(3, (-1., 1.), seed=0)
    upper = rl.LatentSpacePolicy(5, 1, squash=None, seed=1)       # 3 and a goal
    both = hierarchy.stacked(upper, lower, select=lambda s: s[..., :3])
    actions, log_probs = both.sample_and_log_prob(np.zeros([8, 5]))
    ```

    Args:
      upper: `Policy` over the latents of `lower`: as many actions, without squash.
      lower: `Policy`.
      select: function from observations of `upper`, as tensors with one batch axis, to
        those of `lower`; default the same.
      seed: `int`, of what `act` draws.

    Raises:
      ValueError: where actions of `upper` are no latents of `lower`.
    """
    if upper.action_size != lower.action_size or upper.low is not None:
        raise ValueError(
            f'`upper` must act by {lower.action_size} numbers without bounds, the '
            f'latents of `lower`; got {upper.action_size}, bounds {upper.low}, '
            f'{upper.high}. Make it with `squash=None`.')
    return StackedPolicy(upper, lower, select, seed)
