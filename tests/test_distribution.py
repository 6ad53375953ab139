"""`ConditionalTransformedDistribution`: `flow(base)` and `given`."""

import copy
import functools
import gc
import itertools
import os
import pathlib
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions
normal = flows.normal

C = normal([5, 3], 1)
Y = normal([5, 2], 2)


def mixture_base():
    return tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.Variable(normal([3]))),
        tfd.Independent(tfd.Normal(tf.Variable(normal([3, 2])), 1.), 1))


# Bases, with and without variables, and the shape of conditions and events that suit.
BASES = {
    'independent': lambda: flows.base(),
    'diagonal': lambda: tfd.MultivariateNormalDiag(tf.zeros(2, tf.float64)),
    'trainable': lambda: tfd.MultivariateNormalTriL(
        tf.Variable(normal([2])), tf.linalg.cholesky(tf.eye(2, dtype=tf.float64))),
    'mixture': mixture_base,
    'batch': lambda: flows.base(batch_shape=[5]),
    'batch_of_ones': lambda: flows.base(batch_shape=[4, 1]),
}


def make(base='independent', num_coupling_layers=1, hidden_layers=(4,), **kwargs):
    """Of one coupling, for this is about distributions."""
    return flows.flow(num_coupling_layers=num_coupling_layers,
                      hidden_layers=hidden_layers, **kwargs)(BASES[base]())


@functools.cache
def shared(base='independent'):
    """One, traced once, for tests that leave it as it is."""
    return make(base)


def stock(dist, conditions=None):
    flow = dist.bijector
    return tfd.TransformedDistribution(
        dist.distribution, flow if conditions is None else flow.condition(conditions))


def near(a, b, rtol=1e-10):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-10)


class TestValues:

    @pytest.mark.parametrize('base', BASES)
    def test_given_is_the_stock_distribution_over_condition(self, base):
        dist = shared(base)
        given, want = dist.given(C), stock(dist, C)
        assert given.batch_shape == want.batch_shape
        assert given.event_shape == want.event_shape
        for y in (Y, Y[0], normal([7, *want.batch_shape, 2])):
            near(given.log_prob(y), want.log_prob(y))
        near(given.prob(Y), want.prob(Y))
        for shape in ([], [2, 3]):
            got = given.experimental_sample_and_log_prob(shape, seed=[1, 2])
            for a, b in zip(got, want.experimental_sample_and_log_prob(
                    shape, seed=[1, 2])):
                near(a, b)
            near(given.sample(shape, seed=[1, 2]), want.sample(shape, seed=[1, 2]))

    def test_shapes_of_samples_may_be_numbers_and_tensors(self):
        given, want = shared().given(C), stock(shared(), C)
        for shape in (3, tf.constant([2])):
            near(given.sample(shape, seed=[1, 2]), want.sample(shape, seed=[1, 2]))

    @pytest.mark.parametrize('base', ['independent', 'trainable', 'mixture', 'batch'])
    def test_keywords_are_those_of_the_stock_distribution(self, base):
        dist = shared(base)
        want, kwargs = stock(dist), flows.given(C)
        n = [] if base == 'batch' else 5
        near(dist.log_prob(Y, **kwargs), want.log_prob(Y, **kwargs))
        near(dist.sample(n, seed=[1, 2], **kwargs),
             want.sample(n, seed=[1, 2], **kwargs))
        for a, b in zip(
                dist.experimental_sample_and_log_prob(n, seed=[1, 2], **kwargs),
                want.experimental_sample_and_log_prob(n, seed=[1, 2], **kwargs)):
            near(a, b)

    def test_events_of_more_axes(self):
        base = tfd.Independent(tfd.Normal(tf.zeros([4, 2], tf.float64), 1.), 2)
        dist, y = flows.flow()(base), normal([6, 4, 2])
        for conditions in (C[0], normal([4, 3])):
            kwargs = flows.given(conditions)
            near(dist.log_prob(y, **kwargs), stock(dist).log_prob(y, **kwargs))
            sample, log_prob = dist.experimental_sample_and_log_prob(7, **kwargs)
            assert sample.shape == [7, 4, 2] and log_prob.shape == [7]
            near(log_prob, dist.log_prob(sample, **kwargs))

    def test_nests_of_conditions(self):
        dist = make(condition_size={'b': 2, 'a': 1})
        c = {'a': C[:, :1], 'b': C[:, 1:]}
        near(dist.given(c).log_prob(Y), stock(dist, c).log_prob(Y))
        near(dist.given(c).sample(3, seed=[1, 2]),
             stock(dist, c).sample(3, seed=[1, 2]))

    def test_a_graph_gives_what_an_eager_call_gives(self):
        dist = shared('trainable')

        @tf.function(autograph=False)
        def run(y, c):
            given = dist.given(c)
            return (given.log_prob(y), given.sample(3, seed=4),
                    *given.experimental_sample_and_log_prob(3, seed=4))

        given = dist.given(C)
        want = (given.log_prob(Y), given.sample(3, seed=4),
                *given.experimental_sample_and_log_prob(3, seed=4))
        for a, b in zip(run(Y, C), want):
            near(a, b)
        tf.config.run_functions_eagerly(True)
        try:
            for a, b in zip((given.log_prob(Y), given.sample(3, seed=4)), want):
                near(a, b)
        finally:
            tf.config.run_functions_eagerly(False)

    def test_distribution_keywords_reach_the_base(self):
        class Shifted(tfd.Normal):
            def _log_prob(self, x, by=0.):
                return super()._log_prob(x - by)

        dist = flows.flow()(tfd.Independent(
            Shifted(tf.zeros(2, tf.float64), tf.ones([], tf.float64)), 1))
        x, ildj = dist.bijector.inverse_and_log_det(Y, conditions=C)
        near(dist.log_prob(Y, distribution_kwargs={'by': 0.5}, **flows.given(C)),
             flows.base().log_prob(x - 0.5) + ildj)

    def test_local_measure(self):
        dist = shared()
        log_prob, _ = dist.given(C).experimental_local_measure(Y, backward_compat=True)
        near(log_prob, dist.given(C).log_prob(Y))
        near(dist.given(C).unnormalized_log_prob(Y), log_prob)

    def test_it_is_a_transformed_distribution_for_tfp(self):
        dist = shared()
        given = dist.given(C)
        assert type(given) is tfpc.ConditionalTransformedDistribution
        assert isinstance(given, type(stock(dist)))
        near(tfd.kl_divergence(given, given), 0.)
        near(tfd.Independent(given, 1).log_prob(Y), tf.reduce_sum(given.log_prob(Y)))
        near(given[3].log_prob(Y[3]), given.log_prob(Y)[3])
        mixture = tfd.MixtureSameFamily(
            tfd.Categorical(logits=tf.zeros(5, tf.float64)), given)
        near(mixture.log_prob(Y[0]),
             tf.reduce_logsumexp(given.log_prob(Y[0])) - np.log(5.))

    def test_noise_is_independent(self):
        dist = shared()
        latents = dist.bijector.inverse(dist.given(C).sample(7), conditions=C)
        for i, j in itertools.combinations(range(5), 2):
            assert np.all(np.abs(latents[:, i] - latents[:, j]) > 1e-6)

    def test_what_is_not_affine_has_no_mean(self):
        dist = make(transformer='additive')
        assert not dist.bijector.is_constant_jacobian
        with pytest.raises(NotImplementedError):
            dist.given(C).mean()


class TestCompiled:

    def test_one_trace_serves_all_batch_sizes(self):
        traces = []

        def conditioner(units, conditions):
            traces.append(units.shape)
            return tf.concat([units, conditions], -1)

        layer = tfpc.ConditionalCoupling(2, 1, conditioner=conditioner)
        dist = layer(flows.base(dtype=tf.float32))
        del traces[:]
        for batch in range(1, 8):
            c = tf.ones([batch, 1])
            dist.given(c).log_prob(tf.ones([batch, 2]))
            dist.log_prob(tf.ones([batch, 2]), **flows.given(c))
            dist.given(c).sample(batch)
        assert len(traces) == 2

    def test_given_makes_no_distribution_of_tfp(self, monkeypatch):
        """Which takes milliseconds."""
        dist = make()
        dist.given(C).log_prob(Y), dist.given(C).sample(3)
        monkeypatch.setattr(tfd.Distribution, '__init__', None)
        dist.given(C).log_prob(Y)
        dist.given(C).sample(3)
        dist.given(C).experimental_sample_and_log_prob(3)

    def test_gradients(self):
        dist = make('trainable')
        c, y = tf.identity(C), tf.identity(Y)
        sources = [c, y, *dist.trainable_variables]

        def gradients(call):
            with tf.GradientTape() as tape:
                tape.watch([c, y])
                loss = call()
            return tape.gradient(loss, sources)

        def loss(dist, log_prob):
            sample, log_q = dist.experimental_sample_and_log_prob(3, seed=[1, 2])
            return tf.reduce_sum(tf.sin(sample)) + tf.reduce_sum(log_q) + (
                tf.reduce_sum(log_prob))

        got = gradients(lambda: loss(dist.given(c), dist.given(c).log_prob(y)))
        # The tape sees the conditions of a stock one if it is made under it.
        want = gradients(lambda: loss(stock(dist, c), stock(dist, c).log_prob(y)))
        for a, b in zip(got, want):
            near(a, b, rtol=1e-8)

    def test_forward_mode(self):
        dist, c = make(), tf.identity(C)
        tangent = normal([5, 2], 7)
        with tf.autodiff.ForwardAccumulator(Y, tangent) as accumulator:
            log_prob = dist.given(c).log_prob(Y)
        step = 1e-6
        want = (dist.given(c).log_prob(Y + step * tangent)
                - dist.given(c).log_prob(Y - step * tangent)) / (2 * step)
        near(accumulator.jvp(log_prob), want, rtol=1e-5)

    def test_what_changes_is_seen(self):
        dist = make('trainable')
        array, variable = C.numpy(), tf.Variable(C)
        given = dist.given(array), dist.given(variable)
        before = [g.log_prob(Y) for g in given]
        for v in dist.trainable_variables:
            v.assign_add(0.1 * tf.ones_like(v))
        array += 1.
        variable.assign_add(tf.ones_like(variable))
        want = dist.log_prob(Y, **flows.given(tf.identity(C) + 1.))
        for g, old in zip(given, before):
            near(g.log_prob(Y), want)
            assert np.all(np.abs(g.log_prob(Y) - old) > 1e-3)

    def test_nothing_is_held(self):
        dist = make()
        alive = []
        for _ in range(3):
            c, y = tf.identity(C), tf.identity(Y)
            given = dist.given(c)
            sample, _ = given.experimental_sample_and_log_prob(3)
            given.log_prob(y)
            alive += map(weakref.ref, (c, y, sample))
        del c, y, sample, given
        alive.append(weakref.ref(dist))
        del dist
        gc.collect()
        assert not any(ref() is not None for ref in alive)

    def test_a_flow_goes_with_its_last_name(self):
        """And not when garbage is collected: its functions hold it weakly."""
        gc.disable()
        try:
            dist = make()
            dist.given(C).log_prob(Y)
            dist.bijector.forward(Y, conditions=C)
            alive = weakref.ref(dist), weakref.ref(dist.bijector)
            del dist
            assert [ref() for ref in alive] == [None, None]
        finally:
            gc.enable()


class TestSeeds:

    def test_the_same_seed_gives_the_same_sample(self):
        given = shared().given(C)
        for seed in (3, [4, 5], np.int64(2**40 + 1), tf.constant([4, 5])):
            np.testing.assert_array_equal(given.sample(2, seed=seed),
                                          given.sample(2, seed=seed))
        samples = [given.sample(2, seed=seed)
                   for seed in (3, -3, 4, 2**31, 2**32 + 3, [0, 4], None, None)]
        for a, b in itertools.combinations(samples[:5] + samples[6:], 2):
            assert np.all(a != b)
        np.testing.assert_array_equal(samples[2], samples[5])

    def test_no_seed_follows_the_global_one(self):
        given = shared().given(C)
        draws = []
        for seed in (7, 7, 8):
            tf.random.set_seed(seed)
            draws.append((given.sample(2), given.sample(2)))
        for a, b in zip(*draws[:2]):
            np.testing.assert_array_equal(a, b)
        assert np.all(draws[0][0] != draws[0][1])
        assert np.all(draws[0][0] != draws[2][0])

    def test_a_seed_stream(self):
        given = shared().given(C)
        streams = [tfp.util.SeedStream(1, 'salt') for _ in range(2)]
        np.testing.assert_array_equal(given.sample(seed=streams[0]),
                                      given.sample(seed=streams[1]))
        assert np.all(given.sample(seed=streams[0]) != given.sample(seed=[0, 1]))


REFUSALS = {
    'conditions outside of bijector_kwargs': (
        lambda dist: dist.sample(5, conditions=C), TypeError, 'bijector_kwargs'),
    'the same in a graph': (
        lambda dist: tf.function(lambda: dist.log_prob(Y, conditions=C))(),
        TypeError, 'bijector_kwargs'),
    'no conditions': (lambda dist: dist.log_prob(Y), TypeError, 'are required'),
    'given twice': (lambda dist: dist.given(C).given(C), TypeError, 'takes no conditions'),
    'keywords for given ones': (
        lambda dist: dist.given(C).log_prob(Y, **flows.given(C)), TypeError,
        'has its conditions already'),
    'conditions of another width': (
        lambda dist: dist.given(C[:, :2]), ValueError, 'last dimension 3'),
    'events of another width': (
        lambda dist: dist.given(C).log_prob(C), ValueError, 'last dimension 2'),
    'batch shapes that do not broadcast': (
        lambda dist: dist.given(C).log_prob(normal([4, 2])), ValueError, 'broadcast'),
    'shared noise': (
        lambda dist: dist.sample(**flows.given(C)), ValueError, 'share the same noise'),
    'shared noise of one sample': (
        lambda dist: dist.experimental_sample_and_log_prob(1, **flows.given(C)),
        ValueError, 'share the same noise'),
    'a stock bijector': (
        lambda dist: tfpc.ConditionalTransformedDistribution(
            dist.distribution, tfb.Invert(dist.bijector)), TypeError, 'ConditionalChain'),
    'no base': (lambda dist: tfpc.ConditionalTransformedDistribution(
        Y, dist.bijector), TypeError, 'tfd.Distribution'),
    'a base of scalars': (
        lambda dist: dist.bijector(tfd.Normal(tf.zeros([], tf.float64), 1.)), ValueError,
        'Independent'),
    'a base of another size': (
        lambda dist: dist.bijector(flows.base(3)), ValueError, 'last dimension 2'),
    'an unknown method': (
        lambda dist: dist.compiled('mean'), ValueError, 'sample_and_log_prob'),
    'a given one compiled': (
        lambda dist: dist.given(C).compiled('sample'), TypeError, 'no conditions'),
    'no such attribute': (
        lambda dist: dist.given(C).log_probs, AttributeError, 'log_probs'),
}


@pytest.mark.parametrize('name', REFUSALS)
def test_misuse_is_refused(name):
    call, error, match = REFUSALS[name]
    with pytest.raises(error, match=match):
        call(shared())


class TestCopies:

    HOW = {'deepcopy': copy.deepcopy,
           'pickle': lambda dist: pickle.loads(pickle.dumps(dist))}

    @pytest.mark.parametrize('how, base', [
        ('deepcopy', 'trainable'), ('deepcopy', 'mixture'), *(
            ('pickle', base) for base in BASES)])
    def test_an_independent_copy(self, base, how):
        dist = make(base)
        before = dist.given(C).log_prob(Y)
        target = self.HOW[how](dist)
        own = {id(v) for v in dist.variables}
        assert len(target.variables) == len(own)
        assert len(target.trainable_variables) == len(dist.trainable_variables)
        assert not own & {id(v) for v in target.variables}
        for v in dist.trainable_variables:
            v.assign_add(tf.ones_like(v))
        np.testing.assert_array_equal(target.given(C).log_prob(Y), before)
        for v in target.trainable_variables:
            v.assign_add(tf.ones_like(v))
        np.testing.assert_array_equal(target.given(C).log_prob(Y),
                                      dist.given(C).log_prob(Y))

    @pytest.mark.parametrize('how', HOW)
    def test_of_a_given_one(self, how):
        given = shared().given(C)
        clone = self.HOW[how](given)
        np.testing.assert_array_equal(clone.log_prob(Y), given.log_prob(Y))
        assert not {id(v) for v in given.variables} & {id(v) for v in clone.variables}

    def test_copy_around_another_flow_has_its_variables_alone(self):
        dist = make()
        target = dist.copy(bijector=copy.deepcopy(dist.bijector), name='target')
        assert target.name == 'target'
        assert ({id(v) for v in target.variables}
                == {id(v) for v in target.bijector.variables})
        same = dist.copy()
        assert [id(v) for v in same.variables] == [id(v) for v in dist.variables]
        tfpc.fit(target, Y, C, epochs=1, verbose=False)

    def test_checkpoint(self, tmp_path):
        dist, other = make('trainable'), make('trainable', seed=5)
        path = tf.train.Checkpoint(dist=dist).write(str(tmp_path / 'checkpoint'))
        tf.train.Checkpoint(dist=other).read(path).assert_consumed()
        np.testing.assert_array_equal(other.given(C).log_prob(Y),
                                      dist.given(C).log_prob(Y))

    @pytest.mark.parametrize('base', ['independent', 'batch'])
    def test_saved_model(self, base, tmp_path):
        dist = make(base)
        given = dist.given(C)
        tf.saved_model.save(dist, str(tmp_path / 'dist'))
        tf.saved_model.save(given, str(tmp_path / 'given'))
        loaded = tf.saved_model.load(str(tmp_path / 'dist'))
        fixed = tf.saved_model.load(str(tmp_path / 'given'))
        y = given.sample(7, seed=[1, 2])
        for events in (Y, y):
            want = given.log_prob(events)
            np.testing.assert_array_equal(loaded.log_prob(events, C), want)
            np.testing.assert_array_equal(fixed.log_prob(events), want)
        for call in (lambda **kwargs: loaded.sample(7, C, **kwargs),
                     lambda **kwargs: fixed.sample(7, **kwargs)):
            near(call(seed=tf.constant([1, 2])), y)
            assert np.all(call() != call())
        sample, log_prob = loaded.sample_and_log_prob(3, C)
        near(log_prob, given.log_prob(sample))
        if base == 'independent':
            compiled = tf.function(loaded.log_prob, autograph=False, jit_compile=True)
            near(compiled(Y, C), given.log_prob(Y))
        near(loaded.forward(loaded.inverse(y, C), C), y)

    def test_the_noise_of_an_export_is_fresh_in_each_process(self, tmp_path):
        """As far as one process can tell: its operation has no seed."""
        tf.random.set_seed(1)
        tf.saved_model.save(shared(), str(tmp_path))
        draws = []
        for _ in range(2):
            tf.random.set_seed(1)
            loaded = tf.saved_model.load(str(tmp_path))
            draws.append(loaded.sample(2, C))
        assert np.all(draws[0] != draws[1])


class TestHotLoop:

    @pytest.mark.parametrize('frozen', [False, True])
    def test_values(self, frozen):
        dist = make('trainable')
        c, y = C.numpy(), Y.numpy()
        kwargs = dict(batch_shape=[5], frozen=frozen, jit_compile=frozen)
        log_prob = dist.compiled('log_prob', **kwargs)
        assert isinstance(log_prob(y, c), np.ndarray)
        before = log_prob(y, c)
        near(before, dist.given(C).log_prob(Y))
        near(dist.compiled('inverse', **kwargs)(y, c),
             dist.bijector.inverse(Y, conditions=C))
        near(dist.compiled('forward', **kwargs)(y, c),
             dist.bijector.forward(Y, conditions=C))
        sample, log_q = dist.compiled('sample_and_log_prob', seed=1, **kwargs)(c)
        assert sample.shape == (5, 2)
        near(log_prob(sample, c), log_q)
        draw = [dist.compiled('sample', seed=1, **kwargs) for _ in range(2)]
        first = draw[0](c)
        np.testing.assert_array_equal(first, draw[1](c))
        assert np.all(draw[0](c) != first)
        for v in dist.trainable_variables:
            v.assign_add(0.1 * tf.ones_like(v))
        near(log_prob(y, c), before if frozen else dist.given(C).log_prob(Y))

    def test_one_observation_and_a_nest_of_conditions(self):
        dist = make(condition_size={'b': 2, 'a': 1})
        act = dist.compiled('sample', jit_compile=False)
        assert act({'a': np.zeros(1), 'b': np.zeros(2)}).shape == (2,)
        with pytest.raises(ValueError):
            act({'a': np.zeros(1)})

    def test_a_base_of_batch_shape(self):
        dist = make('batch')
        assert dist.compiled('sample', [5], jit_compile=False)(C).shape == (5, 2)


STRATEGY = '''
import numpy as np, tensorflow as tf
cpus = tf.config.list_physical_devices('CPU')
tf.config.set_logical_device_configuration(
    cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests import flows
from tests import test_distribution as t
strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
with strategy.scope():
    dist = t.make('trainable')

def step():
    """Gradients of three eager calls, each replica with conditions of its own."""
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    c = t.C + tf.cast(replica, tf.float64)
    with tf.GradientTape() as tape:
        sample, log_q = dist.given(c).experimental_sample_and_log_prob(seed=[1, 2])
        x = dist.bijector.inverse(t.Y, conditions=c)
        loss = (tf.reduce_sum(sample) + tf.reduce_sum(x)
                + tf.reduce_sum(dist.given(c).log_prob(t.Y)))
    return [loss, *tape.gradient(loss, dist.trainable_variables)]

def local(results):
    return [strategy.experimental_local_results(x) for x in results]

compiled = tf.function(lambda: strategy.run(step))
eager = local(strategy.run(step))
graph = local(compiled())
for a, b in zip(eager, graph):
    for replica, (x, y) in enumerate(zip(a, b)):
        assert x is not None, replica
        np.testing.assert_allclose(x, y, rtol=1e-9)
assert abs(eager[0][0] - eager[0][1]) > 1e-3
# What a replica reads is its own: make the second one's differ.
for v in dist.trainable_variables:
    v.values[1].assign_add(tf.ones_like(v.values[1]))
eager = local(strategy.run(step))
graph = local(compiled())
np.testing.assert_allclose(eager[0], graph[0], rtol=1e-9)
assert abs(eager[0][1] - eager[0][0]) > 1e-3
dist.given(t.C).log_prob(t.Y)
'''


def test_each_replica_of_a_strategy_reads_its_own_variables():
    root = pathlib.Path(tfpc.__file__).parent.parent
    subprocess.run([sys.executable, '-c', STRATEGY], check=True, cwd=root, timeout=300,
                   env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '3',
                        'CUDA_VISIBLE_DEVICES': ''})


EDGES = {
    'sigmoid': (lambda: tfb.Sigmoid(np.float64(-1.), np.float64(2.)), [-1., 2.]),
    'tanh': (tfb.Tanh, [-1., 1.]),
    'softplus': (tfb.Softplus, [0.]),
    'exp': (tfb.Exp, [0.]),
    'chain': (lambda: tfb.Chain([tfb.Scale(np.float64(2.)), tfb.Sigmoid()]), [0., 2.]),
    'inverted': (lambda: tfb.Invert(tfb.Log()), [0.]),
    'blockwise': (lambda: tfb.Blockwise([tfb.Sigmoid(), tfb.Sigmoid()]), [0., 1.]),
}


@pytest.mark.parametrize('name', EDGES)
def test_outside_of_a_support_the_density_is_0(name):
    make_support, edges = EDGES[name]
    chain = tfpc.ConditionalChain([make_support(), shared().bijector])
    dist = chain(flows.base())
    inside = dist.given(C[0]).sample(3, seed=1)
    wrong = tf.constant([[edge, inside[0, 1].numpy()] for edge in edges]
                        + [[edges[0] - .5, inside[0, 1].numpy()]], tf.float64)
    y = tf.concat([inside, wrong, [[np.nan, 0.5]]], 0)
    want = dist.given(C[0]).log_prob(inside)

    @tf.function
    def graph(y):
        return dist.given(C[0]).log_prob(y)

    finite = y[:-1]
    # One traces inline what the other compiles by itself.
    for call in (dist.given(C[0]).log_prob, graph) if name == 'chain' else (graph,):
        log_prob = call(y)
        near(log_prob[:3], want)
        assert np.all(log_prob[3:-1] == -np.inf) and np.isnan(log_prob[-1])
        with tf.GradientTape() as tape:
            tape.watch(finite)
            loss = tf.reduce_sum(call(finite))
        gradients = tape.gradient(loss, [finite, *dist.trainable_variables])
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    latents = chain.inverse(y, conditions=C[0])
    assert np.all(np.isfinite(latents[:3])) and np.all(np.isnan(latents[3:]))
    near(chain.condition(C[0]).inverse(y), latents)


@pytest.mark.parametrize('part', [
    tfb.Shift(np.ones(2)), tfb.Permute([1, 0]), tfb.SinhArcsinh(np.float64(.3)),
    tfb.ScaleMatvecTriL(np.eye(2))], ids=lambda part: part.name)
def test_a_part_without_edges_is_known_to_have_none(part):
    assert not tfpc.ConditionalChain([part, flows.flow()]).has_edges


@pytest.mark.parametrize('settings', [
    dict(activation='relu'), dict(activation=tf.nn.relu), dict(activation='tanh'),
    dict(conditioner=tfpc.ResidualNetwork(8, 1)), dict(condition_size={'a': 1, 'b': 2})],
    ids=['relu', 'own relu', 'tanh', 'residual', 'nest'])
def test_nan_is_no_plausible_number(settings):
    """TensorFlow fuses relu(x @ w + b) in a graph, and its maximum of NaN and 0 is 0."""
    flow = flows.perturb(tfpc.ConditionalRealNVP(**{
        'event_size': 2, 'condition_size': 3, 'num_coupling_layers': 2,
        'hidden_layers': (8, 8), 'seed': 0,
        **settings}))
    dist = flow(flows.base(dtype=tf.float32))
    c, y = C.numpy().astype(np.float32), Y.numpy().astype(np.float32)
    c[1, 2] = y[3, 0] = np.nan
    if isinstance(flow.condition_size, dict):
        c = {'a': c[:, :1], 'b': c[:, 1:]}
    for call in (lambda f: f(), lambda f: tf.function(f, autograph=False)(),
                 lambda f: tf.function(f, autograph=False, jit_compile=True)()):
        log_prob, sample = call(lambda: (
            dist.given(c).log_prob(y), dist.given(c).sample(3, seed=1)))
        np.testing.assert_array_equal(np.isnan(log_prob), [0, 1, 0, 1, 0])
        np.testing.assert_array_equal(np.isnan(sample).all((0, 2)), [0, 1, 0, 0, 0])
