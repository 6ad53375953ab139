"""`ConditionalRealNVP`: a stack of couplings as one bijector."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.bijectors import chain
from tfp_conditional.bijectors import coupling
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Activation, DType, Seed, Sizes
from tfp_conditional.flows import stack
from tfp_conditional.networks.network import Conditioner
from tfp_conditional.transformers import transformer as transformer_lib
from tfp_conditional.transformers.transformer import Transformer

MIXING = ('alternate', 'reverse', 'random', 'linear')


class ConditionalRealNVP(chain.ConditionalChain):
    """Real NVP (Dinh et al. 2017) whose couplings see conditions.

    Couplings alternate between the two halves of the units, so that two of them
    transform every unit. With D = 1 there is no other unit to see, and every
    layer is a `ConditionalElementwise`.

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

    flow = tfpc.ConditionalRealNVP(event_size=2, condition_size=3, seed=0)
    policy = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    given = policy.given(tf.ones([256, 3]))
    actions = given.sample()
    log_probs = given.log_prob(actions)
    assert actions.shape == [256, 2] and log_probs.shape == [256]
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes,
                 num_coupling_layers: int = 8, hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu',
                 transformer: str | Transformer = 'affine', mixing: str = 'alternate',
                 act_norm: bool = False, conditional_base: bool = False,
                 conditioner: Conditioner | Callable[..., Any] | None = None,
                 dtype: DType = tf.float32, seed: Seed | None = None,
                 validate_args: bool = False, name: str = 'conditional_real_nvp') -> None:
        """Constructs the flow; all its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          condition_size: `int` S >= 1, or a nest of `int` for a nest of tensors.
          num_coupling_layers: `int` >= 1; two transform every unit.
          hidden_layers: widths of the hidden layers of each network.
          activation: their activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`,
            `'circular_rational_quadratic'` for angles, or a
            `Transformer`. The layers of `'affine'` together scale a unit by exp(8)
            at most, however many they are; for another bound give an
            `Affine(max_log_scale)`.
          mixing: which units a coupling sees. `'alternate'`: the first half and the
            second in turn. `'reverse'`: the first half, of an order that is
            reversed between couplings, which differs from that for odd D.
            `'random'`: a random half, then its complement, then another random
            half. `'linear'`: as `'alternate'`, with an `InvertibleLinear` between
            couplings. Permutations are variables that are not trained: what
            restores the weights, into a flow of another seed too, restores the map.
          act_norm: `bool`, whether an `ActNorm` stands on the data side of each
            coupling.
          conditional_base: `bool`, whether noise is first shifted and scaled by
            functions of the conditions, as if the base distribution had that
            location and scale. With D = 1 the layers themselves do so.
          conditioner: an `MLP(...)` or a `ResidualNetwork(...)`, instead of
            `hidden_layers` and `activation`; or a function (input_size, output_size)
            -> conditioner, called once for each layer. See `ConditionalCoupling`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights and random halves; layers
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
        count = conditions_lib.positive_int(num_coupling_layers,
                                            'num_coupling_layers')
        stack.check_mixing(mixing, MIXING)
        transformer = stack.limited(
            transformer, count if event_size == 1 else (count + 1) // 2)
        num_features = transformer_lib.num_features(transformer)
        if num_features > 1 and (mixing == 'linear' or act_norm or conditional_base):
            raise ValueError(
                f'Angles, of {type(transformer).__name__}, must not be scaled: give '
                "`mixing` 'alternate', 'reverse' or 'random', and neither `act_norm` nor "
                f'`conditional_base`; got mixing={mixing!r}, act_norm={act_norm}, '
                f'conditional_base={conditional_base}.')
        half = np.arange(event_size) < event_size // 2
        other = half[::-1] if mixing == 'reverse' else ~half

        def make(i, **settings):
            mask = half if i % 2 == 0 else other
            num_masked = int(np.sum(mask))
            settings.update(transformer=transformer, conditioner=stack.conditioner_of(
                conditioner, num_features * num_masked,
                (event_size - num_masked) * transformer.num_parameters))
            if event_size == 1:
                return coupling.ConditionalElementwise(**settings)
            return coupling.ConditionalCoupling(mask=mask, **settings)

        layers = stack.layers(
            make, count, mixing, act_norm, conditional_base, conditioner, seed, name,
            event_size=event_size, condition_size=condition_size,
            hidden_layers=hidden_layers, activation=activation, dtype=dtype)
        super().__init__(layers, validate_args=validate_args, parameters=parameters,
                         name=name)
