"""`SoftActorCritic`: a learner whose update is one compiled function."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.types import Activation, Nest, TensorLike
from tfp_conditional.networks import mlp
from tfp_conditional.rl import features as features_lib
from tfp_conditional.rl import policy as policy_lib

METRICS = ('critic_loss', 'actor_loss', 'entropy', 'temperature', 'q_value')


class Critic(tf.Module):
    """`Q(observation, action)`: a perceptron of features and of actions in [-1, 1]."""

    def __init__(self, policy, hidden_layers, activation, features, width, seed,
                 name='critic'):
        super().__init__(name=name)
        self._features = features
        self._middle, self._half = ((0., 1.) if policy.low is None else (
            (policy.low / 2. + policy.high / 2.).ravel(),
            (policy.high / 2. - policy.low / 2.).ravel()))
        self._network = mlp.MLPNetwork(
            policy.action_size, conditions_lib.ConditionSpec(width, tf.float32), 1,
            tuple(hidden_layers), activation, seed=seed)

    def __call__(self, observations, actions):
        """Values `[B]` of flat actions `[B, D]`."""
        return self._network((actions - self._middle) / self._half,
                             self._features(observations))[..., 0]


class SoftActorCritic(tf.Module):
    """Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905) for a flow policy.

    ```none
    Q_i(s, a)  ->  r + d (1 - terminal) (min_j Q'_j(s', a') - t log pi(a'|s')),  a' ~ pi
    pi:   minimises  E[t log pi(a|s) - log prior(a) - min_j Q_j(s, a)],          a ~ pi
    t:    minimises  t (E[-log pi] - target_entropy)
    Q' :  moves to Q by `target_rate`
    ```

    `update` is one compiled function: critics, policy, temperature and targets. Its
    noise depends on the seed and the number of updates alone.

    ```python
    import numpy as np
    from tfp_conditional import rl

    policy = rl.LatentSpacePolicy(3, (-1., 1.), seed=0)
    learner = rl.SoftActorCritic(policy, hidden_layers=(16,), seed=0, jit_compile=False)
    buffer = rl.ReplayBuffer(policy, capacity=100, seed=0)
    buffer.add(np.zeros([4, 3]), np.zeros([4, 1]), np.ones(4), np.zeros([4, 3]),
               terminals=np.zeros(4))
    metrics = learner.update(buffer.sample(8))
    assert np.isfinite(metrics['critic_loss'])
    ```
    """

    def __init__(self, policy: policy_lib.Policy,
                 hidden_layers: Sequence[int] = (256, 256),
                 activation: Activation = 'relu',
                 embedding: Callable[[], Any] | None = None,
                 embedding_size: int | None = None, learning_rate: float = 3e-4,
                 discount: float = 0.99, target_rate: float = 0.005,
                 temperature: float | None = None, initial_temperature: float = 1.,
                 target_entropy: float | None = None, reward_scale: float = 1.,
                 log_prior: Callable[[tf.Tensor], tf.Tensor] | None = None,
                 clip_norm: float | None = None, seed: int | None = None,
                 jit_compile: bool = False, name: str = 'soft_actor_critic') -> None:
        """Constructs the learner; its variables exist on return.

        Args:
          policy: `Policy`, whose `trainable_variables` it trains.
          hidden_layers, activation: of the two critics' networks.
          embedding: function () -> network, called once for each critic, from
            normalised observations to `[B, embedding_size]`. Default: they are
            flattened and joined.
          embedding_size: `int`.
          learning_rate: of all three Adam optimizers.
          discount: `float` d, of the next step's value.
          target_rate: `float`, how far the targets move to the critics a step.
          temperature: `float`, or `None` for one that is learnt.
          initial_temperature: `float` > 0, where it is learnt.
          target_entropy: `float`, nats, to which it is; default that of a Gaussian, -1
            for each action of range [-1, 1], whatever the range is.
          reward_scale: `float`, by which rewards are multiplied.
          log_prior: function of actions `[B, *action_shape]` to `[B]`: the logarithm
            of a prior of actions; default a uniform one.
          clip_norm: greatest global norm of each gradient, or `None`.
          seed: `int`, for initial weights and noise.
          jit_compile: `bool`, whether to compile by XLA.
          name: `str`.

        Raises:
          ValueError: for numbers out of range.
        """
        super().__init__(name=name)
        for label, value, least, most in [
                ('discount', discount, 0., 1.), ('target_rate', target_rate, 0., 1.),
                ('initial_temperature', initial_temperature, 1e-30, np.inf),
                ('temperature', temperature, 0., np.inf),
                ('learning_rate', learning_rate, 1e-30, np.inf)]:
            if value is not None and not least <= value <= most:
                raise ValueError(f'`{label}` must be between {least} and {most}; got '
                                 f'{value}.')
        self.policy = policy
        self._discount, self._target_rate = discount, target_rate
        self._reward_scale, self._log_prior = reward_scale, log_prior
        self._clip_norm = clip_norm
        entropy = seeds.resolve_seed(seed)
        self._noise = [part % 2**31 for part in (*entropy, 0)[:2]]
        if target_entropy is None:
            half = (np.ones(policy.action_shape) if policy.low is None else
                    policy.high / 2. - policy.low / 2.)     # type: ignore[operator]
            target_entropy = float(np.sum(np.log(half) - 1.))
        self.target_entropy = target_entropy
        width = embedding_size or features_lib.flat_size(policy.observation_spec)
        self.critics, self.targets = (
            tuple(Critic(policy, hidden_layers, activation, features_lib.Features(
                policy.moments, embedding and embedding()), width, (*entropy, i))
                  for i in range(2)) for _ in range(2))
        self._learns_temperature = temperature is None
        self.log_temperature = tf.Variable(np.log(
            initial_temperature if temperature is None else max(temperature, 1e-30)),
                                           dtype=tf.float32, name='log_temperature')
        self.num_updates = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._critic_variables = self._trained(self.critics)
        self._target_variables = self._trained(self.targets)
        for target, critic in zip(self._target_variables, self._critic_variables):
            target.assign(critic)
        self._actor_variables = list(policy.trainable_variables)
        self._optimizers = [
            tf_keras.optimizers.Adam(learning_rate, jit_compile=False)
            for _ in range(3)]
        for optimizer, variables in zip(self._optimizers, [
                self._critic_variables, self._actor_variables,
                [self.log_temperature]]):
            optimizer.build(variables)
        self._update = tf.function(
            functools.partial(self._step), autograph=False,
            jit_compile=jit_compile or None, reduce_retracing=True)

    def update(self, batch: Mapping[str, Any]) -> dict[str, float]:
        """One step of critics, policy, temperature and targets.

        Args:
          batch: `dict` as from `ReplayBuffer.sample`.

        Returns:
          `dict` of floats: `'critic_loss'`, `'actor_loss'`, `'entropy'` (nats),
          `'temperature'`, `'q_value'`.
        """
        return dict(zip(METRICS, self._update(batch).numpy().tolist()))

    def q(self, observations: Nest, actions: TensorLike) -> tf.Tensor:
        """The smaller of both critics' values `[B]`; a `q_function` of `Policy.act`."""
        actions = tf.reshape(tf.cast(actions, tf.float32),
                             [-1, self.policy.action_size])
        return self._smallest(self.critics, tf.nest.map_structure(
            lambda leaf: tf.cast(leaf, tf.float32), observations), actions)

    def _step(self, batch):
        seed = tf.random.experimental.stateless_fold_in(
            tf.constant(self._noise, tf.int32), tf.cast(self.num_updates, tf.int32))
        seeds_ = tf.unstack(tf.random.split(seed, 2))
        temperature = tf.exp(self.log_temperature)
        observations, masks = batch['observations'], batch['masks']
        rows = tf.maximum(tf.reduce_sum(masks), 1.)

        def mean(values):
            return tf.reduce_sum(masks * values) / rows

        actions, log_probs = self._draw(batch['next_observations'], seeds_[0])
        values = (self._smallest(self.targets, batch['next_observations'], actions)
                  - temperature * log_probs + self._prior(actions))
        values = tf.stop_gradient(
            self._reward_scale * batch['rewards']
            + self._discount * (1. - batch['terminals']) * values)
        done = tf.reshape(batch['actions'], [-1, self.policy.action_size])
        with tf.GradientTape() as tape:
            estimates = [critic(observations, done) for critic in self.critics]
            critic_loss = tf.add_n([mean((q - values)**2) / 2. for q in estimates])
        self._descend(0, tape, critic_loss, self._critic_variables)

        with tf.GradientTape() as tape:
            actions, log_probs = self._draw(observations, seeds_[1])
            actor_loss = mean(
                temperature * log_probs - self._prior(actions)
                - self._smallest(self.critics, observations, actions))
        self._descend(1, tape, actor_loss, self._actor_variables)

        entropy = -mean(log_probs)
        if self._learns_temperature:
            with tf.GradientTape() as tape:
                loss = self.log_temperature * tf.stop_gradient(
                    entropy - self.target_entropy)
            self._descend(2, tape, loss, [self.log_temperature])
        for target, critic in zip(self._target_variables, self._critic_variables):
            target.assign_add(self._target_rate * (critic - target))
        self.num_updates.assign_add(1)
        return tf.stack([critic_loss, actor_loss, entropy, temperature,
                         mean(tf.minimum(*estimates))])

    def _draw(self, observations, seed):
        """Flat actions `[B, D]` and log-probs `[B]`."""
        return self.policy.distribution.given(
            observations).experimental_sample_and_log_prob(seed=seed)

    def _prior(self, actions):
        if self._log_prior is None:
            return tf.zeros_like(actions[:, 0])
        return self._log_prior(tf.reshape(actions, [-1, *self.policy.action_shape]))

    @staticmethod
    def _smallest(critics, observations, actions):
        # The smaller of two estimates, since the policy finds errors upwards.
        return tf.minimum(*(critic(observations, actions) for critic in critics))

    def _descend(self, i, tape, loss, variables):
        gradients = tape.gradient(loss, variables)
        if self._clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        self._optimizers[i].apply_gradients(zip(gradients, variables))

    @staticmethod
    def _trained(critics):
        return [variable for critic in critics
                for variable in critic.trainable_variables]
