"""`LatentSpacePolicy`: a conditional flow that turns noise into actions."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import chain
from tfp_conditional.bijectors import embedding as embedding_lib
from tfp_conditional.bijectors import squash as squash_lib
from tfp_conditional.core import _tfp
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import seeds
from tfp_conditional.core import serving
from tfp_conditional.core.types import Nest, Path, Seed, TensorLike
from tfp_conditional.flows import real_nvp
from tfp_conditional.rl import actor as actor_lib
from tfp_conditional.rl import features as features_lib
from tfp_conditional.rl import spaces

tfd = tfp.distributions

MODES = ('sample', 'zero', 'densest', 'best', 'latent')
_HELD = 8    # Shapes for which a call of NumPy arrays is compiled.


class Policy(_tfp.Picklable, tf.Module):
    """A distribution of actions given observations; see `LatentSpacePolicy`.

    Attributes:
      distribution: `ConditionalTransformedDistribution` of flat actions `[..., D]`,
        given observations.
      action_shape: tuple of `int`, of one action.
      low, high: arrays of that shape, or `None`.
    """

    def __init__(self, distribution: tfp.distributions.Distribution,
                 action_shape: tuple[int, ...], low: np.ndarray | None,
                 high: np.ndarray | None, seed: int | None, name: str) -> None:
        super().__init__(name=name)
        self.distribution = distribution
        self.action_shape = tuple(map(int, action_shape))
        self.low, self.high = (None if bound is None else bound.reshape(action_shape)
                               for bound in (low, high))
        self._held = _Held(seeds.resolve_seed(seed)[0])

    @property
    def bijector(self) -> tfp.bijectors.Bijector:
        """The flow g: latents `[..., D]`, given observations, to flat actions."""
        return self.distribution.bijector

    @property
    def action_size(self) -> int:
        """`int` D, how many numbers an action is."""
        return int(np.prod(self.action_shape))

    @property
    def observation_spec(self) -> Any:
        """Nest of `tf.TensorSpec`: an observation without batch axes."""
        return self.bijector.condition_size

    # A density and its samples.

    def sample(self, observation: Nest, seed: Seed | None = None) -> tf.Tensor:
        """Actions `[..., *action_shape]` at random, one for each observation."""
        return self.sample_and_log_prob(observation, seed)[0]

    def sample_and_log_prob(self, observation: Nest, seed: Seed | None = None,
                            with_latents: bool = False) -> tuple[tf.Tensor, ...]:
        """Actions at random and their log-densities `[...]`, from one pass.

        The density is that of the latents that made the actions: no inverse is taken,
        which next to a bound knows them only roughly. Gradients go through both.

        Args:
          observation: nest of `[..., *shape]`.
          seed: `int` or TFP seed.
          with_latents: `bool`, whether to return the latents, `[..., D]`, too.
        """
        observation, convert = self._checked(observation)
        given = self.distribution.given(observation)
        if not with_latents:
            actions, log_probs = given.experimental_sample_and_log_prob(seed=seed)
            return convert((self._shaped(actions), log_probs))
        latents = self._base.sample(
            self.bijector.batch_shape_tensor_of(observation), seed=seed)
        actions, log_probs = self._forward(latents, observation)
        return convert((self._shaped(actions), log_probs, latents))

    def log_prob(self, action: TensorLike, observation: Nest) -> tf.Tensor:
        """Log-densities `[...]` of actions `[..., *action_shape]`.

        Actions on a bound, or rounded to it, have a finite one, as accurate as the
        action is; see `Squash` and `log_prob_of_latents`.
        """
        observation, convert = self._checked(observation)
        return convert(self.distribution.given(observation).log_prob(
            self._flat(action)))

    def log_prob_of_latents(self, latents: TensorLike, observation: Nest) -> tf.Tensor:
        """Log-densities `[...]` of the actions that latents `[..., D]` give.

        Exact where actions saturate.
        """
        observation, convert = self._checked(observation)
        return convert(self._forward(self._latents(latents), observation)[1])

    def forward(self, latents: TensorLike, observation: Nest) -> tf.Tensor:
        """The actions `[..., *action_shape]` of given latents `[..., D]`."""
        observation, convert = self._checked(observation)
        return convert(self._shaped(self.bijector.forward(
            self._latents(latents), conditions=observation)))

    def inverse(self, action: TensorLike, observation: Nest) -> tf.Tensor:
        """The latents `[..., D]` of given actions."""
        observation, convert = self._checked(observation)
        return convert(self.bijector.inverse(
            self._flat(action), conditions=observation))

    # Acting.

    def act(self, observation: Nest, mode: str = 'sample', candidates: int = 32,
            q_function: Callable[[Any, Any], Any] | None = None,
            latents: TensorLike | None = None, seed: Seed | None = None) -> np.ndarray:
        """One action for each observation.

        Of NumPy arrays each shape is compiled at its first call, and answers then in
        a fraction of a millisecond.

        Args:
          observation: nest of `[..., *shape]`.
          mode: `'sample'`, at random; `'zero'`, of latents 0; `'densest'`, of the
            greatest density among candidates drawn; `'best'`, of the greatest value
            of `q_function` among them; `'latent'`, of given `latents`.
          candidates: `int`, how many.
          q_function: callable (observations, actions `[N, *action_shape]`) -> `[N]`.
          latents: `[..., D]`.
          seed: `int` or TFP seed; `None` goes on with the policy's own.

        Returns:
          `[..., *action_shape]`.
        """
        if mode not in MODES:
            raise ValueError(f'`mode` must be one of {list(MODES)}; got {mode!r}.')
        if (latents is None) == (mode == 'latent'):
            raise ValueError("`latents` go with mode 'latent' and no other; got "
                             f'mode {mode!r} and latents {latents!r}.')
        if (q_function is None) == (mode == 'best'):
            raise ValueError("`q_function` goes with mode 'best' and no other; got "
                             f'mode {mode!r} and q_function {q_function!r}.')
        if mode in ('densest', 'best'):
            return self._choose(observation, mode, candidates, q_function, seed)
        held = None if seed is not None else self._held_function(
            'sample' if mode == 'sample' else 'forward', observation)
        if held is not None:
            leaves, batch, run = held
            if mode != 'sample':
                leaves = [np.zeros([*batch, self.action_size]) if mode == 'zero' else
                          self._latents(latents), *leaves]
            return run(*leaves).reshape(*batch, *self.action_shape)
        if mode == 'sample':
            return self.sample(observation, seed)
        if mode == 'zero':
            latents = tf.zeros(tf.concat([self.bijector.batch_shape_tensor_of(
                self._checked(observation)[0]), [self.action_size]], 0))
        return self.forward(latents, observation)

    def actor(self, smoothing: float = 0., hold: bool = False,
              seed: int | None = None) -> actor_lib.Actor:
        """Returns an `Actor`: this policy with a memory of its latents.

        Args:
          smoothing: `float` in [0, 1), the correlation of latents from step to step.
          hold: `bool`, whether latents stay until `Actor.reset`.
          seed: `int`.
        """
        return actor_lib.Actor(self, smoothing, hold, seed)

    def batch_shape_of(self, observation: Nest) -> tuple[int, ...]:
        """The batch shape of observations, arrays or lists of numbers: a tuple."""
        spec = self.bijector.condition_spec
        return tuple(spec.batch_shape(tf.nest.map_structure(
            lambda leaf: tf.TensorSpec(leaf.shape), spec.pack(observation))))

    def predict(self, observation: Nest, state: Any = None, episode_start: Any = None,
                deterministic: bool = False) -> tuple[np.ndarray, Any]:
        """`act` as Stable-Baselines3 calls it: returns actions and `state`.

        Args:
          observation: nest of `[..., *shape]`.
          state: returned as it is: the policy has none.
          episode_start: ignored.
          deterministic: `bool`, whether latents are 0.
        """
        del episode_start
        return self.act(observation, 'zero' if deterministic else 'sample'), state

    def _choose(self, observation, mode, candidates, q_function, seed):
        observation, convert = self._checked(observation)
        given = self.distribution.given(observation)
        actions, scores = given.experimental_sample_and_log_prob(candidates, seed=seed)
        batch = tf.shape(scores)[1:]
        actions = tf.reshape(actions, [candidates, -1, self.action_size])
        if mode == 'best':
            rows = tf.nest.map_structure(lambda leaf, spec: tf.tile(
                tf.reshape(leaf, [-1, *spec.shape]),
                [candidates] + [1] * spec.shape.rank),
                                         observation, self.observation_spec)
            scores = q_function(rows, tf.reshape(actions, [-1, *self.action_shape]))
        best = tf.argmax(tf.reshape(scores, [candidates, -1]), axis=0)
        chosen = tf.gather(tf.transpose(actions, [1, 0, 2]), best, batch_dims=1)
        return convert(tf.reshape(chosen, tf.concat([batch, self.action_shape], 0)))

    def _held_function(self, method, observation):
        """Flat leaves, batch shape and a compiled function, or `None`."""
        if not _is_numpy(observation):
            return None
        observation, _ = self._checked(observation, as_arrays=True)
        leaves = tf.nest.flatten(observation)
        batch = self.batch_shape_of(observation)
        run = self._held.get((method, batch))
        if run is None:
            if len(self._held) >= _HELD:
                return None
            run = self._held[method, batch] = self.distribution.compiled(
                method, batch, seed=self._held.seed_for(batch))
        return leaves, batch, run

    def reseed(self, seed: int) -> None:
        """Begins the noise of `act` anew, from an `int`."""
        self._held.seed = seed % 2**31
        for (_, batch), run in self._held.items():
            run.reseed(self._held.seed_for(batch))

    # What is watched, normalised and saved.

    @property
    def moments(self) -> features_lib.RunningMoments | None:
        """The `RunningMoments` of the observations, or `None`."""
        return getattr(self.bijector.embedding, 'moments', None)

    def observe(self, observations: Nest) -> None:
        """Adds observations `[..., *shape]` to those that they are normalised by."""
        if self.moments is not None:
            self.moments.update(self._checked(observations, as_arrays=True)[0])

    def diagnostics(self, observations: Nest, num_samples: int = 100,
                    seed: Seed | None = None) -> dict[str, Any]:
        """What the policy does at some observations, a `dict` of numbers and arrays.

        Args:
          observations: nest of `[B, *shape]`.
          num_samples: `int`, for each of them.
          seed: `int` or TFP seed.

        Returns:
          `'entropy'`: mean of -log_prob, nats. `'action_mean'`, `'action_deviation'`:
          arrays of the shape of an action, over observations and samples.
          `'latent_deviation'`: how much of the deviation is the noise's, at an
          observation. `'saturated'`: the fraction of actions within a hundredth of the
          half range of a bound; 0 without bounds.
        """
        observations, _ = self._checked(observations)
        actions, log_probs = self.distribution.given(
            observations).experimental_sample_and_log_prob(num_samples, seed=seed)
        actions = self._shaped(actions).numpy()
        result = {
            'entropy': float(-np.mean(log_probs, dtype=float)),
            'action_mean': actions.mean(axis=(0, 1)),
            'action_deviation': actions.std(axis=(0, 1)),
            'latent_deviation': np.sqrt(actions.var(axis=0).mean(axis=0)),
            'saturated': 0.}
        if self.low is not None:
            margin = 0.01 * (self.high - self.low) / 2.
            result['saturated'] = float(np.mean(
                (actions < self.low + margin) | (actions > self.high - margin)))
        return result

    def get_weights(self) -> list[np.ndarray]:
        """All variables as a list of arrays."""
        return [variable.numpy() for variable in self.variables]

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Assigns what `get_weights` of such a policy returned."""
        shapes = [list(np.shape(value)) for value in weights]
        wanted = [variable.shape.as_list() for variable in self.variables]
        if shapes != wanted:
            raise ValueError(f'`weights` must be arrays of shapes {wanted}; got '
                             f'{shapes}.')
        for variable, value in zip(self.variables, weights):
            variable.assign(tf.cast(value, variable.dtype))

    def export(self, path: Path) -> None:
        """Saves a SavedModel that needs neither this package nor TFP.

        For Python it has `act(observation, seed)`, `forward(latents, observation)` and
        `log_prob(action, observation)`, for one batch axis of any size; `seed` is two
        integers. For servers it has them as signatures, of tensors of those names, that
        return `actions`, `actions` and `log_probs`: `act_with_seed`, `forward` and
        `log_prob`. `act` and `serving_default` take observations alone, and their noise
        is fresh. See `ConditionalTransformedDistribution.export` for nests of
        observations and for paths.
        """
        path = serving.checked_path(path)
        observation = {'observation': self.bijector.condition_signature([None])}
        latents, actions = (tf.TensorSpec([None, *shape], tf.float32) for shape in (
            [self.action_size], self.action_shape))
        methods = {
            'act': (self.sample, ['actions'], dict(observation, seed=serving.SEED)),
            'forward': (self.forward, ['actions'], dict(latents=latents, **observation)),
            'log_prob': (self.log_prob, ['log_probs'],
                         dict(action=actions, **observation))}
        functions = {name: tf.function(run, list(specs.values()), autograph=False)
                     for name, (run, _, specs) in methods.items()}
        signatures = {name: serving.signature(functions[name], outputs, **specs)
                      for name, (_, outputs, specs) in methods.items()}
        signatures['act_with_seed'] = signatures['act']
        signatures['act'] = signatures['serving_default'] = serving.signature(
            lambda observation: functions['act'](observation, serving.fresh_seed()),
            ['actions'], **observation)
        serving.save(path, [self.bijector, self._base], functions, signatures)

    # Shapes.

    @property
    def _base(self):
        return self.distribution.distribution

    def _forward(self, latents, observation):
        actions, log_det = self.bijector.forward_and_log_det(
            latents, conditions=observation)
        return actions, self._base.log_prob(latents) - log_det

    def _checked(self, observation, as_arrays=False):
        """Observations of the right shapes, and what turns tensors into the like."""
        is_numpy = _is_numpy(observation)
        try:
            if is_numpy:
                observation = tf.nest.map_structure(
                    lambda leaf: np.asarray(leaf, np.float32),
                    self.bijector.condition_spec.pack(observation))
            if as_arrays:
                for leaf, spec in zip(*map(tf.nest.flatten, (
                        observation, self.observation_spec))):
                    if not tf.TensorShape(leaf.shape[max(
                            0, len(leaf.shape) - spec.shape.rank):]
                                          ).is_compatible_with(spec.shape):
                        raise ValueError(f'`conditions` must have shape [..., '
                                         f'*{spec.shape}]; got {leaf.shape}.')
            else:
                observation = self.bijector.check_conditions(observation)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace(
                'conditions', 'observation')) from error

        def convert(tensors):
            if not is_numpy:
                return tensors
            return tf.nest.map_structure(lambda tensor: tensor.numpy(), tensors)
        return observation, convert

    def _latents(self, latents):
        if not tf.is_tensor(latents):
            latents = np.asarray(latents, np.float32)
        if list(latents.shape[-1:]) != [self.action_size]:
            raise ValueError(f'`latents` must have last dimension {self.action_size}; '
                             f'got shape {list(latents.shape)}.')
        return latents

    def _flat(self, action):
        """Actions `[..., *action_shape]` as `[..., D]`."""
        action = tf.convert_to_tensor(
            action if tf.is_tensor(action) else np.asarray(action, np.float32))
        rank = action.shape.rank - len(self.action_shape)
        if rank < 0 or not action.shape[rank:].is_compatible_with(self.action_shape):
            raise ValueError('`action` must have shape [..., '
                             f'*{list(self.action_shape)}]; got {action.shape}.')
        if len(self.action_shape) == 1:
            return action
        shape = tf.concat([tf.shape(action)[:rank], [self.action_size]], 0)
        return tf.ensure_shape(tf.reshape(action, shape),
                               action.shape[:rank] + [self.action_size])

    def _shaped(self, actions):
        """Actions `[..., D]` as `[..., *action_shape]`."""
        if len(self.action_shape) == 1:
            return actions
        shape = tf.concat([tf.shape(actions)[:-1], self.action_shape], 0)
        return tf.ensure_shape(tf.reshape(actions, shape),
                               actions.shape[:-1] + self.action_shape)


class LatentSpacePolicy(Policy):
    """A policy whose actions are a flow of Gaussian noise, given the observation.

    ```none
    action = squash(g(latents; features(observation))),   latents ~ N(0, I)
    ```

    Haarnoja et al., "Latent Space Policies for Hierarchical Reinforcement Learning"
    (2018, arXiv 1804.02808). g is invertible: an action has one latent and an exact
    density, and a higher level may act by choosing latents (`LatentActions`, `stacked`).
    A new policy explores the whole box, whatever it observes.

    Methods take one observation as well as batches of any shape. Of NumPy arrays, and
    lists of numbers, they make NumPy arrays; of tensors, in a `tf.function` or under a
    tape, tensors.

    #### Example

    ```python
    import numpy as np
    from tfp_conditional import rl

    policy = rl.LatentSpacePolicy(observation_space=3, action_space=([-2., 0.], [2., 1.]),
                                  seed=0)
    action = policy.act(np.zeros(3))                              # [2]
    actions, log_probs = policy.sample_and_log_prob(np.zeros([64, 3]))
    assert actions.shape == (64, 2) and log_probs.shape == (64,)
    latents = policy.inverse(actions, np.zeros([64, 3]))
    same = policy.forward(latents, np.zeros([64, 3]))
    ```

    `copy.deepcopy(policy)` is a target network; pickle, `tf.train.Checkpoint` and
    `export` keep it whole.
    """

    def __init__(self, observation_space: Any, action_space: Any,
                 flow: Callable[..., Any] | None = None,
                 embedding: Callable[..., Any] | None = None,
                 embedding_size: int | None = None, squash: str | None = 'tanh',
                 normalize: bool = True, seed: int | None = None,
                 name: str = 'latent_space_policy') -> None:
        """Constructs the policy; its variables exist on return.

        Args:
          observation_space: gymnasium's Box, or Dict or Tuple of Boxes, of any
            shapes; or `int` S for vectors, or a nest of `int`.
          action_space: gymnasium's Box of floats with bounds, of any shape; or a pair
            (low, high) of numbers or arrays. With `squash=None` an `int`, too.
          flow: callable (event_size, condition_size) -> `ConditionalBijector`, or such
            a bijector. Default: `ConditionalRealNVP` of four affine couplings, of one
            affine layer for one action, with hidden layers (64, 64).
          embedding: network from normalised observations, with one batch axis, to
            `[B, embedding_size]`; such as a Keras model for images, a `tf.Module`.
            Default: they are flattened and joined.
          embedding_size: `int`, what it returns.
          squash: `'tanh'`, onto the bounds (see `Squash`), or `None`.
          normalize: `bool`, whether observations are normalised by the running
            moments of those that `observe` was given.
          seed: `int` for the initial weights and for `act`.
          name: `str`.

        Raises:
          TypeError, ValueError: for spaces of other kinds (discrete, of integers,
            without bounds or with low >= high), by name.
        """
        if squash not in ('tanh', None):
            raise ValueError(f"`squash` must be 'tanh' or None; got {squash!r}.")
        if (embedding is None) != (embedding_size is None):
            raise ValueError('Give both of `embedding` and `embedding_size`, or none; '
                             f'got {embedding!r}, {embedding_size!r}.')
        spec = spaces.observation_spec(observation_space)
        shape, low, high = spaces.action_shape_and_bounds(
            action_space, bounded=squash is not None)
        size = int(np.prod(shape))
        width = embedding_size or features_lib.flat_size(spec)
        entropy = seeds.resolve_seed(seed)
        if flow is None:
            flow = functools.partial(
                real_nvp.ConditionalRealNVP, hidden_layers=(64, 64), seed=entropy,
                num_coupling_layers=4 if size > 1 else 1)
        if not isinstance(flow, bijector_lib.ConditionalBijector):
            flow = flow(size, width)
        if flow.event_size != size or flow.output_event_size != size:
            raise ValueError(f'`flow` must map {size} numbers, those of an action; got '
                             f'one of event_size {flow.event_size}.')
        if squash is not None:
            flow = chain.ConditionalChain([squash_lib.Squash(low, high), flow])
        moments = features_lib.RunningMoments(spec) if normalize else None
        flow = embedding_lib.ConditionalEmbedding(
            flow, features_lib.Features(moments, embedding), spec, name='policy')
        base = tfd.Independent(tfd.Normal(tf.zeros(size), 1.), 1)
        super().__init__(flow(base), shape, low, high, entropy, name)


def _is_numpy(observation):
    """Whether what is computed from observations is to be NumPy arrays."""
    return tf.executing_eagerly() and not any(
        map(tf.is_tensor, tf.nest.flatten(observation)))


class _Held(dict):
    """Compiled functions, which no copy shares, and the seed of their noise."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed % 2**31

    def seed_for(self, batch):
        """That for observations of a batch shape, whichever came first."""
        return self.seed + int(np.prod(batch))

    def __deepcopy__(self, memo):
        return _Held(self.seed)

    def __reduce__(self):
        return _Held, (self.seed,)
