"""An ensemble is the mixture of its members, and costs one compilation to fit."""

import copy
import json
import pathlib
import pickle
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tests.test_programs import Centred
from tfp_conditional import posterior
from tfp_conditional.fitting import programs

tfd = tfp.distributions

C, Y = flows.normal([5, 3]), flows.normal([5, 2], 1)
ROWS = np.random.default_rng(0).normal(size=[64, 3])
TARGETS = ROWS[:, :2] + 0.5 * np.random.default_rng(1).normal(size=[64, 2])


class Linear(tfpc.ConditionalBijector):
    """y = gain c + x exp(log_scale): cheap to trace."""

    def __init__(self, seed=0, sign=1., name='linear'):
        super().__init__(2, 3, dtype=tf.float64, name=name)
        self.sign = sign
        self.gain = tf.Variable(flows.normal([3, 2], seed))
        self.log_scale = tf.Variable(flows.normal([2], seed + 1))

    def _forward_and_log_det(self, x, conditions):
        return (tf.tensordot(conditions, self.gain, 1)
                + self.sign * x * tf.exp(self.log_scale),
                tf.reduce_sum(self.log_scale))

    def _inverse_and_log_det(self, y, conditions):
        x = self.sign * (y - tf.tensordot(conditions, self.gain, 1))
        return x * tf.exp(-self.log_scale), -tf.reduce_sum(self.log_scale)


def linear(seed=0, **kwargs):
    return Linear(seed, **kwargs)(flows.base())


def linears(count=3):
    return tfpc.ConditionalEnsemble([linear(seed) for seed in range(count)])


def expected(ensemble, y=Y, c=C):
    return tf.reduce_logsumexp([member.given(c).log_prob(y) for member in
                                ensemble.members], 0) - np.log(len(ensemble.members))


def values(module):
    return [v.numpy() for v in module.variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope='module', name='ensemble')
def an_ensemble():
    return tfpc.ConditionalEnsemble([
        flows.perturb(tfpc.ConditionalElementwise(
            2, 3, (4,), dtype=tf.float64, seed=seed), seed, 1.)(flows.base())
        for seed in range(2)])


def test_log_prob_is_that_of_the_mixture_however_it_is_asked():
    ensemble = linears(2)
    close, truth = np.testing.assert_allclose, expected(ensemble)
    given = ensemble.given(C)
    assert given.batch_shape == [5] and given.event_shape == [2]
    assert ensemble.batch_shape == []
    close(given.log_prob(Y), truth, rtol=1e-12)
    close(given.prob(Y), np.exp(truth), rtol=1e-12)
    close(ensemble.log_prob(Y, **flows.given(C)), truth, rtol=1e-12)
    close(ensemble.compiled('log_prob', [5], jit_compile=False)(Y, C), truth, rtol=1e-9)
    stock = tfd.BatchReshape(given, [5, 1])     # One of those that pass no keywords.
    close(stock.log_prob(Y[:, tf.newaxis]), truth[:, tf.newaxis], rtol=1e-12)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float64),
                                  tf.TensorSpec([None, 3], tf.float64)])
    def graph(y, c):
        given = ensemble.given(c)
        return (given.log_prob(y), ensemble.log_prob(y, **flows.given(c)),
                *given.experimental_sample_and_log_prob(7, seed=1),
                given.sample(7, seed=1), given.batch_shape_tensor())

    first, second, samples, log_probs, again, shape = graph(Y, C)
    close(first, truth, rtol=1e-12)
    close(second, truth, rtol=1e-12)
    assert shape == [5]
    # The same seed gives the same sample, in a graph and eagerly.
    eager, eager_log_probs = given.experimental_sample_and_log_prob(7, seed=1)
    assert eager.shape == [7, 5, 2] and log_probs.shape == [7, 5]
    for x in (samples, again, given.sample(7, seed=1)):
        close(x, eager, rtol=1e-12)
    close(eager_log_probs, log_probs, rtol=1e-12)
    close(given.log_prob(eager), eager_log_probs, rtol=1e-9)


def test_each_event_is_of_a_member_of_its_own():
    # Members that are far apart tell where a draw is from.
    ensemble = tfpc.ConditionalEnsemble([
        flows.LinearGaussian(shift=100. * k)(flows.base()) for k in range(3)])
    samples = ensemble.given(np.zeros([2, 2])).sample(3000, seed=0)
    member = np.round(samples.numpy()[..., 0] / 100.).astype(int)
    for chosen in member.T:
        assert np.all(np.abs(np.bincount(chosen) - 1000) < 130)     # 5 deviations.
    pairs = np.bincount(3 * member[:, 0] + member[:, 1])
    assert len(pairs) == 9 and np.all(np.abs(pairs - 3000 / 9) < 90)
    x = samples[..., 0] - 100. * member
    assert abs(np.corrcoef(x.numpy().T)[0, 1]) < 0.1    # Nor do they share noise.
    one = ensemble.sample(4, seed=1, **flows.given(np.zeros([4, 2])))
    assert one.shape == [4, 2]
    with pytest.raises(ValueError, match='will not expand noise'):
        ensemble.sample(**flows.given(np.zeros([4, 2])))


def test_gradients_are_those_of_the_mixture():
    ensemble = linears(2)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([C, Y])
        log_prob, truth = ensemble.given(C).log_prob(Y), expected(ensemble)
    for sources in (C, Y, ensemble.trainable_variables):
        for one, other in zip(*(tf.nest.flatten(tape.gradient(x, sources))
                                for x in (log_prob, truth))):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)
    with tf.GradientTape() as tape:      # Of an expectation: half of each member's.
        mean = tf.reduce_mean(ensemble.given(C[:1]).sample(4000, seed=0)[..., 0])
    for gradient in tape.gradient(mean, [m.bijector.gain for m in ensemble.members]):
        np.testing.assert_allclose(gradient[:, 0], C[0] / 2., atol=0.04)


def test_events_outside_of_all_members_have_gradients_of_0():
    box = tfd.Independent(tfd.Uniform(tf.constant([-1., -1.], tf.float64), 1.), 1)
    ensemble = tfpc.ConditionalEnsemble([Linear(seed)(box) for seed in range(2)])
    with tf.GradientTape() as tape:
        log_prob = ensemble.given(C).log_prob(Y + 1000.)
    assert np.all(log_prob == -np.inf)
    for gradient in tape.gradient(log_prob, ensemble.trainable_variables):
        assert gradient is None or np.all(gradient == 0.)
    assert np.all(np.isnan(ensemble.given(C * np.nan).log_prob(Y)))


def test_copies_pickles_configs_checkpoints_and_exports(ensemble, tmp_path):
    truth = expected(ensemble)
    for make in (copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))):
        given = make(ensemble.given(C))
        assert given.batch_shape == [5]
        np.testing.assert_array_equal(given.log_prob(Y), truth)
        for clone in (given, make(ensemble)):
            assert clone.variables and not {id(v) for v in clone.variables} & {
                id(v) for v in ensemble.variables}
    assert copy.copy(ensemble).members[0] is ensemble.members[0]
    again = tfpc.from_config(json.loads(json.dumps(tfpc.to_config(ensemble))))
    path = tf.train.Checkpoint(dist=ensemble).write(str(tmp_path / 'weights'))
    tfpc.load_weights(path, dist=again)
    np.testing.assert_array_equal(again.given(C).log_prob(Y), truth)
    with pytest.raises(ValueError, match='nothing was loaded'):
        tfpc.load_weights(path, dist=tfpc.ConditionalEnsemble(ensemble.members[:1]))
    ensemble.export(tmp_path / 'model')
    loaded = tf.saved_model.load(str(tmp_path / 'model'))
    np.testing.assert_array_equal(loaded.log_prob(Y, C), ensemble.given(C).log_prob(Y))
    assert 'forward' not in loaded.signatures and 'sample' in loaded.signatures


def test_regions_and_what_needs_latents(ensemble):
    regions = posterior.highest_density_regions(
        ensemble.given(C), levels=[0.5], num_samples=200, seed=0, verbose=False)
    assert regions.thresholds.shape == (5, 1)
    for call in (lambda: ensemble.bijector.forward(Y, conditions=C),
                 lambda: ensemble.compiled('inverse'),
                 lambda: posterior.mode(ensemble, C, verbose=False)):
        with pytest.raises(TypeError, match='a mixture maps no latents to events'):
            call()
    with pytest.raises(TypeError, match='cannot be sliced'):
        ensemble.given(C)[0]


def test_misuse(ensemble):
    def raises(error, message, members):
        with pytest.raises(error, match=message):
            tfpc.ConditionalEnsemble(members)

    one = linear()
    raises(TypeError, 'at least one; got', [])
    raises(TypeError, 'must be a tfd.TransformedDistribution', [flows.base()])
    raises(TypeError, 'got ConditionalEnsemble', [ensemble])
    raises(TypeError, 'over ConditionedBijector', [one.given(C)])
    raises(ValueError, 'variables of their own', [one, one])
    raises(ValueError, 'one `condition_size`; got 3 and 4', [one, flows.flow(
        condition_size=4)(flows.base())])
    raises(ValueError, 'have batch shape', [Linear()(flows.base(batch_shape=[4]))])
    with pytest.raises(ValueError, match='`optimizer` must be None for an ensemble'):
        tfpc.fit(ensemble, TARGETS, ROWS, optimizer=tf.keras.optimizers.Adam())
    with pytest.raises(ValueError, match='before `given`'):
        tfpc.fit(ensemble.given(C), TARGETS, ROWS)
    for ask in (ensemble.given(C).log_prob, ensemble.given(C).sample):
        with pytest.raises(TypeError, match='conditions already'):
            ask(Y if ask.__name__ == 'log_prob' else 2, bijector_kwargs={'conditions': C})


SETTINGS = dict(epochs=3, batch_size=32, validation_split=.25, seed=5, verbose=False)


def test_a_fit_of_members_is_that_of_each_and_traces_only_the_first(graphs):
    def callback(history):
        made.setdefault(history['member'][-1], []).append(len(graphs))

    ensemble, made = linears(2), {}
    history = tfpc.fit(ensemble, TARGETS, ROWS, callback=callback, **SETTINGS)
    assert history['member'] == [0] * 3 + [1] * 3
    assert history['epoch'] == [1, 2, 3] * 2
    assert len(history['val_loss']) == len(history['loss']) == 6
    assert made[0][0] > 0 and made[1][-1] == made[0][-1]
    for number, member in enumerate(ensemble.members):
        alone = linear(number)
        single = tfpc.fit(alone, TARGETS, ROWS, **{**SETTINGS, 'seed': 5 + number})
        assert single['val_loss'] == history['val_loss'][3 * number:3 * number + 3]
        assert same(values(alone), values(member))


def test_a_member_of_another_map_has_a_program_of_its_own():
    def centred(seed):
        return tfpc.ConditionalChain(
            [Centred(), Linear(seed)])(flows.base())

    mixed = tfpc.ConditionalEnsemble([linear(0), linear(1, sign=-1.)])
    # What `Centred` learns is no variable, so that it cannot be lent.
    learning = tfpc.ConditionalEnsemble([centred(0), centred(1)])
    for ensemble, alone in ((mixed, linear(1, sign=-1.)), (learning, centred(1))):
        tfpc.fit(ensemble, TARGETS + 3., ROWS, **SETTINGS)
        tfpc.fit(alone, TARGETS + 3., ROWS, **{**SETTINGS, 'seed': 6})
        assert same(values(alone), values(ensemble.members[1]))
    assert learning.members[1].bijector.bijectors[0].loc == alone.bijector.bijectors[0].loc


ARCHITECTURES = {
    'real_nvp': lambda seed: tfpc.ConditionalRealNVP(
        3, 3, 2, (8,), mixing='random', dtype=tf.float64, seed=seed)(flows.base(3)),
    'autoregressive': lambda seed: tfpc.ConditionalMaskedAutoregressiveFlow(
        3, 3, 2, (8,), dtype=tf.float64, seed=seed)(flows.base(3)),
    'density': lambda seed: tfpc.conditional_density(
        3, 3, num_coupling_layers=1, mixing='random', dtype=tf.float64, seed=seed)}


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_what_is_lent_is_the_whole_map(name):
    first, second = (flows.perturb(ARCHITECTURES[name](seed), seed) for seed in (0, 1))
    assert programs.same(programs.structure(first), programs.structure(second))
    y = flows.normal([5, 3])
    kept, truth = values(first), second.given(C).log_prob(y)
    with programs.lent(first, second):
        np.testing.assert_allclose(first.given(C).log_prob(y), truth, rtol=1e-12)
        flows.perturb(first, 9)
    assert same(values(first), kept)
    assert not np.allclose(second.given(C).log_prob(y), truth)


class Killed(Exception):
    pass


def test_a_fit_that_was_killed_goes_on_and_leaves_each_member_its_own(tmp_path):
    def kill(history):
        if history['member'][-1] == 1 and history['epoch'][-1] == 2:
            raise Killed

    whole, ensemble = linears(), linears()
    history = tfpc.fit(whole, TARGETS, ROWS, **SETTINGS)
    checkpoint = dict(checkpoint=tmp_path / 'fit', **SETTINGS)
    before = [values(member) for member in ensemble.members]
    with pytest.raises(Killed):
        tfpc.fit(ensemble, TARGETS, ROWS, callback=kill, **checkpoint)
    assert same(values(ensemble.members[0]), values(whole.members[0]))
    assert not same(values(ensemble.members[1]), before[1])
    assert same(values(ensemble.members[2]), before[2])
    again = linears()
    assert tfpc.fit(again, TARGETS, ROWS, **checkpoint) == history
    assert same(values(again), values(whole))


def test_the_benchmark_runs(tmp_path, monkeypatch):
    pytest.importorskip('matplotlib', reason='reports of benchmarks draw')
    monkeypatch.syspath_prepend(str(
        pathlib.Path(__file__).resolve().parents[1] / 'benchmarks'))
    import ensembles
    # Regions hold the truth too seldom by a - a^2; conformal ones hold it.
    levels = np.random.default_rng(0).uniform(size=4000)**0.5
    assert abs(ensembles.error(levels) - 1 / 6) < 0.03
    assert ensembles.error(ensembles.conformal(levels)) < 0.03
    assert ensembles.in_band(levels).tolist() == [0, 4]
    assert ensembles.in_band(levels**2).tolist() == [4, 4]
    # A density that is the same everywhere has all targets in its smallest regions.
    of_test, of_draws = np.zeros([1, 50]), np.zeros([1, 1, 9, 50])
    log_prob, levels = ensembles.mixture(of_test, of_draws, 0)
    assert log_prob == 0. and np.all(levels <= 0.1)
    monkeypatch.setattr(ensembles, 'SIZES', (1, 2))
    monkeypatch.setattr(tf.config.threading, 'set_intra_op_parallelism_threads', id)
    monkeypatch.setattr(tf.config.threading, 'set_inter_op_parallelism_threads', id)
    monkeypatch.setattr(sys, 'argv', [
        'ensembles.py', '--out', str(tmp_path), '--tasks', 'two moons', '--rows', '60',
        '--seeds', '0', '--quick'])
    ensembles.main()
    row = (tmp_path / 'ensembles.md').read_text(encoding='utf-8').strip().split('\n')[-1]
    name, rows, seeds, *numbers, cpu = row.strip('| ').split(' | ')
    assert (name, rows, seeds) == ('two moons', '60', '1') and ', then ' in cpu
    assert numbers[3::2] == ['0 of 0'] * 4
    assert np.all(np.isfinite(np.array(numbers[:2] + numbers[2::2], float)))
    ensembles.main()       # What is there is not run again.
