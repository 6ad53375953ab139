"""Every bijector of the catalogue, with every check that it is to pass."""

import hypothesis
from hypothesis import strategies as st
import pytest
import tensorflow as tf

import tfp_conditional as tfpc
from tfp_conditional import testing

from . import catalogue


def failures(bijector, **options):
    """The checks that fail, by name, and the report."""
    try:
        report = testing.check_bijector(bijector, **options)
    except testing.CheckFailure as failure:
        report = failure.report
    return {k for k, status in report.items() if status.startswith('failed')}, report


@pytest.mark.parametrize('name', catalogue.CATALOGUE)
def test_properties(name):
    """All in one test, for which a bijector is traced once."""
    entry = catalogue.CATALOGUE[name]
    failed, report = failures(entry.factory(), checks=entry.checks, **entry.options)
    assert failed == entry.fails, report


def test_each_check_is_passed_by_some():
    checks = [set(entry.checks) - entry.fails for entry in catalogue.CATALOGUE.values()]
    assert set().union(*checks) == set(testing.CHECKS) == set(catalogue.ALL)


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
    testing.check_bijector(flow, seed=seed, checks=catalogue.VALUES, skip=[
        'normalisation'])


@pytest.mark.parametrize('dtype', [tf.bfloat16, tf.float16], ids=lambda d: d.name)
def test_half_precision(dtype):
    flow = tfpc.ConditionalRealNVP(2, 3, 2, (4,), 'tanh', dtype=dtype, seed=0)
    testing.check_bijector(flow, perturb_scale=0.2, checks=[
        'round_trip', 'depends_on_conditions', 'gradients', 'dtype', 'variables_tracked'])
