"""Classifiers that tell samples from samples, all in all or for one condition."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.calibration import ranks as ranks_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.progress import progress
from tfp_conditional.core.types import Conditions, TensorLike


def classifier_two_sample_test(x: npt.ArrayLike, y: npt.ArrayLike, num_folds: int = 5,
                               seed: int = 0) -> tuple[float, np.ndarray]:
    """Accuracy with which a classifier tells x from y: 0.5 where it cannot.

    As in sbibm (Lueckmann et al. 2021, https://arxiv.org/abs/2101.04653; the test
    is of Lopez-Paz & Oquab 2017): both sets in units of the mean and standard
    deviation of x, a network with two hidden layers of 10 D units, and
    cross-validation.

    Args:
      x: samples `[n, D]`, by custom the true ones.
      y: as many others, `[n, D]`.
      num_folds: `int` >= 2.
      seed: `int`, for the folds and the network.

    Returns:
      `(accuracy, accuracies)`: the mean, and that of each fold, `[num_folds]`.

    Raises:
      ImportError: without scikit-learn.
      ValueError: for other shapes, values that are not finite, fewer than
        2 num_folds rows.
    """
    sklearn = _sklearn('classifier_two_sample_test')
    num_folds = conditions_lib.positive_int(num_folds, 'num_folds', least=2)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape or not x.shape[1]:
        raise ValueError('`x` and `y` must have one shape [n, D]; got '
                         f'{list(x.shape)} and {list(y.shape)}.')
    if len(x) < 2 * num_folds:
        raise ValueError(f'`x` and `y` must have at least {2 * num_folds} rows, two '
                         f'a fold; got {len(x)}.')
    conditions_lib.check_finite_rows(x, 'x')
    conditions_lib.check_finite_rows(y, 'y')
    mean, std = x.mean(0), x.std(0, ddof=1)
    std[std == 0] = 1.
    data = (np.concatenate([x, y]) - mean) / std
    classifier = sklearn.neural_network.MLPClassifier(
        activation='relu', hidden_layer_sizes=(10 * x.shape[1],) * 2,
        max_iter=10_000, solver='adam', random_state=seed)
    accuracies = sklearn.model_selection.cross_val_score(
        classifier, data, np.repeat([0, 1], len(x)), scoring='accuracy',
        cv=sklearn.model_selection.KFold(num_folds, shuffle=True, random_state=seed))
    return accuracies.mean(), accuracies


def local_classifier_two_sample_test(
        dist: tfp.distributions.Distribution, targets: TensorLike, conditions: Conditions,
        observed: Conditions, classifier: Any = None, num_permutations: int = 100,
        num_samples: int = 1000, seed: int | None = None,
        verbose: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Whether the density is right for one condition, without samples of the truth.

    ```none
    x[n] = g^-1(targets[n]; c[n]),   x'[n] ~ base,   d(x, c): of a classifier, the
                                     probability that x is of a target
    t(c) = mean over l of (d(x'[l], c) - 1/2)^2,     x'[l] ~ base
    ```

    Where p(y | c) is right, latents of targets are those of the base at any c, and a
    classifier of pairs (x, c) finds nothing; t(c) is how much it finds at c. Its
    distribution then is that of classifiers trained on pairs whose two latents changed
    places at random (L-C2ST-NF, Linhart et al. 2023, https://arxiv.org/abs/2306.03580).
    It takes one classifier for each of them, for all `observed` together, and finds what
    its classifier can learn from N rows. Several p-values are not independent.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    import tfp_conditional as tfpc
    import tfp_conditional.calibration
    tfd = tfp.distributions

    rng = np.random.default_rng(0)
    c = rng.uniform(-1, 1, size=[1000, 1])
    y = np.abs(c) + rng.normal(size=[1000, 1])
    # The base alone, of mean 0: right where c is 0.
    flow = tfpc.ConditionalRealNVP(1, 1, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(1), 1.), 1))
    _, p_values = tfpc.calibration.local_classifier_two_sample_test(
        dist, y, c, [[-0.9], [0.9]], QuadraticDiscriminantAnalysis(),
        num_permutations=40, seed=0, verbose=False)
    assert np.all(p_values < 0.05)
    ```

    Args:
      dist, targets, conditions, verbose: as in `simulation_based_calibration`.
      observed: `[M, S]`, or the nest that the bijector takes: where to test.
      classifier: of scikit-learn, with `predict_proba`, cloned for each training.
        Default: a network of two hidden layers of 10 (D + S) units with early stopping.
      num_permutations: `int` P >= 19; the least p-value is 1 / (P + 1).
      num_samples: `int`, latents that t is a mean over.
      seed: `int`, for latents, permutations and the default classifier. `None`: one
        drawn from TensorFlow's generator.

    Returns:
      `(statistic, p_value)`, `[M]` each: t, and the part of the permutations, itself
      one of them, whose t is as large.

    Raises:
      ImportError: without scikit-learn.
      TypeError, ValueError: naming the argument, what was expected and what came.
    """
    sklearn = _sklearn('local_classifier_two_sample_test')
    targets, conditions = ranks_lib.checked(dist, targets, conditions)
    distribution_lib.refuse_cells(dist)
    flow = dist.bijector
    observed = _features(flow.check_conditions(observed), 'observed')
    permutations = conditions_lib.positive_int(num_permutations, 'num_permutations', 19)
    count = conditions_lib.positive_int(num_samples, 'num_samples')
    entropy = seeds.resolve_seed(seed)
    rng = np.random.default_rng((*entropy, 0))
    true = flow.inverse(targets, conditions=conditions).numpy()
    conditions_lib.check_finite_rows(true, 'latents of `targets`')
    total = len(true)
    base, at = (dist.distribution.sample(n, seed=seeds.stateless(entropy, i)).numpy()
                for i, n in enumerate((total, count)))
    c = _features(conditions, 'conditions')
    mean, std = c.mean(0), np.where(c.std(0) > 0, c.std(0), 1.)
    c, observed = (c - mean) / std, (observed - mean) / std
    points = np.concatenate([np.tile(at, [len(observed), 1]),
                             np.repeat(observed, count, axis=0)], -1)
    pairs = np.concatenate([np.stack([base, true]), np.stack([c, c])], -1)   # [2, N, :]
    if classifier is None:
        classifier = sklearn.neural_network.MLPClassifier(
            (10 * pairs.shape[-1],) * 2, early_stopping=True,
            random_state=int(rng.integers(2**31)))
    labels = np.repeat([0, 1], total)
    found = []
    with progress(permutations + 1, 'classifiers', 'fit', verbose) as bar:
        for i in range(permutations + 1):
            # First as they are.
            swap = (rng.uniform(size=total) < 0.5 * (i > 0)).astype(np.int64)
            rows = np.concatenate([pairs[swap, np.arange(total)],
                                   pairs[1 - swap, np.arange(total)]])
            fitted = sklearn.base.clone(classifier).fit(rows, labels)
            certainty = (fitted.predict_proba(points)[:, 1] - 0.5)**2
            found.append(certainty.reshape(len(observed), count).mean(1))
            if bar is not None:
                bar.update()
    return found[0], np.mean(np.array(found) >= found[0], 0)


def _features(conditions, label):
    """Checked conditions as one array `[M, S]`."""
    leaves = tf.nest.flatten(conditions)
    if leaves[0].shape.rank != 2:
        raise ValueError(f'`{label}` must have shape [M, S]; got '
                         f'{leaves[0].shape.as_list()}.')
    features = np.concatenate([np.asarray(leaf, np.float64) for leaf in leaves], -1)
    conditions_lib.check_finite_rows(features, label)
    return features


def _sklearn(function):
    try:
        import sklearn.base
        import sklearn.model_selection
        import sklearn.neural_network
    except ImportError as error:
        raise ImportError(f'`{function}` needs scikit-learn: pip install '
                          "'tfp_conditional[calibration]'.") from error
    return sklearn
