"""`Affine` and `Additive`: a shift of each unit, and a scale that is bounded."""

import tensorflow as tf

from tfp_conditional.transformers import transformer
from tfp_conditional.transformers.transformer import soften


class Affine(transformer.Transformer):
    """`y = x exp(log_scale) + shift`, which cannot overflow in a layer.

    ```none
    forward:  y = x exp(s) + t            log |dy/dx| =  s
    inverse:  x = (y - t) exp(-s)         log |dx/dy| = -s
    t = r asinh(p_0 / r)                  r = shift_range
    s = m tanh(p_1 / m)                   m = max_log_scale
    ```

    `log_scale` unbounded overflows after a few layers (Dinh et al. 2017 bound it
    by a tanh too); a shift that grows with a network's output without limit loses
    in float32 what it is added to.

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    affine = tfpc.Affine(max_log_scale=1.)
    parameters = tf.constant([[3.], [100.]])            # [2, 1], of one unit
    y, log_det = affine.forward_and_log_det(tf.constant([1.]), parameters)
    tf.debugging.assert_near(log_det, [1.])             # as great as it can be
    ```
    """

    num_parameters = 2

    def __init__(self, max_log_scale: float = 2., shift_range: float = 10.) -> None:
        """Constructs the transformer.

        Args:
          max_log_scale: `float` m > 0: a unit is scaled by exp(-m) to exp(m).
          shift_range: `float` r > 0, up to which a shift is what its parameter is;
            beyond, it grows as the logarithm.

        Raises:
          ValueError: for values that are not positive.
        """
        if not max_log_scale > 0:
            raise ValueError(f'`max_log_scale` must be > 0; got {max_log_scale}.')
        if not shift_range > 0:
            raise ValueError(f'`shift_range` must be > 0; got {shift_range}.')
        self.max_log_scale = float(max_log_scale)
        self.shift_range = float(shift_range)

    def shift_and_log_scale(self, parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `shift [..., d]` and `log_scale [..., d]`."""
        shift, log_scale = tf.unstack(parameters, axis=-2)
        return (soften(shift, self.shift_range),
                self.max_log_scale * tf.tanh(log_scale / self.max_log_scale))

    def forward_and_log_det(self, x: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shift, log_scale = self.shift_and_log_scale(parameters)
        return x * tf.exp(log_scale) + shift, log_scale

    def inverse_and_log_det(self, y: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shift, log_scale = self.shift_and_log_scale(parameters)
        return (y - shift) * tf.exp(-log_scale), -log_scale


class Additive(transformer.Transformer):
    """`y = x + shift` (NICE, Dinh et al. 2014); log-det exactly 0.

    ```none
    forward:  y = x + t       inverse:  x = y - t       t = r asinh(p_0 / r)
    ```

    ```python
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalRealNVP(4, 3, transformer=tfpc.Additive())
    ```
    """

    num_parameters = 1
    is_constant_jacobian = True

    def __init__(self, shift_range: float = 10.) -> None:
        """Constructs the transformer.

        Args:
          shift_range: `float` r > 0, as of `Affine`.

        Raises:
          ValueError: for one that is not positive.
        """
        if not shift_range > 0:
            raise ValueError(f'`shift_range` must be > 0; got {shift_range}.')
        self.shift_range = float(shift_range)

    def shift(self, parameters: tf.Tensor) -> tf.Tensor:
        """Returns `shift [..., d]`."""
        return soften(parameters[..., 0, :], self.shift_range)

    def forward_and_log_det(self, x: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return x + self.shift(parameters), tf.zeros_like(x)

    def inverse_and_log_det(self, y: tf.Tensor,
                            parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return y - self.shift(parameters), tf.zeros_like(y)
