"""`PointMass`: tasks of two actions with more than one right answer."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

GOALS = ((5., 0.), (0., 5.), (-5., 0.), (0., -5.))
BOUND = 7.
REACH = 1.
PACE = 0.9


class PointMass(gymnasium.Env):
    """A point in the plane that looks for the nearest of some goals.

    ```none
    x' = clip(x + a, -7, 7),    a in [-1, 1]^2
    r  = bonus [goal reached] - crash [pillar hit] - distance |x' - nearest goal|
         - cost |a|^2 - pace (|a| - 0.9)^2
    ```

    An episode ends within a distance of 1 of a goal or a pillar, and is cut off after
    `steps`. With `pace` alone every direction is as good as any other: what is to be
    learnt is a ring of actions, the skill of walking.

    ```python
    from tfp_conditional.rl import point_mass

    env = point_mass.PointMass()
    observation, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step([1., 0.])
    assert info == {'goal': None, 'crashed': False}
    ```
    """

    def __init__(self, goals: npt.ArrayLike = GOALS, pillars: npt.ArrayLike = (),
                 start: np.ndarray | Sequence[float] | None = (0., 0.), spread: float = 0.1,
                 steps: int = 30, bonus: float = 10., crash: float = 10.,
                 distance: float = 0.2, cost: float = 0.1, pace: float = 0.) -> None:
        """Constructs the task.

        Args:
          goals, pillars: `[n, 2]`, in [-7, 7]; may be empty.
          start: where episodes begin, `[2]`; or `None`, anywhere.
          spread: `float`, the standard deviation of the start.
          steps: `int`, at most, of an episode.
          bonus, crash, distance, cost, pace: `float`s of the reward, which is sparse
            with `distance=0.`.
        """
        self.goals, self.pillars = (
            np.reshape(np.asarray(places, np.float32), [-1, 2])
            for places in (goals, pillars))
        self.start, self.spread = start, spread
        self.steps, self.bonus, self.crash = int(steps), bonus, crash
        self.distance, self.cost, self.pace = distance, cost, pace
        self._position, self._count = np.zeros(2, np.float32), 0
        self.observation_space = gymnasium.spaces.Box(-BOUND, BOUND, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1., 1., (2,), np.float32)

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._count = 0
        self._position = (
            self.np_random.uniform(-BOUND, BOUND, 2) if self.start is None else
            self.np_random.normal(self.start, self.spread)).astype(np.float32)
        return self._position.copy(), {}

    def step(self, action: npt.ArrayLike) -> tuple[np.ndarray, float, bool, bool, dict]:
        action = np.clip(np.asarray(action, np.float32), -1., 1.)
        self._position = np.clip(self._position + action, -BOUND, BOUND)
        self._count += 1
        gaps, pillar_gaps = (np.linalg.norm(places - self._position, axis=-1)
                             for places in (self.goals, self.pillars))
        reached, crashed = (bool(np.any(x < REACH)) for x in (gaps, pillar_gaps))
        reward = (self.bonus * reached - self.crash * crashed
                  - self.cost * np.sum(action**2)
                  - self.pace * (np.linalg.norm(action) - PACE)**2)
        if len(gaps):
            reward -= self.distance * gaps.min()
        return (self._position.copy(), float(reward), reached or crashed,
                self._count >= self.steps,
                {'goal': int(gaps.argmin()) if reached else None, 'crashed': crashed})


def walk() -> PointMass:
    """The task of a lower level: to keep moving, wherever to."""
    return PointMass(goals=(), start=None, cost=0., pace=10.)


def hidden_goal() -> PointMass:
    """A task of the level above: a goal behind a pillar, and no reward but there."""
    return PointMass(goals=[[6., 6.]], pillars=[[3., 3.]], start=[-3., -3.], steps=60,
                     distance=0., cost=0.05)
