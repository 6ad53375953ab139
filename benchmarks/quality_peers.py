"""Conditional densities in several packages, behind one interface.

A `Model` is constructed for sizes D and S and fitted to rows. Its class attribute
`settings` holds all that was chosen for it, where a search was made by seed 0 of the
simulated tasks. `load` raises `ImportError` where the package is missing.
"""

import math

import numpy as np


class Model:
    """A conditional density p(y | c) of one package.

    Attributes:
      name: `str`.
      settings: `dict`, keyword arguments of the constructor.
      tuned: name of a task -> those that were better there.
      quick: those of a model that is small.
      standardises: whether it does so by itself, so that it meets the rows as they
        are. Others meet columns of mean 0 and standard deviation 1.
      measured_only: whether it is a baseline for measured data alone.
    """

    name: str
    settings = {}
    tuned = {}
    quick = {}
    standardises = False
    measured_only = False

    @classmethod
    def load(cls):
        """Imports the package, which is no part of the time of a fit."""

    # Subclasses have besides, for float32 arrays:
    #   __init__(event_size, condition_size, seed, **settings)
    #   fit(train, validation)     each (y [N, D], c [N, S]) -> epochs that were run
    #   num_parameters             a property
    #   log_prob(y, c)             [N, D], [N, S] -> [N]
    #   sample(c, n)               [S] -> [n, D]


# AdamW on a cosine to 0, gradients clipped by their global norm, and the weights of
# the epoch of least validation loss.
TRAINING = dict(epochs=60, patience=20, batch_size=128, learning_rate=1e-3,
                weight_decay=1e-4, clip_norm=5.)
# What overfits soon.
SHORT = dict(epochs=8, batch_size=256, learning_rate=1e-3, weight_decay=0.1)


class _Trained(Model):
    """What is trained by the loop here, PyTorch and TensorFlow alike."""

    def __init__(self, event_size, condition_size, seed, training, **settings):
        self.training, self.rng = training, np.random.default_rng(seed)
        self.event_size = event_size
        self.build(event_size, condition_size, seed, **settings)

    def fit(self, train, validation):
        count = len(train[0])
        size = min(self.training['batch_size'], count)
        self.prepare(self.training['epochs'] * (count // size))
        train, validation = (tuple(map(self.tensor, x)) for x in (train, validation))
        best, best_epoch = math.inf, 0
        for epoch in range(1, self.training['epochs'] + 1):
            for rows in self.rng.permutation(count)[:count // size * size].reshape(
                    -1, size):
                if not math.isfinite(self.step(*(x[rows] for x in train))):
                    raise FloatingPointError(f'not finite in epoch {epoch}')
            loss = self.loss(*validation)
            if loss < best:
                best, best_epoch, weights = loss, epoch, self.weights()
            if epoch - best_epoch >= self.training['patience']:
                break
        self.restore(weights)
        return epoch

    # Subclasses have besides:
    #   build(event_size, condition_size, seed, **settings)
    #   prepare(steps)       makes the optimizer
    #   tensor(array), step(y, c), loss(y, c), weights(), restore(weights)


class _Torch(_Trained):
    """PyTorch; `build` sets `self.flow`, a module."""

    @classmethod
    def load(cls):
        import torch
        # Its first optimizer imports a compiler, for seconds.
        torch.optim.AdamW([torch.zeros(1, requires_grad=True)])

    @property
    def num_parameters(self):
        return sum(p.numel() for p in self.flow.parameters() if p.requires_grad)

    def tensor(self, array):
        import torch
        return torch.tensor(array, dtype=torch.float32)

    def prepare(self, steps):
        import torch
        self._optimizer = torch.optim.AdamW(
            self.flow.parameters(), self.training['learning_rate'],
            weight_decay=self.training['weight_decay'])
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, steps)

    def step(self, y, c):
        import torch
        self._optimizer.zero_grad()
        loss = -self._log_prob(y, c).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.flow.parameters(),
                                       self.training['clip_norm'])
        self._optimizer.step()
        self._schedule.step()
        return loss.item()

    def loss(self, y, c):
        import torch
        self.flow.eval()
        with torch.no_grad():
            loss = -self._log_prob(y, c).mean().item()
        self.flow.train()
        return loss

    def weights(self):
        return {key: value.clone() for key, value in self.flow.state_dict().items()}

    def restore(self, weights):
        self.flow.load_state_dict(weights)
        self.flow.eval()

    def log_prob(self, y, c):
        import torch
        with torch.no_grad():
            return self._log_prob(self.tensor(y), self.tensor(c)).numpy()

    def sample(self, c, n):
        import torch
        torch.manual_seed(0)
        with torch.no_grad():
            return self._sample(self.tensor(c), n).numpy()


class Zuko(_Torch):
    """`zuko.flows.NSF`."""

    name = 'zuko'
    settings = dict(
        transforms=5, hidden_features=(128, 128), bins=8, randperm=True,
        training=dict(TRAINING, epochs=40, batch_size=256, learning_rate=5e-3))
    tuned = {'Gaussian mixture': dict(training=dict(learning_rate=2e-3)),
             'Gaussian linear': dict(transforms=3, training=SHORT)}

    @classmethod
    def load(cls):
        super().load()
        import zuko  # pylint: disable=unused-import

    def build(self, event_size, condition_size, seed, **settings):
        import torch
        import zuko
        torch.manual_seed(seed)
        self.flow = zuko.flows.NSF(event_size, condition_size, **settings)

    def _log_prob(self, y, c):
        return self.flow(c).log_prob(y)

    def _sample(self, c, n):
        return self.flow(c).sample((n,))


class ZukoDefaults(Zuko):
    """The same with zuko's own defaults: 3 transforms, widths (64, 64), 8 bins."""

    name = 'zuko, its defaults'
    settings = dict(training=TRAINING)
    tuned = {}


class NFlows(_Torch):
    """nflows' spline couplings, with a permutation and a linear map after each."""

    name = 'nflows'
    settings = dict(
        layers=5, hidden_features=128, blocks=2, bins=10, tail_bound=3., dropout=0.,
        training=dict(TRAINING, epochs=40, batch_size=256, learning_rate=2e-3))
    tuned = {'Gaussian mixture': dict(hidden_features=64),
             'Gaussian linear': dict(hidden_features=50, dropout=0.2,
                                     training=dict(SHORT, epochs=15))}

    @classmethod
    def load(cls):
        super().load()
        import nflows.flows  # pylint: disable=unused-import

    def build(self, event_size, condition_size, seed, layers, hidden_features,
              blocks, bins, tail_bound, dropout):
        import torch
        from nflows import flows, transforms
        from nflows.distributions.normal import StandardNormal
        from nflows.nn.nets import ResidualNet
        torch.manual_seed(seed)
        splines = dict(num_bins=bins, tails='linear', tail_bound=tail_bound)

        def network(in_features, out_features):
            return ResidualNet(
                in_features, out_features, hidden_features, condition_size,
                num_blocks=blocks, dropout_probability=dropout)

        def spline(i):
            # A mask marks what is transformed, which a single unit always is.
            mask = (np.arange(event_size) + i) % 2 if event_size > 1 else np.ones(1)
            return transforms.PiecewiseRationalQuadraticCouplingTransform(
                mask, network, **splines)

        parts = []
        for i in range(layers):
            parts.append(spline(i))
            if event_size > 1:
                parts.append(transforms.RandomPermutation(event_size))
                parts.append(transforms.LULinear(event_size, identity_init=True))
        self.flow = flows.Flow(transforms.CompositeTransform(parts),
                               StandardNormal([event_size]))

    def _log_prob(self, y, c):
        return self.flow.log_prob(y, context=c)

    def _sample(self, c, n):
        return self.flow.sample(n, context=c[None])[0]


class NormFlows(_Torch):
    """normflows' autoregressive neural splines with a linear map between."""

    name = 'normflows'
    settings = dict(
        layers=5, hidden_features=128, blocks=2, bins=8, tail_bound=3., dropout=0.,
        training=dict(TRAINING, epochs=40, batch_size=256, learning_rate=2e-3))
    tuned = {'Gaussian linear': dict(layers=3, training=SHORT)}

    @classmethod
    def load(cls):
        super().load()
        import normflows  # pylint: disable=unused-import

    def build(self, event_size, condition_size, seed, layers, hidden_features,
              blocks, bins, tail_bound, dropout):
        import normflows
        import torch
        torch.manual_seed(seed)
        parts = []
        for _ in range(layers):
            parts.append(normflows.flows.AutoregressiveRationalQuadraticSpline(
                event_size, blocks, hidden_features,
                num_context_channels=condition_size, num_bins=bins,
                tail_bound=tail_bound, dropout_probability=dropout))
            if event_size > 1:
                parts.append(normflows.flows.LULinearPermute(event_size))
        self.flow = normflows.ConditionalNormalizingFlow(
            normflows.distributions.DiagGaussian(event_size, trainable=False), parts)

    def _log_prob(self, y, c):
        return self.flow.log_prob(y, context=c)

    def _sample(self, c, n):
        return self.flow.sample(n, context=c.expand(n, -1))[0]


class FlowJAX(Model):
    """FlowJAX's masked autoregressive splines, by its own `fit_to_data`."""

    name = 'FlowJAX'
    settings = dict(
        flow='masked_autoregressive_flow', knots=8, interval=4., flow_layers=5,
        nn_width=128, nn_depth=2,
        training=dict(TRAINING, epochs=40, batch_size=256, learning_rate=5e-3))
    tuned = {'Gaussian linear': dict(flow_layers=3, training=SHORT)}

    @classmethod
    def load(cls):
        import flowjax.flows  # pylint: disable=unused-import
        import flowjax.train  # pylint: disable=unused-import

    def __init__(self, event_size, condition_size, seed, training, flow, knots,
                 interval, **settings):
        import jax
        from flowjax import bijections, distributions, flows
        self.training = training
        self._key, key = jax.random.split(jax.random.key(seed))
        self.flow = getattr(flows, flow)(
            key, base_dist=distributions.StandardNormal((event_size,)),
            transformer=bijections.RationalQuadraticSpline(knots=knots,
                                                           interval=interval),
            cond_dim=condition_size, **settings)

    def fit(self, train, validation):
        import optax
        from flowjax.train import fit_to_data
        training, count = self.training, len(train[0])
        size = min(training['batch_size'], count, len(validation[0]))
        schedule = optax.cosine_decay_schedule(
            training['learning_rate'], training['epochs'] * (count // size))
        optimizer = optax.chain(
            optax.clip_by_global_norm(training['clip_norm']),
            optax.adamw(schedule, weight_decay=training['weight_decay']))
        # It splits by itself, and drops a batch that is not full, of either.
        rows = tuple(np.concatenate(pair) for pair in zip(train, validation))
        self.flow, losses = fit_to_data(
            self._key, self.flow, rows, optimizer=optimizer, batch_size=size,
            max_epochs=training['epochs'], max_patience=training['patience'],
            val_prop=len(validation[0]) / len(rows[0]), show_progress=False)
        return len(losses['val'])

    @property
    def num_parameters(self):
        import equinox
        import jax
        import paramax
        arrays = equinox.filter(
            self.flow, equinox.is_inexact_array,
            is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable))
        return sum(array.size for array in jax.tree.leaves(arrays))

    def log_prob(self, y, c):
        import equinox
        function = equinox.filter_jit(lambda flow, y, c: flow.log_prob(y, c))
        return np.asarray(function(self.flow, y, c))

    def sample(self, c, n):
        import equinox
        import jax
        function = equinox.filter_jit(
            lambda flow, key, c: flow.sample(key, (n,), condition=c))
        return np.asarray(function(self.flow, jax.random.key(0), c))


class _TensorFlow(_Trained):
    """TensorFlow Probability by hand; `build` sets `self.variables`."""

    @classmethod
    def load(cls):
        import tensorflow_probability  # pylint: disable=unused-import

    @property
    def num_parameters(self):
        return sum(math.prod(v.shape) for v in self.variables)

    def tensor(self, array):
        return np.asarray(array, np.float32)

    def prepare(self, steps):
        import tensorflow as tf
        optimizer = tf.keras.optimizers.AdamW(
            tf.keras.optimizers.schedules.CosineDecay(
                self.training['learning_rate'], steps),
            weight_decay=self.training['weight_decay'],
            global_clipnorm=self.training['clip_norm'])
        optimizer.build(self.variables)

        @tf.function(reduce_retracing=True)
        def step(y, c):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(self._log_prob(y, c))
            gradients = tape.gradient(loss, self.variables)
            optimizer.apply_gradients(zip(gradients, self.variables))
            return loss

        self._step = step

    def step(self, y, c):
        return float(self._step(y, c))

    def loss(self, y, c):
        return -float(np.mean(self.log_prob(y, c)))

    def weights(self):
        return [v.numpy() for v in self.variables]

    def restore(self, weights):
        for variable, value in zip(self.variables, weights):
            variable.assign(value)

    def log_prob(self, y, c):
        import tensorflow as tf
        if not hasattr(self, '_evaluate'):
            self._evaluate = tf.function(self._log_prob, reduce_retracing=True)
        return self._evaluate(tf.constant(y), tf.constant(c)).numpy()


class HandWrittenTFP(_TensorFlow):
    """`tfb.MaskedAutoregressiveFlow` on conditional `tfb.AutoregressiveNetwork`s.

    With `bins` its layers are rational-quadratic splines, else affine.
    """

    name = 'hand-written TFP'
    settings = dict(layers=5, hidden_units=(64, 64), bins=8, bound=4.,
                    training=TRAINING)
    quick = dict(layers=1)

    def build(self, event_size, condition_size, seed, layers, hidden_units, bins,
              bound):
        import tensorflow as tf
        import tensorflow_probability as tfp
        tfb, tfd = tfp.bijectors, tfp.distributions
        tf.keras.utils.set_random_seed(seed)
        networks, parts = [], []
        for i in range(layers):
            network = tfb.AutoregressiveNetwork(
                3 * bins - 1 if bins else 2, event_shape=[event_size],
                conditional=True, conditional_event_shape=[condition_size],
                hidden_units=list(hidden_units), activation='relu')
            network(tf.zeros([1, event_size]),
                    conditional_input=tf.zeros([1, condition_size]))
            networks.append(network)
            parts.append(tfb.MaskedAutoregressiveFlow(
                bijector_fn=_spline(network, bins, bound), name=f'layer_{i}')
                if bins else
                tfb.MaskedAutoregressiveFlow(network, name=f'layer_{i}'))
            parts.append(tfb.Permute(self.rng.permutation(event_size)))
        self.variables = [variable for network in networks
                          for variable in network.trainable_variables]
        self.distribution = tfd.TransformedDistribution(
            tfd.Independent(tfd.Normal(tf.zeros(event_size), 1.), 1),
            tfb.Chain(parts))
        self._names = [f'layer_{i}' for i in range(layers)]

    def _kwargs(self, c):
        return {name: {'conditional_input': c} for name in self._names}

    def _log_prob(self, y, c):
        return self.distribution.log_prob(y, bijector_kwargs=self._kwargs(c))

    def sample(self, c, n):
        import tensorflow as tf
        tf.random.set_seed(0)
        sample = tf.function(lambda c: self.distribution.sample(
            n, bijector_kwargs=self._kwargs(c)))
        return sample(tf.constant(np.tile(c, [n, 1]))).numpy()


def _spline(network, bins, bound, least=1e-3):
    """A `bijector_fn` of splines on [-bound, bound]; parameters 0: the identity."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    def bijector_fn(x, conditional_input):
        widths, heights, slopes = tf.split(
            network(x, conditional_input=conditional_input),
            [bins, bins, bins - 1], axis=-1)
        sizes = [2. * bound * (least + (1. - bins * least) * tf.nn.softmax(z))
                 for z in (widths, heights)]
        return tfp.bijectors.RationalQuadraticSpline(
            *sizes, least + tf.nn.softplus(slopes + math.log(math.e - 1.)),
            range_min=-bound)

    return bijector_fn


class MixtureDensityNetwork(_TensorFlow):
    """An MLP to a mixture of Gaussians of full covariance (Bishop 1994)."""

    name = 'mixture density network, TFP'
    measured_only = True
    settings = dict(components=5, hidden_units=(64, 64), training=TRAINING)

    def build(self, event_size, condition_size, seed, components, hidden_units):
        import tensorflow as tf
        import tensorflow_probability as tfp
        tfb = tfp.bijectors
        tf.keras.utils.set_random_seed(seed)
        entries = event_size * (event_size + 1) // 2
        self._sizes = [components, components * event_size, components * entries]
        self._components, self._fill = components, tfb.FillScaleTriL(
            diag_bijector=tfb.Softplus(), diag_shift=1e-3)
        self._network = tf.keras.Sequential(
            [tf.keras.Input([condition_size])]
            + [tf.keras.layers.Dense(units, 'relu') for units in hidden_units]
            + [tf.keras.layers.Dense(sum(self._sizes))])
        self.variables = [v.value for v in self._network.trainable_variables]

    def _distribution(self, c):
        import tensorflow as tf
        import tensorflow_probability as tfp
        tfd = tfp.distributions
        logits, means, scales = tf.split(self._network(c), self._sizes, axis=-1)
        shape = [-1, self._components]
        return tfd.MixtureSameFamily(
            tfd.Categorical(logits=logits), tfd.MultivariateNormalTriL(
                tf.reshape(means, shape + [self.event_size]),
                self._fill.forward(tf.reshape(
                    scales, shape + [self._sizes[2] // self._components]))))

    def _log_prob(self, y, c):
        return self._distribution(c).log_prob(y)

    def sample(self, c, n):
        return self._distribution(c[None]).sample(n, seed=0)[:, 0].numpy()


class NeuralGaussian(MixtureDensityNetwork):
    """A Gaussian of which an MLP gives the mean and the covariance."""

    name = 'neural Gaussian, TFP'
    settings = dict(components=1, hidden_units=(64, 64), training=TRAINING)


class LinearGaussian(Model):
    """Least squares and the covariance of what it leaves, from all rows."""

    name = 'linear Gaussian'
    measured_only = True

    def __init__(self, event_size, condition_size, seed):
        self.num_parameters = (event_size * (condition_size + 1)
                               + event_size * (event_size + 1) // 2)

    def fit(self, train, validation):
        y, c = (np.concatenate(pair).astype(float)
                for pair in zip(train, validation))
        self._weights = np.linalg.lstsq(self._inputs(c), y, rcond=None)[0]
        rest = y - self._inputs(c) @ self._weights
        self._scale = np.linalg.cholesky(rest.T @ rest / len(y))
        return 1

    @staticmethod
    def _inputs(c):
        return np.concatenate([c, np.ones_like(c[..., :1])], axis=-1)

    def log_prob(self, y, c):
        rest = np.linalg.solve(self._scale, (y - self._inputs(c) @ self._weights).T)
        return (-0.5 * np.sum(rest**2 + math.log(2. * math.pi), axis=0)
                - np.sum(np.log(np.diag(self._scale))))

    def sample(self, c, n):
        noise = np.random.default_rng(0).normal(size=[n, len(self._scale)])
        return self._inputs(c) @ self._weights + noise @ self._scale.T


class Ours(Model):
    """This package: `conditional_density` and `fit`."""

    name = 'tfp_conditional'
    standardises = True
    settings = dict(flow={}, training=dict(jit_compile=True))   # Else, all defaults.
    quick = dict(flow=dict(num_coupling_layers=2), training=dict(jit_compile=False))

    @classmethod
    def load(cls):
        import tfp_conditional  # pylint: disable=unused-import

    @staticmethod
    def support():
        """That of the targets; `None`: found in the data."""

    def __init__(self, event_size, condition_size, seed, flow, training):
        import tfp_conditional as tfpc
        self._dist = tfpc.conditional_density(
            event_size, condition_size, seed=seed, support=self.support(), **flow)
        self._training = dict(training, seed=seed)

    def fit(self, train, validation):
        import tfp_conditional as tfpc
        history = tfpc.fit(self._dist, *train, validation_data=validation,
                           verbose=False, **self._training)
        return len(history['epoch'])

    @property
    def num_parameters(self):
        return sum(math.prod(v.shape) for v in self._dist.trainable_variables)

    def log_prob(self, y, c):
        import tensorflow as tf
        return tf.function(lambda y, c: self._dist.log_prob(
            y, bijector_kwargs={'conditions': c}))(y, c).numpy()

    def levels(self, y, c, count):
        """Of the highest-density regions that just hold `y`, by `count` samples."""
        from tfp_conditional import calibration
        return calibration.expected_coverage(self._dist, y, c, count, seed=0,
                                             verbose=False)

    def sample(self, c, n):
        return self._dist.sample(
            n, bijector_kwargs={'conditions': c}, seed=0).numpy()


class OursWithoutBounds(Ours):
    """The same where hard edges of the targets stay as they are."""

    name = 'tfp_conditional without SoftBounds'

    @staticmethod
    def support():
        import tensorflow_probability as tfp
        return tfp.bijectors.Identity()


MODELS = {model.name: model for model in (
    Ours, OursWithoutBounds, Zuko, ZukoDefaults, NFlows, FlowJAX, NormFlows,
    HandWrittenTFP, MixtureDensityNetwork, NeuralGaussian, LinearGaussian)}
