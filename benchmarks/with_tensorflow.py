"""This package, and TensorFlow Probability by hand."""

import functools
import itertools
import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import peers
import tfp_conditional as tfpc
from tfp_conditional import calibration
from tfp_conditional.networks.network import UNIT_RANGE
from tfp_conditional.transformers.transformer import soften

tfd, tfb = tfp.distributions, tfp.bijectors

# That of all `real_nvp`s: the flow's own depends on the number of layers, that of the
# template does not.
AFFINE = tfpc.Affine()
METHODS = {'sample_and_log_prob': 'experimental_sample_and_log_prob', 'many': 'sample'}


def _normal(event_size):
    return tfd.Independent(tfd.Normal(tf.zeros(event_size), 1.), 1)


def compiled(function, mode):
    if mode == 'eager':
        return function
    return tf.function(function, jit_compile=True if mode == 'XLA' else None)


class TensorFlow(peers.Package):
    """What they share; builders set `self.variables` and `self.distribution`.

    With equal seeds the variables of all `real_nvp`s hold equal values in the same
    order. `kwargs(c)` are those of the bijector.
    """

    modes = ('eager', 'graph', 'XLA')
    mode = 'graph'
    reseed = staticmethod(tf.keras.utils.set_random_seed)

    @property
    def num_parameters(self):
        return sum(math.prod(variable.shape) for variable in self.variables)

    def perturb(self, scale=0.05):
        """Moves every variable away from its initial value; returns `self`."""
        rng = np.random.default_rng(1)
        for variable in self.variables:
            variable.assign_add(self.tensor(rng.normal(scale=scale, size=variable.shape)))
        return self

    @staticmethod
    def tensor(array):
        return tf.constant(array, tf.float32)

    def operation(self, name, mode, n=None):
        if name == 'train':
            self._optimizer = tf.keras.optimizers.Adam(self.learning_rate)
            self._optimizer.build(self.variables)
            return compiled(self.train, mode)
        return compiled(functools.partial(self.call, name, n=n), mode)

    def call(self, name, y, c, n=None):
        """Any operation but `train`."""
        if name in ('forward', 'inverse'):
            return getattr(self.distribution.bijector, name)(y, **self.kwargs(c))
        what = y if name == 'log_prob' else c.shape[0] if n is None else [n, c.shape[0]]
        return getattr(self.distribution, METHODS.get(name, name))(
            what, bijector_kwargs=self.kwargs(c))

    def train(self, y, c):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.call('log_prob', y, c))
        gradients = tape.gradient(loss, self.variables)
        self._optimizer.apply_gradients(zip(gradients, self.variables))
        return loss

    def prepare(self, steps):
        self._optimizer = tf.keras.optimizers.AdamW(
            tf.keras.optimizers.schedules.CosineDecay(self.training['learning_rate'], steps),
            weight_decay=self.training['weight_decay'],
            global_clipnorm=self.training['clip_norm'])
        self._optimizer.build(self.variables)
        self._step = compiled(self.train, self.mode)

    def step(self, y, c):
        return float(self._step(y, c))

    def weights(self):
        return [variable.numpy() for variable in self.variables]

    def restore(self, weights):
        for variable, value in zip(self.variables, weights):
            variable.assign(value)


class Ours(TensorFlow):
    """This package: `flow(base)`, or `conditional_density` and `fit`."""

    given_modes = ('eager', 'graph')

    def real_nvp(self, event_size, condition_size, num_layers, hidden_layers):
        self.flow = tfpc.ConditionalRealNVP(
            event_size, condition_size, num_layers, hidden_layers, transformer=AFFINE,
            seed=self.seed)
        self.variables = self.flow.trainable_variables
        self.distribution = self.flow(_normal(event_size))

    def density(self, event_size, condition_size, **settings):
        self.distribution = tfpc.conditional_density(
            event_size, condition_size, seed=self.seed, **settings)
        self.variables = self.distribution.trainable_variables

    def ways(self):
        return itertools.chain(super().ways(), itertools.product(peers.GIVEN, self.given_modes))

    def call(self, name, y, c, n=None):
        if name == 'many':
            return self.given(c).sample(n)
        if name not in peers.GIVEN:
            return super().call(name, y, c)
        name = peers.GIVEN[name]
        return getattr(self.given(c), METHODS.get(name, name))(*[y] * (name == 'log_prob'))

    def given(self, c):
        return self.distribution.given(c)

    def kwargs(self, c):
        return {'conditions': c}

    def hot(self, operation):
        eager = self.operation(f'given_{operation}', 'eager')
        found = {'`given(c)`, eager': lambda y, c: tf.nest.map_structure(
            lambda x: x.numpy(), eager(y, c))}
        for end, frozen in (('', False), (', frozen', True)):
            for mode, jit_compile in (('XLA', True), ('graph', False)):
                call = self.distribution.compiled(operation, [1], frozen=frozen,
                                                  jit_compile=jit_compile)
                found[f'`compiled`, {mode}{end}'] = (
                    call if operation == 'log_prob' else lambda y, c, call=call: call(c))
        return found

    def fit(self, train, validation):
        history = tfpc.fit(self.distribution, *train, validation_data=validation,
                           verbose=False, seed=self.seed, **self.training or {})
        return len(history['epoch'])

    def levels(self, y, c, count):
        """Of the highest-density regions that just hold `y`, by `count` samples."""
        return calibration.expected_coverage(self.distribution, y, c, count, seed=0,
                                             verbose=False)


class OursWithoutBounds(Ours):
    """The same where hard edges of the targets stay as they are."""

    def density(self, event_size, condition_size, **settings):
        super().density(event_size, condition_size, support=tfb.Identity(), **settings)


class OursMixed(Ours):
    """A mixture of several fits of other first weights."""

    def density(self, event_size, condition_size, members, **settings):
        self.distribution = tfpc.ConditionalEnsemble([
            tfpc.conditional_density(event_size, condition_size, seed=(self.seed, k), **settings)
            for k in range(members)])
        self.variables = self.distribution.trainable_variables


class StockClass(Ours):
    """`tfd.TransformedDistribution` over this package's flow."""

    given_modes = ('eager',)

    def real_nvp(self, **architecture):
        super().real_nvp(**architecture)
        self.base = self.distribution.distribution
        self.distribution = tfd.TransformedDistribution(self.base, self.flow)

    def given(self, c):
        return tfd.TransformedDistribution(self.base, self.flow.condition(c))


class Floor(TensorFlow):
    """The same maths in straight-line TensorFlow: no class, no check, no merge.

    The variables are those that the package makes, found by their names. In `transform`
    the rest is what `limits.py` varies: `first(i, units, c)`, the first product of the
    network of layer i; `merge` joins and splits the halves in each layer; `late` adds up
    log-scales before it sums over them.
    """

    def real_nvp(self, event_size, hidden_layers, **more):
        self.sizes = [event_size // 2, event_size - event_size // 2]
        self.depth = len(hidden_layers)
        made = Ours('real_nvp', event_size=event_size, hidden_layers=hidden_layers,
                    seed=self.seed, **more)
        self.variables = made.variables
        self.layers = [{v.name.split('/')[-1].split(':')[0]: v
                        for v in layer.trainable_variables}
                       for layer in made.flow.bijectors]

    def apart(self, i, units, c):
        layer = self.layers[i]
        return (tf.matmul(c, layer['condition_kernel']) + layer['bias_0']
                + tf.matmul(units, layer['unit_kernel']))

    def joint(self):
        """A `first` of kernels in one piece, as they are now."""
        kernels = [tf.Variable(tf.concat([layer['unit_kernel'], layer['condition_kernel']], 0))
                   for layer in self.layers]
        return lambda i, units, c: (tf.matmul(tf.concat([units, c], axis=-1), kernels[i])
                                    + self.layers[i]['bias_0'])

    def transform(self, value, c, forward, first=None, merge=False, late=False):
        """The value and the log-det, `[B, D]` and `[B]`."""
        halves, scales = tf.split(value, self.sizes, axis=-1), []
        for i, layer in list(enumerate(self.layers))[::-1 if forward else 1]:
            hidden = (first or self.apart)(i, soften(halves[i % 2], UNIT_RANGE), c)
            for j in range(1, self.depth + 1):
                hidden = tf.matmul(tf.nn.relu(hidden), layer[f'kernel_{j}']) + layer[f'bias_{j}']
            shift, log_scale = tf.split(hidden, 2, axis=-1)
            shift = soften(shift, AFFINE.shift_range)
            log_scale = AFFINE.max_log_scale * tf.tanh(log_scale / AFFINE.max_log_scale)
            moved = halves[1 - i % 2]
            if forward:
                halves[1 - i % 2] = moved * tf.exp(log_scale) + shift
            else:
                log_scale = -log_scale
                halves[1 - i % 2] = (moved - shift) * tf.exp(log_scale)
            scales.append(log_scale if late else tf.reduce_sum(log_scale, axis=-1))
            if merge:
                halves = tf.split(tf.concat(halves, axis=-1), self.sizes, axis=-1)
        total = tf.reduce_sum(tf.add_n(scales), axis=-1) if late else sum(scales)
        return tf.concat(halves, axis=-1), total

    def call(self, name, y, c, n=None, **options):
        def base(x):
            return (-0.5 * tf.reduce_sum(x**2, axis=-1)
                    - 0.5 * math.log(2. * math.pi) * sum(self.sizes))

        if name in ('log_prob', 'inverse'):
            x, log_det = self.transform(y, c, forward=False, **options)
            return base(x) + log_det if name == 'log_prob' else x
        x = y if name == 'forward' else tf.random.normal([c.shape[0], sum(self.sizes)])
        y, log_det = self.transform(x, c, forward=True, **options)
        return (y, base(x) - log_det) if name == 'sample_and_log_prob' else y

    def operation(self, name, mode, n=None):
        if name != 'many':
            return super().operation(name, mode)
        # As it is mostly written: the conditions concatenated to every sample.
        first = self.joint()
        return compiled(lambda y, c: tf.reshape(self.call(
            'sample', y, tf.tile(c, [n, 1]), first=first), [n, c.shape[0], -1]), mode)


class _ByName(TensorFlow):
    """A stock chain, which hands `keyword` to the bijectors that have networks."""

    keyword = 'conditions'

    def chain(self, event_size, parts):
        self.distribution = tfd.TransformedDistribution(_normal(event_size),
                                                        tfb.Chain(parts))
        self._names = [part.name for part in parts if part.name.startswith('layer_')]

    def kwargs(self, c):
        return {name: {self.keyword: c} for name in self._names}

    def call(self, name, y, c, n=None):
        # A copy, or TFP's cache would answer without a pass from the second call.
        return super().call(name, y if y is None else tf.identity(y), c, n)


class StockTFP(_ByName):
    """`tfb.Chain` of `tfb.RealNVP`, conditioned by this package's template."""

    def real_nvp(self, event_size, condition_size, num_layers, hidden_layers):
        half, layers, self.variables = event_size // 2, [], []
        for i in range(num_layers):
            masked = event_size - half if i % 2 else half
            template = tfpc.conditional_real_nvp_template(
                hidden_layers, input_size=masked, output_units=event_size - masked,
                condition_size=condition_size, seed=(self.seed, i))
            layers.append(tfb.RealNVP(
                num_masked=-masked if i % 2 else masked,
                shift_and_log_scale_fn=template, name=f'layer_{i}'))
            self.variables += template.trainable_variables
        self.chain(event_size, layers)


class Autoregressive(_ByName):
    """`tfb.MaskedAutoregressiveFlow` of splines, by `tfb.AutoregressiveNetwork`s."""

    keyword = 'conditional_input'

    def density(self, event_size, condition_size, layers, hidden_units, bins, bound):
        least, parts, self.variables = 1e-3, [], []

        def spline(x, conditional_input, network):
            # On [-bound, bound]; of parameters 0 it is the identity.
            widths, heights, slopes = tf.split(
                network(x, conditional_input=conditional_input), [bins, bins, bins - 1], axis=-1)
            return tfb.RationalQuadraticSpline(
                *(2. * bound * (least + (1. - bins * least) * tf.nn.softmax(z))
                  for z in (widths, heights)),
                least + tf.nn.softplus(slopes + math.log(math.e - 1.)), range_min=-bound)

        for i in range(layers):
            network = tfb.AutoregressiveNetwork(
                3 * bins - 1, event_shape=[event_size], conditional=True,
                conditional_event_shape=[condition_size],
                hidden_units=list(hidden_units), activation='relu')
            network(tf.zeros([1, event_size]), conditional_input=tf.zeros([1, condition_size]))
            self.variables += network.trainable_variables
            parts += [tfb.MaskedAutoregressiveFlow(
                bijector_fn=functools.partial(spline, network=network), name=f'layer_{i}'),
                      tfb.Permute(self.rng.permutation(event_size))]
        self.chain(event_size, parts)


class GaussianMixture(TensorFlow):
    """An MLP to a mixture of Gaussians of full covariance (Bishop 1994)."""

    def density(self, event_size, condition_size, components, hidden_units):
        entries = event_size * (event_size + 1) // 2
        self._shape = [-1, components, event_size + entries]
        self._sizes = [event_size, entries]
        self._fill = tfb.FillScaleTriL(diag_bijector=tfb.Softplus(), diag_shift=1e-3)
        self._network = tf.keras.Sequential(
            [tf.keras.Input([condition_size])]
            + [tf.keras.layers.Dense(units, 'relu') for units in hidden_units]
            + [tf.keras.layers.Dense(components * (1 + event_size + entries))])
        self.variables = [v.value for v in self._network.trainable_variables]

    def _distribution(self, c):
        parameters, components = self._network(c), self._shape[1]
        means, scales = tf.split(tf.reshape(parameters[:, components:], self._shape),
                                 self._sizes, axis=-1)
        return tfd.MixtureSameFamily(
            tfd.Categorical(logits=parameters[:, :components]),
            tfd.MultivariateNormalTriL(means, self._fill.forward(scales)))

    def call(self, name, y, c, n=None):
        given = self._distribution(c)
        return given.log_prob(y) if name == 'log_prob' else given.sample(n)
