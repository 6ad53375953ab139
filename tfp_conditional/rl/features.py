"""`RunningMoments` and `Features`: observations as a flow takes them."""

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp

_MOST = 10.   # Standard deviations beyond which an observation is cut off.


def flat_size(spec):
    """How many numbers an observation of a nest of `tf.TensorSpec` is."""
    return sum(leaf.shape.num_elements() for leaf in tf.nest.flatten(spec))


class RunningMoments(_tfp.Picklable, tf.Module):
    """Means and variances of all observations so far, which it normalises by.

    They are variables that are not trained: copies, checkpoints and exports have them.
    Until the first `update`, observations stay as they are.

    ```python
    import numpy as np
    import tensorflow as tf
    from tfp_conditional.rl import features

    moments = features.RunningMoments(tf.TensorSpec([2], tf.float32))
    moments.update(np.array([[0., 10.], [2., 30.]]))
    np.testing.assert_allclose(moments(tf.constant([[1., 20.]])), [[0., 0.]], atol=1e-6)
    ```
    """

    def __init__(self, spec, name='running_moments'):
        """Constructs the moments of a nest of `tf.TensorSpec`, without batch axes."""
        super().__init__(name=name)
        self._ranks = [leaf.shape.rank for leaf in tf.nest.flatten(spec)]
        self.count = tf.Variable(0., dtype=tf.float64, trainable=False, name='count')
        self.means, self.variances = (
            tuple(tf.Variable(tf.fill(leaf.shape, tf.constant(initial, tf.float64)),
                              trainable=False, name=label)
                  for leaf in tf.nest.flatten(spec))
            for label, initial in (('mean', 0.), ('variance', 1.)))

    def update(self, observations):
        """Adds observations `[..., *shape]`, a nest of arrays (Chan et al. 1979)."""
        before = float(self.count.numpy())
        for leaf, rank, mean, variance in zip(
                tf.nest.flatten(observations), self._ranks, self.means,
                self.variances):
            leaf = np.asarray(leaf, np.float64)
            leaf = leaf.reshape(-1, *leaf.shape[leaf.ndim - rank:])
            count = before + len(leaf)
            shift = leaf.mean(0) - mean.numpy()
            squares = (before * variance.numpy() + len(leaf) * leaf.var(0)
                       + shift**2 * before * len(leaf) / count)
            mean.assign_add(shift * len(leaf) / count)
            variance.assign(squares / count)
        self.count.assign(count)

    def __call__(self, observations):
        """Observations in standard deviations from their means, cut off at ten."""
        is_new = tf.equal(self.count, 0.)
        leaves = tf.nest.flatten(observations)
        normalised = []
        for leaf, mean, variance in zip(leaves, self.means, self.variances):
            scaled = (leaf - tf.cast(mean, leaf.dtype)) * tf.cast(
                tf.math.rsqrt(variance + 1e-8), leaf.dtype)
            normalised.append(tf.where(is_new, leaf, tf.clip_by_value(
                scaled, -_MOST, _MOST)))
        return tf.nest.pack_sequence_as(observations, normalised)


class Features(_tfp.Picklable, tf.Module):
    """Observations with one batch axis -> `[B, S]`: normalised, then embedded.

    Without an embedding they are flattened, and those of a nest joined, in the sorted
    order of keys.
    """

    def __init__(self, moments=None, embedding=None, name='features'):
        super().__init__(name=name)
        self.moments, self.embedding = moments, embedding

    def __call__(self, observations):
        if self.moments is not None:
            observations = self.moments(observations)
        if self.embedding is not None:
            return self.embedding(observations)
        leaves = [tf.reshape(leaf, [-1, leaf.shape[1:].num_elements()])
                  for leaf in tf.nest.flatten(observations)]
        return leaves[0] if len(leaves) == 1 else tf.concat(leaves, axis=-1)
