"""C2ST of many observations at once, by the classifier that sbibm takes.

`calibration.classifier_two_sample_test` trains scikit-learn's `MLPClassifier` fold after
fold, for an hour where 10 observations have 20,000 rows of ten units. Here the networks
of all folds of all observations train in the same products of matrices, by the rules of
that class: Adam, batches of 200, its first weights, its penalty, and its stop, each
network by its own loss. A test compares the two.
"""

import numpy as np
from sklearn import model_selection
import tensorflow as tf

BATCH, RATE, PENALTY = 200, 1e-3, 1e-4          # The defaults of `MLPClassifier`.
TOLERANCE, PATIENCE = 1e-4, 10
FOLDS = 5


def _layers(sizes, count, rng):
    """Glorot-uniform kernels and biases of `count` networks, each `[count, m or 1, n]`."""
    for m, n in zip(sizes, sizes[1:]):
        bound = np.sqrt(6. / (m + n))
        for rows in (m, 1):
            yield tf.constant(rng.uniform(-bound, bound, [count, rows, n]), tf.float32)


def _logits(weights, x):
    for i in range(0, len(weights), 2):
        x = (x if i == 0 else tf.nn.relu(x)) @ weights[i] + weights[i + 1]
    return x[..., 0]


@tf.function(reduce_retracing=True)
def _epoch(state, step, data, labels, sets, rows):
    """One pass over `rows`, `[M, steps, batch]`, of data sets `data[sets]`.

    Returns the state, three lists (weights, first and second moments), and the losses `[M]`.
    """
    total = tf.zeros(tf.shape(sets))
    for i in tf.range(tf.shape(rows)[1]):
        weights, first, second = state
        at = rows[:, i]
        x, y = tf.gather_nd(data, tf.stack(
            [tf.broadcast_to(sets[:, None], tf.shape(at)), at], -1)), tf.gather(labels, at)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            squares = tf.add_n([tf.reduce_sum(kernel**2, [1, 2]) for kernel in weights[::2]])
            losses = (tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(
                y, _logits(weights, x)), -1) + 0.5 * PENALTY * squares / BATCH)
        gradients = tape.gradient(losses, weights)
        step += 1.
        rate = RATE * tf.sqrt(1. - 0.999**step) / (1. - 0.9**step)
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients)]
        second = [0.999 * v + 0.001 * g**2 for v, g in zip(second, gradients)]
        state = [w - rate * m / (tf.sqrt(v) + 1e-8)
                 for w, m, v in zip(weights, first, second)], first, second
        total += losses
    return state, total / tf.cast(tf.shape(rows)[1], tf.float32)


def accuracies(pairs, seed=1):
    """The accuracy, `[K]`, with which the two of each of K pairs are told apart.

    Args:
      pairs: `[K, 2, n, D]`, draws of the truth and as many others.
      seed: `int`, for folds, first weights and batches.
    """
    pairs = np.asarray(pairs, np.float64)
    if not np.isfinite(pairs).all():
        raise ValueError('draws must be finite')
    count, _, n, size = pairs.shape
    mean, std = (f(pairs[:, :1], axis=2, keepdims=True) for f in (np.mean, np.std))
    data = np.reshape((pairs - mean) / std, [count, 2 * n, size]).astype(np.float32)
    labels = np.repeat(np.float32([0., 1.]), n)
    splits = [*model_selection.KFold(FOLDS, shuffle=True, random_state=seed).split(data[0])]
    rng = np.random.default_rng(seed)
    total = count * FOLDS
    weights = [*_layers([size, 10 * size, 10 * size, 1], total, rng)]
    state = weights, *([tf.zeros_like(x) for x in weights] for _ in range(2))
    right, active = np.zeros(total), np.arange(total)
    best, waited, step = np.full(total, np.inf), np.zeros(total, int), 0
    while active.size:
        steps = -(-min(len(train) for train, _ in splits) // BATCH)
        rows = np.stack([np.resize(rng.permutation(splits[i % FOLDS][0]), [steps, BATCH])
                         for i in active])
        sets = tf.constant(active // FOLDS, tf.int32)
        state, losses = _epoch(state, tf.constant(float(step)), data, labels, sets,
                               rows.astype(np.int32))
        step, losses = step + steps, losses.numpy()
        waited = np.where(losses > best - TOLERANCE, waited + 1, 0)
        best = np.minimum(best, losses)
        done = waited > PATIENCE
        for i in np.flatnonzero(done):
            test = splits[active[i] % FOLDS][1]
            found = _logits([x[i] for x in state[0]], data[active[i] // FOLDS][test])
            right[active[i]] = np.mean((found.numpy() > 0.) == (labels[test] > 0.5))
        if done.any():
            keep = np.flatnonzero(~done)
            active, best, waited = active[keep], best[keep], waited[keep]
            state = tuple([tf.gather(x, keep) for x in part] for part in state)
    return right.reshape([count, FOLDS]).mean(-1)
