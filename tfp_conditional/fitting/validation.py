"""Which weights of a fit are the best: what `fit` does with validation data."""

import numpy as np
import tensorflow as tf

from tfp_conditional.fitting import optimizer as optimizer_lib

PATIENCE = 20   # The least, in epochs, where the user gives none.
# Standard errors that training is to gain over a flow that has adapted to the data.
# The best of many epochs on few rows always gains a little, by chance. Of 66 fits, to
# tables and to plain data of 150 to 1000 rows, those of less than 1.1 lost 0.10 nats of
# fresh rows in the mean, and those of 1.3 to 2 gained 0.34.
Z = 1.28


class Validation:
    """The losses of a fit on data held out from it, and its best weights.

    Args:
      data: `data.Arrays` or `data.Batches`; or `None`, and the last weights stay.
      log_prob: (targets, conditions) -> `[N]`, by `optimizer.results`.
      optimizer: one of `optimizer`, built.
      patience: `int`.

    Attributes:
      losses: before the first epoch, and after each.
      best: the weights of the least of them, as arrays.
      first: those from before the first epoch, where the flow has adapted to the data
        in this fit.
    """

    def __init__(self, data, log_prob, optimizer, patience):
        self._data, self._log_prob, self._optimizer = data, log_prob, optimizer
        self._patience = patience
        self.losses, self.best, self.first = [], [], []

    def start(self, has_adapted):
        """What comes before the first epoch."""
        if self._data is not None:
            self.validate()
            self.first = self.best if has_adapted else []

    def validate(self):
        """Returns the loss of the weights as they are, and keeps the best."""
        total, count = 0., 0
        for batch in self._data.batches():
            log_prob = self._log_prob(*batch)
            total += float(tf.reduce_sum(log_prob))
            count += len(log_prob)
        self.losses.append(-total / count)
        if self._best_epoch() == len(self.losses) - 1:
            self.best = optimizer_lib.values(self._optimizer.results)
        return self.losses[-1]

    def _best_epoch(self):
        """The epoch of the least loss; 0 where training made it no better."""
        return int(np.argmin([x if np.isfinite(x) else np.inf for x in self.losses]))

    def is_stalled(self):
        """Whether the loss got no better for `patience` epochs."""
        return bool(self.losses) and (
            len(self.losses) - 1 - self._best_epoch() >= self._patience)

    def restore(self, losses, arrays):
        """Goes back to the losses, and to `[*best, *first]`, of a checkpoint."""
        count = len(self._optimizer.results)
        self.losses, self.best, self.first = losses, arrays[:count], arrays[count:]

    def finish(self):
        """Leaves the best weights in the variables.

        Those of a flow that has just adapted are a conditional Gaussian of the data,
        and remain the best unless the best epoch gains significantly over them.
        """
        best = self.best or optimizer_lib.values(self._optimizer.results)
        if self.first and self._best_epoch() and not self._is_significant():
            best = self.first
        self._optimizer.assign(best)

    def _is_significant(self):
        """Whether rows gain from the best weights `Z` standard errors in the mean."""
        if not np.isfinite(self.losses[0]):
            return True
        gains = []
        # Batch by batch: a Dataset may give its rows in another order next time.
        for batch in self._data.batches():
            log_probs = []
            for weights in (self.first, self.best):
                self._optimizer.assign(weights)
                log_probs.append(self._log_prob(*batch).numpy())
            gains.append(log_probs[1] - log_probs[0])
        gains = np.concatenate(gains)
        return len(gains) > 1 and bool(
            np.mean(gains) >= Z * np.std(gains, ddof=1) / np.sqrt(len(gains)))
