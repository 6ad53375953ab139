"""Every bijector of the catalogue, crossed with every check."""

import hypothesis
from hypothesis import strategies as st
import pytest
import tensorflow as tf

import tfp_conditional as tfpc
from tfp_conditional import testing

from . import catalogue

# XLA takes seconds to compile a flow: these have one of each kind of part.
COMPILED = {
    'real_nvp_d1', 'real_nvp_d3_3_layers_tanh', 'coupling_additive_dict',
    'coupling_ends_free', 'coupling_own_transformer', 'coupling_own_conditioner',
    'coupling_spline_float32', 'elementwise_d3_float32', 'own_bijector',
    'chain_permute_shift', 'chain_tanh', 'chain_nested', 'given_batch', 'invert',
    'real_nvp_linear_act_norm', 'real_nvp_residual_film_norm',
    'masked_autoregressive_flow', 'embedding', 'density'}

# A bijector is traced once in each process: its checks keep to one.
CASES = [pytest.param(name, check, id=f'{name}-{check}',
                      marks=pytest.mark.xdist_group(name))
         for name, entry in catalogue.CATALOGUE.items() for check in testing.CHECKS
         if check not in entry.skip
         and (check != 'modes_agree' or name in COMPILED)]


@pytest.mark.parametrize('name,check', CASES)
def test_property(name, check):
    entry, bijector = catalogue.CATALOGUE[name], catalogue.get(name)
    if check in entry.fails:
        with pytest.raises(AssertionError, match=f'^{check} failed'):
            testing.CHECKS[check](bijector, **entry.options)
        return
    status = testing.CHECKS[check](bijector, **entry.options)
    if status != 'passed':
        pytest.skip(status.removeprefix('skipped: '))


DRAWN = ('real_nvp_dict', 'coupling_own_conditioner', 'chain_permute_shift',
         'elementwise_d1')


@hypothesis.settings(max_examples=8)
@hypothesis.given(st.sampled_from(DRAWN), testing.batch_shapes(), testing.seeds())
def test_drawn_shapes_and_weights(name, shapes, seed):
    options = dict(seed=seed, batch_shape=shapes[0], condition_batch_shape=shapes[1])
    for check in (testing.check_round_trip, testing.check_log_det):
        check(catalogue.get(name), **options)


@hypothesis.settings(max_examples=4)
@hypothesis.given(
    event_size=testing.event_sizes(), condition_size=testing.condition_sizes(),
    layers=st.integers(1, 3), hidden=st.lists(st.integers(1, 5), max_size=2),
    activation=st.sampled_from(['relu', 'gelu', 'softplus', 'silu']),
    transformer=st.sampled_from(['affine', 'additive']), dtype=testing.dtypes(),
    seed=testing.seeds())
def test_drawn_flows(event_size, condition_size, layers, hidden, activation,
                     transformer, dtype, seed):
    flow = tfpc.ConditionalRealNVP(
        event_size, condition_size, layers, hidden, activation, transformer,
        dtype=dtype, seed=seed)
    testing.check_bijector(
        flow, seed=seed, checks=['round_trip', 'log_det', 'freshness',
                                 'depends_on_conditions', 'variables_tracked'])


@pytest.mark.parametrize('dtype', [tf.bfloat16, tf.float16], ids=lambda d: d.name)
def test_half_precision(dtype):
    flow = tfpc.ConditionalRealNVP(2, 3, 2, (4,), 'tanh', dtype=dtype, seed=0)
    testing.check_bijector(
        flow, perturb_scale=0.2, checks=[
            'round_trip', 'freshness', 'depends_on_conditions', 'gradients', 'dtype',
            'variables_tracked', 'checkpoint'])
