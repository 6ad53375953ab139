"""FlowJAX."""

import functools

import equinox
from flowjax import bijections, distributions, flows
from flowjax import train as flowjax_train
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax

import peers

FUNCTIONS = {
    'log_prob': lambda flow, key, y, c, n: flow.log_prob(y, c),
    'sample': lambda flow, key, y, c, n: flow.sample(key, (), c),
    'sample_and_log_prob': lambda flow, key, y, c, n: flow.sample_and_log_prob(key, (), c),
    'many': lambda flow, key, y, c, n: flow.sample(key, (n,), c),
    'forward': lambda flow, key, x, c, n: jax.vmap(flow.bijection.transform)(x, c),
    'inverse': lambda flow, key, y, c, n: jax.vmap(flow.bijection.inverse)(y, c)}


class FlowJAX(peers.Package):
    """`coupling_flow`, a scan over layers; or another with splines. By `jax.jit`."""

    modes = ('jit',)
    mode = 'jit'

    def reseed(self, seed):
        self._key = jax.random.key(seed)

    def real_nvp(self, event_size, condition_size, num_layers, hidden_layers):
        if len(set(hidden_layers)) != 1:
            raise NotImplementedError('hidden layers must all have one width')
        self.flow = flows.coupling_flow(
            self._key, cond_dim=condition_size,
            base_dist=distributions.StandardNormal((event_size,)),
            flow_layers=num_layers, nn_width=hidden_layers[0],
            nn_depth=len(hidden_layers))

    def density(self, event_size, condition_size, flow, knots, interval, **settings):
        self._key, key = jax.random.split(self._key)
        self.flow = getattr(flows, flow)(
            key, base_dist=distributions.StandardNormal((event_size,)),
            transformer=bijections.RationalQuadraticSpline(knots=knots,
                                                           interval=interval),
            cond_dim=condition_size, **settings)

    @property
    def flow(self):
        return self._join(self._arrays)

    @flow.setter
    def flow(self, flow):
        # Handing only arrays to `jax.jit` saves what `equinox.filter_jit` costs.
        self._arrays, self._static = equinox.partition(flow, equinox.is_inexact_array)

    def _join(self, arrays):
        return equinox.combine(arrays, self._static)

    @property
    def num_parameters(self):
        trained = equinox.filter(
            self.flow, equinox.is_inexact_array,
            is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable))
        return sum(array.size for array in jax.tree.leaves(trained))

    @staticmethod
    def tensor(array):
        return jnp.asarray(array, jnp.float32)

    def operation(self, name, mode, n=None):
        if name == 'train':
            return self._train()
        draws = 'sample' in name or name == 'many'

        def run(arrays, key, y, c):
            # As they are drawn with, keys are split by the compiled function.
            key, now = jax.random.split(key) if draws else (None, None)
            return key, FUNCTIONS[name](self._join(arrays), now, y, c, n)

        frozen = jax.jit(functools.partial(run, self._arrays))
        run, key = jax.jit(run), self._key if draws else None

        def call(y, c):
            nonlocal key
            rest = key, None if draws else y, c
            key, result = jax.block_until_ready(
                frozen(*rest) if mode == 'jit, frozen' else run(self._arrays, *rest))
            return result

        return call

    def hot(self, operation):
        def call(run):
            return lambda y, c: jax.tree.map(np.asarray, run(y, c))
        return {mode: call(self.operation(operation, mode)) for mode in ('jit', 'jit, frozen')}

    def _train(self):
        optimizer = optax.adam(self.learning_rate)
        state = optimizer.init(self._arrays)

        @jax.jit
        def update(arrays, state, y, c):
            loss, gradients = jax.value_and_grad(
                lambda arrays: -self._join(arrays).log_prob(y, c).mean())(arrays)
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(arrays, updates), state, loss

        def train(y, c):
            nonlocal state
            self._arrays, state, loss = jax.block_until_ready(
                update(self._arrays, state, y, c))
            return loss

        return train

    def fit(self, train, validation):
        """The same recipe by its own `fit_to_data`."""
        training, count = self.training, len(train[0])
        size = min(training['batch_size'], count, len(validation[0]))
        schedule = optax.cosine_decay_schedule(
            training['learning_rate'], training['epochs'] * (count // size))
        optimizer = optax.chain(
            optax.clip_by_global_norm(training['clip_norm']),
            optax.adamw(schedule, weight_decay=training['weight_decay']))
        # It splits by itself, and drops a batch that is not full, of either.
        rows = tuple(np.concatenate(pair) for pair in zip(train, validation))
        self.flow, losses = flowjax_train.fit_to_data(
            self._key, self.flow, rows, optimizer=optimizer, batch_size=size,
            max_epochs=training['epochs'], max_patience=training['patience'],
            val_prop=len(validation[0]) / len(rows[0]), show_progress=False)
        return len(losses['val'])
