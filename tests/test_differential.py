"""The same network in stock `tfb.RealNVP` and here gives the same numbers."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb = tfp.bijectors

C = flows.normal([7, 4], 1)
X = flows.normal([7, 5], 2)


@pytest.mark.parametrize('shift_only', [False, True])
@pytest.mark.parametrize('lazy', [False, True])
def test_coupling_equals_stock_real_nvp(shift_only, lazy):
    sizes = {} if lazy else dict(input_size=2, output_units=3, condition_size=4)
    template = tfpc.conditional_real_nvp_template(
        (16, 16), 'tanh', shift_only=shift_only, dtype=tf.float64, seed=3, **sizes)
    stock = tfb.RealNVP(num_masked=2, shift_and_log_scale_fn=template,
                        is_constant_jacobian=shift_only)
    if lazy:
        assert not template.trainable_variables
        stock.forward(X, conditions=C)
    assert len(stock.trainable_variables) == 7
    flows.perturb(template, scale=1.)
    ours = tfpc.ConditionalCoupling(
        5, 4, mask=[True, True, False, False, False], dtype=tf.float64,
        transformer='additive' if shift_only else 'affine',
        conditioner=template.conditioner)
    assert ([v.ref() for v in ours.trainable_variables]
            == [v.ref() for v in stock.trainable_variables])
    for method in ('forward', 'inverse', 'forward_log_det_jacobian',
                   'inverse_log_det_jacobian'):
        results = []
        for bijector in (stock, ours):
            x, c = tf.identity(X), tf.identity(C)
            with tf.GradientTape() as tape:
                tape.watch([x, c])
                value = getattr(bijector, method)(x, conditions=c)
                loss = tf.reduce_sum(tf.sin(value))
            gradients = tape.gradient(loss, [x, c, *bijector.trainable_variables],
                                      unconnected_gradients='zero')
            results.append([value, *gradients])
        stock_value, our_value = results[0][0], results[1][0]
        np.testing.assert_allclose(
            np.broadcast_to(stock_value, our_value.shape), our_value,
            rtol=1e-12, atol=1e-12)
        if not (shift_only and 'log_det' in method):
            for a, b in zip(results[0][1:], results[1][1:]):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
                assert np.any(b != 0) or 'log_det' in method


def test_template_has_its_variables_at_construction_when_sizes_are_given():
    template = tfpc.conditional_real_nvp_template(
        (8,), input_size=2, output_units=3, condition_size={'a': 1, 'b': 2})
    assert len(template.trainable_variables) == 5
    shift, log_scale = template(
        tf.ones([4, 2]), 3, conditions={'b': tf.ones([4, 2]), 'a': tf.ones([4, 1])})
    assert shift.shape == log_scale.shape == [4, 3]
    np.testing.assert_array_equal(shift, 0)
    assert len(template.trainable_variables) == 5
