"""`ReplayBuffer`: transitions in rings of NumPy arrays."""

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Nest, Path, TensorLike
from tfp_conditional.rl import policy as policy_lib

_FIELDS = ('observations', 'actions', 'rewards', 'next_observations', 'terminals',
           'masks')


class ReplayBuffer:
    """The last `capacity` transitions of a policy in an environment.

    ```python
    import numpy as np
    from tfp_conditional import rl

    policy = rl.LatentSpacePolicy(3, (-1., 1.), seed=0)
    buffer = rl.ReplayBuffer(policy, capacity=1000, seed=0)
    buffer.add(np.zeros([4, 3]), np.zeros([4, 1]), np.ones(4), np.zeros([4, 3]),
               terminals=np.zeros(4))
    batch = buffer.sample(32)
    assert len(buffer) == 4 and batch['actions'].shape == (32, 1)
    ```
    """

    def __init__(self, policy: policy_lib.Policy, capacity: int,
                 seed: int | None = None) -> None:
        """Constructs an empty buffer for what a policy observes and does.

        Args:
          policy: `Policy`.
          capacity: `int`, transitions.
          seed: `int`, of what `sample` draws.
        """
        self.capacity = conditions_lib.positive_int(capacity, 'capacity')
        self._spec = policy.observation_spec
        self._rng = np.random.default_rng(seeds.resolve_seed(seed))
        self._count = 0
        leaves = [leaf.shape for leaf in tf.nest.flatten(self._spec)]
        shapes = [*leaves, policy.action_shape, (), *leaves, (), ()]
        self._arrays = [np.zeros([self.capacity, *shape], np.float32)
                        for shape in shapes]

    def __len__(self):
        return min(self._count, self.capacity)

    def add(self, observations: Nest, actions: TensorLike, rewards: npt.ArrayLike,
            next_observations: Nest, terminals: npt.ArrayLike,
            masks: npt.ArrayLike | None = None) -> None:
        """Stores `n` transitions.

        Args:
          observations, next_observations: nests of `[n, *shape]`.
          actions: `[n, *action_shape]`.
          rewards: `[n]`.
          terminals: `[n]`, whether the episode ended for good there, so that nothing
            follows: not where it was only cut off.
          masks: `[n]`, 0 for transitions that are not to be learnt from; default 1.
        """
        count = len(np.atleast_1d(rewards))
        masks = np.ones(count) if masks is None else masks
        rows = (self._count + np.arange(count)) % self.capacity
        values = [*tf.nest.flatten(observations), actions, rewards,
                  *tf.nest.flatten(next_observations), terminals, masks]
        for array, value in zip(self._arrays, values, strict=True):
            value = np.asarray(value)
            if value.shape != (count, *array.shape[1:]):
                raise ValueError(
                    f'A transition of {count} rows must have arrays of shape '
                    f'{[count, *array.shape[1:]]}; got {list(value.shape)}.')
            array[rows] = value
        self._count += count

    def sample(self, batch_size: int) -> dict[str, Any]:
        """Returns a `dict` of `batch_size` transitions, drawn with replacement."""
        if not len(self):
            raise ValueError('The buffer is empty.')
        return self._rows(self._rng.integers(len(self), size=batch_size))

    def observations(self) -> Any:
        """All observations that are stored, a nest of `[n, *shape]`."""
        return self._rows(np.arange(len(self)))['observations']

    def _rows(self, rows):
        values = [array[rows] for array in self._arrays]
        n = len(tf.nest.flatten(self._spec))

        def pack(leaves):
            return tf.nest.pack_sequence_as(self._spec, leaves)
        return dict(zip(_FIELDS, [
            pack(values[:n]), *values[n:n + 2], pack(values[n + 2:2 * n + 2]),
            *values[2 * n + 2:]]))

    def save(self, path: Path) -> None:
        """Writes a file of all transitions, and of where the draws stand, at once."""
        found: dict[str, Any] = {
            f'array_{i}': array[:len(self)] for i, array in enumerate(self._arrays)}
        found['meta'] = json.dumps(dict(count=self._count, capacity=self.capacity,
                                        rng=self._rng.bit_generator.state))
        with open(f'{path}.part', 'wb') as file:
            np.savez(file, **found)
        os.replace(f'{path}.part', path)

    def load(self, path: Path) -> None:
        """Takes over what `save` wrote: of a buffer of the same capacity, or not full."""
        with np.load(path) as file:
            meta = json.loads(str(file['meta']))
            arrays = [file[f'array_{i}'] for i in range(len(file.files) - 1)]
        is_whole = meta['capacity'] == self.capacity or meta['count'] <= min(
            self.capacity, meta['capacity'])
        if not is_whole or [a.shape[1:] for a in arrays] != [
                a.shape[1:] for a in self._arrays]:
            raise ValueError(
                f'{path!r} is of {meta["count"]} transitions in a buffer of capacity '
                f'{meta["capacity"]} and arrays '
                f'{[a.shape[1:] for a in arrays]}; this one has {self.capacity} and '
                f'{[a.shape[1:] for a in self._arrays]}.')
        for mine, theirs in zip(self._arrays, arrays):
            mine[:len(theirs)] = theirs
        self._count = meta['count']
        self._rng.bit_generator.state = meta['rng']
