"""`layers`: a stack of layers of one kind, with what stands between and around them."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import coupling
from tfp_conditional.bijectors import mixing as mixing_lib
from tfp_conditional.core import seeds
from tfp_conditional.networks import network
from tfp_conditional.transformers import affine

tfb = tfp.bijectors

# The most that all affine layers together scale a unit by: exp(8), about 3000.
# Below that float32 loses no more than three of its seven digits, and no number
# of layers overflows. More fits no better, by measurement.
TOTAL_LOG_SCALE = 8.


def check_mixing(mixing, known):
    """Raises unless `mixing` is one of those that a flow knows."""
    if mixing not in known:
        raise ValueError(f'`mixing` must be one of {list(known)}; got {mixing!r}.')


def limited(transformer, times):
    """`transformer`, whose limit is shared by the `times` that it acts on a unit."""
    if isinstance(transformer, str) and transformer == 'affine':
        return affine.Affine(TOTAL_LOG_SCALE / times)
    return coupling.get_transformer(transformer)


def conditioner_of(conditioner, input_size, output_size):
    """What a layer is given for the `conditioner` of a flow."""
    if conditioner is None or isinstance(conditioner, network.Conditioner):
        return conditioner
    if not callable(conditioner):
        raise TypeError(
            '`conditioner` must be an MLP(...), a ResidualNetwork(...) or a '
            'function (input_size, output_size) -> conditioner; got '
            f'{conditioner!r}.')
    return conditioner(input_size, output_size)


def layers(make, count, mixing, act_norm, conditional_base, conditioner, seed, name,
           **common):
    """Returns the parts of a chain, from the data side to the noise side.

    Args:
      make: function (i, seed=..., name=..., **common) -> the i-th layer. Layers alternate:
        two that follow each other transform each unit given all others.
      count: `int` >= 1, the number of layers.
      mixing: `'random'`: units are permuted at random before every other layer, and put
        back in their places on the noise side. `'linear'`: an `InvertibleLinear` stands
        between layers. With any other, nothing does.
      act_norm: `bool`, whether an `ActNorm` stands on the data side of each layer.
      conditional_base: `bool`, whether an affine `ConditionalElementwise` comes last.
      conditioner: that of the flow, for the conditional base.
      seed: `int` or TFP seed, from which each part gets one of its own.
      name: `str`, the scope of the variables.
      **common: what all conditional layers are given: their sizes, hidden_layers,
        activation and dtype.
    """
    entropy = seeds.resolve_seed(seed)
    event_size, dtype = common['event_size'], common['dtype']
    rng, order = np.random.default_rng((*entropy, count)), np.arange(event_size)
    parts = []
    with tf.name_scope(name):
        for i in range(count):
            if mixing == 'random' and i % 2 == 0:
                old, order = order, rng.permutation(event_size)
                parts.append(_permute(old, order, f'permute_{i}'))
            if mixing == 'linear' and i:
                parts.append(mixing_lib.InvertibleLinear(
                    event_size, dtype, seed=(*entropy, i, 1), name=f'linear_{i}'))
            if act_norm:
                parts.append(mixing_lib.ActNorm(event_size, dtype, f'act_norm_{i}'))
            parts.append(make(i, seed=(*entropy, i), name=f'layer_{i}', **common))
        if mixing == 'random':
            parts.append(_permute(order, np.arange(event_size), 'permute'))
        if conditional_base:
            base = affine.Affine()
            parts.append(coupling.ConditionalElementwise(
                **common, transformer=base, seed=(*entropy, count, 1), name='base',
                conditioner=conditioner_of(conditioner, 0,
                                           event_size * base.num_parameters)))
    return parts


def _permute(old, new, name):
    """Moves each unit of the data from its place in `old` to that in `new`."""
    # GPUs hold no variables of int32.
    return tfb.Permute(tf.Variable(new[np.argsort(old)], trainable=False,
                                   dtype=tf.int64, name='permutation'), name=name)
