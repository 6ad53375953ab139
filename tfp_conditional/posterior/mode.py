"""`mode`: where the density is highest, for many conditions at once."""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core.types import Conditions
from tfp_conditional.posterior import conditioned


class Mode(typing.NamedTuple):
    """What `mode` returns, as arrays."""
    events: np.ndarray
    log_prob: np.ndarray
    converged: np.ndarray


def mode(dist: tfp.distributions.Distribution, conditions: Conditions | None = None,
         num_samples: int = 1000, max_iterations: int = 100,
         tolerance: float | None = None, seed: int | None = None,
         verbose: bool = True) -> Mode:
    """The events of highest density: of a posterior, the maximum a posteriori.

    ```none
    y* = g(x*; c),   x* = argmax over x of  log p_X(x) - log |det dg(x; c)/dx|
    ```

    from the densest of `num_samples` samples, upwards by L-BFGS for all conditions
    together (`tfp.optimizer.lbfgs_minimize`), in the latents x: there a step stays
    within the support, and the density is nearly that of the base. It is log p(y | c)
    itself that is maximised, which need not have its mode at that of the base. Of
    several modes it finds that of the densest sample; a density without a greatest
    value, such as one that grows up to a bound, has none, and does not converge. A call takes
    seconds to compile, however few its conditions: pass all of them at once.

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional import posterior
    tfd, tfb = tfp.distributions, tfp.bijectors

    # y = exp(x): its mode is exp(-1), its median 1.
    flow = tfpc.ConditionalChain([tfb.Exp(), tfpc.ConditionalRealNVP(
        2, 3, num_coupling_layers=2, hidden_layers=(8,))])
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    found = posterior.mode(dist.given(tf.zeros([4, 3])), seed=0, verbose=False)
    assert found.events.shape == (4, 2) and found.converged.all()
    assert abs(found.events - 0.3679).max() < 0.01
    ```

    Args:
      dist: `tfd.TransformedDistribution` over a `ConditionalBijector`, of batch shape
        `[]`; or one for given conditions, `dist.given(conditions)`.
      conditions: `[..., S]`, or the nest that the bijector takes; `None` where `dist`
        has them already.
      num_samples: `int`, of which the densest is the start.
      max_iterations: `int`, of L-BFGS.
      tolerance: of the gradient in each latent, per unit of it, at convergence.
        Default: the square root of the precision of the dtype, 3e-4 in float32.
      seed: `int` for samples. `None`: one drawn from TensorFlow's generator.
      verbose: `bool`, whether to show a progress bar where tqdm is installed.

    Returns:
      `Mode`, a named tuple: `events` `[..., D]`, their `log_prob` `[...]`, at least
      that of the densest sample, and `converged` `[...]`, whether the gradient is
      within the tolerance.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: no sample of a condition has a finite log-prob.
    """
    subject = conditioned.Conditioned(dist, conditions, seed)
    distribution_lib.refuse_cells(subject.dist)
    count = conditions_lib.positive_int(num_samples, 'num_samples')
    conditions_lib.positive_int(max_iterations, 'max_iterations')
    dtype = subject.dist.dtype
    if tolerance is None:
        tolerance = np.finfo(dtype.as_numpy_dtype).eps**0.5
    if not tolerance > 0:
        raise ValueError(f'`tolerance` must be positive; got {tolerance}.')
    base, flow = subject.dist.distribution, subject.flow

    def events_and_log_prob(x, conditions):
        y, fldj = flow.forward_and_log_det(x, event_ndims=1, conditions=conditions)
        return y, base.log_prob(x) - tf.cast(fldj, dtype)

    def climb(seed, conditions):
        rows = tf.shape(tf.nest.flatten(conditions)[0])[0]
        x = base.sample([count, rows], seed=seed)
        _, log_prob = events_and_log_prob(x, conditions)
        log_prob = tf.where(tf.math.is_finite(log_prob), log_prob, -np.inf)
        start = tf.gather(tf.transpose(x, [1, 0, 2]), tf.argmax(log_prob, 0),
                          batch_dims=1)
        best = tf.reduce_max(log_prob, 0)
        # A call, since the optimizer asks in many places, each a copy of the flow.
        loss_and_gradient = tf.function(
            lambda x: tfp.math.value_and_gradient(
                lambda x: -events_and_log_prob(x, conditions)[1], x),
            autograph=False, experimental_attributes={'_noinline': True})
        found = tfp.optimizer.lbfgs_minimize(
            loss_and_gradient, start, tolerance=tolerance, max_iterations=max_iterations,
            stopping_condition=tfp.optimizer.converged_all)
        # Where it fails, by rounding or at an edge, it may have gone astray.
        better = -found.objective_value >= best
        x = tf.where(better[:, tf.newaxis], found.position, start)
        gradient = tf.reduce_max(tf.abs(found.objective_gradient), -1)
        y, log_prob = events_and_log_prob(x, conditions)
        return y, log_prob, better & (gradient <= tolerance), best

    climb = tf.function(climb, autograph=False, input_signature=[
        tf.TensorSpec([2], tf.int32), flow.condition_signature([None])])
    parts = []
    for rows in subject.batches(count, 'mode', verbose):
        *part, best = climb(subject.seed(rows.start), subject.take(rows))
        subject.refuse(~np.isfinite(best), rows, 'Some samples of `dist` must have '
                       'finite log-probs', 'Look at its conditions, or use float64.')
        parts.append([x.numpy() for x in part])
    return Mode(*(subject.unflat(np.concatenate(part)) for part in zip(*parts)))
