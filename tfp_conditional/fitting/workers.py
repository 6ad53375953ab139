"""The processes of a `tf.distribute` strategy, which are to decide alike.

All run the same `fit`, and wait for each other in each step: one that stopped earlier,
or had other scales, would leave the others waiting, or train another flow.
"""

import numpy as np
import tensorflow as tf

from tfp_conditional.fitting import optimizer as optimizer_lib


class Workers:
    """The workers of a strategy; one, unless it is a MultiWorkerMirroredStrategy.

    Attributes:
      count: `int`, of processes.
      index: `int`, of this one; that of the chief is 0.
    """

    def __init__(self, strategy):
        self._strategy, self.count, self.index = strategy, 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            replicas = strategy.experimental_local_results(strategy.run(_replica))
            self._local = len(replicas)
            self.count = strategy.num_replicas_in_sync // self._local
            self.index = int(replicas[0]) // self._local

        self._sum = tf.function(self._sum_in_graph, autograph=False)

    def _sum_in_graph(self, numbers):
        """The sum over workers, to the bit the same on all."""
        def local(numbers):    # Once for each worker, be its replicas many.
            return tf.where(_replica() % self._local == 0, numbers,
                            tf.zeros_like(numbers))

        replicas = self._strategy.run(local, (numbers,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, replicas, axis=None)

    def gather(self, numbers):
        """Numbers of all, as rows `[count, ...]` in float64."""
        numbers = np.asarray(numbers, np.float64)
        if self.count == 1:
            return numbers[np.newaxis]
        mine = np.zeros([self.count, *numbers.shape])
        mine[self.index] = numbers
        return self._sum(tf.constant(mine)).numpy()

    def follow(self, variables):
        """Gives variables the values that the chief's have."""
        if self.count == 1:
            return
        values = optimizer_lib.values(variables)
        flat = np.concatenate([np.ravel(x).astype(np.float64) for x in values])
        mine = np.zeros_like(flat) if self.index else flat
        flat = self._sum(tf.constant(mine)).numpy()
        parts = np.split(flat, np.cumsum([x.size for x in values])[:-1])
        optimizer_lib.assign(variables, [
            part.astype(x.dtype).reshape(x.shape) for part, x in zip(parts, values)])

    def check_same(self, number, label):
        """Raises, on all workers, where a number is another on one of them."""
        numbers = self.gather(number)
        if np.any(numbers != numbers[0]):
            raise ValueError(f'{label} must be the same on all workers; here it is not '
                             'what it is on another.')


def _replica():
    return tf.convert_to_tensor(
        tf.distribute.get_replica_context().replica_id_in_sync_group)
