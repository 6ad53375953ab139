"""`MLP`: multilayer perceptrons."""

from collections.abc import Sequence
import dataclasses

import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.dropout import dropout
from tfp_conditional.core.types import Activation, Seed
from tfp_conditional.networks import network


@dataclasses.dataclass(frozen=True)
class MLP(network.Conditioner):
    """Multilayer perceptron of units and conditions, its last layer 0 at first.

    ```none
    h_1 = u W_u + c W_c + b_1,  h_i = m(f(h_{i-1}) W_i + b_i; c),  p = f(h_n) W + b
    u = r asinh(units / r), r = 10
    m(v; c) = v, or v (1 + c G + g) + c B, or v sigmoid(c G + g)
    ```

    The first layer is a sum, so that conditions whose batch shape is smaller than
    that of the units are multiplied once, not once for each sample.

    Kernels are He-normal, biases and the last layer 0: a new network gives 0.

    ```python
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalRealNVP(
        6, 17, conditioner=tfpc.MLP((64, 64), 'silu', conditioning='film'))
    ```

    Attributes:
      hidden_layers: widths of the hidden layers.
      activation: their activation: a callable or a name, as in `tf.nn`.
      conditioning: how the conditions enter after the first layer: not, for
        `'concatenate'`; by `'film'` (Perez et al. 2018) or by a gated linear unit,
        `'glu'` (Dauphin et al. 2017).
      dropout: fraction of hidden units dropped in training; see `tfpc.training`.
    """

    hidden_layers: Sequence[int] = (128, 128)
    activation: Activation = 'relu'
    conditioning: str = 'concatenate'
    dropout: float = 0.

    def __post_init__(self):
        object.__setattr__(self, 'hidden_layers',
                           network.check_hidden_layers(self.hidden_layers))
        network.check_settings(self)

    def build(self, input_size: int, condition_spec: conditions_lib.ConditionSpec,
              output_size: int, seed: Seed) -> 'MLPNetwork':
        return MLPNetwork(input_size, condition_spec, output_size, seed=seed,
                          **vars(self))


class MLPNetwork(network.Network):
    """The network of an `MLP`."""

    def __init__(self, input_size, condition_spec, output_size, hidden_layers,
                 activation='relu', conditioning='concatenate', dropout=0.,
                 seed=None):
        new = network.Initializer(condition_spec.dtype, seed)
        sizes = [*hidden_layers, output_size]
        super().__init__(input_size, condition_spec, sizes[0], new, 'mlp')
        self._activation, self._dropout = activation, dropout
        self._kernels = tuple(new.kernel([m, n], f'kernel_{i + 1}')
                              for i, (m, n) in enumerate(zip(sizes, sizes[1:])))
        self._biases = tuple(new.zeros([n], f'bias_{i}')
                             for i, n in enumerate(sizes))
        self._modulations = tuple(
            network.Modulation(conditioning, condition_spec.total, n, new)
            for n in hidden_layers[1:])
        for variable in (self._kernels[-1:] or
                         [self._condition_kernel, self._unit_kernel]):
            if variable is not None:
                variable.assign(tf.zeros_like(variable))

    def __call__(self, units, conditions):
        """Returns parameters `[..., output_size]`.

        Args:
          units: `[..., input_size]`.
          conditions: nest of `[..., S]` that broadcasts to the batch of `units`.
        """
        activation = network.activation_function(self._activation)
        conditions = self._condition_spec.concat(conditions)
        hidden = self._first(units, conditions, self._biases[0])
        for i, (kernel, bias) in enumerate(zip(self._kernels, self._biases[1:])):
            hidden = network.dense(dropout(activation(hidden), self._dropout), kernel) + bias
            if i < len(self._modulations):
                hidden = self._modulations[i](hidden, conditions)
        return hidden
