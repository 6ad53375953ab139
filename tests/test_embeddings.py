"""Networks of sets, series and images: what a mask hides, order, sizes, exact answers."""

import copy
import functools
import gc
import pickle

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import func_graph
from tensorflow.python.framework import ops

import tfp_conditional as tfpc
from tests import flows

emb = tfpc.embeddings
SHAPES = {'image': [6, 5, 2]}     # Of the values; those of the others are [5, 2].
MAKE = {
    'deep_set': functools.partial(emb.DeepSet, 2, 3, (6, 5)),
    'set_transformer': functools.partial(emb.SetTransformer, 2, 3, 6, 2, 2),
    'inducing': functools.partial(emb.SetTransformer, 2, 3, 6, 2, 1, 3),
    'time_series': functools.partial(emb.TimeSeriesNetwork, 2, 3, 6, 2),
    'image': functools.partial(emb.ImageNetwork, (6, 5, 2), 3, 4)}
SETS = ('deep_set', 'set_transformer', 'inducing')
KINDS = ('elements', 'entries')
each = pytest.mark.parametrize('name', MAKE)


@functools.cache
def make(name, mask='elements', dtype=tf.float64, **kwargs):
    """A network with perturbed weights, which no test changes."""
    return flows.perturb(MAKE[name](mask=mask, dtype=dtype, seed=0, **kwargs))


def data(name, mask='elements', batch=(4,), seed=0, share=0.6):
    """Values `[*batch, ...]` and a mask, in which some are there and some are not."""
    values = flows.normal([*batch, *SHAPES.get(name, [5, 2])], seed)
    shape = values.shape if mask == 'entries' else values.shape[:-1]
    there = np.random.default_rng(seed + 1).uniform(size=shape) < share
    if mask == 'elements':
        there[..., 0], there[..., 1] = False, True
    return {'values': values, 'mask': tf.constant(there)}


def hidden_by(values, mask, number):
    """The values with that number wherever the mask hides them."""
    there = mask if mask.shape == values.shape else mask[..., tf.newaxis]
    return tf.where(there, values, tf.constant(number, values.dtype))


def result_and_gradients(network, values, mask):
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = network({'values': values, 'mask': mask})
        loss = tf.reduce_sum(tf.sin(result))
    return [result, *tape.gradient(loss, [values, *network.trainable_variables])]


@pytest.mark.parametrize('name,mask,jit', [
    # Induced points compile what a SetTransformer without them does.
    *((name, 'elements', name != 'set_transformer') for name in MAKE),
    *((name, 'entries', False) for name in MAKE)])
def test_what_is_masked_has_no_influence_at_all(name, mask, jit):
    network, c = make(name, mask), data(name, mask)
    run = tf.function(functools.partial(result_and_gradients, network), jit_compile=jit)
    want = run(hidden_by(*c.values(), 7.), c['mask'])
    assert all(np.all(np.isfinite(x)) for x in want)
    for number in (0., np.nan, np.inf, 1e30):
        for x, y in zip(run(hidden_by(*c.values(), number), c['mask']), want, strict=True):
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(hidden_by(want[1], ~c['mask'], 0.), 0.)
    # What is there has some.
    assert np.any(run(c['values'] + 1., c['mask'])[0] != want[0])
    np.testing.assert_allclose(want[0], network(c), rtol=1e-9, atol=1e-12)  # Eager.


@each
@pytest.mark.parametrize('mask', KINDS)
def test_a_missing_number_is_not_a_zero(name, mask):
    network, c = make(name, mask), data(name, mask)
    zeros = hidden_by(*c.values(), 0.)
    filled = network({'values': zeros, 'mask': tf.ones_like(c['mask'])})
    assert np.all(np.abs(network({'values': zeros, 'mask': c['mask']}) - filled) > 1e-6)


@pytest.mark.parametrize('name', ['deep_set', 'set_transformer', 'inducing', 'time_series'])
@pytest.mark.parametrize('mask', KINDS)
def test_the_order_of_a_set_does_not_matter_that_of_a_series_does(name, mask):
    network, c = make(name, mask), data(name, mask)
    other = network(tf.nest.map_structure(lambda x: tf.gather(x, [3, 1, 4, 0, 2], axis=1), c))
    difference = np.max(np.abs(other - network(c)))
    assert difference < 1e-13 if name in SETS else difference > 1e-3


@pytest.mark.parametrize('name', ['deep_set', 'set_transformer', 'inducing', 'time_series'])
def test_padding_does_not_matter(name):
    network, c = make(name), data(name)
    whole = network({'values': c['values'], 'mask': tf.ones_like(c['mask'])})
    # Of a set and of a series that is whole, the same as without a mask but for that.
    for before, behind in ((0, 4), (4, 0), (2, 1)):
        padded = {'values': tf.pad(c['values'], [[0, 0], [before, behind], [0, 0]],
                                   constant_values=9.),
                  'mask': tf.pad(tf.ones_like(c['mask']), [[0, 0], [before, behind]])}
        np.testing.assert_allclose(network(padded), whole, rtol=1e-10, atol=1e-12)


@each
def test_batch_shapes(name):
    network, c = make(name), data(name, batch=(2, 1, 3))
    whole = network(c)
    assert whole.shape == [2, 1, 3, 3]
    one = network(tf.nest.map_structure(lambda x: x[1, 0, 2], c))
    np.testing.assert_allclose(whole[1, 0, 2], one, rtol=1e-11)
    # One mask for all.
    shared = network({'values': c['values'], 'mask': c['mask'][0, 0, 0]})
    np.testing.assert_allclose(shared[0, 0, 0], whole[0, 0, 0], rtol=1e-11)
    assert network(tf.nest.map_structure(lambda x: x[:0], c)).shape == [0, 1, 3, 3]


@pytest.mark.parametrize('name', ['deep_set', 'set_transformer', 'inducing', 'time_series'])
def test_one_element_and_none(name):
    network, c = make(name), data(name)
    some = {'values': c['values'], 'mask': tf.constant([True] + [False] * 4)}
    one = network({'values': c['values'][:, :1], 'mask': [True]})
    np.testing.assert_allclose(network(some), one, rtol=1e-10)
    none = network({'values': c['values'], 'mask': [False] * 5})
    np.testing.assert_array_equal(none, tf.broadcast_to(none[:1], none.shape))
    empty = network({'values': c['values'][:, :0], 'mask': np.zeros([4, 0], bool)})
    np.testing.assert_allclose(empty, none, rtol=1e-10)
    assert np.all(np.isfinite(none)) and np.any(none != one)
    plain = make(name, None)
    assert np.all(np.isfinite(plain(c['values'][:, :0])))


@each
def test_gradients_are_those_of_finite_differences(name):
    network, c = make(name, 'entries', activation='tanh'), data(name, 'entries')
    values, mask = c.values()
    _, *gradients = result_and_gradients(network, values, mask)
    points = [values, *map(tf.convert_to_tensor, network.trainable_variables)]
    steps = [1e-6 * flows.normal(x.shape, 7) for x in points]

    def loss(sign):
        for variable, x, step in zip(network.trainable_variables, points[1:], steps[1:]):
            variable.assign(x + sign * step)
        return tf.reduce_sum(tf.sin(network(
            {'values': values + sign * steps[0], 'mask': mask})))

    found = (loss(1.) - loss(-1.)) / 2.
    loss(0.)
    want = sum(np.sum(g * step) for g, step in zip(gradients, steps))
    np.testing.assert_allclose(found, want, rtol=1e-6)


@each
@pytest.mark.parametrize('dtype', [tf.float32, tf.bfloat16])
def test_dtypes(name, dtype):
    c = data(name)
    want = make(name)(c)
    result, *gradients = result_and_gradients(
        make(name, dtype=dtype), tf.cast(c['values'], dtype), c['mask'])
    assert result.dtype == dtype and all(g.dtype == dtype for g in gradients)
    np.testing.assert_allclose(tf.cast(result, tf.float64), want, rtol=0.,
                               atol=1e-5 if dtype == tf.float32 else 0.2)


def test_seeds_and_dtypes_of_variables():
    def values(seed):
        return [v.numpy() for v in MAKE['set_transformer'](seed=seed).variables]

    for a, b in zip(values(1), values(1)):
        np.testing.assert_array_equal(a, b)
    assert any(np.any(a != b) for a, b in zip(values(1), values(2)))


def silu(x):
    return x / (1. + np.exp(-x))


def layers(module, x):
    for i, (kernel, bias) in enumerate(zip(module._kernels, module._biases)):
        x = (silu(x) if i else x) @ kernel.numpy() + bias.numpy()
    return x


def test_a_deep_set_is_its_formula():
    network, c = make('deep_set', None), data('deep_set')['values'].numpy()
    h = silu(layers(network._elements, 10. * np.arcsinh(c / 10.)))
    pooled = np.concatenate([h.mean(1), h.max(1), np.full([4, 1], np.log(6.))], -1)
    np.testing.assert_allclose(network(c), layers(network._rest, pooled), rtol=1e-10)


def test_a_set_transformer_is_its_formula():
    network = make('set_transformer', None)
    c = data('set_transformer')['values'].numpy()[0]

    def norm(x, module):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * (1. + module._scale.numpy()) + module._shift.numpy()

    def block(module, q, h):
        n, h = norm(q, module._norms[0]), norm(h, module._norms[1])
        query, key, value = (x @ kernel.numpy() for x, kernel in zip(
            (n, h, h), module._kernels))
        heads = []
        for head in np.split(np.arange(6), 2):
            scores = np.exp(query[:, head] @ key[:, head].T / np.sqrt(3.))
            heads.append(scores / scores.sum(-1, keepdims=True) @ value[:, head])
        hidden = q + np.concatenate(heads, -1) @ module._kernels[3].numpy()
        return hidden + layers(module._layers, norm(hidden, module._norms[2]))

    h = layers(network._elements, 10. * np.arcsinh(c / 10.))
    for module in network._blocks:
        h = block(module, h, h)
    pooled = np.append(block(network._pool, network._query.numpy()[0], h)[0], np.log(6.))
    np.testing.assert_allclose(network(c), layers(network._rest, pooled), rtol=1e-10)


def test_a_time_series_network_is_its_formula_with_gaps():
    network, c = make('time_series'), data('time_series')
    there = c['mask'].numpy()[0]
    there[-1] = False
    x = np.where(there[:, None], 10. * np.arcsinh(c['values'].numpy()[0] / 10.), 0.)
    h = silu(layers(network._steps, np.c_[x, there])) * there[:, None]
    for d, convolution in zip((1, 2), network._convolutions):
        past = [np.concatenate([h[t - k] if t >= k else 0. * h[0] for k in (2 * d, d, 0)])
                for t in range(5)]
        h = h + silu(layers(convolution, np.array(past))) * there[:, None]
    pooled = np.concatenate([h[there].mean(0), h[there].max(0), [np.log(1. + there.sum())],
                             h[np.flatnonzero(there)[-1]]])
    got = network({'values': c['values'][0], 'mask': there})
    np.testing.assert_allclose(got, layers(network._rest, pooled), rtol=1e-10)


# In flows.


def flow_of(network, **kwargs):
    return tfpc.ConditionalEmbedding(flows.flow(**kwargs), network, network.condition_size)


def test_one_trace_for_all_lengths():
    network, runs = make('deep_set'), []
    flow = tfpc.ConditionalEmbedding(
        flows.flow(), lambda c: runs.append(1) or network(c), network.condition_size)
    dist = flow(flows.base())
    runs.clear()
    for length in (1, 5, 3, 0):
        c = {'values': flows.normal([4, length, 2]), 'mask': np.ones([4, length], bool)}
        assert np.all(np.isfinite(dist.given(c).log_prob(flows.normal([4, 2]))))
    assert len(runs) == 1


def adapted(name):
    network = copy.deepcopy(make(name))
    network.adapt_batches([data(name, batch=(50,), seed=3)])
    return network


@each
def test_copies_and_checkpoints(name, tmp_path):
    network, c = adapted(name), data(name)
    want = network(c)
    clone, other = copy.deepcopy(network), MAKE[name](
        mask='elements', dtype=tf.float64, seed=5)
    path = tf.train.Checkpoint(network=network).save(str(tmp_path / 'c'))
    tf.train.Checkpoint(network=other).restore(path).assert_consumed()
    for same in (clone, other, pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(same(c), want)
        assert same.adapted
    flows.perturb(clone)
    assert np.any(clone(c) != want)
    np.testing.assert_array_equal(network(c), want)


def test_a_distribution_over_a_network_is_copied_and_exported(tmp_path):
    c, y = data('time_series'), flows.normal([4, 2])
    dist = flow_of(adapted('time_series'), num_coupling_layers=1)(flows.base())
    want = dist.given(c).log_prob(y)
    clone = copy.deepcopy(dist)
    tf.saved_model.save(dist, str(tmp_path / 'saved'))
    loaded = tf.saved_model.load(str(tmp_path / 'saved'))
    np.testing.assert_allclose(loaded.log_prob(y, c), want, rtol=1e-12)
    flows.perturb(dist.bijector.embedding)
    assert np.any(dist.given(c).log_prob(y) != want)
    np.testing.assert_array_equal(clone.given(c).log_prob(y), want)


@pytest.mark.parametrize('one,other,match', [
    (MAKE['deep_set'](activation='tanh'), MAKE['deep_set'](), 'activation'),
    (emb.SetTransformer(2, 3, 6, 2), emb.SetTransformer(2, 3, 6, 3), 'num_heads')])
def test_a_checkpoint_of_another_network_is_refused(one, other, match, tmp_path):
    path = tf.train.Checkpoint(flow=flow_of(one, dtype=tf.float32)).save(str(tmp_path / 'c'))
    with pytest.raises(ValueError, match=match):
        tf.train.Checkpoint(flow=flow_of(other, dtype=tf.float32)).restore(path)


def held():
    gc.collect()
    return (sum(isinstance(x, func_graph.FuncGraph) for x in gc.get_objects()),
            len(ops.gradient_registry._registry))


@each
def test_a_network_leaves_nothing_behind(name):
    def run():
        network, c = MAKE[name](mask='elements', dtype=tf.float64), data(name)
        tf.function(functools.partial(result_and_gradients, network))(*c.values())
    run()
    before = held()
    run()
    after = held()
    assert after[0] <= before[0] and after[1] == before[1]


def test_inputs_of_any_unit_are_the_same_to_an_adapted_network():
    c = data('deep_set', 'entries', batch=(200,))
    values, mask = c['values'].numpy(), c['mask'].numpy()
    values[..., 1] = 3.                                     # Nothing is learnt of it.
    results = []
    for loc, scale in ((0., 1.), (1e4, 1e-3), (-7., 1e20)):
        x = np.where(mask, loc + scale * values, np.nan)
        network = copy.deepcopy(make('deep_set', 'entries'))
        network.adapt_batches([{'values': part, 'mask': there} for part, there in zip(
            np.split(x, [50, 120]), np.split(mask, [50, 120]))])
        results.append(network({'values': x, 'mask': mask}))
        assert network.adapted
        once = results[-1]
        network.adapt_batches([{'values': 5. * x, 'mask': mask}])
        np.testing.assert_array_equal(network({'values': x, 'mask': mask}), once)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-6, atol=1e-8)


def test_one_row_that_is_far_away_leaves_the_others_apart():
    c = data('deep_set', batch=(400,))
    values = c['values'].numpy()
    network = copy.deepcopy(make('deep_set'))
    values[0] *= 1e9
    network.adapt_batches([{'values': values, 'mask': c['mask']}])
    np.testing.assert_allclose(network._scale, 1., atol=.1)
    assert np.all(np.isfinite(network({'values': values * 1e290, 'mask': c['mask']})))


def test_fit_comes_close_to_the_exact_posterior_for_all_sizes():
    """theta ~ N(0, 1), n draws of N(theta, 1): N(n mean / (1 + n), 1 / (1 + n))."""
    rng = np.random.default_rng(0)

    def simulate(sizes):
        theta = rng.normal(size=[len(sizes), 1])
        return theta, emb.pad([rng.normal(t, size=[n, 1]) for t, n in zip(theta, sizes)], 8)

    network = emb.DeepSet(1, 8, (32,), mask='elements', seed=0)
    dist = tfpc.conditional_density(1, network.condition_size, embedding=network, seed=0,
                                    transformer='affine', num_coupling_layers=1,
                                    hidden_layers=(32,))
    theta, c = simulate(rng.integers(0, 9, 3000))
    tfpc.fit(dist, 5. + 100. * theta, {**c, 'values': 100. * c['values']}, epochs=30,
             validation_split=.1, seed=0, verbose=False)
    assert network.adapted and dist.bijector.adapted
    for n in (0, 1, 8):
        theta, c = simulate(np.full(2000, n))
        log_prob = dist.given({**c, 'values': 100. * c['values']}).log_prob(
            np.float32(5. + 100. * theta))
        mean = c['values'].sum(1) / (1 + n)
        exact = (-.5 * (1 + n) * (theta - mean)[:, 0]**2
                 + .5 * np.log((1 + n) / (2. * np.pi)) - np.log(100.))
        assert -.01 < np.mean(exact - log_prob) < .05


# From what was measured.


def test_pad_and_mask_nan():
    c = emb.pad([[[1., np.nan]], np.zeros([0, 2]), [[3., 4.], [5., 6.]]], length=3)
    assert c['mask'].tolist() == [[1, 0, 0], [0, 0, 0], [1, 1, 0]]
    np.testing.assert_array_equal(c['values'][:, :, 0], [[1, 0, 0], [0, 0, 0], [3, 5, 0]])
    entries, elements = emb.mask_nan(c), emb.mask_nan(c, 'elements')
    assert np.all(np.isfinite(entries['values'])) and entries['values'][0, 0, 0] == 1.
    assert entries['mask'].tolist()[0] == [[True, False], [False] * 2, [False] * 2]
    assert elements['mask'].tolist()[0] == [False] * 3 and elements['values'][0, 0, 0] == 0.
    assert emb.mask_nan(np.float32([[1, np.nan]]))['values'].dtype == np.float32


def test_nan_is_never_missing_by_itself():
    network, c = make('deep_set'), data('deep_set')
    dist = flow_of(network)(flows.base())
    values = c['values'].numpy()
    values[1, 1] = np.nan
    log_prob = dist.given({**c, 'values': values}).log_prob(flows.normal([4, 2]))
    assert np.isnan(log_prob).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match='`conditions` must be finite; 1 of 4 rows'):
        tfpc.fit(dist, flows.normal([4, 2]), {**c, 'values': values}, verbose=False)


@pytest.mark.parametrize('make_,error,match', [
    (lambda: emb.DeepSet(0), ValueError, '`element_size`'),
    (lambda: emb.DeepSet(1, hidden_layers=()), ValueError, 'at least one; got none'),
    (lambda: emb.DeepSet(1, mask='steps'), ValueError, "one of .*'entries'.*got 'steps'"),
    (lambda: emb.DeepSet(1, activation='mish'), ValueError, '`activation`'),
    (lambda: emb.DeepSet(1, dtype=tf.int32), TypeError, 'floating'),
    (lambda: emb.SetTransformer(1, width=10), ValueError, 'multiple of `num_heads`'),
    (lambda: emb.SetTransformer(1, num_inducing=0), ValueError, '`num_inducing`'),
    (lambda: emb.TimeSeriesNetwork(1, num_layers=1.5), TypeError, '`num_layers`'),
    (lambda: emb.ImageNetwork(16), ValueError, r'\(height, width, channels\); got 16'),
    (lambda: make('deep_set', None)(data('deep_set')), TypeError, 'got a dict'),
    (lambda: make('deep_set')(data('deep_set')['values']), TypeError, 'must be a dict'),
    (lambda: make('deep_set')({'values': np.ones([4, 5, 2]), 'mask': np.ones([4, 1], bool)}),
     ValueError, r'`mask` must have shape \[4, 5\].*got \[4, 1\]'),
    (lambda: make('deep_set')({'values': np.ones([4, 5, 2]), 'mask': tf.ones([4, 5])}),
     TypeError, 'bool'),
    (lambda: make('image')(np.ones([5, 5, 2])), TypeError, 'must be a dict'),
    (lambda: emb.pad([]), ValueError, 'at least one'),
    (lambda: emb.pad([np.ones(3)]), ValueError, r'arrays \[n, D\]'),
    (lambda: emb.pad([np.ones([3, 1])], 2), ValueError, '`length`.*3; got 2'),
    (lambda: emb.mask_nan(np.ones(3), None), ValueError, '`mask`')])
def test_misuse_is_refused(make_, error, match):
    with pytest.raises(error, match=match):
        make_()
