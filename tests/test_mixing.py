"""`ActNorm`, `InvertibleLinear`, and how chains adapt."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import testing
from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import mixing
from tfp_conditional.testing import values

tfb, tfd = tfp.bijectors, tfp.distributions

C = flows.normal([200, 3], 1)
DATA = np.array([1e6, -3.]) + flows.normal([200, 2], 2) * [1e3, 1e-6]


def act_norm(event_size=2, dtype=tf.float64):
    return flows.perturb(mixing.ActNorm(event_size, dtype))


def linear(event_size=3, dtype=tf.float64, seed=1, scale=1.):
    return flows.perturb(mixing.InvertibleLinear(event_size, dtype, seed), 2, scale)


def coupling(seed=0):
    return flows.perturb(tfpc.ConditionalCoupling(
        2, 3, hidden_layers=(8,), dtype=tf.float64, seed=seed), seed, 1.)


def mixed():
    return tfpc.ConditionalChain([
        mixing.ActNorm(2, tf.float64), linear(2), coupling(),
        tfb.Shift(np.float64(3.)), mixing.ActNorm(2, tf.float64)])


ALONE = {'act_norm': act_norm, 'linear': lambda: linear(2),
         'linear d1 float32': lambda: linear(1, tf.float32)}


@pytest.mark.parametrize('name', ALONE)
def test_properties_alone(name):
    report = testing.check_bijector(
        ALONE[name](), skip=[] if name == 'linear' else ['modes_agree'])
    assert report['sample_log_prob'] == report['checkpoint'] == 'passed'


@pytest.mark.parametrize('make, options', [
    (mixed, {}), (lambda: tfb.Invert(linear()), {'event_size': 3}),
    (lambda: tfb.Invert(act_norm()), {'event_size': 2})],
                         ids=['chain', 'invert linear', 'invert act_norm'])
def test_properties_within(make, options):
    testing.check_bijector(make(), **options, checks=[
        'variables_tracked', 'round_trip', 'log_det', 'dtype'])


@pytest.mark.parametrize('dtype', [tf.float16, tf.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize('cls', [mixing.ActNorm, mixing.InvertibleLinear])
def test_half_precision(cls, dtype):
    testing.check_bijector(cls(2, dtype), perturb_scale=.2, checks=[
        'round_trip', 'gradients', 'dtype'])


def test_densities_through_a_stock_chain():
    parts = [act_norm(3), linear()]
    dist = tfd.TransformedDistribution(flows.base(3), tfb.Chain(parts))
    y = dist.sample(5, seed=0)
    x = parts[1].inverse(parts[0].inverse(tf.identity(y)))
    log_det = tf.reduce_sum(parts[0].log_scale) + tf.reduce_sum(
        2 * tf.tanh(tf.linalg.diag_part(parts[1].kernel) / 2))
    np.testing.assert_allclose(dist.log_prob(tf.identity(y)),
                               flows.base(3).log_prob(x) - log_det, rtol=1e-10)


def test_new_ones_are_the_identity_and_a_permutation():
    x = flows.normal([5, 8])
    np.testing.assert_array_equal(mixing.ActNorm(8, tf.float64).forward(x), x)
    for seed in (0, 1):
        layer = mixing.InvertibleLinear(8, tf.float64, seed)
        y = layer.forward(x)
        np.testing.assert_array_equal(
            y, x.numpy()[:, np.random.default_rng((seed,)).permutation(8)])
        np.testing.assert_array_equal(layer.inverse(tf.identity(y)), x)
        np.testing.assert_array_equal(layer.forward_log_det_jacobian(x), np.zeros(5))


def test_linear_is_the_matrix_that_it_says():
    layer, x = linear(4), flows.normal([2, 3, 4])
    kernel = layer.kernel.numpy()
    lower = np.tril(kernel, -1) + np.eye(4)
    upper = np.triu(kernel, 1) + np.diag(np.exp(2 * np.tanh(np.diag(kernel) / 2)))
    matrix = np.eye(4)[layer.permutation.numpy()] @ lower @ upper
    np.testing.assert_allclose(layer.forward(x), x @ matrix.T, rtol=1e-12)
    np.testing.assert_allclose(layer.inverse(x), x @ np.linalg.inv(matrix).T,
                               rtol=1e-10)


def test_linear_is_rounded_once():
    """Otherwise its inverse would be none for an ill-conditioned matrix."""
    single = linear(16, tf.float32)
    double = mixing.InvertibleLinear(16, tf.float64, 1)
    double.kernel.assign(tf.cast(single.kernel, tf.float64))
    x = flows.normal([50, 16], dtype=tf.float32)
    for ask in ('forward', 'inverse'):
        np.testing.assert_allclose(
            getattr(single, ask)(x), getattr(double, ask)(tf.cast(x, tf.float64)),
            rtol=1.2e-7)


def test_linear_is_never_singular():
    layer = linear(4, tf.float32, scale=0.)
    for size in (-1e30, 1e30):
        layer.kernel.assign(tf.linalg.diag([size, 1., -size, size]))
        x = 1e6 * flows.normal([5, 4], dtype=tf.float32)
        y = layer.forward(x)
        np.testing.assert_allclose(layer.inverse(tf.identity(y)), x, rtol=1e-6)
        assert np.all(np.abs(layer.forward_log_det_jacobian(x)) <= 8)


@pytest.mark.parametrize('jit_compile', [False, True])
def test_empty_batches(jit_compile):
    layer = linear()
    function = tf.function(lambda x: layer.inverse_and_log_det(x),
                           jit_compile=jit_compile, autograph=False)
    x, log_det = function(tf.zeros([0, 3], tf.float64))
    assert x.shape == [0, 3] and log_det.shape == [0]


def test_a_checkpoint_has_the_permutation(tmp_path):
    layer, other = linear(8, seed=None), mixing.InvertibleLinear(8, tf.float64)
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / 'ckpt'))
    tf.train.Checkpoint(layer=other).read(path).assert_consumed()
    x = flows.normal([5, 8])
    np.testing.assert_array_equal(other.forward(x), layer.forward(x))


def noise_side(bijector, data=DATA, **kwargs):
    """Mean and standard deviation of the noise side of data."""
    x = bijector.inverse(tf.identity(data), **kwargs).numpy()
    return x.mean(0), x.std(0)


def assert_standard(bijector, data=DATA, **kwargs):
    mean, deviation = noise_side(bijector, data, **kwargs)
    np.testing.assert_allclose(mean, 0., atol=1e-8)
    np.testing.assert_allclose(deviation, 1., rtol=1e-9)


def test_act_norm_adapts_once():
    norm = act_norm()
    assert not norm.adapted
    norm.adapt(tf.reshape(DATA, [10, 20, 2]))
    assert norm.adapted
    assert_standard(norm)
    before = [v.numpy() for v in norm.variables]
    norm.adapt(DATA + 1.)
    for variable, value in zip(norm.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_a_chain_adapts_each_part_to_what_reaches_it():
    chain = mixed()
    assert not chain.adapted
    chain.adapt(DATA, C)
    assert chain.adapted
    assert_standard(chain.bijectors[0])
    assert_standard(chain, conditions=C)
    before = [v.numpy() for v in chain.variables]
    chain.adapt(DATA + 1., C)
    assert all(np.array_equal(a, b) for a, b in zip(before, chain.variables))


def test_a_part_that_has_adapted_passes_data_to_one_that_has_not():
    first = mixing.ActNorm(2, tf.float64)
    first.adapt(DATA + 5.)
    first.shift.assign_add([1., 2.])
    before = [v.numpy() for v in first.variables]
    chain = tfpc.ConditionalChain(
        [tfpc.ConditionalChain([first, coupling(1)]),
         tfb.Chain([mixing.ActNorm(2, tf.float64), tfb.Permute([1, 0])])])
    assert not chain.adapted
    chain.adapt(DATA, C)
    assert all(np.array_equal(a, b) for a, b in zip(before, first.variables))
    assert_standard(chain, conditions=C)


def test_what_stands_upside_down_or_has_nothing_to_learn_is_left_alone():
    inverted = mixing.ActNorm(2, tf.float64)
    chain = tfpc.ConditionalChain([tfb.Invert(inverted), coupling()])
    chain.adapt(DATA, C)
    assert chain.adapted and not inverted.adapted
    plain = flows.flow()
    before = [v.numpy() for v in plain.variables]
    plain.adapt(DATA, C)
    assert plain.adapted
    assert all(np.array_equal(a, b) for a, b in zip(before, plain.variables))


def test_stock_chains_adapt_by_the_function():
    norm = mixing.ActNorm(2, tf.float64)
    bijector = tfb.Chain([tfb.Scale(np.float64(2.)), linear(2), norm])
    assert not adapt_lib.adapted(bijector)
    adapt_lib.adapt(bijector, DATA)
    assert adapt_lib.adapted(bijector)
    x = norm.inverse(linear(2).inverse(DATA / 2.)).numpy()
    np.testing.assert_allclose([x.mean(0), x.std(0)], [[0, 0], [1, 1]], atol=1e-9)
    adapt_lib.adapt(tfb.Tanh(), DATA)      # Which has nothing to learn.


def columns(dtype):
    """Data that is easily divided by 0, or over- or underflows."""
    normal = np.random.default_rng(0).normal(size=50)
    tiny, most = np.finfo(dtype).tiny, np.finfo(dtype).max
    return np.stack([
        np.full(50, 1e6), np.zeros(50), 1e6 * normal, 1e6 + normal,
        most**.9 * normal, most**-.5 * normal, tiny * normal,
        np.where(normal > 0, 1e-3 * most, -1e-3 * most),
        1. + 2. * np.finfo(dtype).eps * (normal > 0)], -1).astype(dtype)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_degenerate_and_extreme_data(dtype):
    data = columns(dtype)
    norm = mixing.ActNorm(9, tf.as_dtype(dtype))
    with np.errstate(all='raise', under='ignore'):
        norm.adapt(data)
    y = tf.constant(np.concatenate([data, np.clip(data, -1e6, 1e6)]))
    with tf.GradientTape() as tape:
        tape.watch(y)
        x, log_det = norm.inverse_and_log_det(y)
        result = tf.reduce_sum(x) + tf.reduce_sum(log_det)
    gradients = tape.gradient(result, [y, *norm.trainable_variables])
    for value in (x, log_det, *gradients):
        assert np.all(np.isfinite(value))
    deviation = np.std(x.numpy()[:50].astype(np.float64), 0)
    np.testing.assert_allclose(deviation[[0, 1, 6, 8]], 0., atol=1e-6)
    np.testing.assert_allclose(deviation[[2, 3, 4, 5, 7]], 1., rtol=1e-3)
    np.testing.assert_array_equal(norm.log_scale.numpy()[[0, 1, 6, 8]], 0.)


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('size', [1e-30, 1e-12, 1e12, 1e30])
def test_moments_of_any_size_are_learnt(size, dtype):
    normal = np.random.default_rng(0).normal(size=[500, 2])
    data = (size * (normal + [0., 5.])).astype(dtype)
    norm = mixing.ActNorm(2, tf.as_dtype(dtype))
    norm.adapt(data)
    x = norm.inverse(data).numpy().astype(np.float64)
    np.testing.assert_allclose([x.mean(0), x.std(0)], [[0., 0.], [1., 1.]], atol=1e-4)
    np.testing.assert_allclose(norm.forward(tf.constant(x, dtype)), data, rtol=1e-4,
                               atol=1e-4 * size)


def test_a_single_row_gives_its_place_and_no_scale():
    norm = mixing.ActNorm(2, tf.float64)
    norm.adapt([5., -1.])
    np.testing.assert_array_equal(norm.inverse([[5., -1.], [6., -1.]]),
                                  [[0., 0.], [1., 0.]])


@pytest.mark.parametrize('how', ['deepcopy', 'pickle', 'checkpoint'])
def test_copies_have_adapted(how, tmp_path):
    chain = mixed()
    chain.adapt(DATA, C)
    if how == 'checkpoint':
        path = tf.train.Checkpoint(chain=chain).write(str(tmp_path / 'ckpt'))
        clone = mixed()
        tf.train.Checkpoint(chain=clone).read(path).assert_consumed()
    else:
        clone = {'deepcopy': copy.deepcopy, 'pickle': lambda b: pickle.loads(
            pickle.dumps(b))}[how](chain)
    assert clone.adapted
    clone.adapt(DATA + 1., C)
    for one, other in zip(clone.inverse_and_log_det(DATA, conditions=C),
                          chain.inverse_and_log_det(DATA, conditions=C)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('options,names', [
    ({}, 'layer_0 layer_1 layer_2'),
    (dict(act_norm=True), 'act_norm_0 layer_0 act_norm_1 layer_1 act_norm_2 layer_2'),
    (dict(mixing='linear', conditional_base=True),
     'layer_0 linear_1 layer_1 linear_2 layer_2 base'),
    (dict(mixing='random', act_norm=True),
     'permute_0 act_norm_0 layer_0 act_norm_1 layer_1 permute_2 act_norm_2 layer_2 '
     'permute')], ids=['default', 'act_norm', 'linear', 'random'])
@pytest.mark.parametrize('make', [tfpc.ConditionalRealNVP,
                                  tfpc.ConditionalMaskedAutoregressiveFlow])
def test_flows_stack_the_same_parts(make, options, names):
    flow = make(4, 3, 3, (8,), 'tanh', dtype=tf.float64, seed=0, **options)
    assert ' '.join(part.name for part in flow.bijectors) == names


@pytest.mark.parametrize('make,options', [
    (tfpc.ConditionalRealNVP, dict(mixing='linear', conditional_base=True)),
    (tfpc.ConditionalMaskedAutoregressiveFlow, dict(mixing='random', act_norm=True))])
def test_stacked_parts_are_one_map(make, options):
    flow = make(4, 3, 2, (8,), 'tanh', dtype=tf.float64, seed=0, **options)
    x, c = flows.normal([5, 4]), C[:5]
    y = flow.forward(x, conditions=c)
    new, old = (tf.sort(t) if options['mixing'] == 'linear' else t for t in (y, x))
    np.testing.assert_array_equal(new, old)     # New linear ones are permutations.
    flows.perturb(flow, 1, .5)
    y, fldj = flow.forward_and_log_det(x, conditions=c)
    matrix = values.jacobian(lambda x: flow.forward(x, conditions=c), x)
    if make is tfpc.ConditionalMaskedAutoregressiveFlow:
        assert np.all(np.abs(matrix) > 1e-9)    # Each unit depends on all others.
    np.testing.assert_allclose(np.linalg.slogdet(matrix)[1], fldj, atol=1e-10)
    back, ildj = flow.inverse_and_log_det(tf.identity(y), conditions=c)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(ildj, -fldj, atol=1e-9)


def test_layers_of_an_autoregressive_flow_adapt():
    flow = tfpc.ConditionalMaskedAutoregressiveFlow(
        2, 3, 2, (8,), act_norm=True, dtype=tf.float64, seed=0)
    flow.adapt(DATA, C)
    assert flow.adapted
    assert_standard(flow.bijectors[0])
    assert_standard(flow, conditions=C)       # Layers are the identity as yet.


def test_random_orders_are_restored_into_a_flow_of_another_seed(tmp_path):
    one, other = (tfpc.ConditionalMaskedAutoregressiveFlow(
        3, 3, 3, (8,), mixing='random', conditional_base=True,
        dtype=tf.float64, seed=seed) for seed in (0, 4))
    flows.perturb(one)
    path = tf.train.Checkpoint(flow=one).write(str(tmp_path / 'ckpt'))
    tf.train.Checkpoint(flow=other).read(path).assert_consumed()
    y = flows.normal([200, 3])
    for a, b in zip(one.inverse_and_log_det(y, conditions=C),
                    other.inverse_and_log_det(y, conditions=C)):
        np.testing.assert_array_equal(a, b)


def test_misuse():
    for cls in (mixing.ActNorm, mixing.InvertibleLinear):
        for kwargs, error in ((dict(event_size=0), ValueError),
                              (dict(event_size=2.), TypeError),
                              (dict(event_size=2, dtype=tf.int32), TypeError)):
            with pytest.raises(error, match='must be'):
                cls(**kwargs)
        bijector = cls(2, tf.float64)
        for call, error, match in (
                (lambda: bijector.forward(DATA[:, :1]), ValueError,
                 '`x` must have last dimension 2'),
                (lambda: bijector.inverse(1.), ValueError, '`y` must have at least'),
                (lambda: bijector.forward(tf.zeros([3, 2])), TypeError,
                 '`x` must have dtype float64; got float32'),
                (lambda: bijector.forward(DATA, conditions=C), TypeError,
                 r"unconditional.*\['conditions'\].*ConditionalChain"),
                (lambda: flows.dist(bijector, 3).event_shape, ValueError,
                 'last dimension 2'),
                (lambda: bijector.forward_event_shape([]), ValueError,
                 'tfd.Independent')):
            with pytest.raises(error, match=match):
                call()


def test_misuse_of_adapt():
    bad = tf.where(tf.range(200)[:, tf.newaxis] < 3, np.nan, DATA)
    norm, chain = mixing.ActNorm(2, tf.float64), mixed()
    for call, error, match in (
            (lambda: norm.adapt(bad), ValueError, '200 rows, 3 of them not finite'),
            (lambda: norm.adapt(DATA[:0]), ValueError, 'at least one row'),
            (lambda: norm.adapt(DATA[:, :1]), ValueError, 'last dimension 2'),
            (lambda: norm.adapt(tf.cast(DATA, tf.float32)), TypeError, 'dtype'),
            (tf.function(lambda: norm.adapt(DATA), autograph=False), RuntimeError,
             'eagerly'),
            (lambda: chain.adapt(DATA), TypeError, '`conditions` are required'),
            (lambda: chain.adapt(DATA, C[:5]), ValueError, 'broadcast'),
            (lambda: chain.adapt(DATA[:, :1], C), ValueError, 'last dimension 2'),
            (lambda: chain.adapt(bad, C), ValueError, "'act_norm' to adapt")):
        with pytest.raises(error, match=match):
            call()
    assert not norm.adapted and not chain.adapted
