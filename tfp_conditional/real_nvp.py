"""`ConditionalRealNVP`: a stack of couplings as one bijector."""

import numpy as np
import tensorflow as tf

from tfp_conditional import chain
from tfp_conditional import conditions as conditions_lib
from tfp_conditional import coupling
from tfp_conditional import networks
from tfp_conditional import transformers


# The most that all affine layers together scale a unit by: exp(8), about 3000.
# Below that float32 loses no more than three of its seven digits, and no number
# of layers overflows. More fits no better, by measurement.
TOTAL_LOG_SCALE = 8.


class ConditionalRealNVP(chain.ConditionalChain):
    """Real NVP (Dinh et al. 2017) whose couplings see conditions.

    Couplings alternate between the two halves of the units, so that two of them
    transform every unit. With D = 1 there is no other unit to see, and every
    layer is a `ConditionalElementwise`.

    A new flow is the identity, for every condition: the last layer of each
    network starts at 0.

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
    policy = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1), flow)
    states = tf.ones([256, 3])
    actions = policy.sample(256, bijector_kwargs={'conditions': states})
    log_probs = policy.log_prob(actions, bijector_kwargs={'conditions': states})
    assert log_probs.shape == [256]
    ```
    """

    def __init__(self, event_size, condition_size, num_coupling_layers=8,
                 hidden_layers=(128, 128), activation='relu', transformer='affine',
                 dtype=tf.float32, seed=None, validate_args=False,
                 name='conditional_real_nvp'):
        """Constructs the flow; all its variables exist on return.

        Args:
          event_size: `int` D >= 1.
          condition_size: `int` S >= 1, or a nest of `int` for a nest of tensors.
          num_coupling_layers: `int` >= 1; two transform every unit.
          hidden_layers: widths of the hidden layers of each network.
          activation: their activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`, or a
            `Transformer`. The layers of `'affine'` together scale a unit by exp(8) at most, however many they
            are; for another bound give an `Affine(max_log_scale)`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights; layers get different
            ones.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.

        Raises:
          TypeError, ValueError: naming the argument, what was expected and what
            came.
        """
        parameters = dict(locals())
        event_size = conditions_lib.positive_int(event_size, 'event_size')
        count = conditions_lib.positive_int(num_coupling_layers,
                                            'num_coupling_layers')
        if isinstance(transformer, str) and transformer == 'affine':
            times = count if event_size == 1 else (count + 1) // 2
            transformer = transformers.Affine(TOTAL_LOG_SCALE / times)
        entropy = networks.resolve_seed(seed)
        common = dict(
            event_size=event_size, condition_size=condition_size,
            hidden_layers=hidden_layers, activation=activation,
            transformer=transformer, dtype=dtype)
        first_half = np.arange(event_size) < event_size // 2
        layers = []
        with tf.name_scope(name):
            for i in range(count):
                settings = dict(common, seed=(*entropy, i), name=f'layer_{i}')
                if event_size == 1:
                    layers.append(coupling.ConditionalElementwise(**settings))
                else:
                    layers.append(coupling.ConditionalCoupling(
                        mask=first_half if i % 2 == 0 else ~first_half, **settings))
        super().__init__(layers, validate_args=validate_args, name=name)
        self._parameters = self._no_dependency(
            {k: v for k, v in parameters.items() if k != 'self'
             and not k.startswith('__')})
