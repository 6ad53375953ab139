"""Soft actor-critic with a conditional flow for a policy.

The policy turns Gaussian noise into actions, given the state, as in Haarnoja et
al. 2018 (arXiv 1804.02808), and learns to swing up a pendulum:

    python examples/latent_space_policy.py

which takes a few minutes on two CPU cores. It then saves the policy, loads it in
a new process, and checks that the log-probabilities are the same to the last bit.
"""

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import time

import gymnasium as gym
import keras
import matplotlib
import matplotlib.colors
import matplotlib.figure
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tfp_conditional as tfpc
import tqdm

tfd = tfp.distributions

PENDULUM = 'Pendulum-v1'


class Policy(tf.Module):
    """A distribution of actions for each state.

    ```none
    action = center + half_range * tanh(flow(noise; state)),   noise ~ N(0, 1)
    ```

    States are `[..., S]` and actions `[..., D]`: one action for each state.

    A new flow is the identity, so that a new policy explores the whole box.

    With one action every layer is affine in the noise, and the policy is a
    squashed Gaussian; from two actions on it can be multimodal too.
    """

    def __init__(self, observation_size, low, high, hidden_layers=(64, 64),
                 coupling_layers=2, seed=None, name='policy'):
        """Constructs the policy.

        Args:
          observation_size: `int` S.
          low: D finite lower bounds of the actions.
          high: D upper bounds; each greater than the lower one.
          hidden_layers: widths of the hidden layers of each coupling's network.
          coupling_layers: `int`; two transform every unit.
          seed: `int` for the initial weights.
          name: `str`.
        """
        super().__init__(name=name)
        bounded = tfpc.Squash(low, high)
        self._observation_size = observation_size
        self.action_size = bounded.event_size
        flow = tfpc.ConditionalRealNVP(
            event_size=self.action_size, condition_size=observation_size,
            num_coupling_layers=coupling_layers, hidden_layers=hidden_layers,
            seed=seed)
        self.bijector = tfpc.ConditionalChain([bounded, flow])
        noise = tfd.Normal(tf.zeros(self.action_size), 1.)
        self.distribution = self.bijector(tfd.Independent(noise, 1))

        # Signatures, so that these become methods of the exported SavedModel.
        states = tf.TensorSpec(None, name='states')
        actions = tf.TensorSpec(None, name='actions')
        self.act = tf.function(self._act, input_signature=[states])
        self.sample = tf.function(self._sample, input_signature=[states])
        self.log_prob = tf.function(self._log_prob,
                                    input_signature=[actions, states])

    def sample_and_log_prob(self, states):
        """Returns actions and their log-probs `[...]`.

        The density is that of the noise which made the action: no inverse is taken,
        which next to a bound knows the noise only roughly.
        """
        return self.distribution.given(states).experimental_sample_and_log_prob()

    def _sample(self, states):
        actions, _ = self.sample_and_log_prob(self._rows(states))
        return _like(actions, states)

    def _act(self, states):
        """The deterministic action: that of zero noise, the median for D = 1."""
        rows = self._rows(states)
        noise = tf.zeros([tf.shape(rows)[0], self.action_size])
        return _like(self.bijector.forward(noise, conditions=rows), states)

    def _log_prob(self, actions, states):
        given = self.distribution.given(self._rows(states))
        log_probs = given.log_prob(tf.reshape(actions, [-1, self.action_size]))
        return tf.reshape(log_probs, tf.shape(states)[:-1])

    def _rows(self, states):
        """States of any batch shape as `[N, S]`."""
        tf.debugging.assert_equal(tf.shape(states)[-1], self._observation_size,
                                  'The last dimension of `states` is wrong.')
        return tf.reshape(states, [-1, self._observation_size])


def _like(actions, states):
    """Actions `[N, D]` in the batch shape of the states."""
    return tf.reshape(actions, tf.concat(
        [tf.shape(states)[:-1], tf.shape(actions)[-1:]], 0))


class SoftActorCritic:
    """The losses and updates of soft actor-critic, with a learned temperature.

    Haarnoja et al. 2018, arXiv 1812.05905.
    """

    def __init__(self, policy, observation_size, target_entropy, discount=0.98,
                 learning_rate=1e-3, target_rate=0.005, hidden_layers=(128, 128)):
        """Constructs the learner.

        Args:
          policy: a `Policy`, which it trains.
          observation_size: `int` S.
          target_entropy: `float`, to which the temperature steers the policy.
          discount: `float`, of the next step's value.
          learning_rate: `float`, of all three optimizers.
          target_rate: `float`, how far the targets move to the critics a step.
          hidden_layers: widths of the hidden layers of the critics.
        """
        self._policy = policy
        self._target_entropy = target_entropy
        self._discount = discount
        self._target_rate = target_rate
        self._log_temperature = tf.Variable(0.)
        input_size = observation_size + policy.action_size
        self._critics = [_make_critic(input_size, hidden_layers) for _ in range(2)]
        self._targets = [copy.deepcopy(critic) for critic in self._critics]
        self._critic_variables = [
            v.value for critic in self._critics for v in critic.trainable_variables]
        self._target_variables = [
            v.value for target in self._targets for v in target.trainable_variables]
        self._optimizers = {name: keras.optimizers.Adam(learning_rate)
                            for name in ('critics', 'actor', 'temperature')}

    @tf.function
    def update(self, batch):
        """One step of critics, policy, temperature and targets.

        Args:
          batch: `dict` of `states`, `actions`, `rewards`, `next_states` and
            `terminals`, as from `ReplayBuffer.sample`.

        Returns:
          `dict` of scalars to watch.
        """
        critic_loss = self._update_critics(batch)
        actor_loss, log_probs = self._update_actor(batch['states'])
        self._update_temperature(log_probs)
        for target, critic in zip(self._target_variables, self._critic_variables):
            target.assign_add(self._target_rate * (critic - target))
        return {'critic_loss': critic_loss, 'actor_loss': actor_loss,
                'entropy': -tf.reduce_mean(log_probs),
                'temperature': tf.exp(self._log_temperature)}

    def _update_critics(self, batch):
        actions, log_probs = self._policy.sample_and_log_prob(batch['next_states'])
        next_values = (_smallest(self._targets, batch['next_states'], actions)
                       - tf.exp(self._log_temperature) * log_probs)
        values = (batch['rewards']
                  + self._discount * (1. - batch['terminals']) * next_values)
        with tf.GradientTape() as tape:
            loss = tf.add_n([
                tf.reduce_mean((_q(critic, batch['states'], batch['actions'])
                                - values) ** 2) / 2. for critic in self._critics])
        self._descend('critics', tape, loss, self._critic_variables)
        return loss

    def _update_actor(self, states):
        with tf.GradientTape() as tape:
            actions, log_probs = self._policy.sample_and_log_prob(states)
            loss = tf.reduce_mean(tf.exp(self._log_temperature) * log_probs
                                  - _smallest(self._critics, states, actions))
        self._descend('actor', tape, loss, self._policy.trainable_variables)
        return loss, log_probs

    def _update_temperature(self, log_probs):
        surplus = tf.reduce_mean(-log_probs) - self._target_entropy
        with tf.GradientTape() as tape:
            loss = self._log_temperature * surplus
        self._descend('temperature', tape, loss, [self._log_temperature])

    def _descend(self, name, tape, loss, variables):
        gradients = tape.gradient(loss, variables)
        self._optimizers[name].apply_gradients(zip(gradients, variables))


def _make_critic(input_size, hidden_layers):
    return keras.Sequential(
        [keras.Input([input_size])]
        + [keras.layers.Dense(units, 'relu') for units in hidden_layers]
        + [keras.layers.Dense(1)])


def _q(critic, states, actions):
    return critic(tf.concat([states, actions], axis=-1))[..., 0]


def _smallest(critics, states, actions):
    # The smaller of two estimates, since the policy finds errors upwards.
    return tf.minimum(*(_q(critic, states, actions) for critic in critics))


class ReplayBuffer:
    """The last `capacity` transitions, in a ring of NumPy arrays."""

    def __init__(self, capacity, observation_size, action_size, seed):
        sizes = {'states': (observation_size,), 'actions': (action_size,),
                 'rewards': (), 'next_states': (observation_size,), 'terminals': ()}
        self._arrays = {name: np.zeros((capacity, *size), np.float32)
                        for name, size in sizes.items()}
        self._capacity, self._count = capacity, 0
        self._rng = np.random.default_rng(seed)

    def add(self, **transition):
        """Stores one transition, by the names of the arrays."""
        for name, array in self._arrays.items():
            array[self._count % self._capacity] = transition[name]
        self._count += 1

    def sample(self, batch_size):
        """Returns a `dict` of `batch_size` transitions, drawn with replacement."""
        rows = self._rng.integers(min(self._count, self._capacity), size=batch_size)
        return {name: array[rows] for name, array in self._arrays.items()}

    def states(self):
        """Returns all the states that are stored, `[N, S]`."""
        return self._arrays['states'][:self._count]


class Finite(gym.Wrapper):
    """An environment that raises as soon as what it returns is not finite."""

    def reset(self, **kwargs):
        state, info = self.env.reset(**kwargs)
        self._check('observation after a reset', state)
        return state, info

    def step(self, action):
        self._check('action of the policy', action)
        state, reward, *rest = self.env.step(action)
        self._check(f'observation after the action {action}', state)
        self._check(f'reward of the action {action}', reward)
        return state, reward, *rest

    def _check(self, label, value):
        if not np.all(np.isfinite(value)):
            raise FloatingPointError(f'The {label} must be finite; got {value}.')


def make_environment(name):
    """Returns the environment `name`, its observations flat float32 vectors."""
    env = gym.wrappers.FlattenObservation(gym.make(name))
    space = env.action_space
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1
            and np.issubdtype(space.dtype, np.floating) and space.is_bounded()
            and np.all(space.low < space.high)
            # This is how some environments say that there are no bounds.
            and np.all(space.high / 2 - space.low / 2 < np.finfo(np.float32).max / 4)):
        raise ValueError(
            f'{name} must have a vector of actions, of floats between bounds with '
            f'low < high; got {space}.')
    return Finite(gym.wrappers.DtypeObservation(env, np.float32))


def evaluate(policy, env, episodes, first_seed=10_000):
    """Returns the returns of deterministic episodes, whose starts are seeded."""
    returns = []
    for episode in range(episodes):
        state, _ = env.reset(seed=first_seed + episode)
        total, done = 0., False
        while not done:
            action = policy.act(state[np.newaxis])[0].numpy()
            state, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    return returns


def train(policy, learner, buffer, args):
    """Trains the policy, one update for each step in the environment.

    The policy ends as it was at its best evaluation: soft actor-critic goes on
    exploring, and now and then forgets for a while what it could do.

    Args:
      policy: a `Policy`.
      learner: its `SoftActorCritic`.
      buffer: a `ReplayBuffer`, to be filled.
      args: as from `parse_arguments`.

    Returns:
      `dict` of lists: what `update` returned, averaged between evaluations, and
      `steps` and `returns [episodes]` of each evaluation.
    """
    env, evaluation_env = make_environment(args.env), make_environment(args.env)
    history = {'steps': [0], 'returns': [evaluate(policy, evaluation_env,
                                                  args.episodes)]}
    watched, best = [], -np.inf
    best_values = [v.numpy() for v in policy.trainable_variables]
    state, _ = env.reset(seed=args.seed)
    progress = tqdm.trange(1, args.steps + 1, unit='step', smoothing=0.05)
    for step in progress:
        action = policy.sample(state[np.newaxis])[0].numpy()
        next_state, reward, terminated, truncated, _ = env.step(action)
        # A truncated episode would have gone on: its last state has a value.
        buffer.add(states=state, actions=action, rewards=reward,
                   next_states=next_state, terminals=terminated)
        state = env.reset()[0] if terminated or truncated else next_state
        if step > args.warm_up:
            watched.append(learner.update(buffer.sample(args.batch_size)))
        if step % args.evaluate_every == 0 or step == args.steps:
            returns = evaluate(policy, evaluation_env, args.episodes)
            history['steps'].append(step)
            history['returns'].append(returns)
            for name in watched[0] if watched else ():
                mean = np.mean([values[name] for values in watched])
                if not np.isfinite(mean):
                    raise FloatingPointError(
                        f'{name} is {mean} in the {len(watched)} updates before step '
                        f'{step}. Lower --learning-rate, or scale the rewards down.')
                history.setdefault(name, []).append(mean)
            watched = []
            if np.mean(returns) > best:
                best = np.mean(returns)
                best_values = [v.numpy() for v in policy.trainable_variables]
            progress.set_postfix_str(f'mean return {np.mean(returns):.0f}')
    for variable, value in zip(policy.trainable_variables, best_values):
        variable.assign(value)
    return history


def draw(policy, history, args, path):
    """Draws the learning curve and, for the pendulum, the policy."""
    pendulum = args.env == PENDULUM
    with matplotlib.rc_context({'font.size': 11, 'axes.spines.top': False,
                                'axes.spines.right': False}):
        figure = matplotlib.figure.Figure(
            figsize=(6. + 6.5 * pendulum, 4.6), layout='constrained')
        axes = figure.subplots(1, 1 + pendulum, squeeze=False)[0]
        _draw_learning_curve(axes[0], history, args)
        if pendulum:
            _draw_density(axes[1], policy)
        figure.savefig(path, dpi=110)


def _draw_learning_curve(axes, history, args):
    steps, returns = np.array(history['steps']), np.array(history['returns'])
    axes.plot(steps, returns.mean(1), marker='o', markersize=4,
              label=f'mean of {returns.shape[1]} episodes')
    axes.fill_between(steps, returns.min(1), returns.max(1), alpha=0.2, linewidth=0,
                      label='worst to best of them')
    axes.axhline(args.target_return, color='gray', linestyle='--', linewidth=1,
                 label=f'target, {args.target_return:g}')
    axes.set(title=f'Learning {args.env}', xlabel='steps in the environment',
             ylabel='return of a deterministic episode')
    axes.legend(loc='lower right', frameon=False)


def _draw_density(axes, policy):
    """The density of the torque over the angle, for a pendulum at rest."""
    angles = np.linspace(-np.pi, np.pi, 361, dtype=np.float32)
    # Cells end at the bounds, where a squashed density may be infinite.
    edges = np.linspace(-2., 2., 401, dtype=np.float32)
    angles_grid, torques_grid = np.meshgrid(angles, (edges[1:] + edges[:-1]) / 2)
    log_probs = policy.log_prob(torques_grid.reshape([-1, 1]),
                                _at_rest(angles_grid.ravel())).numpy()
    image = axes.pcolormesh(
        np.degrees(angles_grid), torques_grid,
        np.exp(log_probs).reshape(angles_grid.shape), cmap='magma',
        shading='nearest', norm=matplotlib.colors.LogNorm(1e-2, 1e1))
    axes.plot(np.degrees(angles), policy.act(_at_rest(angles)).numpy()[:, 0],
              color='cyan', linewidth=1.5)
    # A density that underflows to 0 has no logarithm and shows the background.
    axes.set(title='Policy for a pendulum at rest (cyan: deterministic action)',
             xlabel='angle from upright (degrees)', ylabel='torque (N m)',
             ylim=(-2, 2), xticks=range(-180, 181, 60), facecolor='black')
    axes.figure.colorbar(image, ax=axes, extend='both',
                         label='probability density (1 / N m)')


def _at_rest(angles):
    return np.stack([np.cos(angles), np.sin(angles), 0. * angles], axis=-1)


def save(policy, settings, states, out):
    """Saves the policy in both of TensorFlow's ways, and some log-probabilities.

    Args:
      policy: a `Policy`.
      settings: `dict`, the arguments that made it.
      states: `[N, S]`, at which to sample.
      out: `pathlib.Path` of a directory.
    """
    (out / 'settings.json').write_text(json.dumps(settings))
    tf.train.Checkpoint(policy=policy).write(str(out / 'checkpoint'))
    tf.saved_model.save(policy, str(out / 'saved_model'))
    actions = policy.sample(states)
    np.savez(out / 'samples.npz', states=states, actions=actions,
             log_probs=policy.log_prob(actions, states))


def verify(out):
    """Returns whether both saved policies give the saved log-probabilities."""
    samples = np.load(out / 'samples.npz')
    policy = Policy(**json.loads((out / 'settings.json').read_text()))

    def compare(label, candidate):
        log_probs = candidate.log_prob(samples['actions'], samples['states']).numpy()
        difference = np.abs(log_probs - samples['log_probs']).max()
        print(f'{label:<12}largest difference of {len(log_probs)} '
              f'log-probabilities: {difference:g}')
        return np.isfinite(log_probs).all() and difference == 0.

    # A new policy must differ, or else the comparison would show nothing.
    differs = not compare('untrained', policy)
    tf.train.Checkpoint(policy=policy).read(
        str(out / 'checkpoint')).assert_consumed()
    return (compare('checkpoint', policy)
            & compare('SavedModel', tf.saved_model.load(str(out / 'saved_model')))
            & differs)


def parse_arguments(arguments=None):
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--env', default=PENDULUM, help='any environment of bounded actions')
    add('--steps', type=int, default=8000, help='steps in the environment')
    add('--warm-up', type=int, default=500, help='steps before the first update')
    add('--batch-size', type=int, default=256)
    add('--learning-rate', type=float, default=1e-3)
    add('--evaluate-every', type=int, default=1000, help='steps')
    add('--episodes', type=int, default=10, help='episodes of each evaluation')
    add('--target-return', type=float, default=-200.,
        help='mean return below which the run fails')
    add('--seed', type=int, default=0)
    add('--out', type=pathlib.Path, default=pathlib.Path('latent_space_policy'),
        help='directory for the picture and the saved policy')
    add('--verify', type=pathlib.Path, metavar='OUT',
        help='only check the policy that another run saved')
    # argparse takes a number such as -1e9 for an option.
    joined = []
    for argument in sys.argv[1:] if arguments is None else arguments:
        if joined and argument.startswith('-') and _is_number(argument):
            joined[-1] += f'={argument}'
        else:
            joined.append(argument)
    return parser.parse_args(joined)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def main(arguments=None):
    """Trains, draws, saves and verifies; returns the exit status."""
    args = parse_arguments(arguments)
    if args.verify:
        return 0 if verify(args.verify) else 1

    start = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(args.seed)
    env = make_environment(args.env)
    observation_size = env.observation_space.shape[0]
    low, high = env.action_space.low, env.action_space.high
    settings = {'observation_size': observation_size, 'low': low.tolist(),
                'high': high.tolist()}
    policy = Policy(**settings, seed=args.seed)
    # -1 for each action of range [-1, 1], as is usual, whatever the units are.
    target_entropy = float(np.sum(np.log(high / 2 - low / 2) - 1.))
    learner = SoftActorCritic(policy, observation_size, target_entropy,
                              learning_rate=args.learning_rate)
    buffer = ReplayBuffer(args.steps, observation_size, policy.action_size,
                          args.seed)
    history = train(policy, learner, buffer, args)

    np.savez(args.out / 'history.npz', **history)
    draw(policy, history, args, args.out / 'latent_space_policy.png')
    save(policy, settings, buffer.states()[-1000:], args.out)
    # Other starts than those by which the best policy was chosen.
    mean = np.mean(evaluate(policy, env, args.episodes, first_seed=20_000))
    print(f'mean return of {args.episodes} new episodes: {mean:.1f}, '
          f'after {time.time() - start:.0f} s')
    # A new process shares nothing with this one but the files.
    verification = subprocess.run(
        [sys.executable, __file__, '--verify', str(args.out)], check=False)
    status = 0
    if verification.returncode != 0:
        print('The saved policy is not the one that was trained.')
        status = 1
    if not mean >= args.target_return:
        print(f'This misses the target of {args.target_return:g}.')
        status = 1
    return status


if __name__ == '__main__':
    sys.exit(main())
