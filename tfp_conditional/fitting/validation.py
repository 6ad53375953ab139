"""Which weights of a fit are the best: what `fit` does with validation data."""

import numpy as np
import tensorflow as tf

from tfp_conditional.fitting import data as data_lib
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
      workers: `workers.Workers`.

    Attributes:
      losses: before the first epoch, and after each.
      best: the weights of the least of them, as arrays.
      first: those from before the first epoch, where the flow has adapted to the data
        in this fit.
    """

    def __init__(self, data, log_prob, optimizer, patience, workers):
        self._data, self._log_prob, self._optimizer = data, log_prob, optimizer
        self._patience, self._workers = patience, workers
        self.losses, self.best, self.first = [], [], []

    def start(self, has_adapted):
        """What comes before the first epoch."""
        if self._data is not None:
            self.validate()
            self.first = self.best if has_adapted else []

    def validate(self):
        """Returns the loss of the weights as they are, and keeps the best."""
        total, count = 0., 0.
        for batch in self._data.batches(self._workers.index, self._workers.count):
            log_prob, weights = self._log_prob(*batch[:2]), _weights(batch)
            total += float(tf.reduce_sum(weights * log_prob))
            count += np.sum(weights)
        total, count = np.sum(self._workers.gather([total, count]), axis=0)
        self.losses.append(float(-total / count))
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
        if self.first and self._best_epoch() and not self._workers.gather(
                self._is_significant())[0]:
            best = self.first
        self._optimizer.assign(best)

    def _is_significant(self):
        """Whether rows gain from the best weights `Z` standard errors in the mean."""
        if not np.isfinite(self.losses[0]):
            return True
        gains, row_weights = [], []
        # Batch by batch: a Dataset may give its rows in another order next time.
        for batch in self._data.batches():
            log_probs = []
            for weights in (self.first, self.best):
                self._optimizer.assign(weights)
                log_probs.append(self._log_prob(*batch[:2]).numpy())
            gains.append(log_probs[1] - log_probs[0])
            row_weights.append(_weights(batch))
        gain, error = mean_and_error(*map(np.concatenate, (gains, row_weights)))
        return bool(gain >= Z * error)


def _weights(batch):
    """Those of the rows of a batch, as an array `[N]`."""
    return (batch.weights.numpy() if data_lib.has_weights(batch)
            else np.ones(batch.num_rows))


def mean_and_error(values, weights):
    """The weighted mean of `values [N]`, and its standard error.

    ```none
    m = sum w v;  e^2 = sum w^2 (v - m)^2 / (1 + sum w^2 - 2 sum w^3 / sum w^2)
    ```

    for weights w of sum 1. e^2 is the variance of m in the mean, over values of one
    variance. Where N weights are equal, e is the sample's standard deviation over
    sqrt(N); of a single row it is infinite.
    """
    weights = weights / np.sum(weights)
    mean, squares = np.sum(weights * values), np.sum(weights**2)
    factor = 1. + squares - 2. * np.sum(weights**3) / squares
    return mean, (np.sqrt(np.sum((weights * (values - mean))**2) / factor)
                  if factor > 1e-9 else np.inf)
