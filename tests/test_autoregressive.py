"""Masked autoregressive flows: structure, both directions, copies and refusals."""

import copy
import functools
import pickle
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import catalogue
from tests import flows
from tfp_conditional.bijectors import autoregressive
from tfp_conditional.networks import made
from tfp_conditional.networks import network
from tfp_conditional.testing import values

tfb, tfd = tfp.bijectors, tfp.distributions

D, S, ORDER = 4, 3, [2, 0, 3, 1]
X, C = flows.normal([6, D]), flows.normal([6, S], 1)


def _layer(event_size=D, order=None, hidden_layers=(7, 9), activation='tanh',
           scale=1., **kwargs):
    layer = autoregressive.ConditionalAutoregressive(
        event_size, S, order, hidden_layers, activation, dtype=tf.float64, seed=0,
        **kwargs)
    return flows.perturb(layer, 1, scale)


def _flow(event_size=D, num_layers=2, hidden_layers=(8,), dtype=tf.float64,
          **kwargs):
    return tfpc.ConditionalMaskedAutoregressiveFlow(
        event_size, S, num_layers, hidden_layers, 'tanh', dtype=dtype, seed=0,
        **kwargs)


@functools.cache
def _permuted(conditioning='concatenate'):
    """One layer for all tests that leave it as it is."""
    return _layer(order=ORDER, conditioner=tfpc.MLP((7, 9, 8), 'tanh', conditioning)
                  if conditioning != 'concatenate' else None)


def _inverse_jacobian(layer, y):
    """`dx_i / dy_j` and `dx_i / dc`, with i and j in the order of the units."""
    matrix = values.jacobian(
        lambda y_and_c: layer.inverse(y_and_c[:, :-S], conditions=y_and_c[:, -S:]),
        tf.concat([y, C], -1))[:, layer._order]
    return matrix[:, :, layer._order], matrix[:, :, -S:]


@pytest.mark.parametrize('conditioning', network.CONDITIONING)
def test_each_unit_depends_on_all_before_it_and_on_no_other(conditioning):
    jacobian, by_condition = _inverse_jacobian(_permuted(conditioning), X)
    for matrix in jacobian:
        np.testing.assert_array_equal(np.triu(matrix, 1), 0.)
        assert np.all(np.abs(matrix[np.tril_indices(D)]) > 1e-6)
    assert np.all(np.abs(by_condition) > 1e-6)


def test_without_hidden_layers_too():
    layer = _layer(hidden_layers=(), order=ORDER)
    jacobian, by_condition = _inverse_jacobian(layer, X)
    np.testing.assert_array_equal(np.triu(jacobian[0], 1), 0.)
    assert np.all(np.abs(jacobian[0][np.tril_indices(D)]) > 1e-6)
    assert np.all(np.abs(by_condition) > 1e-6)
    x, ildj = layer.inverse_and_log_det(X, conditions=C)
    y, fldj = layer.forward_and_log_det(x, conditions=C)
    np.testing.assert_allclose(y, X, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fldj, -ildj, rtol=1e-12, atol=1e-12)


def test_hidden_layers_too_narrow_lose_no_more_than_they_must():
    """Every unit still sees the conditions, and every unit but the last is seen."""
    jacobian, by_condition = _inverse_jacobian(
        _layer(6, hidden_layers=(3, 2)), flows.normal([6, 6]))
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0.)
    assert np.all(np.abs(by_condition) > 1e-6)
    seen = np.abs(np.tril(jacobian, -1)).max(0) > 1e-6
    assert np.all(seen.any(0)[:-1])


@pytest.mark.parametrize('event_size', [1, 2, 5, 64])
def test_degrees_are_even(event_size):
    for units in [*range(1, 12), 64, 100, 128]:
        degrees = made._degrees(units, event_size)
        found, counts = np.unique(degrees, return_counts=True)
        assert np.all(np.diff(degrees) >= 0) and found[0] == 0
        assert len(degrees) == units and len(found) == min(units, event_size)
        assert np.ptp(counts) <= 1 and found[-1] < event_size
        assert found[-1] == event_size - 1 or units == 1


def _numpy_parameters(network, y, c):
    """The network unit by unit, from what a degree means."""
    place = {unit: i for i, unit in enumerate(ORDER)}
    kernels = [kernel.numpy() for kernel in network._kernels]
    biases = [bias.numpy() for bias in network._biases]
    parameters = np.zeros([len(y), 2, D])
    for unit in range(D):
        before = [j for j in range(D) if place[j] < place[unit]]
        hidden = 10 * np.arcsinh(y / 10)
        visible = np.array([j in before for j in range(D)])
        for layer, (kernel, bias) in enumerate(zip(kernels, biases)):
            out = (hidden * visible) @ kernel + bias
            if layer == 0:
                units_in = [[j for j in range(D) if place[j] < i] for i in range(D)]
                degree = np.arange(kernel.shape[1]) * D // kernel.shape[1]
                out = np.stack([
                    hidden[:, units_in[d]] @ kernel[units_in[d], m] + bias[m]
                    for m, d in enumerate(degree)], -1)
                out += c @ network._condition_kernel.numpy()
            elif layer < len(kernels) - 1:
                new_degree = np.arange(kernel.shape[1]) * D // kernel.shape[1]
                out = np.stack([
                    hidden[:, degree <= d] @ kernel[degree <= d, m] + bias[m]
                    for m, d in enumerate(new_degree)], -1)
                degree = new_degree
            visible = degree <= place[unit]
            hidden = np.tanh(out) if layer < len(kernels) - 1 else out
        parameters[:, :, unit] = hidden.reshape([-1, 2, D])[:, :, unit]
    return parameters


def test_density_is_that_of_a_numpy_reference():
    layer = _permuted()
    p = _numpy_parameters(layer._network, X.numpy(), C.numpy())
    shift, log_scale = 10 * np.arcsinh(p[:, 0] / 10), 2 * np.tanh(p[:, 1] / 2)
    x, ildj = layer.inverse_and_log_det(X, conditions=C)
    np.testing.assert_allclose(x, (X - shift) * np.exp(-log_scale), atol=1e-12)
    np.testing.assert_allclose(ildj, -log_scale.sum(-1), atol=1e-12)


@pytest.mark.parametrize('conditioning', network.CONDITIONING)
def test_sample_is_that_of_stock_masked_autoregressive_flow(conditioning):
    layer = _permuted(conditioning)
    stock = tfb.MaskedAutoregressiveFlow(
        lambda y: layer._transformer.shift_and_log_scale(layer._network(y, C)))
    y, fldj = layer.forward_and_log_det(X, conditions=C)
    np.testing.assert_allclose(y, stock.forward(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fldj, stock.forward_log_det_jacobian(X, 1),
                               rtol=1e-12, atol=1e-12)


# An affine one is in the catalogue.
@pytest.mark.parametrize('transformer', [
    'additive', tfpc.RationalQuadratic(4), catalogue.SinhShift()],
                         ids=['additive', 'spline', 'own'])
def test_sample_and_density_are_inverses(transformer):
    flow = _layer(hidden_layers=(8,), transformer=transformer)
    y, fldj = flow.forward_and_log_det(X, conditions=C)
    assert np.max(np.abs(y - X)) > 0.1
    x, ildj = flow.inverse_and_log_det(y, conditions=C)
    np.testing.assert_allclose(x, X, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ildj, -fldj, rtol=1e-10, atol=1e-10)
    matrix = values.jacobian(lambda y: flow.inverse(y, conditions=C), y)
    np.testing.assert_allclose(ildj, np.linalg.slogdet(matrix)[1], atol=1e-10)


@pytest.mark.parametrize('batch,condition_batch', [
    ([], []), ([6], []), ([2, 3], [3]), ([2, 3], [2, 1])], ids=str)
def test_batch_shapes_broadcast(batch, condition_batch):
    layer = _permuted('film')
    x, c = flows.normal([*batch, D]), flows.normal([*condition_batch, S], 1)
    y, fldj = layer.forward_and_log_det(x, conditions=c)
    rows = layer.forward_and_log_det(
        tf.reshape(x, [-1, D]),
        conditions=tf.reshape(tf.broadcast_to(c, [*batch, S]), [-1, S]))
    np.testing.assert_allclose(y, tf.reshape(rows[0], [*batch, D]), rtol=1e-12)
    np.testing.assert_allclose(fldj, tf.reshape(rows[1], batch), rtol=1e-12)
    np.testing.assert_allclose(layer.inverse(tf.identity(y), conditions=c), x,
                               rtol=1e-10, atol=1e-10)


class _ShapelessShift(tfpc.Transformer):
    """Whose results have shapes that TensorFlow does not know."""

    num_parameters = 1

    def forward_and_log_det(self, x, parameters):
        y = x + parameters[..., 0, :]
        y, log_det = (tf.numpy_function(lambda z: z, [part], x.dtype)
                      for part in (y, tf.zeros_like(y)))
        return y, log_det

    def inverse_and_log_det(self, y, parameters):
        return y - parameters[..., 0, :], tf.zeros_like(y)


def test_a_transformer_may_lose_shapes():
    layer = _layer(transformer=_ShapelessShift())
    run = tf.function(lambda x: layer.forward(x, conditions=C), autograph=False)
    y = run(X)
    assert y.shape == X.shape and np.max(np.abs(y - X)) > .1
    np.testing.assert_allclose(layer.inverse(y, conditions=C), X, atol=1e-12)


@pytest.mark.parametrize('hidden_layers,changes', [((7, 9), True), ((), False)])
def test_dropout_drops_hidden_units_in_training(hidden_layers, changes):
    layer = _layer(conditioner=tfpc.MLP(hidden_layers, 'tanh', dropout=.5))
    for method in (layer.forward, layer.inverse):
        plain = method(X, conditions=C)
        with tfpc.training([1, 2]):
            dropped = method(X, conditions=C)
        assert np.allclose(dropped, plain) != changes
        np.testing.assert_allclose(method(X, conditions=C), plain)


def test_a_conditioner_stands_for_hidden_layers_and_activation():
    plain = _flow()
    same = tfpc.ConditionalMaskedAutoregressiveFlow(
        D, S, 2, conditioner=tfpc.MLP((8,), 'tanh'), dtype=tf.float64, seed=0)
    for one, other in zip(plain.variables, same.variables, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('make,expected', [
    (tfpc.ConditionalMaskedAutoregressiveFlow, 1692103001),
    (tfpc.ConditionalRealNVP, 2561979999)], ids=['autoregressive', 'real_nvp'])
def test_a_seed_means_the_same_initial_weights_for_ever(make, expected):
    """Names, shapes, order and values: what old checkpoints and results rely on."""
    total = 0
    for variable in make(5, {'a': 2, 'b': 1}, 3, (6, 7), seed=3).variables:
        label = f'{variable.name} {variable.shape}'.encode()
        total = zlib.crc32(label + variable.numpy().tobytes(), total)
    assert total == expected


def test_one_unit_is_transformed_by_the_conditions():
    layer = _layer(1)
    x, ildj = layer.inverse_and_log_det(X[:, :1], conditions=C)
    y, fldj = layer.forward_and_log_det(x, conditions=C)
    np.testing.assert_allclose(y, X[:, :1], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fldj, -ildj, rtol=1e-12, atol=1e-12)
    assert len(np.unique(np.round(ildj, 9))) == len(C)


class _CountingTanh(tf.Module):
    """An activation that counts its executions, in any mode."""

    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0, trainable=False)

    def __call__(self, x):
        self.count.assign_add(1)
        return tf.tanh(x)

    def taken(self):
        count = int(self.count.numpy())
        self.count.assign(0)
        return count


@pytest.mark.parametrize('inverted', [False, True], ids=['maf', 'iaf'])
def test_one_pass_for_all_units_or_one_for_each(inverted):
    """Densities of a masked, samples of an inverse autoregressive flow are one."""
    tanh = _CountingTanh()
    layer = _layer(hidden_layers=(8,), activation=tanh)
    bijector = tfpc.ConditionalChain([tfb.Invert(layer)]) if inverted else layer
    dist = flows.dist(bijector, D)
    y = tf.identity(dist.sample(6, **flows.given(C)))
    assert tanh.taken() == (1 if inverted else D)
    log_prob = dist.log_prob(y, **flows.given(C))
    assert tanh.taken() == (D if inverted else 1)
    x, ildj = bijector.inverse_and_log_det(y, conditions=C)
    np.testing.assert_allclose(log_prob, dist.distribution.log_prob(x) + ildj)
    back, fldj = bijector.forward_and_log_det(x, conditions=C)
    np.testing.assert_allclose(back, y, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(fldj, -ildj, rtol=1e-10, atol=1e-10)


def test_a_step_of_a_sample_multiplies_neither_conditions_nor_all_outputs():
    graph = tf.function(
        lambda x, c: _permuted().forward(x, conditions=c), autograph=False
    ).get_concrete_function(X, C).graph
    loop, = [op for op in graph.get_operations() if 'While' in op.type]
    body = loop.get_attr('body').name
    nodes, = [f.node_def for f in graph.as_graph_def().library.function
              if f.signature.name == body]
    assert len([n for n in nodes if 'MatMul' in n.op]) == 2   # h_2 and one unit's p


def test_entries_that_do_not_count_change_nothing():
    layer = copy.deepcopy(_permuted())
    y, c = X, C

    def answers():
        with tf.GradientTape() as tape:
            x, ildj = layer.inverse_and_log_det(y, conditions=c)
            back, fldj = layer.forward_and_log_det(x, conditions=c)
            loss = tf.reduce_sum(x) + tf.reduce_sum(ildj * fldj * back[:, 0])
        return [x, ildj, back, fldj], tape.gradient(loss, layer.trainable_variables)

    results, gradients = answers()
    for i, kernel in enumerate(layer._network._kernels):
        counts = layer._network._mask(i)
        assert not counts.all()
        kernel.assign(tf.where(counts, kernel, np.nan))
    new_results, new_gradients = answers()
    for old, new in zip([*results, *gradients], [*new_results, *new_gradients]):
        np.testing.assert_array_equal(old, new)
    for variable, gradient in zip(layer.trainable_variables, gradients):
        np.testing.assert_array_equal(gradient.numpy()[np.isnan(variable)], 0.)


def test_a_new_flow_is_the_identity():
    flow = _flow(transformer='rational_quadratic')
    for value, log_det in (flow.forward_and_log_det(X, conditions=C),
                           flow.inverse_and_log_det(X, conditions=C)):
        np.testing.assert_allclose(value, X, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(log_det, 0., atol=1e-13)


def test_finite_for_huge_units_and_weights_and_bounded_in_scale():
    flow = flows.perturb(_flow(dtype=tf.float32), 1, 1e3)
    x = tf.cast(X, tf.float32) * np.logspace(0, 30, 6, dtype=np.float32)[:, None]
    c = tf.cast(C, tf.float32)
    for method in (flow.forward_and_log_det, flow.inverse_and_log_det):
        with tf.GradientTape() as tape:
            tape.watch([x, c])
            y, log_det = method(x, conditions=c)
            loss = tf.reduce_sum(tf.asinh(y)) + tf.reduce_sum(log_det)
        gradients = tape.gradient(loss, [x, c, *flow.trainable_variables])
        for tensor in (y, log_det, *gradients):
            assert np.all(np.isfinite(tensor))
        assert np.max(np.abs(log_det)) < 8.001 * D


def test_second_derivatives_of_a_sample():
    layer = _layer(2, hidden_layers=(4,))
    start, direction = X[:, :2], flows.normal([6, 2], 2)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.square(layer.forward(x, conditions=C)))
        return tape.gradient(total, x)

    with tf.GradientTape() as tape:
        tape.watch(start)
        along = tf.reduce_sum(slope(start) * direction)
    expected = (slope(start + 1e-5 * direction)
                - slope(start - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(tape.gradient(along, start), expected,
                               rtol=1e-5, atol=1e-5)


def test_what_pickle_copies_is_independent():
    flow = flows.perturb(_flow(2, 1, hidden_layers=(4,)), 1)
    x, c = X[:, :2], C
    expected = flow.forward_and_log_det(x, conditions=c)
    clone = pickle.loads(pickle.dumps(flow))
    for variable in flow.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    for old, new in zip(expected, clone.forward_and_log_det(x, conditions=c)):
        np.testing.assert_array_equal(old, new)
    for variable in clone.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    assert np.all(clone.forward(x, conditions=c) != expected[0])


def test_seed_and_parameters_make_the_same_flow_again():
    flow = _flow(2)
    other = flow.copy(num_layers=1)
    assert type(other) is type(flow) and len(other.bijectors) == 1
    for a, b in zip(other.trainable_variables,
                    flow.bijectors[0].trainable_variables):
        np.testing.assert_array_equal(a, b)


CASES = {
    'a repeated unit': (lambda: _layer(order=[0, 1, 1, 2]), ValueError,
                        r'`order` must be a permutation of 0 ... 3; got \[0, 1, 1'),
    'an order of a wrong length': (lambda: _layer(order=[0, 1]), ValueError,
                                   '`order` must be a permutation'),
    'an order of floats': (lambda: _layer(order=[0., 1., 2., 3.]), TypeError,
                           '`order` must be integers; got dtype float64'),
    'an order by name': (lambda: _layer(order='reverse'), TypeError,
                         '`order` must be integers'),
    'no units': (lambda: _layer(0), ValueError, '`event_size` must be at least 1'),
    'no layers': (lambda: _flow(num_layers=0), ValueError,
                  '`num_layers` must be at least 1'),
    'layers in fractions': (lambda: _flow(num_layers=2.), TypeError,
                            '`num_layers` must be an integer'),
    'hidden_layers an integer': (lambda: _layer(hidden_layers=8), TypeError,
                                 '`hidden_layers` must be a sequence'),
    'unknown activation': (lambda: _layer(activation='swoosh'), ValueError,
                           "`activation` must be.*got 'swoosh'"),
    'a conditioner of a layer that is no MLP': (
        lambda: _layer(conditioner=tfpc.ResidualNetwork(8)), TypeError,
        r'must be an MLP\(...\).*got ResidualNetwork.*without masks'),
    'unknown transformer': (lambda: _flow(transformer='afine'), ValueError,
                            "`transformer` must be one of.*got 'afine'"),
    'no conditions': (lambda: _permuted().forward(X), TypeError,
                      '`conditions` are required'),
    'x of a wrong size': (lambda: _permuted().forward(X[:, :3], conditions=C),
                          ValueError, r'last dimension 4; got shape \[6, 3\]'),
    'shared noise': (lambda: _permuted().forward(X[0], conditions=C), ValueError,
                     'will not expand noise'),
}


@pytest.mark.parametrize('name', CASES)
def test_misuse_is_refused(name):
    function, error, message = CASES[name]
    with pytest.raises(error, match=f'(?s){message}'):
        function()
