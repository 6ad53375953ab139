"""Conditions as tensors and nests."""

import collections

import numpy as np
import pytest
import tensorflow as tf

import tfp_conditional as tfpc
from tests import flows

X = flows.normal([4, 2])
A, B = flows.normal([4, 1], 1), flows.normal([4, 2], 2)


def test_key_order_does_not_matter():
    flow = flows.flow(2, {'b': 2, 'a': 1})
    want = flow.forward(X, conditions={'a': A, 'b': B})
    np.testing.assert_array_equal(flow.forward(X, conditions={'b': B, 'a': A}), want)
    ordered = collections.OrderedDict([('b', B), ('a', A)])
    np.testing.assert_array_equal(flow.forward(X, conditions=ordered), want)
    again = flows.flow(2, {'a': 1, 'b': 2})
    np.testing.assert_array_equal(again.forward(X, conditions={'a': A, 'b': B}), want)


def test_two_keys_of_equal_total_width_do_not_collide():
    flow = flows.flow(2, {'a': 2, 'b': 2})
    c = flows.normal([4, 2], 5)
    assert np.all(np.abs(flow.forward(X, conditions={'a': B, 'b': c})
                         - flow.forward(X, conditions={'a': c, 'b': B})) > 1e-6)
    with pytest.raises(ValueError, match=r"conditions\['a'\].*dimension 2.*\[4, 1\]"):
        flow.forward(X, conditions={'a': A, 'b': flows.normal([4, 3])})


@pytest.mark.parametrize('size,conditions', [
    ((1, 2), (A, B)), ([1, 2], [A, B]), ((1, 2), [A, B]),
    ({'x': (1, {'y': 2})}, {'x': (A, {'y': B})}),
    ({'only': 2}, {'only': B}),
])
def test_nests(size, conditions):
    flow = flows.flow(2, size)
    y = flow.forward(X, conditions=conditions)
    np.testing.assert_allclose(
        flow.inverse(tf.identity(y), conditions=conditions), X, rtol=1e-12)
    dist = flows.dist(flow.condition(conditions))
    assert dist.batch_shape == [4] and dist.sample(3).shape == [3, 4, 2]
    assert dist[1:3].batch_shape == [2]


def test_a_nest_equals_its_concatenation():
    nest, flat = flows.flow(2, {'a': 1, 'b': 2}), flows.flow(2, 3)
    np.testing.assert_array_equal(
        nest.forward(X, conditions={'a': A, 'b': B}),
        flat.forward(X, conditions=tf.concat([A, B], -1)))


def test_parts_of_a_nest_broadcast():
    flow = flows.flow(2, {'a': 1, 'b': 2})
    y = flow.forward(X, conditions={'a': A[0], 'b': B})
    np.testing.assert_allclose(
        y, flow.forward(X, conditions={'a': tf.tile(A[:1], [4, 1]), 'b': B}))
    run = tf.function(
        lambda a, b: flow.forward(X, conditions={'a': a, 'b': b}),
        input_signature=[tf.TensorSpec([None, 1], tf.float64),
                         tf.TensorSpec([None, 2], tf.float64)])
    np.testing.assert_allclose(run(A[:1], B), y)


def test_arrays_lists_and_variables_are_accepted():
    flow = flows.flow()
    c = flows.normal([4, 3])
    want = flow.forward(X, conditions=c)
    for conditions in (c.numpy(), c.numpy().tolist(), tf.Variable(c)):
        np.testing.assert_array_equal(flow.forward(X, conditions=conditions), want)
    single = flows.flow(dtype=tf.float32)
    assert single.forward(X.numpy(), conditions=c.numpy()).dtype == tf.float32


def test_an_integer_array_counts_as_numbers():
    flow = flows.flow()
    c = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(flow.forward(X, conditions=c),
                                  flow.forward(X, conditions=c.astype(float)))


def test_condition_is_a_stock_citizen():
    flow = flows.flow()
    c = flows.normal([4, 3])
    given = flow.condition(c)
    assert isinstance(given, tfpc.ConditionalBijector.__mro__[2])
    assert given.experimental_batch_shape() == [4]
    assert given.experimental_batch_shape(x_event_ndims=2) == []
    np.testing.assert_array_equal(given.forward(X), flow.forward(X, conditions=c))
    np.testing.assert_allclose(given[1].forward(X[1]), given.forward(X)[1],
                               rtol=1e-12)
    np.testing.assert_array_equal(given[1:3].conditions, c[1:3])


def test_log_det_has_the_batch_shape_of_the_events_in_every_mode():
    layer = tfpc.ConditionalElementwise(1, 3, (4,), seed=0)
    x, c = tf.ones([5, 1]), tf.ones([1, 3])
    call = lambda: layer.forward_and_log_det(x, conditions=c)[1]
    assert call().shape == tf.function(call)().shape == [5]
