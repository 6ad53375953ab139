"""`ConditionalMaskedAutoregressiveFlow`: a stack of autoregressive layers."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import autoregressive
from tfp_conditional.bijectors import chain
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Activation, DType, Seed, Sizes
from tfp_conditional.flows import stack
from tfp_conditional.networks.mlp import MLP
from tfp_conditional.transformers.transformer import Transformer

MIXING = ('reverse', 'random', 'linear')


class ConditionalMaskedAutoregressiveFlow(chain.ConditionalChain):
    """Masked autoregressive flow (Papamakarios et al. 2017), conditioned.

    A stack of `ConditionalAutoregressive`, every other one in reversed order, so
    that two of them transform each unit given all others. A density is one pass of
    each network; a sample is D passes. Where samples have to be fast and densities
    need not, `tfpc.ConditionalChain([tfb.Invert(flow)])` is the inverse
    autoregressive flow (Kingma et al. 2016, arXiv 1606.04934).

    A new flow is the identity, or with `mixing='linear'` a permutation, for every
    condition: the last layer of each network starts at 0.

    #### Shapes

    `x`, `y`: `[..., D]`, `conditions`: `[..., S]`; batch shapes broadcast,
    right-aligned. `forward` refuses to expand `x`; see `ConditionalBijector`.

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalMaskedAutoregressiveFlow(
        event_size=4, condition_size=3, num_layers=2, seed=0)
    posterior = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros(4), 1.), 1), flow)
    observations = tf.ones([256, 3])
    log_probs = posterior.log_prob(
        tf.zeros([256, 4]), bijector_kwargs={'conditions': observations})
    samples = posterior.sample(256, bijector_kwargs={'conditions': observations})
    assert samples.shape == [256, 4]
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes, num_layers: int = 5,
                 hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu',
                 transformer: str | Transformer = 'affine', mixing: str = 'reverse',
                 act_norm: bool = False, conditional_base: bool = False,
                 conditioner: MLP | None = None, dtype: DType = tf.float32,
                 seed: Seed | None = None, validate_args: bool = False,
                 name: str = 'conditional_masked_autoregressive_flow') -> None:
        """Constructs the flow; all its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          condition_size: `int` S >= 1, or a nest of `int` for a nest of tensors.
          num_layers: `int` >= 1; each transforms every unit.
          hidden_layers: widths of the hidden layers of each network; at least D,
            if each unit is to depend on all before it.
          activation: their activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`, or a
            `Transformer`. The layers of `'affine'` together scale a unit by exp(8)
            at most, however many they are; for another bound give an
            `Affine(max_log_scale)`.
          mixing: in which order units come. `'reverse'`: as they are and reversed, in
            turn. `'random'`: a random order, then its reverse, then another random
            order. `'linear'`: as `'reverse'`, with an `InvertibleLinear` between
            layers. Permutations are variables that are not trained: what restores
            the weights, into a flow of another seed too, restores the map.
          act_norm: `bool`, whether an `ActNorm` stands on the data side of each
            layer.
          conditional_base: `bool`, whether noise is first shifted and scaled by
            functions of the conditions, as if the base distribution had that
            location and scale. With D = 1 the layers themselves do so.
          conditioner: an `MLP(...)`, instead of `hidden_layers` and `activation`, which
            each layer gives masks; no other network can be. See
            `ConditionalAutoregressive`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights and random orders; layers
            get different ones.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what
            came.
        """
        seed = seeds.resolve_seed(seed)
        parameters = dict(locals())
        event_size = conditions_lib.positive_int(event_size, 'event_size')
        count = conditions_lib.positive_int(num_layers, 'num_layers')
        stack.check_mixing(mixing, MIXING)
        transformer = stack.limited(transformer, count)
        order = np.arange(event_size)

        def make(i, **settings):
            return autoregressive.ConditionalAutoregressive(
                order=order if i % 2 == 0 else order[::-1], transformer=transformer,
                conditioner=conditioner, **settings)

        layers = stack.layers(
            make, count, mixing, act_norm, conditional_base, conditioner, seed, name,
            event_size=event_size, condition_size=condition_size,
            hidden_layers=hidden_layers, activation=activation, dtype=dtype)
        super().__init__(layers, validate_args=validate_args, parameters=parameters,
                         name=name)
