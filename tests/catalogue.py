"""A named catalogue of the public bijectors and their options.

Each is a constructor, with the options that `tfpc.testing` needs for it, the checks that
it is to pass, and those that are known to fail, by fault of TFP.
"""

import collections
import functools

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

import tfp_conditional as tfpc

tfb = tfp.bijectors

Entry = collections.namedtuple('Entry', 'factory options checks fails')
CATALOGUE = {}

# These need no function but the two that a bijector is traced as for a batch, so each
# bijector is checked for them.
VALUES = ('variables_tracked', 'round_trip', 'log_det', 'depends_on_conditions',
          'gradients', 'dtype', 'sample_log_prob', 'normalisation')
# These trace many more. They are properties of a class, a network's way with batch
# shapes, or a chain, whatever activation, sizes or mask: one of each has them, as a new
# class is to have `ALL`.
MACHINERY = ('freshness', 'releases_tensors', 'broadcasting', 'checkpoint',
             'independent_noise')
# XLA takes seconds to compile a flow: one of each kind has this. It compiles splines and
# what adapts in their own files.
MODES = ('modes_agree',)
ALL = (*VALUES, *MACHINERY, *MODES)


CONDITIONERS = {
    'mlp_film': tfpc.MLP((6, 5), 'tanh', conditioning='film'),
    'mlp_glu_dropout': tfpc.MLP((6, 5), 'tanh', conditioning='glu', dropout=.5),
    'residual': tfpc.ResidualNetwork(6, 1, 'tanh', 'concatenate'),
    'residual_film_norm': tfpc.ResidualNetwork(6, 1, 'tanh', 'film', layer_norm=True),
    'residual_glu': tfpc.ResidualNetwork(6, 2, 'tanh', dropout=.5),
}


def add(name, checks=VALUES, fails=(), skip=(), **options):
    def decorate(factory):
        assert name not in CATALOGUE
        CATALOGUE[name] = Entry(
            factory, options, [check for check in checks if check not in skip], set(fails))
        return factory
    return decorate


class LinearConditioner(tf.Module):
    """A user's conditioner, which needs all batch shapes to be the same."""

    def __init__(self, num_units, condition_size, num_parameters):
        super().__init__()
        rng = np.random.default_rng(num_units)
        self.kernel = tf.Variable(rng.normal(
            size=[num_units + condition_size, num_parameters]))

    def __call__(self, units, conditions):
        return tf.tanh(tf.tensordot(
            tf.concat([units, conditions], axis=-1), self.kernel, 1))


class SinhShift(tfpc.Transformer):
    """`y = sinh(asinh(x) + p)`."""

    num_parameters = 1

    def forward_and_log_det(self, x, parameters):
        y = tf.sinh(tf.asinh(x) + parameters[..., 0, :])
        return y, (tf.math.log1p(y ** 2) - tf.math.log1p(x ** 2)) / 2

    def inverse_and_log_det(self, y, parameters):
        x = tf.sinh(tf.asinh(y) - parameters[..., 0, :])
        return x, (tf.math.log1p(x ** 2) - tf.math.log1p(y ** 2)) / 2


class ShiftByMean(tfpc.ConditionalBijector):
    """`y = x + mean(c)`, with a log-det that is one number for the batch."""

    def _forward_and_log_det(self, x, conditions):
        shift = tf.reduce_mean(conditions, -1, keepdims=True)
        return x + shift, tf.zeros([], self.dtype)

    def _inverse_and_log_det(self, y, conditions):
        shift = tf.reduce_mean(conditions, -1, keepdims=True)
        return y - shift, tf.zeros([], self.dtype)


def real_nvp(event_size=2, condition_size=3, num_coupling_layers=2,
             hidden_layers=(8,), dtype=tf.float64, seed=0, **kwargs):
    return tfpc.ConditionalRealNVP(event_size, condition_size, num_coupling_layers,
                                   hidden_layers, dtype=dtype, seed=seed, **kwargs)


def coupling(event_size=3, condition_size=2, hidden_layers=(8,), dtype=tf.float64,
             seed=0, **kwargs):
    return tfpc.ConditionalCoupling(event_size, condition_size, seed=seed,
                                    hidden_layers=hidden_layers, dtype=dtype,
                                    **kwargs)


def elementwise(event_size=2, condition_size=2, hidden_layers=(8,),
                dtype=tf.float64, seed=0, **kwargs):
    return tfpc.ConditionalElementwise(
        event_size, condition_size, hidden_layers, dtype=dtype, seed=seed, **kwargs)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape)


def network_in_closure():
    kernel = tf.Variable(normal(1 + 2, 2 * 2))
    return lambda units, conditions: tf.tensordot(
        tf.concat([units, conditions], -1), kernel, 1)


for _name, _checks, _options in (
        ('d1', VALUES, dict(event_size=1)),
        ('d3_3_layers_tanh', VALUES, dict(
            event_size=3, num_coupling_layers=3, activation='tanh')),
        ('d8_two_hidden_elu_float32', VALUES, dict(
            event_size=8, condition_size=1, hidden_layers=(6, 5), activation='elu',
            dtype=tf.float32)),
        ('nested_conditions', (*VALUES, *MACHINERY), dict(
            condition_size=(2, {'a': 1, 'b': (1,)}))),
        ('spline', VALUES, dict(transformer=tfpc.RationalQuadratic(4))),
        ('reverse_validate_args', VALUES, dict(
            event_size=5, mixing='reverse', validate_args=True)),
        ('random_base', VALUES, dict(
            event_size=5, mixing='random', conditional_base=True)),
        ('linear_act_norm', (*VALUES, *MACHINERY), dict(
            event_size=3, mixing='linear', act_norm=True)),
        ('own_activation', VALUES, dict(
            num_coupling_layers=1, activation=lambda x: x * tf.sigmoid(x)))):
    add(f'real_nvp_{_name}', _checks)(functools.partial(real_nvp, **_options))

for _name, _checks, _options in (
        ('last_masked_affine_options', VALUES, dict(
            mask=[False, False, True], transformer=tfpc.Affine(0.5, 2.))),
        ('interleaved_no_hidden_layer', VALUES, dict(
            event_size=5, mask=[True, False, True, False, True], hidden_layers=())),
        ('ends_free', VALUES, dict(event_size=4, mask=[False, True, True, False])),
        ('additive_dict', VALUES, dict(
            condition_size={'a': 1, 'b': 1}, transformer='additive')),
        ('spline_float32', VALUES, dict(
            transformer=tfpc.RationalQuadratic(3, bound=2.), dtype=tf.float32)),
        ('own_transformer', VALUES, dict(transformer=SinhShift())),
        *((name, VALUES + {'mlp_film': ('broadcasting', *MODES), 'residual': (
            'broadcasting',), 'residual_film_norm': MACHINERY}.get(name, ()),
           dict(conditioner=conditioner)) for name, conditioner in CONDITIONERS.items())):
    add(f'coupling_{_name}', _checks)(functools.partial(coupling, **_options))


@add('coupling_own_conditioner', ALL)
def _():
    return coupling(conditioner=LinearConditioner(1, 2, 4))


@add('coupling_conditioner_in_closure')
def _():
    return coupling(conditioner=network_in_closure())


@add('coupling_template_conditioner')
def _():
    template = tfpc.conditional_real_nvp_template(
        (8,), input_size=1, output_units=2, condition_size=2, dtype=tf.float64)
    return coupling(conditioner=template.conditioner)


add('autoregressive', ALL)(lambda: tfpc.ConditionalAutoregressive(
    3, 2, [1, 2, 0], (4,), 'tanh', dtype=tf.float64, seed=0))
add('masked_autoregressive_flow')(lambda: tfpc.ConditionalMaskedAutoregressiveFlow(
    3, 3, 2, mixing='linear', act_norm=True, conditional_base=True, conditioner=tfpc.MLP(
        (6, 5), 'tanh', conditioning='film'), dtype=tf.float64, seed=0))


@add('embedding', (*VALUES, *MACHINERY))
def _():
    return tfpc.ConditionalEmbedding(
        coupling(), tf_keras.Sequential([tf_keras.layers.Dense(2, dtype='float64')]),
        3)


# Next to a bound SoftBounds is so steep that what a perturbed flow leaks there lies in a
# fiftieth of a softness, between the points of that check's grid. For XLA each part has
# a file of its own.
@add('density', (*VALUES, *MACHINERY), skip=['normalisation'])
def _():
    """The parts that `conditional_density` makes, small, and having learnt."""
    flow = tfpc.conditional_density(
        2, 3, num_coupling_layers=1, hidden_layers=(6,), dtype=tf.float64,
        seed=0).bijector
    rng = np.random.default_rng(0)
    y, c = rng.uniform(-2., 2., [2000, 2]), rng.normal(size=[2000, 3])
    c[:, :2] += y
    flow.adapt(y, c)
    return flow


add('elementwise_d1', (*VALUES, *MACHINERY))(functools.partial(elementwise, 1))
add('elementwise_own_transformer')(functools.partial(
    elementwise, transformer=SinhShift()))
add('own_bijector', ALL)(lambda: ShiftByMean(2, 3, dtype=tf.float64))


@add('chain_permute_shift', (*VALUES, *MACHINERY))
def _():
    return tfpc.ConditionalChain([
        tfb.Shift(tf.Variable(normal(3))), coupling(), tfb.Permute([2, 0, 1]),
        coupling(seed=1), tfb.Scale(tf.Variable(normal(3)))])


@add('chain_tanh', support=(-1., 1.))
def _():
    return tfpc.ConditionalChain([tfb.Tanh(), coupling(2)])


@add('chain_nested', ALL)
def _():
    return tfpc.ConditionalChain([
        tfb.Chain([tfb.Invert(tfb.Chain([tfb.Shift(normal(3)), coupling()])),
                   tfb.Permute([2, 0, 1])]),
        tfpc.ConditionalChain([elementwise(3), tfb.Scale(np.float64(2.))])])


@add('chain_with_conditioned', (*VALUES, 'freshness', 'broadcasting'))
def _():
    return tfpc.ConditionalChain([
        coupling(seed=1).condition(normal(2)), elementwise(3)])


# The log-det of TFP's own part is not finite once a sigmoid rounds to 1.
@add('chain_to_simplex', (*VALUES, 'broadcasting'), support=(0., 1.), fails=['gradients'])
def _():
    return tfpc.ConditionalChain([tfb.IteratedSigmoidCentered(), coupling(2)])


@add('given_one', event_size=2)
def _():
    return real_nvp().condition(normal(3))


@add('given_batch', ALL, event_size=3)
def _():
    return coupling(condition_size={'a': 1, 'b': 2}).condition(
        {'a': normal(2, 1), 'b': normal(2, 2)})


@add('invert', (*VALUES, *MACHINERY), event_size=3, condition_size=2)
def _():
    return tfb.Invert(coupling())


@add('invert_given', (*VALUES, 'broadcasting'), event_size=3)
def _():
    return tfb.Invert(coupling().condition(normal(2, 2)))


@add('stock_chain_of_given', ('round_trip', 'freshness'), event_size=3, dtype=tf.float64,
     fails=['freshness'])
def _():
    return tfb.Chain([tfb.Shift(normal(3)), coupling().condition(normal(2))])


@add('stock_chain', (*VALUES, 'freshness', 'releases_tensors'), event_size=3,
     condition_size=2, dtype=tf.float64, fails=['freshness', 'releases_tensors'],
     make_kwargs=lambda c: {'conditional_coupling': {'conditions': c}})
def _():
    return tfb.Chain([tfb.Shift(normal(3)), coupling()])
