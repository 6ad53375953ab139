"""`latent_mcmc`: Markov chains in the latent space of a flow."""

from collections.abc import Callable
import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core.progress import progress
from tfp_conditional.core.types import Conditions
from tfp_conditional.posterior import conditioned

_STARTS = 50       # Candidates for the start of a chain.
_STEPS = 25        # Of the chains in one call.


class Chains(typing.NamedTuple):
    """What `latent_mcmc` returns, as arrays."""
    samples: np.ndarray
    r_hat: np.ndarray
    effective_sample_size: np.ndarray
    acceptance: np.ndarray
    divergences: np.ndarray


def latent_mcmc(dist: tfp.distributions.Distribution,
                log_density: Callable[[tf.Tensor, typing.Any], tf.Tensor],
                conditions: Conditions | None = None, num_samples: int = 1000,
                num_burnin_steps: int = 500, num_chains: int = 4,
                max_tree_depth: int = 6, seed: int | None = None,
                verbose: bool = True) -> Chains:
    """Corrects samples by Markov chains in latents, where a fit makes them quick.

    ```none
    chains of x with density  f(g(x; c); c) |det dg(x; c)/dx|,   events y = g(x; c)
    ```

    for an unnormalised density f, such as likelihood times prior, by the No-U-Turn
    sampler (`tfp.mcmc.NoUTurnSampler`). Where the flow is right the density of x is that
    of the base, which chains cross in one step, whatever shape f has; where it is
    nearly right, nearly so (NeuTra, Hoffman et al. 2019,
    https://arxiv.org/abs/1903.03704; here one flow serves all conditions). Unlike
    weights, chains also find what the flow misses nearby. A mode where the flow has no
    samples they do not find, and `r_hat` does not tell. The flow is not trained.

    Chains start at samples of the flow, of which the first where f > 0 is taken. Their
    steps adapt during the first 80 % of the burn-in, for each condition. A call takes
    seconds to compile, however few its conditions: pass all of them at once. A hard edge of
    f, as that of a uniform prior, makes for small steps and long trees.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    from tfp_conditional import posterior
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))

    def log_density(y, c):          # Normal around c[0], of half the width.
        return -2 * tf.reduce_sum((y - c[..., :1])**2, -1)

    chains = posterior.latent_mcmc(
        dist, log_density, [[0., 0., 0.], [2., 0., 0.]], num_samples=100,
        num_burnin_steps=100, seed=0, verbose=False)
    assert chains.samples.shape == (100, 4, 2, 2)
    assert np.allclose(chains.samples.mean((0, 1)), [[0., 0.], [2., 2.]], atol=0.2)
    assert np.all(chains.r_hat < 1.1)
    ```

    Args:
      dist, conditions, seed, verbose: as in `mode`.
      log_density: function of events, tensors `[num_chains, N, D]`, and of conditions
        with one batch axis, `[N, S]` or a nest of such, that returns log f,
        `[num_chains, N]`, by TensorFlow alone, since gradients go through it.
      num_samples: `int`, of each chain after the burn-in.
      num_burnin_steps: `int`, which are thrown away.
      num_chains: `int` >= 2, for each condition.
      max_tree_depth: `int`; a step takes at most `2**max_tree_depth - 1` gradients.

    Returns:
      `Chains`, a named tuple: `samples` `[num_samples, num_chains, ..., D]`; `r_hat`
      `[..., D]`, the potential scale reduction of split chains, near 1 (at most 1.01,
      by custom) where they agree; `effective_sample_size` `[..., D]`, of all chains
      together; `acceptance` `[...]`, the mean; `divergences` `[...]`, the number of
      steps whose energy went astray.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
      FloatingPointError: values of `log_density` that are no numbers at the start;
        conditions without a sample where f > 0.
    """
    subject = conditioned.Conditioned(dist, conditions, seed)
    distribution_lib.refuse_cells(subject.dist)
    count = conditions_lib.positive_int(num_samples, 'num_samples', least=4)
    burnin = conditions_lib.positive_int(num_burnin_steps, 'num_burnin_steps')
    chains = conditions_lib.positive_int(num_chains, 'num_chains', least=2)
    conditions_lib.positive_int(max_tree_depth, 'max_tree_depth')
    base, flow, dtype = subject.dist.distribution, subject.flow, subject.dist.dtype

    def target(x, conditions):
        y, fldj = flow.forward_and_log_det(x, event_ndims=1, conditions=conditions)
        value = tf.convert_to_tensor(log_density(y, conditions))
        conditioned.check_density_shape(value.shape, y)
        return tf.cast(value, dtype) + tf.cast(fldj, dtype)

    def kernel(conditions):
        return tfp.mcmc.DualAveragingStepSizeAdaptation(
            tfp.mcmc.NoUTurnSampler(
                lambda x: target(x, conditions),
                tf.ones([subject.num_rows, 1], dtype), max_tree_depth),
            num_adaptation_steps=int(0.8 * burnin),
            target_accept_prob=tf.constant(0.8, dtype))

    def begin(x, conditions):
        return kernel(conditions).bootstrap_results(x)

    def advance(steps, x, results, seed, conditions):
        def trace(x, results):
            inner = results.inner_results
            y = flow.forward(x, conditions=conditions)
            return (y, tf.exp(tf.minimum(inner.log_accept_ratio, 0.)),
                    inner.has_divergence)
        states, traced, results = tfp.mcmc.sample_chain(
            steps, x, results, kernel(conditions), trace_fn=trace, seed=seed,
            return_final_kernel_results=True)
        return states[-1], results, traced

    begin, advance = (tf.function(f, autograph=False) for f in (begin, advance))
    x = _starts(subject, base, log_density, chains)
    results, traces = begin(x, subject.conditions), []
    with progress(burnin + count, 'chains', 'step', verbose) as bar:
        for step in range(0, burnin + count, _STEPS):
            steps = min(_STEPS, burnin + count - step)
            x, results, traced = advance(tf.constant(steps), x, results,
                                         subject.seed(0, step), subject.conditions)
            traces.append([part.numpy() for part in traced])
            if bar is not None:
                bar.update(steps)
    samples, acceptance, diverged = (
        np.concatenate(part)[burnin:] for part in zip(*traces))
    return Chains(
        subject.unflat(samples, 2),
        subject.unflat(tfp.mcmc.potential_scale_reduction(samples, split_chains=True)),
        subject.unflat(tfp.mcmc.effective_sample_size(
            samples, filter_beyond_positive_pairs=True, cross_chain_dims=1)),
        subject.unflat(acceptance.mean((0, 1))),
        subject.unflat(diverged.sum((0, 1))))


def _starts(subject, base, log_density, chains):
    """Latents `[chains, N, D]` of samples where the density is not 0."""
    x = base.sample([_STARTS * chains, subject.num_rows], seed=subject.seed(1))
    y = subject.flow.forward(x, conditions=subject.conditions)
    values = np.concatenate([
        subject.target(log_density, part, slice(None)) for part in tf.split(y, _STARTS)])
    values = values.reshape([_STARTS, chains, subject.num_rows])
    inside = values > -np.inf
    subject.refuse(~np.all(inside.any(0), 0), slice(None),
                   'Chains must start where `log_density` is above -inf',
                   f'None of {_STARTS} samples of the flow is there.')
    x = tf.reshape(x, [_STARTS, chains, subject.num_rows, -1])
    return tf.gather(tf.transpose(x, [1, 2, 0, 3]), inside.argmax(0).astype(np.int32),
                     batch_dims=2)
