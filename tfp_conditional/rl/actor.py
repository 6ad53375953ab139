"""`Actor`: a policy with a memory of its latents, for one run of an environment."""

from collections.abc import Iterator
import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tfp_conditional.core import seeds
from tfp_conditional.core.types import Nest


class Actor:
    """Acts on latents that are smooth in time, or held; see `Policy.actor`.

    ```none
    z_0 ~ N(0, I),  z_t = a z_{t-1} + sqrt(1 - a^2) e_t,  e_t ~ N(0, I)
    ```

    Whatever a = `smoothing` is, each z_t is standard normal, so that each action has
    the distribution of the policy; those of neighbouring steps are alike. With
    `hold=True` z stays what it is until `reset`.

    ```python
    import numpy as np
    from tfp_conditional import rl

    policy = rl.LatentSpacePolicy(3, (-1., 1.), seed=0)
    actor = policy.actor(hold=True, seed=0)
    first, second = actor(np.zeros([4, 3])), actor(np.zeros([4, 3]))
    np.testing.assert_array_equal(first, second)
    actor.reset(dones=[True, False, False, False])
    third = actor(np.zeros([4, 3]))
    assert third[0] != first[0] and np.all(third[1:] == first[1:])
    ```
    """

    def __init__(self, policy: Any, smoothing: float = 0., hold: bool = False,
                 seed: int | None = None) -> None:
        """Constructs the actor.

        Args:
          policy: `Policy`.
          smoothing: `float` a in [0, 1).
          hold: `bool`, whether latents stay until `reset`.
          seed: `int`.
        """
        if not 0. <= smoothing < 1.:
            raise ValueError(f'`smoothing` must be in [0, 1); got {smoothing}.')
        if hold and smoothing:
            raise ValueError('Give `smoothing` or `hold=True`; got both.')
        self._policy, self._smoothing, self._hold = policy, float(smoothing), bool(hold)
        self._rng = np.random.default_rng(seeds.resolve_seed(seed))
        self._latents, self._mode = None, 'latent'

    def __call__(self, observation: Nest) -> np.ndarray:
        """Returns the actions `[..., *action_shape]` for observations, one each."""
        if self._mode != 'latent':
            return self._policy.act(observation, self._mode)
        return self._policy.act(observation, 'latent', latents=self._next(
            self._policy.batch_shape_of(observation)))

    def reset(self, dones: npt.ArrayLike | None = None) -> None:
        """Forgets the latents: all, or those of the episodes that are over.

        Args:
          dones: booleans `[...]`, as many as there are observations.
        """
        if dones is None or self._latents is None:
            self._latents = None
            return
        dones = np.asarray(dones, bool)
        if dones.shape != self._latents.shape[:-1]:
            raise ValueError('`dones` must have the shape of the last observations, '
                             f'{self._latents.shape[:-1]}; got {dones.shape}.')
        self._latents[dones] = np.nan

    @contextlib.contextmanager
    def acting(self, mode: str) -> Iterator['Actor']:
        """Context in which the policy acts by another mode, as `'zero'`.

        Latents, and what they were before, are back after it, whatever happens in it.
        """
        before, latents = self._mode, self._latents
        self._mode = mode
        try:
            yield self
        finally:
            self._mode, self._latents = before, latents

    def _next(self, batch):
        shape = (*batch, self._policy.action_size)
        if self._latents is None or self._latents.shape != shape:
            self._latents = np.full(shape, np.nan)
        fresh = self._rng.normal(size=shape)
        old = self._latents
        keep = 1. if self._hold else self._smoothing
        self._latents = np.where(np.isnan(old), fresh,
                                 keep * old + np.sqrt(1. - keep**2) * fresh)
        return self._latents.astype(np.float32)
