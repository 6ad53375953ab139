"""`ConditionalAutoregressive`: each unit given those before it."""

from collections.abc import Sequence
import functools

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfp_conditional.bijectors import coupling
from tfp_conditional.bijectors import settings
from tfp_conditional.core import bijector
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Activation, DType, Seed, Sizes
from tfp_conditional.networks import made
from tfp_conditional.networks import mlp
from tfp_conditional.networks.mlp import MLP
from tfp_conditional.transformers import transformer as transformer_lib
from tfp_conditional.transformers.transformer import Transformer


class ConditionalAutoregressive(bijector.ConditionalBijector):
    """One layer of a masked autoregressive flow, conditioned.

    ```none
    forward:  y_i = T(x_i; p_i(y_<i, c))          log-det =  sum_i log |dT/dx_i|
    inverse:  x_i = T^-1(y_i; p_i(y_<i, c))       log-det = -sum_i log |dT/dx_i|
    ```

    `y_<i` are the units that come before unit i in `order`, T is the transformer,
    and p is one `MADE` (Papamakarios et al. 2017, arXiv 1705.07057). `inverse`, the
    density, is one pass of it for all units. `forward`, the sample, computes one
    unit after the other, by D passes of the hidden layers. For fast samples and
    slow densities turn the layer around: `tfb.Invert(layer)` in a
    `ConditionalChain` is a layer of an inverse autoregressive flow (Kingma et al.
    2016, arXiv 1606.04934).

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfb = tfp.bijectors

    layer = tfpc.ConditionalAutoregressive(event_size=4, condition_size=3)
    x = layer.inverse(tf.ones([5, 4]), conditions=tf.ones([5, 3]))   # one pass
    fast_sampler = tfpc.ConditionalChain([tfb.Invert(layer)])
    y = fast_sampler.forward(tf.ones([5, 4]), conditions=tf.ones([5, 3]))
    ```
    """

    def __init__(self, event_size: int, condition_size: Sizes,
                 order: npt.ArrayLike | None = None,
                 hidden_layers: Sequence[int] = (128, 128),
                 activation: Activation = 'relu',
                 transformer: str | Transformer = 'affine',
                 conditioner: MLP | None = None, dtype: DType = tf.float32,
                 seed: Seed | None = None, validate_args: bool = False,
                 name: str = 'conditional_autoregressive') -> None:
        """Constructs the layer; its variables exist on return.

        Args:
          event_size: `int` D >= 1; with 1 the parameters come from the conditions
            alone.
          condition_size: `int` S, or a nest of `int`.
          order: D integers, a permutation of 0 ... D - 1: the indices of the units
            in the order in which they come. Default: 0, 1, ... D - 1.
          hidden_layers: widths of the network's hidden layers; at least D, if each
            unit is to depend on all before it.
          activation: its activation: a callable or a name, as in `tf.nn`.
          transformer: `'affine'`, `'additive'`, `'rational_quadratic'`, or a
            `Transformer`.
          conditioner: an `MLP(...)`, which is given masks; no other network can be.
            Default: `MLP(hidden_layers, activation)`.
          dtype: floating dtype.
          seed: `int` or TFP seed for the initial weights.
          validate_args: `bool`, whether to check that values are finite.
          name: `str`.

        Raises:
          TypeError, ValueError: for an `order` that is no permutation, for sizes
            that are no positive integers, and for another `conditioner`.
        """
        seed = seeds.resolve_seed(seed)
        parameters = dict(locals())
        self._transformer = coupling.get_transformer(transformer)
        if transformer_lib.num_features(self._transformer) > 1:
            raise ValueError(
                f'`transformer` {type(self._transformer).__name__} must stand in a '
                'coupling, as in `ConditionalRealNVP`: an autoregressive network sees '
                'its units as they are.')
        super().__init__(
            event_size, condition_size, dtype=dtype, validate_args=validate_args,
            parameters=parameters, name=name)
        self._order = _check_order(order, self.event_size)
        if conditioner is None:
            conditioner = mlp.MLP(hidden_layers, activation)
        _check_conditioner(conditioner)
        with tf.name_scope(self.name):
            self._network = made.MADE(
                self._order, self.condition_spec, self._transformer.num_parameters,
                conditioner, seed)
        self._settings = settings.Settings(
            self.name, condition_size=self.condition_size, order=self._order,
            transformer=self._transformer, hidden_layers=conditioner.hidden_layers,
            activation=conditioner.activation, modulation=(
                None if conditioner.conditioning == 'concatenate'
                else conditioner.conditioning))

    def _forward_and_log_det(self, x, conditions):
        batch_shape, size = tf.shape(x)[:-1], self.event_size
        network = self._network.one_by_one(conditions, batch_shape)
        # Those of N rows, each [N, 1], in the order in which they come.
        units = _reordered(tf.split(tf.reshape(x, [-1, size]), size, 1), self._order)
        array = functools.partial(
            tf.TensorArray, x.dtype, size, element_shape=units[0].shape)
        xs = array().unstack(units)

        def step(i, known, ys, log_det):
            y, unit_log_det = self._transformer.forward_and_log_det(
                xs.read(i), network.parameters(i, known))
            for part in (y, unit_log_det):   # A user's transformer may not know it.
                part.set_shape(log_det.shape)
            return (i + 1, network.reveal(i, y, known), ys.write(i, y),
                    log_det + unit_log_det)

        *_, ys, log_det = tf.while_loop(
            lambda i, *_: i < size, step,
            (0, network.nothing_known, array(), tf.zeros_like(units[0])),
            maximum_iterations=size)
        y = tf.concat(_reordered(tf.unstack(ys.stack()), np.argsort(self._order)), 1)
        return tf.reshape(y, tf.shape(x)), tf.reshape(log_det, batch_shape)

    def _inverse_and_log_det(self, y, conditions):
        x, log_det = self._transformer.inverse_and_log_det(
            y, self._network(y, conditions))
        return x, tf.reduce_sum(log_det, -1)


def _check_conditioner(conditioner):
    """Raises for networks that have no masks, and for which nobody makes them."""
    if type(conditioner) is not mlp.MLP:
        raise TypeError(
            '`conditioner` of an autoregressive layer must be an MLP(...), which is '
            'given the masks that hide from each unit itself and those after it; got '
            f'{conditioner!r}. A network without masks is not autoregressive: use one in '
            'ConditionalRealNVP or ConditionalCoupling, where any will do.')


def _reordered(parts, order):
    return [parts[i] for i in order]


def _check_order(order, event_size):
    """Returns `order` as an array, or raises."""
    if order is None:
        return np.arange(event_size)
    order = np.asarray(order)
    if order.dtype.kind not in 'iu':
        raise TypeError(f'`order` must be integers; got dtype {order.dtype}.')
    if not np.array_equal(np.sort(order, None), np.arange(event_size)):
        raise ValueError(f'`order` must be a permutation of 0 ... {event_size - 1}; '
                         f'got {order.tolist()}.')
    return order
