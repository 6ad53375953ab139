"""`Conditioned`: a distribution for many conditions, some rows of them at a time."""

import numpy as np
import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.progress import progress

EVENTS = 2**15         # Samples that meet the network at once.


def checked_levels(levels):
    """Probabilities of regions as an array `[K]`."""
    levels = np.atleast_1d(np.asarray(levels, np.float64))
    if levels.ndim != 1 or not levels.size or not np.all((levels > 0) & (levels < 1)):
        raise ValueError(f'`levels` must be numbers in (0, 1); got {levels.tolist()}.')
    return levels


class Conditioned:
    """A distribution, and its conditions with one batch axis, of N rows.

    Args:
      dist, conditions: as in `distribution.parts`.
      seed: as in `seeds.resolve_seed`.
    """

    def __init__(self, dist, conditions, seed=None):
        self.dist, conditions = distribution_lib.parts(dist, conditions)
        if self.dist.distribution.event_shape.rank != 1:
            raise ValueError('`dist` must have events that are vectors, [D]; got a base '
                             f'with events {self.dist.distribution.event_shape}.')
        self.flow, self.entropy = self.dist.bijector, seeds.resolve_seed(seed)
        self.batch_shape = self.flow.batch_shape_of(conditions).as_list()
        self.num_rows = int(np.prod(self.batch_shape))
        if not self.num_rows:
            raise ValueError('`conditions` must have at least one row; got batch shape '
                             f'{self.batch_shape}.')
        self.conditions = tf.nest.map_structure(
            lambda leaf, ndims: tf.reshape(
                leaf, [-1, *leaf.shape[leaf.shape.rank - ndims:]]),
            conditions, self.flow.condition_spec.event_ndims())

    def seed(self, *key):
        """A TFP stateless seed, another for each key."""
        return seeds.stateless(self.entropy, *key)

    def take(self, rows):
        """Conditions of those rows, a slice or an array of indices."""
        return tf.nest.map_structure(
            lambda leaf: leaf[rows] if isinstance(rows, slice) else
            tf.gather(leaf, rows), self.conditions)

    def batches(self, num_samples, desc, verbose):
        """Yields slices of rows that have so many samples at once, under a bar."""
        step = max(1, EVENTS // num_samples)
        with progress(self.num_rows, desc, 'row', verbose) as bar:
            for start in range(0, self.num_rows, step):
                rows = slice(start, min(start + step, self.num_rows))
                yield rows
                if bar is not None:
                    bar.update(rows.stop - rows.start)

    def draw(self, num_samples, rows, *key):
        """Samples `[n, b, D]` and their log-probs `[n, b]`, which must be finite."""
        y, log_prob = self.dist.given(self.take(rows)).experimental_sample_and_log_prob(
            num_samples, seed=self.seed(rows.start, *key))
        good = (tf.reduce_all(tf.math.is_finite(y), [0, -1])
                & ~tf.reduce_any(tf.math.is_nan(log_prob), 0))
        self.refuse(~good.numpy(), rows, 'Samples of `dist` must be finite and log-probs '
                    'no NaN', 'Look at its conditions, or use float64.')
        return y, log_prob

    def refuse(self, bad, rows, rule, advice, error=FloatingPointError):
        """Raises where some of those rows, `[b]`, are bad."""
        if np.any(bad):
            found = np.arange(self.num_rows)[rows][bad]
            raise error(f'{rule}; broken by {len(found)} of {self.num_rows} conditions, '
                        f'the first of them row {found[0]}. {advice}')

    def target(self, log_density, y, rows):
        """Values `[n, b]` of a user's unnormalised log-density, -inf where it is 0."""
        values = evaluate(log_density, y, self.take(rows))
        self.refuse(np.any(np.isnan(values) | (values == np.inf), 0), rows,
                    'Values of `log_density` must be finite or -inf',
                    'Look at where it is evaluated, or use float64.')
        return values

    def unflat(self, array, axis=0):
        """An array with N at that axis as one with the batch shape of conditions."""
        array = np.asarray(array)
        return array.reshape(array.shape[:axis] + tuple(self.batch_shape)
                             + array.shape[axis + 1:])

    def events(self, events):
        """A user's events `[..., *batch_shape, D]` as `[n, N, D]`, and the `...`."""
        size = self.flow.output_event_size
        events = conditions_lib.check_last_dimension(
            conditions_lib.as_tensor(events, self.dist.dtype, 'events'), size, 'events')
        rank = len(self.batch_shape)
        shape = events.shape.as_list()
        try:
            full = np.broadcast_shapes(tuple(shape[:-1]), tuple(self.batch_shape))
        except ValueError:
            raise ValueError(
                '`events` must have a batch shape that broadcasts, right-aligned, with '
                f'that of the conditions, {self.batch_shape}; got shape {shape}.'
            ) from None
        lead = full[:len(full) - rank]
        if full[len(full) - rank:] != tuple(self.batch_shape):
            raise ValueError(
                '`events` must broadcast to the batch shape of the conditions, '
                f'{self.batch_shape}, as their last batch axes; got shape {shape}.')
        return tf.reshape(tf.broadcast_to(events, [*full, size]),
                          [-1, self.num_rows, size]), list(lead)

    def log_prob(self, events):
        """Log-probs `[..., *batch_shape]` of a user's events, as an array."""
        events, lead = self.events(events)
        values = np.concatenate([
            self.dist.given(self.take(rows)).log_prob(events[:, rows]).numpy()
            for rows in self.batches(len(events), '', False)], 1)
        return values.reshape([*lead, *self.batch_shape])


def evaluate(log_density, y, conditions):
    """`log_density(y, conditions)`, of shape `[n, b]`, as a float64 array."""
    values = np.asarray(log_density(y, conditions), np.float64)
    check_density_shape(values.shape, y)
    return values


def check_density_shape(shape, y):
    """Raises unless it is that of events `y [..., D]` without the last axis."""
    if tuple(shape) != tuple(y.shape[:-1]):
        raise ValueError(
            '`log_density(events, conditions)` must return one number for each event, '
            f'{y.shape[:-1].as_list()}; got shape {list(shape)}.')
