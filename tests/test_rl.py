"""Latent-space policies: densities, acting, hierarchies, learning, resuming."""

import copy
import functools
import pickle
import types

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf

import tfp_conditional as tfpc
from tfp_conditional import rl
from tfp_conditional.rl import features
from tfp_conditional.rl import policy as policy_lib
from tfp_conditional.rl import spaces
from tests import flows

gymnasium = pytest.importorskip('gymnasium')
# pylint: disable=wrong-import-position
from tfp_conditional.rl import hierarchy
from tfp_conditional.rl import point_mass

LOW, HIGH = np.array([-2., 0.]), np.array([2., 1.])
S = np.random.default_rng(0).normal(size=[6, 3]).astype(np.float32)


def made(observation_space=3, action_space=(LOW, HIGH), seed=0, **kwargs):
    """A small policy that is not at its initial identity."""
    return flows.perturb(rl.LatentSpacePolicy(
        observation_space, action_space, seed=seed, **{'flow': functools.partial(
            tfpc.ConditionalRealNVP, num_coupling_layers=2, hidden_layers=(8,),
            seed=seed), **kwargs}), seed)


@pytest.fixture(scope='module')
def policy():
    return made()


class TestDensity:

    def test_sampling_and_density_agree(self, policy):
        actions, log_probs, latents = policy.sample_and_log_prob(
            S, seed=1, with_latents=True)
        assert actions.shape == (6, 2) and log_probs.shape == (6,)
        assert isinstance(actions, np.ndarray)
        np.testing.assert_allclose(policy.log_prob(actions, S), log_probs, atol=1e-4)
        np.testing.assert_allclose(policy.log_prob_of_latents(latents, S), log_probs,
                                   atol=1e-5)
        np.testing.assert_allclose(policy.forward(latents, S), actions, atol=1e-6)
        np.testing.assert_allclose(policy.inverse(actions, S), latents, atol=1e-3)
        np.testing.assert_array_equal(policy.sample(S, seed=1),
                                      policy.sample_and_log_prob(S, seed=1)[0])

    def test_it_integrates_to_1(self, policy):
        grid = np.stack(np.meshgrid(*(
            low + (high - low) * (np.arange(200) + 0.5) / 200
            for low, high in zip(LOW, HIGH))), axis=-1).reshape(-1, 2)
        for state in S[:2]:
            density = np.exp(policy.log_prob(grid, np.tile(state, [len(grid), 1])))
            assert abs(np.mean(density) * np.prod(HIGH - LOW) - 1.) < 0.03

    @pytest.mark.parametrize('size', [5., 20., 100.])
    def test_saturated_actions_have_exact_densities_of_their_latents(self, policy, size):
        latents = np.array([[size, -size], [-size, size], [size, 0.]], np.float32)
        log_probs = policy.log_prob_of_latents(latents, S[:3])
        assert np.all(np.isfinite(log_probs))
        # The same in float64, by hand.
        y, fldj = policy.bijector.bijector.bijectors[1].forward_and_log_det(
            latents, conditions=S[:3])
        y, fldj = (np.asarray(x, np.float64) for x in (y, fldj))
        slope = np.log((HIGH - LOW) / 2.) + 2. * (
            np.log(2.) - np.logaddexp(y, -y))
        expected = stats.norm.logpdf(np.float64(latents)).sum(-1) - fldj - slope.sum(-1)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-3)

    def test_actions_on_the_bounds_have_densities(self, policy):
        for action in (LOW, HIGH, np.array([-2., 1.])):
            assert np.all(np.isfinite(policy.log_prob(np.tile(action, [6, 1]), S)))
        assert policy.log_prob(HIGH + 1., S[0]) == -np.inf

    def test_a_new_policy_explores_the_whole_box(self):
        actions = rl.LatentSpacePolicy(3, (LOW, HIGH), seed=0).sample(
            np.zeros([4000, 3]), seed=0)
        counts, _, _ = np.histogram2d(*actions.T, bins=4, range=list(zip(LOW, HIGH)))
        assert counts.min() > 4000 / 16 / 4

    def test_gradients_reach_weights_observations_and_latents(self, policy):
        observations, latents = tf.constant(S), tf.ones([6, 2])
        with tf.GradientTape() as tape:
            tape.watch([observations, latents])
            actions, log_probs = policy.sample_and_log_prob(observations, seed=1)
            more = policy.log_prob_of_latents(latents, observations)
            loss = tf.reduce_sum(actions) + tf.reduce_sum(log_probs + more)
        assert tf.is_tensor(actions)
        gradients = tape.gradient(loss, [observations, latents,
                                         *policy.trainable_variables])
        assert all(g is not None and np.all(np.isfinite(g)) for g in gradients)

    def test_in_a_function_of_unknown_batch_size(self, policy):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def run(states):
            actions, log_probs = policy.sample_and_log_prob(states, seed=1)
            return log_probs, policy.log_prob(actions, states)
        one, other = run(S)
        np.testing.assert_allclose(one, other, atol=1e-4)

    def test_behaviour_cloning(self):
        # Actions of two modes, some of them on the bound, whatever the state is.
        rng = np.random.default_rng(0)
        states = rng.normal(size=[600, 3]).astype(np.float32)
        actions = np.clip(rng.choice([-1.2, 1.2], [600, 1])
                          + 0.3 * rng.normal(size=[600, 1]), -2., 2.)
        policy = rl.LatentSpacePolicy(
            3, (-2., 2.), seed=0, flow=lambda *sizes: tfpc.ConditionalRealNVP(
                *sizes, num_coupling_layers=1, hidden_layers=(16,),
                transformer='rational_quadratic', seed=0))
        before = np.mean(policy.log_prob(actions, states))
        tfpc.fit(policy.distribution, actions, states, epochs=8, validation_split=0.2,
                 seed=0, verbose=False)
        after = np.mean(policy.log_prob(actions, states))
        assert np.isfinite(before) and after > before + 0.15
        best = policy.act(states[:50], 'densest', candidates=64, seed=0)
        assert np.mean(np.abs(np.abs(best) - 1.2) < 0.5) > 0.9


class TestActing:

    def test_one_and_many_observations(self, policy):
        actor = policy.actor(hold=True, seed=0)
        np.testing.assert_array_equal(actor(S.tolist()), actor(S))
        for shape in [(), (2, 4)]:
            states = np.zeros([*shape, 3])
            for mode in ('sample', 'zero', 'densest'):
                assert policy.act(states, mode).shape == (*shape, 2), (shape, mode)
            latents = np.ones([*shape, 2])
            actions = policy.act(states, 'latent', latents=latents)
            np.testing.assert_allclose(actions, policy.forward(latents, states),
                                       atol=1e-6)
        np.testing.assert_array_equal(
            policy.act(S, 'zero'), policy.act(S, 'latent', latents=np.zeros([6, 2])))
        assert policy.act(S.tolist()).shape == (6, 2)

    def test_the_densest_and_the_best_of_candidates(self, policy):
        densest = policy.log_prob(policy.act(S, 'densest', 256, seed=1), S)
        assert np.all(densest > policy.log_prob(policy.sample(S, seed=2), S) - 0.1)

        def q_function(observations, actions):
            assert observations.shape[0] == actions.shape[0]
            return -tf.reduce_sum((actions - [1., 0.25])**2, -1)
        best = policy.act(S, 'best', 500, q_function=q_function, seed=1)
        np.testing.assert_allclose(best, np.tile([1., 0.25], [6, 1]), atol=0.4)
        assert policy.act(S[0], 'best', 5, q_function=q_function).shape == (2,)

    def test_acts_are_those_of_the_policy_now(self, policy):
        policy = copy.deepcopy(policy)
        before = policy.act(S, 'zero')
        flows.perturb(policy, 5)
        after = policy.act(S, 'zero')
        assert np.abs(after - before).max() > 1e-3
        np.testing.assert_allclose(after, policy.forward(np.zeros([6, 2]), S), atol=1e-6)

    def test_acts_are_drawn_from_the_policy(self, policy):
        state = S[0]
        acts = np.array([policy.act(state) for _ in range(1000)])
        draws = policy.sample(np.tile(state, [5000, 1]), seed=3)
        for i in range(2):
            assert stats.ks_2samp(acts[:, i], draws[:, i]).pvalue > 1e-3

    def test_seeds(self):
        one, other = made(seed=1), made(seed=1)
        first = [one.act(S) for _ in range(3)]
        np.testing.assert_array_equal(first, [other.act(S) for _ in range(3)])
        assert not np.array_equal(first[0], first[1])
        one.reseed(7)
        again = one.act(S)
        other.act(S[0]), other.reseed(7)
        np.testing.assert_array_equal(other.act(S), again)
        np.testing.assert_array_equal(one.act(S, seed=5), one.act(S, seed=5))

    def test_many_shapes_do_not_compile_for_ever(self, policy, monkeypatch):
        monkeypatch.setattr(policy_lib, '_HELD', 2)
        policy = copy.deepcopy(policy)
        for count in range(1, 5):
            assert policy.act(np.zeros([count, 3])).shape == (count, 2)
        assert 0 < len(policy._held) <= 2

    def test_predict_is_what_stable_baselines_calls(self, policy):
        actions, state = policy.predict(S, state=None, episode_start=np.ones(6),
                                        deterministic=True)
        np.testing.assert_array_equal(actions, policy.act(S, 'zero'))
        assert state is None and policy.predict(S[0])[0].shape == (2,)

    def test_smooth_and_held_latents(self, policy):
        latents = []
        original = policy.act
        seen = types.SimpleNamespace(
            action_size=2, batch_shape_of=policy.batch_shape_of,
            act=lambda s, mode, latents=None: (seen.log.append(latents), original(
                s, mode, latents=latents))[1], log=latents)
        actor = rl.Actor(seen, smoothing=0.9, seed=0)
        states = np.zeros([50, 3], np.float32)
        for _ in range(100):
            actor(states)
        z = np.array(latents[20:])
        assert abs(z.std() - 1.) < 0.1
        assert abs(np.mean(z[1:] * z[:-1]) - 0.9) < 0.1

    def test_a_mode_for_a_while_is_undone_by_an_exception_too(self, policy):
        actor = policy.actor(hold=True, seed=0)
        before = actor(S)
        with pytest.raises(RuntimeError, match='in between'):
            with actor.acting('zero'):
                np.testing.assert_array_equal(actor(S), policy.act(S, 'zero'))
                actor.reset()
                raise RuntimeError('in between')
        np.testing.assert_array_equal(actor(S), before)

    def test_refusals(self, policy):
        for run, error, message in [
                (lambda: policy.act(S, 'best'), ValueError, 'q_function'),
                (lambda: policy.act(S, 'latent'), ValueError, 'latents'),
                (lambda: policy.act(S, 'median'), ValueError, 'mode'),
                (lambda: policy.act(S[:, :2]), ValueError, 'observation'),
                (lambda: policy.log_prob(S, S), ValueError, 'action'),
                (lambda: policy.forward(S, S), ValueError, 'latents'),
                (lambda: policy.sample(None), (TypeError, ValueError), 'observation'),
                (lambda: policy.actor(smoothing=1.), ValueError, 'smoothing'),
                (lambda: policy.actor().__class__(policy, 0.5, True), ValueError, 'both'),
                (lambda: policy.set_weights([np.zeros(3)]), ValueError, 'weights')]:
            with pytest.raises(error, match=message):
                run()


class TestSpaces:

    def test_spaces_of_gymnasium_and_bare_ones(self):
        box = gymnasium.spaces.Box
        space = gymnasium.spaces.Dict(
            image=box(0, 255, (4, 4, 1), np.uint8), speed=box(-1., 1., (2,)))
        policy = made(space, box(-1., 1., (2, 3)))
        for batch in [(), (5,)]:
            observation = {'image': np.zeros([*batch, 4, 4, 1], np.uint8),
                           'speed': np.zeros([*batch, 2])}
            actions, log_probs = policy.sample_and_log_prob(observation)
            assert actions.shape == (*batch, 2, 3) and log_probs.shape == batch
            assert policy.act(observation).shape == (*batch, 2, 3)
            assert policy.log_prob(actions, observation).shape == batch
        policy.observe(observation)
        assert policy.moments.count == 5.

    def test_an_embedding_of_images(self):
        network = tf.keras.Sequential([
            tf.keras.layers.Flatten(), tf.keras.layers.Dense(3)])
        policy = made(gymnasium.spaces.Box(0, 255, (4, 4, 1), np.uint8), (-1., 1.),
                      embedding=network, embedding_size=3)
        images = np.random.default_rng(0).integers(255, size=[5, 4, 4, 1])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(policy.log_prob(
                np.zeros([5, 1]), tf.constant(images, tf.float32)))
        assert all(g is not None for g in tape.gradient(
            loss, policy.trainable_variables))

    @pytest.mark.parametrize('space, message', [
        (gymnasium.spaces.Discrete(3), 'Box of floats'),
        (gymnasium.spaces.Box(0, 3, (2,), np.int64), 'Box of floats'),
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), 'finite bounds'),
        (gymnasium.spaces.Box(-3.4e38, 3.4e38, (2,)), 'finite bounds'),
        (([0., 1.], [1., 1.]), 'low < high'), (3, 'squash=None')])
    def test_actions_that_are_no_bounded_numbers_are_refused(self, space, message):
        with pytest.raises((TypeError, ValueError), match=message):
            rl.LatentSpacePolicy(3, space)

    def test_observations_that_are_no_numbers_are_refused(self):
        with pytest.raises(TypeError, match='must be a Box'):
            spaces.observation_spec(gymnasium.spaces.Discrete(3))
        with pytest.raises(TypeError, match=r"\['a'\]"):
            spaces.observation_spec({'a': 'three'})

    def test_moments_are_those_of_all_observations(self):
        data = np.random.default_rng(0).normal(5., 3., [90, 3])
        moments = features.RunningMoments(tf.TensorSpec([3], tf.float32))
        np.testing.assert_array_equal(moments(tf.constant(S)), S)
        for part in np.split(data, [1, 30, 31]):
            moments.update(part)
        np.testing.assert_allclose(moments.means[0], data.mean(0))
        np.testing.assert_allclose(moments.variances[0], data.var(0))
        z = moments(tf.constant(data))
        np.testing.assert_allclose(np.std(z, 0), 1., atol=1e-5)
        assert np.max(moments(tf.constant([[1e9, 0., 0.]]))) == 10.


class TestCopies:

    def test_deepcopy_is_a_target_network(self, policy):
        target = copy.deepcopy(policy)
        before = target.log_prob(policy.act(S, 'zero'), S)
        changed = copy.deepcopy(policy)
        flows.perturb(changed, 9)
        np.testing.assert_array_equal(
            target.log_prob(policy.act(S, 'zero'), S), before)
        changed.set_weights(policy.get_weights())
        np.testing.assert_array_equal(
            changed.log_prob(policy.act(S, 'zero'), S), before)

    def test_pickle_and_checkpoint(self, policy, tmp_path):     # Exports: test_serving.py.
        policy = copy.deepcopy(policy)
        policy.observe(S + 1.)
        actions = policy.sample(S, seed=1)
        expected = policy.log_prob(actions, S)
        loaded = pickle.loads(pickle.dumps(policy))
        np.testing.assert_array_equal(loaded.log_prob(actions, S), expected)
        other = made(seed=3)
        tf.train.Checkpoint(policy=policy).write(str(tmp_path / 'checkpoint'))
        tf.train.Checkpoint(policy=other).read(
            str(tmp_path / 'checkpoint')).assert_consumed()
        np.testing.assert_array_equal(other.log_prob(actions, S), expected)


class TestHierarchy:

    def test_two_levels_are_one_density_over_a_frozen_lower_one(self):
        lower, upper = made(), made(5, 2, seed=1, squash=None)
        both = hierarchy.stacked(upper, lower, select=lambda s: s[..., :3])
        states = np.random.default_rng(0).normal(size=[6, 5]).astype(np.float32)
        weights = lower.get_weights()
        actions, log_probs, latents = both.sample_and_log_prob(
            states, seed=1, with_latents=True)
        inner = upper.forward(latents, states)
        np.testing.assert_allclose(lower.forward(inner, states[:, :3]), actions,
                                   atol=1e-5)
        # Base and both log-dets.
        expected = upper.log_prob_of_latents(latents, states) + (
            lower.log_prob_of_latents(inner, states[:, :3])
            - stats.norm.logpdf(inner).sum(-1))
        np.testing.assert_allclose(log_probs, expected, atol=1e-3)
        np.testing.assert_allclose(both.log_prob(actions, states), log_probs, atol=1e-3)
        assert both.act(states).shape == (6, 2) and both.low is lower.low or np.all(
            both.low == lower.low)
        assert {id(v) for v in both.trainable_variables} == {
            id(v) for v in upper.trainable_variables}
        learner = rl.SoftActorCritic(both, hidden_layers=(8,), seed=0)
        buffer = rl.ReplayBuffer(both, 10, seed=0)
        buffer.add(states, actions, np.ones(6), states, np.zeros(6))
        before = upper.get_weights()
        learner.update(buffer.sample(8))
        assert all(np.array_equal(a, b) for a, b in zip(weights, lower.get_weights()))
        assert not all(np.array_equal(a, b) for a, b in zip(before,
                                                            upper.get_weights()))

    def test_three_levels(self):
        lowest, middle, top = made(), made(3, 2, 1, squash=None), made(
            3, 2, 2, squash=None)
        two = hierarchy.stacked(middle, lowest)
        three = hierarchy.stacked(top, two)
        actions, log_probs = three.sample_and_log_prob(S, seed=1)
        np.testing.assert_allclose(three.log_prob(actions, S), log_probs, atol=1e-3)
        assert len(three.trainable_variables) == len(top.trainable_variables)

    def test_levels_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match='squash=None'):
            hierarchy.stacked(made(), made())
        with pytest.raises(ValueError, match='by 2 numbers'):
            hierarchy.stacked(made(3, 3, squash=None), made())

    def test_an_environment_of_latents(self):
        env = gymnasium.make('Pendulum-v1')
        lower = made(env.observation_space, env.action_space)
        held = hierarchy.LatentActions(env, lower, repeat=3)
        other = gymnasium.make('Pendulum-v1')
        observation, _ = held.reset(seed=0)
        again, _ = other.reset(seed=0)
        np.testing.assert_array_equal(observation, again)
        latent = np.array([0.5], np.float32)
        observation, reward, *_ = held.step(latent)
        total = 0.
        for _ in range(3):
            again, part, *_ = other.step(lower.forward(latent, again))
            total += part
        np.testing.assert_allclose(observation, again, atol=1e-4)
        np.testing.assert_allclose(reward, total, rtol=1e-4)


class TestLearning:

    @pytest.mark.parametrize('temperature', [None, 0.3], ids=['learnt', 'fixed'])
    def test_an_update_is_that_of_the_formulas(self, temperature):
        policy = made(3, (-1., 1.))
        learner = rl.SoftActorCritic(
            policy, hidden_layers=(8,), seed=0, discount=0.9, target_rate=0.1,
            temperature=temperature, initial_temperature=0.5, reward_scale=2.,
            log_prior=lambda a: -a[:, 0]**2, learning_rate=1e-2)
        flows.perturb(learner, 3)
        batch = dict(
            observations=S[:4], actions=np.full([4, 1], 0.3, np.float32),
            rewards=np.arange(4, dtype=np.float32), next_observations=S[2:],
            terminals=np.array([0, 1, 0, 0], np.float32),
            masks=np.array([1, 1, 1, 0], np.float32))
        drawn = []
        draw = learner._draw
        learner._draw = lambda *args: drawn.append(draw(*args)) or drawn[-1]
        t = float(tf.exp(learner.log_temperature))
        old_targets = copy.deepcopy(learner.targets)
        old_critics = copy.deepcopy(learner.critics)
        old_log_t = float(learner.log_temperature)
        tf.config.run_functions_eagerly(True)
        try:
            metrics = learner.update(batch)
        finally:
            tf.config.run_functions_eagerly(False)
        (next_actions, next_log_probs), (actions, log_probs) = [
            tuple(np.asarray(x) for x in pair) for pair in drawn]
        next_q = np.minimum(*(np.asarray(q(tf.constant(S[2:]), tf.constant(next_actions)))
                              for q in old_targets))
        values = 2. * batch['rewards'] + 0.9 * (1. - batch['terminals']) * (
            next_q - t * next_log_probs - next_actions[:, 0]**2)
        estimates = [np.asarray(q(tf.constant(S[:4]), tf.constant(batch['actions'])))
                     for q in old_critics]
        loss = sum(np.mean((q - values)[:3]**2) / 2. for q in estimates)
        np.testing.assert_allclose(metrics['critic_loss'], loss, rtol=1e-4)
        np.testing.assert_allclose(metrics['entropy'], -np.mean(log_probs[:3]), rtol=1e-4)
        # Critics are updated before the policy is asked for its loss.
        q = np.minimum(*(np.asarray(q(tf.constant(S[:4]), tf.constant(actions)))
                         for q in learner.critics))
        actor_loss = np.mean((t * log_probs + actions[:, 0]**2 - q)[:3])
        np.testing.assert_allclose(metrics['actor_loss'], actor_loss, rtol=1e-3, atol=1e-4)
        for new, old, critic in zip(*([v for q in part for v in q.trainable_variables]
                                      for part in (learner.targets, old_targets,
                                                   learner.critics))):
            np.testing.assert_allclose(new, 0.9 * old + 0.1 * critic, atol=1e-6)
        moved = float(learner.log_temperature) - old_log_t
        if temperature is None:
            surplus = metrics['entropy'] - learner.target_entropy
            assert np.sign(moved) == -np.sign(surplus)
        else:
            assert moved == 0.

    def test_environments_of_every_kind_give_the_same_transitions(self):
        """Whatever resets by itself, what is stored are steps, and not resets."""
        policy = made(3, (-2., 2.))

        def collect(env):
            learner = types.SimpleNamespace(policy=policy, update=lambda batch: {})
            buffer = rl.ReplayBuffer(policy, 1000, seed=0)
            rl.train(env, learner, 60, buffer=buffer, seed=0, warm_up=100,
                     verbose=False)
            return buffer
        modes = gymnasium.vector.AutoresetMode
        single = collect(gymnasium.make('Pendulum-v1', max_episode_steps=7))
        assert len(single) == 60
        for mode in modes:
            buffer = collect(gymnasium.make_vec(
                'Pendulum-v1', num_envs=3, max_episode_steps=7,
                vector_kwargs=dict(autoreset_mode=mode)))
            batch = buffer._rows(np.arange(len(buffer)))
            real = batch['masks'] > 0.
            assert np.sum(~real) == (6 if mode == modes.NEXT_STEP else 0)
            # The pendulum's physics: an angle moves by 0.05 of its new speed.
            angle, after = (np.arctan2(batch[key][:, 1], batch[key][:, 0])
                            for key in ('observations', 'next_observations'))
            step = (after - angle + np.pi) % (2. * np.pi) - np.pi
            error = np.abs(step - 0.05 * batch['next_observations'][:, 2])
            assert error[real].max() < 1e-4

    def test_resumed_after_a_kill_it_ends_as_if_never_interrupted(self, tmp_path):
        class Killed(Exception):
            pass

        def kill(history):
            if history['steps'][-1] >= 60:
                raise Killed

        def run(checkpoint, callback=None):
            env = gymnasium.make('Pendulum-v1', max_episode_steps=30)
            policy = rl.LatentSpacePolicy(env.observation_space, env.action_space, seed=0)
            learner = rl.SoftActorCritic(policy, hidden_layers=(8,), seed=0)
            history = rl.train(
                env, learner, 90, evaluation_env=gymnasium.make(
                    'Pendulum-v1', max_episode_steps=5), seed=0, warm_up=10,
                batch_size=8, evaluate_every=20, episodes=1, checkpoint=checkpoint,
                checkpoint_every=25, log=f'{checkpoint}.csv', callback=callback,
                verbose=False)
            return history, policy.get_weights(), [
                v.numpy() for v in learner.variables]
        whole = run(tmp_path / 'whole')
        with pytest.raises(Killed):
            run(tmp_path / 'cut', kill)
        resumed = run(tmp_path / 'cut')
        assert whole[0] == resumed[0]
        for part in (1, 2):
            assert all(np.array_equal(a, b) for a, b in zip(whole[part], resumed[part],
                                                            strict=True))
        log = (tmp_path / 'whole.csv').read_text()
        assert log.startswith('step,mean_return,critic_loss,')
        assert (tmp_path / 'cut.csv').read_text() == log

    @pytest.mark.parametrize('bad', ['reward', 'observation', 'loss'])
    def test_what_is_not_finite_ends_the_run_by_name(self, bad, tmp_path):
        class Bad(gymnasium.Wrapper):
            count = 0

            def step(self, action):
                observation, reward, *rest = self.env.step(action)
                self.count += 1
                if self.count == 40 and bad != 'loss':
                    if bad == 'reward':
                        reward = np.nan
                    else:
                        observation = observation * np.nan
                return observation, reward, *rest
        env = Bad(gymnasium.make('Pendulum-v1'))
        policy = made(3, (-2., 2.))
        learner = types.SimpleNamespace(policy=policy, update=lambda batch: {
            'actor_loss': np.nan if bad == 'loss' and env.count == 40 else 0.})
        with pytest.raises(FloatingPointError, match=bad):
            rl.train(env, learner, 60, seed=0, warm_up=10, batch_size=8,
                     checkpoint=tmp_path / 'run', verbose=False)
        assert all(np.all(np.isfinite(w)) for w in policy.get_weights())
        assert (tmp_path / 'run' / 'last_good.npz').exists()

    def test_weights_that_are_not_finite_are_no_good_ones(self):
        policy = rl.LatentSpacePolicy(3, (-2., 2.), seed=0)
        updates = []

        def update(batch):    # At update 100, whose metrics are still finite.
            updates.append(batch)
            if len(updates) == 100:
                variable = policy.trainable_variables[0]
                variable.assign(variable * np.nan)
            return {'loss': np.nan if len(updates) == 101 else 0.}
        learner = types.SimpleNamespace(policy=policy, update=update)
        env = gymnasium.make('Pendulum-v1', max_episode_steps=5)
        with pytest.raises(FloatingPointError):
            rl.train(env, learner, 120, seed=0, warm_up=5, batch_size=2, verbose=False)
        assert all(np.all(np.isfinite(w)) for w in policy.get_weights())

    def test_a_buffer_is_a_ring_that_is_saved_with_its_draws(self, policy, tmp_path):
        buffer = rl.ReplayBuffer(policy, 5, seed=0)
        with pytest.raises(ValueError, match='empty'):
            buffer.sample(3)
        for i in range(7):
            buffer.add(S[:1] * 0. + i, np.zeros([1, 2]), [i], S[:1], [0.])
        assert len(buffer) == 5
        np.testing.assert_array_equal(np.sort(buffer.observations()[:, 0]), range(2, 7))
        buffer.save(str(tmp_path / 'buffer.npz'))
        other = rl.ReplayBuffer(policy, 5, seed=9)
        other.load(str(tmp_path / 'buffer.npz'))
        np.testing.assert_array_equal(buffer.sample(8)['rewards'],
                                      other.sample(8)['rewards'])
        with pytest.raises(ValueError, match='capacity'):
            rl.ReplayBuffer(policy, 4).load(str(tmp_path / 'buffer.npz'))
        with pytest.raises(ValueError, match='arrays of shape'):
            buffer.add(S[:2], np.zeros([2, 3]), np.zeros(2), S[:2], np.zeros(2))

    def test_it_learns_a_goal(self):
        """One step, rewarded by the distance from a goal that depends on the state."""
        class Goal(gymnasium.Env):
            observation_space = gymnasium.spaces.Box(-1., 1., (1,))
            action_space = gymnasium.spaces.Box(-1., 1., (1,))

            def reset(self, *, seed=None, options=None):
                super().reset(seed=seed)
                self.goal = self.np_random.choice([-0.5, 0.5], 1).astype(np.float32)
                return self.goal, {}

            def step(self, action):
                return self.goal, -float(np.abs(action - self.goal)[0]), True, False, {}
        policy = rl.LatentSpacePolicy(1, (-1., 1.), seed=0)
        learner = rl.SoftActorCritic(policy, hidden_layers=(32,), seed=0,
                                     learning_rate=5e-3, initial_temperature=0.1)
        history = rl.train(Goal, learner, 500, seed=0, warm_up=50, batch_size=64,
                           evaluate_every=500, episodes=20, verbose=False)
        assert np.mean(history['returns'][0]) < -0.4 < -0.2 < np.mean(
            history['returns'][-1])


class TestPointMass:

    def test_is_an_environment_of_gymnasium(self):
        from gymnasium.utils import env_checker
        env_checker.check_env(point_mass.PointMass(steps=9), skip_render_check=True)

    def test_rewards_are_those_of_the_docstring(self):
        env = point_mass.PointMass(
            goals=[[0., 3.]], pillars=[[3., 0.]], spread=0., steps=3, bonus=7.,
            crash=5., distance=0.5, cost=0.2, pace=2.)
        env.reset(seed=0)
        position, reward, terminated, truncated, info = env.step([0., 0.8])
        np.testing.assert_allclose(position, [0., 0.8])
        assert reward == pytest.approx(-0.5 * 2.2 - 0.2 * 0.64 - 2. * 0.01)
        assert not terminated and not truncated and info['goal'] is None
        env.step([0., 0.8])
        _, reward, terminated, truncated, info = env.step([0., 5.])   # As 1.
        assert reward == pytest.approx(7. - 0.5 * 0.4 - 0.2 - 2. * 0.01)
        assert terminated and truncated and info == {'goal': 0, 'crashed': False}

        env.reset(seed=0)
        for _ in range(3):
            _, reward, terminated, _, info = env.step([1., 0.])
        assert terminated and info == {'goal': None, 'crashed': True} and reward < -5.

    def test_starts_are_seeded_and_the_plane_ends(self):
        env = point_mass.PointMass(goals=(), start=None)
        starts = [env.reset(seed=seed)[0] for seed in (0, 0, 1)]
        np.testing.assert_array_equal(starts[0], starts[1])
        assert np.all(starts[0] != starts[2])
        for _ in range(20):
            position, *_ = env.step([1., -1.])
        np.testing.assert_array_equal(position, [7., -7.])


def test_policies_are_evaluated_by_stable_baselines3():
    evaluation = pytest.importorskip('stable_baselines3.common.evaluation')
    vec_env = pytest.importorskip('stable_baselines3.common.vec_env')
    policy = rl.LatentSpacePolicy(3, (-2., 2.), seed=0)

    def make():
        return gymnasium.make('Pendulum-v1', max_episode_steps=4)
    for env in (make(), vec_env.DummyVecEnv([make] * 3)):
        for deterministic in (True, False):
            returns, lengths = evaluation.evaluate_policy(
                policy, env, n_eval_episodes=5, deterministic=deterministic,
                return_episode_rewards=True, warn=False)
            assert np.all(np.isfinite(returns)) and lengths == [4] * 5


def test_diagnostics(policy):
    found = policy.diagnostics(S, 2000, seed=0)
    _, log_probs = policy.sample_and_log_prob(np.repeat(S, 500, 0), seed=2)
    assert abs(found['entropy'] + np.mean(log_probs)) < 0.1
    assert found['action_mean'].shape == (2,) and 0. <= found['saturated'] <= 1.
    assert np.all(found['latent_deviation'] <= found['action_deviation'] + 1e-6)
