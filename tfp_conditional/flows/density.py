"""`conditional_density`: from sizes alone to a distribution that `fit` fits well."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import angles as angles_lib
from tfp_conditional.bijectors import bounds
from tfp_conditional.bijectors import chain
from tfp_conditional.bijectors import coupling
from tfp_conditional.bijectors import embedding as embedding_lib
from tfp_conditional.bijectors import gaussianization
from tfp_conditional.bijectors import standardize
from tfp_conditional.bijectors import support as support_lib
from tfp_conditional.bijectors import tails
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import DType, Seed, Sizes
from tfp_conditional.flows import real_nvp
from tfp_conditional.networks import residual
from tfp_conditional.transformers import spline
from tfp_conditional.transformers import transformer as transformer_lib

tfd = tfp.distributions

# Of what was tried, the least held-out loss on two moons and a Gaussian mixture: narrow
# bins, smooth activations and normalised layers are what helps most; six couplings are
# better than four or eight, and more bins or wider networks do not help. An odd number
# favours one half of the units: five fit two moons as well, or far worse, by which.
DEFAULTS = dict(
    num_coupling_layers=6,
    transformer=spline.RationalQuadratic(min_bin_size=3e-4, min_derivative=1e-3),
    conditioner=residual.ResidualNetwork(64, 1, 'silu', 'concatenate',
                                         layer_norm=True))
# Of one unit: six lose 0.02 to 0.06 nats where there are edges and tails, one loses
# 0.1 where there are two modes that move with the condition.
_SINGLE_LAYERS = 3
_CIRCULAR = spline.CircularRationalQuadratic(min_bin_size=3e-4, min_derivative=1e-3)
# In more rows networks learn shapes as well: of 10,000 simulations, two moons are better
# off without `Gaussianization` by 0.01 nats, of 1000 with it by 0.04, and exponential
# errors of 300 rows by 0.3.
_SHAPE_ROWS = 3000
# Of the elementwise layer. As wide as the others it costs two moons a tenth more.
_ELEMENTWISE = residual.ResidualNetwork(32, 1, 'silu', 'concatenate', layer_norm=True)


def conditional_density(
        event_size: int, condition_size: Sizes,
        support: tfp.bijectors.Bijector | list[Any] | None = None,
        embedding: Callable[..., Any] | None = None, embedding_size: int | None = None,
        dtype: DType = tf.float32, seed: Seed | None = None, validate_args: bool = False,
        name: str = 'conditional_density',
        **flow_arguments: Any) -> distribution_lib.ConditionalTransformedDistribution:
    """Returns a conditional distribution whose defaults are chosen by measurement.

    It is a spline flow (Durkan et al. 2019) of the residuals of a linear regression,
    whitened: see `Standardized(linear=True)`. What is regressed are the targets after
    an elementwise layer, which sees the edges and shapes of single targets where they
    are, not where residuals move them. Hard edges of the targets are found and made
    smooth, heavy tails of residuals light, and of few rows their shapes Gaussian: see
    `SoftBounds`, `Tails` and `Gaussianization`. All learn from the data that `fit` is
    given, so nothing need be scaled beforehand. Angles come first: they have a flow of
    circular splines of their own, and the other columns are given their cosines and
    sines beside the conditions.

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    conditions = np.random.default_rng(0).uniform(-1., 1., size=[256, 3])
    targets = 40. + conditions[:, :2] ** 2

    dist = tfpc.conditional_density(event_size=2, condition_size=3)
    tfpc.fit(dist, targets, conditions, epochs=2, verbose=False)
    given = dist.given(conditions[:5])
    samples, log_probs = given.experimental_sample_and_log_prob(100)
    assert samples.shape == [100, 5, 2] and log_probs.shape == [100, 5]
    ```

    Args:
      event_size: `int` D >= 1, of the targets.
      condition_size: `int` S, a nest of `int`, or, with an embedding, a
        `tf.TensorSpec` or a nest; see `ConditionalEmbedding`.
      support: what is known of where targets lie. A list has an entry for each column:
        `(low, high)`, either of them infinite or `None`; `Circular(low, high)` for
        angles; `Simplex(size)` for so many columns; a bijector of single numbers; or
        `None` for a real column, whose edges are found in the data by `SoftBounds`. Or
        it is one bijector from the vectors `[D']` that the flow makes onto the targets,
        such as `support_bijector(low, high)`. Default: `None` for each column.
      embedding: network from the conditions to vectors `[B, embedding_size]`.
      embedding_size: `int`, what it returns; default: its `output_size`, which those
        of `tfpc.embeddings` have.
      dtype: floating dtype.
      seed: `int` or TFP seed for the initial weights.
      validate_args: `bool`, whether to check that values are finite.
      name: `str`.
      **flow_arguments: those of `ConditionalRealNVP`, where its own and the
        `DEFAULTS` of this module are not what is wanted. With `hidden_layers` or
        `activation` the network is an MLP.

    Returns:
      `ConditionalTransformedDistribution` of batch shape `[]`; see its `given`.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came.
    """
    event_size = conditions_lib.positive_int(event_size, 'event_size')
    if embedding_size is None:
        embedding_size = getattr(embedding, 'output_size', None)
    if (embedding is None) != (embedding_size is None):
        raise ValueError('Give both of `embedding` and `embedding_size`, or none; '
                         f'got {embedding!r}, {embedding_size!r}.')
    if isinstance(support, (list, tuple)):
        columns = support_lib.Columns(support, event_size, dtype)
        outer, circular = columns.parts, columns.circular
    elif support is None:
        outer = [bounds.SoftBounds(event_size, dtype)]
        circular = np.zeros(event_size, bool)
    else:
        outer = [support]
        circular = np.zeros(_inner_size(support, event_size), bool)
    num_angles, num_others = int(np.sum(circular)), int(np.sum(~circular))
    entropy = seeds.resolve_seed(seed)
    settings = _settings(flow_arguments)
    common = dict(dtype=dtype, validate_args=validate_args)
    seen = condition_size if embedding is None else embedding_size
    if num_angles:
        flow = angles = _angles(num_angles, seen, settings, entropy, common)
    if num_others:
        if num_others == 1:
            settings = {**settings, 'num_coupling_layers': flow_arguments.get(
                'num_coupling_layers', _SINGLE_LAYERS)}
        flow = _others(num_others, (seen, 2 * num_angles) if num_angles else seen,
                       embedding is None, 'conditioner' in flow_arguments, settings,
                       entropy, common)
    if num_angles and num_others:
        flow = angles_lib.AnglesFirst(angles, flow, circular, validate_args)
        base = angles_lib.Latents(num_angles, num_others, dtype)
    elif num_angles:
        bound = tf.constant([np.pi] * num_angles, dtype)
        base = tfd.Independent(tfd.Uniform(-bound, bound), 1)
    else:
        base = tfd.Independent(tfd.Normal(tf.zeros(num_others, dtype),
                                          tf.ones(num_others, dtype)), 1)
    if embedding is not None:
        flow = embedding_lib.ConditionalEmbedding(flow, embedding, condition_size)
    flow = chain.ConditionalChain([*outer, flow], validate_args=validate_args)
    return flow(base, name=name)


def _angles(size, condition_size, settings, entropy, common):
    """A flow of angles, of conditions that are standardized."""
    own = coupling.get_transformer(settings['transformer'])
    if transformer_lib.num_features(own) == 1:
        own = _CIRCULAR
    if settings.get('mixing') == 'linear':
        settings = {**settings, 'mixing': 'alternate'}
    return standardize.Standardized(real_nvp.ConditionalRealNVP(
        size, condition_size, seed=(*entropy, 2), **common, **{
            **settings, 'transformer': own, 'act_norm': False,
            'conditional_base': False}), events=False)


def _others(size, condition_size, is_linear, has_conditioner, settings, entropy, common):
    """A flow of numbers: an elementwise layer, a regression, and couplings of residuals."""
    transformer = coupling.get_transformer(settings['transformer'])
    if transformer_lib.num_features(transformer) > 1:
        raise ValueError(
            f'`transformer` {type(transformer).__name__} is of angles, and columns are '
            'none unless `support` says so: give `support=[Circular(), ...]`, an entry '
            'for each column.')
    flow = real_nvp.ConditionalRealNVP(size, condition_size, seed=entropy, **common,
                                       **settings)
    # Tails and shapes are those of residuals: conditions may explain those of targets.
    flow = chain.ConditionalChain([
        tails.Tails(size, common['dtype']),
        gaussianization.Gaussianization(size, _SHAPE_ROWS, common['dtype']),
        standardize.Standardized(flow)], validate_args=common['validate_args'])
    # What a network that is yet to be trained makes of conditions predicts nothing.
    if is_linear:
        flow = standardize.Standardized(flow, linear=True)
    if size > 1:   # A single unit has no other layers.
        if not has_conditioner and settings['conditioner']:
            settings = {**settings, 'conditioner': _ELEMENTWISE}
        flow = chain.ConditionalChain([coupling.ConditionalElementwise(
            size, condition_size, seed=(*entropy, 1), **common,
            **{key: settings[key] for key in (
                'hidden_layers', 'activation', 'transformer', 'conditioner')
               if key in settings}), flow], validate_args=common['validate_args'])
    return standardize.Standardized(flow) if size > 1 or not is_linear else flow


def _settings(flow_arguments):
    """The `DEFAULTS`, but for what was asked for."""
    if {'hidden_layers', 'activation'} & flow_arguments.keys():
        flow_arguments = {'conditioner': None, 'activation': 'silu', **flow_arguments}
    return {**DEFAULTS, **flow_arguments}


def _inner_size(support, event_size):
    """What the flow makes where the support makes events of `event_size`."""
    shape = tf.TensorShape(support.inverse_event_shape([event_size]))
    if shape.rank != 1 or shape[0] is None:
        raise ValueError('`support` must map vectors of static size to vectors '
                         f'[{event_size}]; its inverse gives {shape}.')
    return shape[0]
