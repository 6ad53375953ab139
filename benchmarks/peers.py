"""The same conditional affine Real NVP in several packages, behind one interface.

An `Implementation` offers operations on a batch, each a function of its own kind
of tensors `(y [B, D], c [B, S])`: those of `OPERATIONS`, of which `train` is a loss,
its gradients and one step of Adam, `forward` (noise to data) and `inverse`; `Ours`
also those of `GIVEN`. A package that is not installed raises `ImportError`, one that
cannot do this `NotImplementedError`.
"""

import dataclasses
import functools
import inspect
import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc

tfd, tfb = tfp.distributions, tfp.bijectors

OPERATIONS = ('log_prob', 'sample', 'sample_and_log_prob', 'train')
CALLS = OPERATIONS[:3]
# The same of `given(c)`, which in other packages is the only way.
GIVEN = {f'given_{operation}': operation for operation in CALLS}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What every implementation builds: affine couplings, ReLU networks."""
    event_size: int = 8
    condition_size: int = 16
    num_layers: int = 8
    hidden_layers: tuple = (128, 128)


class Implementation:
    """One package's flow.

    Attributes:
      name: `str`.
      modes: names of the ways in which this package runs.
    """

    name: str
    modes: tuple

    def __init__(self, architecture, learning_rate=1e-5, seed=0):
        """Constructs the flow.

        Args:
          architecture: `Architecture`.
          learning_rate: that of Adam. By default so small that training for the
            sake of timing does not change what is timed.
          seed: `int`.
        """
        self.architecture = architecture
        self.learning_rate = learning_rate
        self.build(architecture, seed)

    def operation(self, name, mode):
        """Returns a new function `(y, c)` that runs the operation in that mode."""
        raise NotImplementedError

    # Subclasses have besides:
    #   build(architecture, seed)
    #   num_parameters            a property
    #   tensor(array)             float32 of the package's own kind
    #   sampler(n, mode)          a new function (c) -> n samples each, [n, B, D]
    #   hot(operation, batch)     by name, functions (y, c) from NumPy to NumPy


class _TensorFlow(Implementation):
    """What the TensorFlow implementations share.

    With equal seeds their `networks` hold equal values in the same order.
    """

    modes = ('eager', 'graph', 'XLA')

    def _finish(self, architecture, networks):
        self.base = tfd.Independent(
            tfd.Normal(tf.zeros(architecture.event_size), 1.), 1)
        self.networks = networks

    @property
    def variables(self):
        return [variable for network in self.networks
                for variable in network.trainable_variables]

    @property
    def num_parameters(self):
        return sum(math.prod(variable.shape) for variable in self.variables)

    def perturb(self, scale=0.05, seed=1):
        """Moves every variable away from its initial value; returns `self`."""
        rng = np.random.default_rng(seed)
        for variable in self.variables:
            variable.assign_add(tf.cast(
                rng.normal(scale=scale, size=variable.shape), tf.float32))
        return self

    tensor = staticmethod(lambda array: tf.constant(array, tf.float32))

    def operation(self, name, mode):
        if name == 'train':
            self._optimizer = tf.keras.optimizers.Adam(self.learning_rate)
            self._optimizer.build(self.variables)
        return self.compiled(getattr(self, name), mode)

    def sampler(self, n, mode):
        return self.compiled(lambda c: self.many(c, n), mode)

    @staticmethod
    def compiled(function, mode):
        if mode == 'eager':
            return function
        return tf.function(function, jit_compile=True if mode == 'XLA' else None)

    def train(self, y, c):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.log_prob(y, c))
        gradients = tape.gradient(loss, self.variables)
        self._optimizer.apply_gradients(zip(gradients, self.variables))
        return loss


class Ours(_TensorFlow):
    """This package: `flow(base)`."""

    name = 'tfp_conditional'

    def build(self, architecture, seed):
        self.flow = tfpc.ConditionalRealNVP(
            architecture.event_size, architecture.condition_size,
            architecture.num_layers, architecture.hidden_layers, seed=seed)
        self._finish(architecture,
                     [layer._conditioner for layer in self.flow.bijectors])
        self.distribution = self.flow(self.base)

    def given(self, c):
        return self.distribution.given(c)

    def log_prob(self, y, c):
        return self.distribution.log_prob(y, bijector_kwargs={'conditions': c})

    def sample(self, y, c):
        return self.distribution.sample(
            y.shape[0], bijector_kwargs={'conditions': c})

    def sample_and_log_prob(self, y, c):
        return self.distribution.experimental_sample_and_log_prob(
            y.shape[0], bijector_kwargs={'conditions': c})

    def given_log_prob(self, y, c):
        return self.given(c).log_prob(y)

    def given_sample(self, y, c):
        return self.given(c).sample()

    def given_sample_and_log_prob(self, y, c):
        return self.given(c).experimental_sample_and_log_prob()

    def many(self, c, n):
        return self.given(c).sample(n)

    def hot(self, operation, batch):
        eager = getattr(self, f'given_{operation}')
        found = {'`given(c)`, eager': lambda y, c: _to_numpy(eager(y, c))}
        for end, frozen in (('', False), (', frozen', True)):
            for mode, jit_compile in (('XLA', True), ('graph', False)):
                call = self.distribution.compiled(
                    operation, [batch], frozen=frozen, jit_compile=jit_compile)
                found[f'`compiled`, {mode}{end}'] = (
                    call if operation == 'log_prob'
                    else lambda y, c, call=call: call(c))
        return found

    def forward(self, x, c):
        return self.flow.forward(x, conditions=c)

    def inverse(self, y, c):
        return self.flow.inverse(y, conditions=c)


class StockClass(Ours):
    """`tfd.TransformedDistribution` over this package's flow."""

    name = 'stock class over the flow'

    def build(self, architecture, seed):
        super().build(architecture, seed)
        self.distribution = tfd.TransformedDistribution(self.base, self.flow)

    def given(self, c):
        return tfd.TransformedDistribution(self.base, self.flow.condition(c))


class Floor(_TensorFlow):
    """The same maths in straight-line TensorFlow: no class, no check, no merge.

    The variables are those that `Ours` makes.
    """

    name = 'hand-written TensorFlow'

    def build(self, architecture, seed):
        self._flow = tfpc.ConditionalRealNVP(
            architecture.event_size, architecture.condition_size,
            architecture.num_layers, architecture.hidden_layers, seed=seed)
        self._finish(architecture,
                     [layer._conditioner for layer in self._flow.bijectors])
        self._max_log_scale = 8. / ((architecture.num_layers + 1) // 2)

    def _shift_and_log_scale(self, layer, units, c):
        network = self.networks[layer]
        hidden = tf.matmul(c, network._condition_kernel) + network._biases[0]
        hidden += tf.matmul(10. * tf.asinh(units / 10.), network._unit_kernel)
        for kernel, bias in zip(network._kernels, network._biases[1:]):
            hidden = tf.matmul(tf.nn.relu(hidden), kernel) + bias
        return self._bounded(hidden)

    def _bounded(self, parameters):
        shift, log_scale = tf.split(parameters, 2, axis=-1)
        bound = self._max_log_scale
        return 10. * tf.asinh(shift / 10.), bound * tf.tanh(log_scale / bound)

    def _halves(self, value):
        size = self.architecture.event_size
        return tf.split(value, [size // 2, size - size // 2], axis=-1)

    def _forward_and_log_det(self, x, c, network=None):
        network = network or self._shift_and_log_scale
        first, second = self._halves(x)
        total = 0.
        for layer in reversed(range(self.architecture.num_layers)):
            if layer % 2 == 0:
                shift, log_scale = network(layer, first, c)
                second = second * tf.exp(log_scale) + shift
            else:
                shift, log_scale = network(layer, second, c)
                first = first * tf.exp(log_scale) + shift
            total += tf.reduce_sum(log_scale, axis=-1)
        return tf.concat([first, second], axis=-1), total

    def _inverse_and_log_det(self, y, c):
        first, second = self._halves(y)
        total = 0.
        for layer in range(self.architecture.num_layers):
            if layer % 2 == 0:
                shift, log_scale = self._shift_and_log_scale(layer, first, c)
                second = (second - shift) * tf.exp(-log_scale)
            else:
                shift, log_scale = self._shift_and_log_scale(layer, second, c)
                first = (first - shift) * tf.exp(-log_scale)
            total -= tf.reduce_sum(log_scale, axis=-1)
        return tf.concat([first, second], axis=-1), total

    def _base_log_prob(self, x):
        return (-0.5 * tf.reduce_sum(x**2, axis=-1)
                - 0.5 * math.log(2. * math.pi) * self.architecture.event_size)

    def log_prob(self, y, c):
        x, log_det = self._inverse_and_log_det(y, c)
        return self._base_log_prob(x) + log_det

    def sample(self, y, c):
        return self._forward_and_log_det(tf.random.normal(y.shape), c)[0]

    def sample_and_log_prob(self, y, c):
        x = tf.random.normal(y.shape)
        y, log_det = self._forward_and_log_det(x, c)
        return y, self._base_log_prob(x) - log_det

    def many(self, c, n):
        # As it is mostly written: the conditions concatenated to every sample.
        def network(layer, units, c):
            network = self.networks[layer]
            hidden = tf.concat([10. * tf.asinh(units / 10.), c], axis=-1)
            kernels = [self._concatenated_kernels[layer], *network._kernels]
            for i, (kernel, bias) in enumerate(zip(kernels, network._biases)):
                hidden = tf.matmul(tf.nn.relu(hidden) if i else hidden,
                                   kernel) + bias
            return self._bounded(hidden)

        x = tf.random.normal([n * c.shape[0], self.architecture.event_size])
        y = self._forward_and_log_det(x, tf.tile(c, [n, 1]), network)[0]
        return tf.reshape(y, [n, c.shape[0], -1])

    def concatenate_kernels(self):
        """Makes what `many` needs, which a hand-written flow would have."""
        self._concatenated_kernels = [
            tf.Variable(tf.concat([network._unit_kernel,
                                   network._condition_kernel], axis=0))
            for network in self.networks]
        return self

    def forward(self, x, c):
        return self._forward_and_log_det(x, c)[0]

    def inverse(self, y, c):
        return self._inverse_and_log_det(y, c)[0]


class StockTFP(_TensorFlow):
    """`tfb.Chain` of `tfb.RealNVP`, conditioned by this package's template."""

    name = 'stock TFP'

    def build(self, architecture, seed):
        half = architecture.event_size // 2
        rest = architecture.event_size - half
        layers, networks = [], []
        for i in range(architecture.num_layers):
            masked, units = (half, rest) if i % 2 == 0 else (rest, half)
            template = tfpc.conditional_real_nvp_template(
                architecture.hidden_layers, input_size=masked, output_units=units,
                condition_size=architecture.condition_size, seed=(seed, i))
            # The template's own bound is that of a flow of 8 layers.
            template._transformer.max_log_scale = (
                8. / ((architecture.num_layers + 1) // 2))
            layers.append(tfb.RealNVP(
                num_masked=masked if i % 2 == 0 else -masked,
                shift_and_log_scale_fn=template, name=f'layer_{i}'))
            networks.append(template.conditioner)
        self._finish(architecture, networks)
        self.flow = tfb.Chain(layers)
        self.distribution = tfd.TransformedDistribution(self.base, self.flow)

    def _kwargs(self, c):
        return {f'layer_{i}': {'conditions': c}
                for i in range(self.architecture.num_layers)}

    def log_prob(self, y, c):
        # A copy, or TFP's cache would answer without a pass from the second call.
        return self.distribution.log_prob(tf.identity(y),
                                          bijector_kwargs=self._kwargs(c))

    def sample(self, y, c):
        return self.distribution.sample(y.shape[0],
                                        bijector_kwargs=self._kwargs(c))

    def sample_and_log_prob(self, y, c):
        return self.distribution.experimental_sample_and_log_prob(
            y.shape[0], bijector_kwargs=self._kwargs(c))

    def many(self, c, n):
        return self.distribution.sample([n, c.shape[0]],
                                        bijector_kwargs=self._kwargs(c))

    def forward(self, x, c):
        return self.flow.forward(tf.identity(x), **self._kwargs(c))

    def inverse(self, y, c):
        return self.flow.inverse(tf.identity(y), **self._kwargs(c))


class _Torch(Implementation):
    """What the PyTorch implementations share; `build` sets `self.flow`."""

    modes = ('eager',)

    @property
    def num_parameters(self):
        return sum(p.numel() for p in self.flow.parameters() if p.requires_grad)

    def tensor(self, array):
        import torch
        return torch.tensor(array, dtype=torch.float32)

    def operation(self, name, mode):
        import torch
        if name == 'train':
            self._optimizer = torch.optim.Adam(self.flow.parameters(),
                                               self.learning_rate)
            return self.train
        return torch.no_grad()(getattr(self, name))

    def sampler(self, n, mode):
        import torch
        return torch.no_grad()(lambda c: self.many(c, n))

    def hot(self, operation, batch):
        import torch
        run = self.operation(operation, 'eager')
        return {'eager': lambda y, c: _to_numpy(
            run(torch.from_numpy(y), torch.from_numpy(c)))}

    def train(self, y, c):
        self._optimizer.zero_grad()
        loss = -self.log_prob(y, c).mean()
        loss.backward()
        self._optimizer.step()
        return loss


class Zuko(_Torch):
    """`zuko.flows.RealNVP`."""

    name = 'zuko'

    def build(self, architecture, seed):
        import torch
        import zuko
        torch.manual_seed(seed)
        self.flow = zuko.flows.RealNVP(
            architecture.event_size, architecture.condition_size,
            transforms=architecture.num_layers,
            hidden_features=architecture.hidden_layers)

    def log_prob(self, y, c):
        return self.flow(c).log_prob(y)

    def sample(self, y, c):
        return self.flow(c).sample()

    def sample_and_log_prob(self, y, c):
        return self.flow(c).rsample_and_log_prob()

    def many(self, c, n):
        return self.flow(c).sample((n,))

    def forward(self, x, c):
        return self.flow(c).transform.inv(x)

    def inverse(self, y, c):
        return self.flow(c).transform(y)


class NFlows(_Torch):
    """nflows' `AffineCouplingTransform`s, with an MLP that concatenates."""

    name = 'nflows'

    def build(self, architecture, seed):
        import torch
        from nflows import transforms
        from nflows.distributions.normal import StandardNormal
        from nflows.flows.base import Flow
        torch.manual_seed(seed)

        class Network(torch.nn.Module):
            """An MLP; those of nflows take no context or are residual."""

            def __init__(self, input_size, output_size):
                super().__init__()
                sizes = [input_size + architecture.condition_size,
                         *architecture.hidden_layers, output_size]
                self.layers = torch.nn.ModuleList(
                    torch.nn.Linear(m, n) for m, n in zip(sizes, sizes[1:]))

            def forward(self, units, context):
                hidden = torch.cat([units, context], dim=-1)
                for layer in self.layers[:-1]:
                    hidden = torch.relu(layer(hidden))
                return self.layers[-1](hidden)

        parity = np.arange(architecture.event_size) % 2
        self.flow = Flow(
            transforms.CompositeTransform(
                [transforms.AffineCouplingTransform((parity + i) % 2, Network)
                 for i in range(architecture.num_layers)]),
            StandardNormal([architecture.event_size]))

    def log_prob(self, y, c):
        return self.flow.log_prob(y, context=c)

    def sample(self, y, c):
        return self.flow.sample(1, context=c)

    def sample_and_log_prob(self, y, c):
        return self.flow.sample_and_log_prob(1, context=c)

    def many(self, c, n):
        return self.flow.sample(n, context=c).transpose(0, 1)

    def forward(self, x, c):
        return self.flow._transform.inverse(x, context=c)[0]

    def inverse(self, y, c):
        return self.flow.transform_to_noise(y, context=c)


class FlowJAX(Implementation):
    """`flowjax.flows.coupling_flow`: a scan over layers, under `jax.jit`."""

    name = 'FlowJAX'
    modes = ('jit',)

    def build(self, architecture, seed):
        import equinox
        import jax
        from flowjax.distributions import StandardNormal
        from flowjax.flows import coupling_flow
        widths = architecture.hidden_layers
        if len(set(widths)) != 1:
            raise NotImplementedError('hidden layers must all have one width')
        flow = coupling_flow(
            jax.random.key(seed),
            base_dist=StandardNormal((architecture.event_size,)),
            cond_dim=architecture.condition_size,
            flow_layers=architecture.num_layers,
            nn_width=widths[0], nn_depth=len(widths))
        # Handing only arrays to `jax.jit` saves what `equinox.filter_jit` costs.
        self._arrays, self._static = equinox.partition(
            flow, equinox.is_inexact_array)
        self._key = jax.random.key(seed)

    def _flow(self, arrays):
        import equinox
        return equinox.combine(arrays, self._static)

    @property
    def num_parameters(self):
        import jax
        return sum(array.size for array in jax.tree.leaves(self._arrays))

    def tensor(self, array):
        import jax.numpy as jnp
        return jnp.asarray(array, jnp.float32)

    def _jit(self, function):
        """Returns `function(flow, key, y, c)`, compiled, as one of `(y, c)`."""
        import jax
        run = jax.jit(lambda arrays, key, y, c: function(
            self._flow(arrays), key, y, c))
        return lambda y, c: jax.block_until_ready(
            run(self._arrays, self._key, y, c))

    def operation(self, name, mode):
        if name == 'train':
            return self._train()
        return self._jit(self._function(name))

    def _function(self, name):
        """Returns the operation as `(flow, key, y, c)`."""
        import jax
        return {
            'log_prob': lambda flow, key, y, c: flow.log_prob(y, c),
            'sample': lambda flow, key, y, c: flow.sample(key, (), c),
            'sample_and_log_prob':
                lambda flow, key, y, c: flow.sample_and_log_prob(key, (), c),
            'forward': lambda flow, key, x, c: jax.vmap(
                flow.bijection.transform)(x, c),
            'inverse': lambda flow, key, y, c: jax.vmap(
                flow.bijection.inverse)(y, c),
        }[name]

    def hot(self, operation, batch):
        import jax
        function, draws = self._function(operation), operation != 'log_prob'

        @jax.jit
        def run(arrays, key, y, c):
            return function(self._flow(arrays), key, y, c)

        @jax.jit
        def step(arrays, key, y, c):
            key, now = jax.random.split(key) if draws else (None, None)
            return key, function(self._flow(arrays), now, y, c)

        def split_before(key, y, c):
            key, now = jax.random.split(key)
            return key, run(self._arrays, now, y, c)

        def loop(step):
            key = self._key if draws else None

            def next_(y, c):
                nonlocal key
                key, result = step(key, None if draws else y, c)
                return jax.tree.map(np.asarray, result)
            return next_

        found = {'jit': loop(functools.partial(step, self._arrays)),
                 'jit, frozen': loop(jax.jit(
                     lambda key, y, c: step(self._arrays, key, y, c)))}
        if draws:
            found['jit, key split before'] = loop(split_before)
        return found

    def _train(self):
        import jax
        import optax
        optimizer = optax.adam(self.learning_rate)
        state = optimizer.init(self._arrays)

        @jax.jit
        def update(arrays, state, y, c):
            loss, gradients = jax.value_and_grad(
                lambda arrays: -self._flow(arrays).log_prob(y, c).mean())(arrays)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(arrays, updates), state, loss

        def train(y, c):
            nonlocal state
            self._arrays, state, loss = jax.block_until_ready(
                update(self._arrays, state, y, c))
            return loss

        return train

    def sampler(self, n, mode):
        sample = self._jit(lambda flow, key, y, c: flow.sample(key, (n,), c))
        return lambda c: sample(None, c)


class NormFlows(Implementation):
    """normflows, as soon as its affine couplings take a context."""

    name = 'normflows'
    modes = ()

    def build(self, architecture, seed):
        import normflows
        block = normflows.flows.AffineCouplingBlock
        if 'context' not in inspect.signature(block.forward).parameters:
            raise NotImplementedError(
                'its `AffineCouplingBlock.forward` takes no context; of its flows '
                'only autoregressive and spline ones do')
        raise NotImplementedError('its affine couplings now take a context: '
                                  'write this implementation')


TENSORFLOW = (Floor, Ours, StockClass, StockTFP)
PEERS = (Zuko, NFlows, FlowJAX, NormFlows)


def _to_numpy(result):
    """A tensor of TensorFlow or PyTorch, or a tuple of them, as NumPy arrays."""
    return (tuple(map(_to_numpy, result)) if isinstance(result, tuple)
            else result.numpy())


def available(architecture, kinds=TENSORFLOW + PEERS):
    """The implementations that can be built here, and why others cannot.

    Returns:
      `dict` of name -> `Implementation`, and `dict` of name -> reason.
    """
    built, absent = {}, {}
    for kind in kinds:
        try:
            built[kind.name] = kind(architecture)
        except ImportError as error:
            absent[kind.name] = f'not installed ({error})'
        except NotImplementedError as error:
            absent[kind.name] = str(error)
    return built, absent
