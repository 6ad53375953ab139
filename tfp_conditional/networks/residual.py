"""`ResidualNetwork`: residual networks."""

import dataclasses

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core.dropout import dropout
from tfp_conditional.core.types import Activation, Seed
from tfp_conditional.networks import network


@dataclasses.dataclass(frozen=True)
class ResidualNetwork(network.Conditioner):
    """Residual network of units and conditions (He et al. 2016, pre-activated).

    ```none
    h_0 = u W_u + c W_c + b
    h_i = h_{i-1} + f(m(f(n(h_{i-1})) W_i + b_i; c)) V_i + v_i,  p = f(n(h_n)) W + b
    ```

    u, m and the initial weights are those of `MLP`, n is layer normalization or
    nothing; V_i and W are 0 at first.

    ```python
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalRealNVP(
        6, 17, conditioner=tfpc.ResidualNetwork(64, num_blocks=2, dropout=0.1))
    ```

    Attributes:
      width: `int`, number of hidden units.
      num_blocks: `int` >= 1.
      activation, conditioning, dropout: as in `MLP`.
      layer_norm: `bool` (Ba et al. 2016).
    """

    width: int = 128
    num_blocks: int = 2
    activation: Activation = 'relu'
    conditioning: str = 'glu'
    layer_norm: bool = False
    dropout: float = 0.

    def __post_init__(self):
        conditions_lib.positive_int(self.width, 'width')
        conditions_lib.positive_int(self.num_blocks, 'num_blocks')
        network.check_settings(self)

    def build(self, input_size: int, condition_spec: conditions_lib.ConditionSpec,
              output_size: int, seed: Seed) -> '_Residual':
        return _Residual(self, input_size, condition_spec, output_size, seed)


class _Residual(network.Network):
    """The network of a `ResidualNetwork`."""

    def __init__(self, settings, input_size, condition_spec, output_size, seed):
        new, width = network.Initializer(condition_spec.dtype, seed), settings.width
        super().__init__(input_size, condition_spec, width, new, 'residual_network')
        self._settings = settings
        self._bias = new.zeros([width], 'bias')
        self._blocks = tuple({
            'norm': network.LayerNorm(width, new) if settings.layer_norm else None,
            'kernel': new.kernel([width, width], f'kernel_{i}'),
            'bias': new.zeros([width], f'bias_{i}'),
            'modulate': network.Modulation(settings.conditioning, condition_spec.total,
                                   width, new),
            'kernel_out': new.zeros([width, width], f'kernel_out_{i}'),
            'bias_out': new.zeros([width], f'bias_out_{i}'),
        } for i in range(settings.num_blocks))
        self._norm = network.LayerNorm(width, new) if settings.layer_norm else None
        self._kernel_out = new.zeros([width, output_size], 'kernel_out')
        self._bias_out = new.zeros([output_size], 'bias_out')

    def __call__(self, units, conditions):
        activation = network.activation_function(self._settings.activation)
        conditions = self._condition_spec.concat(conditions)
        hidden = self._first(units, conditions, self._bias)
        for block in self._blocks:
            branch = activation(_normed(hidden, block['norm']))
            branch = network.dense(branch, block['kernel']) + block['bias']
            branch = activation(block['modulate'](branch, conditions))
            branch = dropout(branch, self._settings.dropout)
            hidden += network.dense(branch, block['kernel_out']) + block['bias_out']
        hidden = activation(_normed(hidden, self._norm))
        return network.dense(hidden, self._kernel_out) + self._bias_out


def _normed(hidden, norm):
    return hidden if norm is None else norm(hidden)
