"""Misuse: each case a clear error that names what, the expected, the given, the fix."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows

tfb, tfd = tfp.bijectors, tfp.distributions

X, C = tf.ones([5, 2]), tf.ones([5, 3])
FLOW = tfpc.ConditionalRealNVP(2, 3, 2, (4,))
NEST = tfpc.ConditionalRealNVP(2, {'a': 1, 'b': 2}, 2, (4,))
PAIR = tfpc.ConditionalRealNVP(2, (1, 2), 2, (4,))
WIDE = tfpc.ConditionalRealNVP(2, 4, 2, (4,), name='wide')
CHECKED = tfpc.ConditionalRealNVP(2, 3, 2, (4,), validate_args=True)
DIST = flows.dist(FLOW)
CHECKED_DIST = flows.dist(CHECKED)
CHAIN = tfb.Chain([tfb.Tanh(), FLOW])
OURS = tfpc.ConditionalChain([tfb.Tanh(), FLOW])
TEMPLATE = tfpc.conditional_real_nvp_template(
    (4,), input_size=1, output_units=1, condition_size=3)
NAN = tf.constant(np.nan)


class _WrongLogDet(tfpc.ConditionalBijector):

    def _forward_and_log_det(self, x, conditions):
        return x, tf.zeros([])


def _coupling(conditioner):
    return tfpc.ConditionalCoupling(2, 3, conditioner=conditioner)


def _autoregressive(**kwargs):
    return tfpc.ConditionalMaskedAutoregressiveFlow(2, 3, 2, (4,), **kwargs)


def _masked(x):
    return np.ma.masked_array(x, np.arange(x.size).reshape(x.shape) == 1)


RAGGED = tf.RaggedTensor.from_row_lengths(tf.ones([15]), [3] * 5)
SPARSE = tf.sparse.from_dense(C)
ONES = [tfpc.ConditionalElementwise(1, 3, (4,)) for _ in range(2)]
ACT_NORM = tfpc.ActNorm(2)


def _stock_maf():
    return tfb.MaskedAutoregressiveFlow(tfb.AutoregressiveNetwork(
        2, 2, conditional=True, conditional_event_shape=[3], hidden_units=[4]))


def _traced(function, *specs):
    return lambda: tf.function(function).get_concrete_function(
        *[tf.TensorSpec(shape, tf.float32) for shape in specs])


def _rank_unknown(direction):
    spec = [tf.TensorSpec(None, tf.float32)]
    function = {'x': lambda x: FLOW.forward(x, conditions=C),
                'c': lambda c: FLOW.forward(X, conditions=c)}[direction]
    return lambda: tf.function(function).get_concrete_function(*spec)


CASES = {
    # Conditions that do not arrive.
    'missing in forward': (
        lambda: FLOW.forward(X), TypeError, '`conditions` are required.*condition_real|'
        '`conditions` are required.*bijector_kwargs'),
    'missing in inverse': (lambda: FLOW.inverse(X), TypeError, 'are required'),
    'missing in fldj': (
        lambda: FLOW.forward_log_det_jacobian(X), TypeError, 'are required'),
    'missing in ildj': (
        lambda: FLOW.inverse_log_det_jacobian(X), TypeError, 'are required'),
    'missing in the call': (lambda: FLOW(X), TypeError, 'are required'),
    'missing in sample': (lambda: DIST.sample(5), TypeError, 'bijector_kwargs'),
    'missing in log_prob': (lambda: DIST.log_prob(X), TypeError, 'bijector_kwargs'),
    'missing in ConditionalChain': (lambda: OURS.forward(X), TypeError, 'required'),
    'missing in the template': (
        lambda: TEMPLATE(X[:, :1], 1), TypeError, '`conditions` are required'),
    'None': (lambda: FLOW.forward(X, conditions=None), TypeError, 'are required'),
    'not in bijector_kwargs': (
        lambda: DIST.sample(5, conditions=C), TypeError, 'bijector_kwargs'),
    'log_prob, not in bijector_kwargs': (
        lambda: DIST.log_prob(X, conditions=C), TypeError, 'bijector_kwargs'),
    'not nested by name in a stock Chain': (
        lambda: CHAIN.forward(X, conditions=C), TypeError,
        "'conditional_real_nvp': {'conditions'"),
    "not nested by tfb.Invert's name in a stock Chain": (
        lambda: tfb.Chain([tfb.Tanh(), tfb.Invert(FLOW)]).forward(X, conditions=C),
        TypeError, "{'invert_conditional_real_nvp': {'conditions'"),
    'nested under a wrong name': (
        lambda: CHAIN.forward(X, flow={'conditions': C}), TypeError, 'are required'),
    'misspelt': (
        lambda: FLOW.forward(X, condition=C), TypeError,
        'got `condition`. Did you mean `conditions`'),
    'misspelt in a distribution': (
        lambda: DIST.sample(5, bijector_kwargs={'contitions': C}), TypeError,
        'Did you mean `conditions`'),
    'an unknown keyword': (
        lambda: FLOW.forward(X, conditions=C, training=True), TypeError, '`training`'),
    'keywords for a conditioned bijector': (
        lambda: FLOW.condition(C).forward(X, conditions=C), TypeError,
        'has its conditions already'),
    # Conditions of a wrong kind.
    'width': (lambda: FLOW.forward(X, conditions=C[:, :2]), ValueError,
              r'`conditions` must have last dimension 3; got shape \[5, 2\]'),
    'width, at condition()': (lambda: FLOW.condition(C[:, :2]), ValueError,
                              'last dimension 3'),
    'scalar': (lambda: FLOW.forward(X, conditions=1.), ValueError, 'got a scalar'),
    'unknown rank': (_rank_unknown('c'), ValueError, '`conditions`.*known rank'),
    'unknown last dimension': (
        _traced(lambda c: FLOW.forward(X, conditions=c), [5, None]), ValueError,
        '`conditions`.*last dimension is unknown'),
    'dtype': (lambda: FLOW.forward(X, conditions=tf.cast(C, tf.float64)), TypeError,
              '`conditions` must have dtype float32; got float64'),
    'integer tensor': (lambda: FLOW.forward(X, conditions=tf.cast(C, tf.int32)),
                       TypeError, 'must have dtype float32; got int32'),
    'masked': (lambda: FLOW.forward(X, conditions=_masked(C.numpy())), ValueError,
               '`conditions` must have no masked entries; 1 of 15 are.*filled'),
    'masked, in a nest': (
        lambda: PAIR.forward(X, conditions=(C[:, :1], _masked(C[:, :2].numpy()))),
        ValueError, r'`conditions\[1\]` must have no masked'),
    'masked, at condition()': (
        lambda: FLOW.condition(_masked(C.numpy())), ValueError, 'no masked'),
    'masked events': (lambda: FLOW.inverse(_masked(X.numpy()), conditions=C),
                      ValueError, '`y` must have no masked'),
    'masked, to adapt': (lambda: ACT_NORM.adapt(_masked(X.numpy())), ValueError,
                         '`y` must have no masked'),
    'ragged': (lambda: FLOW.forward(X, conditions=RAGGED), TypeError,
               'dense tensor; got a RaggedTensor. Use `.to_tensor'),
    'ragged, given to a distribution': (
        lambda: DIST.log_prob(X, **flows.given(RAGGED)), TypeError, 'to_tensor'),
    'ragged events': (lambda: FLOW.inverse(RAGGED, conditions=C), TypeError,
                      '`y` must be a dense tensor'),
    'sparse': (lambda: FLOW.forward(X, conditions=SPARSE), TypeError,
               'dense tensor; got a SparseTensor. Use `tf.sparse.to_dense'),
    "SciPy's sparse": (
        lambda: FLOW.forward(X, conditions=scipy.sparse.csr_matrix(C.numpy())),
        TypeError, 'dense tensor; got a csr_matrix.*toarray'),
    'strings': (lambda: FLOW.forward(X, conditions=[['a', 'b', 'c']]), TypeError,
                '`conditions` must be convertible'),
    'batch shape': (lambda: FLOW.inverse(X, conditions=tf.ones([4, 3])), ValueError,
                    r'\[5\].*\[4\] must broadcast'),
    'a dict for a tensor': (lambda: FLOW.forward(X, conditions={'a': C}), TypeError,
                            r'must be one tensor \[..., 3\]; got a dict'),
    'a tensor for a dict': (lambda: NEST.forward(X, conditions=C), TypeError,
                            r"must be a dict with keys \['a', 'b'\]"),
    'a missing key': (lambda: NEST.forward(X, conditions={'a': C[:, :1]}), ValueError,
                      r"missing: \['b'\]"),
    'an unknown key': (
        lambda: NEST.forward(X, conditions={'a': C[:, :1], 'b': C[:, :2], 'z': C}),
        ValueError, r"unknown: \['z'\]"),
    'width of one key': (
        lambda: NEST.forward(X, conditions={'a': C, 'b': C[:, :2]}), ValueError,
        r"`conditions\['a'\]` must have last dimension 1"),
    'dtype of one key': (
        lambda: NEST.forward(X, conditions={
            'a': C[:, :1], 'b': tf.cast(C[:, :2], tf.float64)}), TypeError,
        r"`conditions\['b'\]` must have dtype float32"),
    'length of a tuple': (lambda: PAIR.forward(X, conditions=(C,)), TypeError,
                          'tuple or list of 2 parts'),
    'batch shapes within a nest': (
        lambda: PAIR.forward(X, conditions=(C[:4, :1], C[:, :2])), ValueError,
        r'must broadcast; got \[\[4, 1\], \[5, 2\]\]'),
    # Events.
    'event size': (lambda: FLOW.forward(C, conditions=C), ValueError,
                   r'`x` must have last dimension 2; got shape \[5, 3\]'),
    'event size of y': (lambda: FLOW.inverse(C, conditions=C), ValueError,
                        '`y` must have last dimension 2'),
    'event size of the base': (
        lambda: flows.dist(FLOW, event_size=3).event_shape, ValueError,
        r'must have last dimension 2; got event shape \[3\]'),
    'event dtype': (lambda: FLOW.forward(tf.cast(X, tf.float64), conditions=C),
                    TypeError, '`x` must have dtype float32; got float64'),
    'scalar event': (lambda: FLOW.forward(1., conditions=C), ValueError, 'a scalar'),
    'unknown event size': (
        _traced(lambda x: FLOW.forward(x, conditions=C), [5, None]), ValueError,
        '`x`.*last dimension is unknown'),
    'unknown event rank': (_rank_unknown('x'), ValueError, '`x`.*known rank'),
    'base with scalar events': (
        lambda: tfd.TransformedDistribution(
            tfd.Normal(tf.zeros(2), 1.), FLOW).log_prob(X, **flows.given(C)),
        ValueError, r'tfd.Independent\(base, 1\)'),
    'event_ndims 0': (
        lambda: FLOW.forward_log_det_jacobian(X, 0, conditions=C), ValueError,
        '`event_ndims`'),
    # Noise that would be shared.
    'sample() for B conditions': (
        lambda: DIST.sample(**flows.given(C)), ValueError, 'share the same noise'),
    'sample(1) for B conditions': (
        lambda: DIST.sample(1, **flows.given(C)), ValueError, 'share the same noise'),
    'sample(7) for B conditions': (
        lambda: DIST.sample(7, **flows.given(C)), ValueError, 'must broadcast'),
    'forward of one x for B conditions': (
        lambda: FLOW.forward(X[0], conditions=C), ValueError, 'bijector.condition'),
    'the same, seen while tracing': (
        _traced(lambda x, c: FLOW.forward(x, conditions=c), [2], [None, 3]),
        ValueError, 'share the same noise'),
    'sample() through tfb.Invert': (
        lambda: flows.dist(tfb.Invert(FLOW)).sample(**flows.given(C)), ValueError,
        'share the same noise'),
    'sample and log-prob through tfb.Invert': (
        lambda: flows.dist(tfb.Invert(FLOW)).experimental_sample_and_log_prob(
            **flows.given(C)), ValueError, 'share the same noise'),
    # Construction.
    'event_size 0': (lambda: tfpc.ConditionalRealNVP(0, 3), ValueError,
                     '`event_size` must be at least 1; got 0'),
    'event_size negative': (lambda: tfpc.ConditionalRealNVP(-2, 3), ValueError,
                            '`event_size` must be at least 1; got -2'),
    'event_size no integer': (lambda: tfpc.ConditionalRealNVP(2.5, 3), TypeError,
                              '`event_size` must be an integer; got 2.5'),
    'event_size a bool': (lambda: tfpc.ConditionalRealNVP(True, 3), TypeError,
                          '`event_size` must be an integer'),
    'condition_size 0': (lambda: tfpc.ConditionalRealNVP(2, 0), ValueError,
                         '`condition_size` must be at least 1'),
    'condition_size negative in a nest': (
        lambda: tfpc.ConditionalRealNVP(2, {'a': -1}), ValueError,
        r"`condition_size\['a'\]` must be at least 1; got -1"),
    'condition_size empty': (lambda: tfpc.ConditionalRealNVP(2, {}), ValueError,
                             'at least one size'),
    'condition_size a string': (lambda: tfpc.ConditionalRealNVP(2, '3'), TypeError,
                                '`condition_size` must be an integer'),
    'condition_size with integer keys': (
        lambda: tfpc.ConditionalRealNVP(2, {0: 3}), TypeError, 'must be strings'),
    'no layers': (lambda: tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=0),
                  ValueError, '`num_coupling_layers` must be at least 1'),
    'hidden layer of width 0': (
        lambda: tfpc.ConditionalRealNVP(2, 3, hidden_layers=(8, 0)), ValueError,
        r'`hidden_layers\[1\]` must be at least 1'),
    'hidden_layers an integer': (
        lambda: tfpc.ConditionalRealNVP(2, 3, hidden_layers=8), TypeError,
        '`hidden_layers` must be a sequence'),
    'unknown activation': (
        lambda: tfpc.ConditionalRealNVP(2, 3, activation='swoosh'), ValueError,
        "one of.*'relu'.*got 'swoosh'"),
    'unknown transformer': (
        lambda: tfpc.ConditionalRealNVP(2, 3, transformer='afine'), ValueError,
        r"one of \['additive', 'affine', 'circular_rational_quadratic', "
        r"'rational_quadratic'\].*got 'afine'"),
    'angles that are scaled': (
        lambda: tfpc.ConditionalRealNVP(2, 3, transformer='circular_rational_quadratic',
                                        mixing='linear'), ValueError,
        'Angles, of CircularRationalQuadratic, must not be scaled'),
    'angles in an autoregressive layer': (
        lambda: tfpc.ConditionalAutoregressive(
            2, 3, transformer=tfpc.CircularRationalQuadratic()), ValueError,
        '`transformer` CircularRationalQuadratic must stand in a coupling'),
    'a transformer class': (
        lambda: tfpc.ConditionalRealNVP(2, 3, transformer=tfpc.Affine), TypeError,
        '`transformer` must be'),
    'an integer dtype': (lambda: tfpc.ConditionalRealNVP(2, 3, dtype=tf.int32),
                         TypeError, '`dtype` must be floating; got int32'),
    'a scale bound of 0': (lambda: tfpc.Affine(max_log_scale=0.), ValueError,
                           '`max_log_scale` must be > 0'),
    'one bin': (lambda: tfpc.RationalQuadratic(num_bins=1), ValueError,
                '`num_bins` must be at least 2'),
    'bins that do not fit': (
        lambda: tfpc.RationalQuadratic(num_bins=8, min_bin_size=0.2), ValueError,
        '`min_bin_size` must lie between'),
    'a negative bound': (lambda: tfpc.RationalQuadratic(bound=-1.), ValueError,
                         '`bound` must be > 0'),
    'mask of all': (lambda: tfpc.ConditionalCoupling(2, 3, mask=[True, True]),
                    ValueError, 'ConditionalElementwise'),
    'mask of none': (lambda: tfpc.ConditionalCoupling(2, 3, mask=[False, False]),
                     ValueError, 'ConditionalElementwise'),
    'coupling of one unit': (lambda: tfpc.ConditionalCoupling(1, 3), ValueError,
                             'ConditionalElementwise'),
    'mask of a wrong length': (
        lambda: tfpc.ConditionalCoupling(2, 3, mask=[True, False, True]), ValueError,
        '`mask` must be 2 booleans'),
    'mask of numbers': (lambda: tfpc.ConditionalCoupling(2, 3, mask=[0, 1]),
                        ValueError, '`mask` must be 2 booleans'),
    'conditioner no callable': (lambda: _coupling(3), TypeError,
                                '`conditioner` must be a callable'),
    'conditioner of a wrong width': (lambda: _coupling(lambda u, c: u), ValueError,
                                     r'`conditioner` must return shape \[1, 2\]'),
    'conditioner of a wrong batch shape': (
        lambda: _coupling(lambda u, c: tf.ones([3, 2])), ValueError,
        r'`conditioner` must return shape \[1, 2\]'),
    'conditioner of a wrong dtype': (
        lambda: _coupling(lambda u, c: tf.ones([1, 2], tf.float64)), TypeError,
        '`conditioner` must return dtype float32; got float64'),
    'conditioner that returns a pair': (
        lambda: _coupling(lambda u, c: (u, u)), TypeError, 'must return one tensor'),
    'autoregressive conditioner without masks': (
        lambda: _autoregressive(conditioner=tfpc.ResidualNetwork(4)), TypeError,
        r'`conditioner` of an autoregressive layer must be an MLP\(...\).*got '
        'ResidualNetwork.*without masks is not autoregressive.*ConditionalRealNVP'),
    'autoregressive conditioner of your own': (
        lambda: _autoregressive(conditioner=lambda m, n: None), TypeError,
        r'must be an MLP\(...\).*got <function'),
    'autoregressive mixing of halves': (
        lambda: _autoregressive(mixing='alternate'), ValueError,
        "`mixing` must be one of .'reverse', 'random', 'linear'.; got 'alternate'"),
    'empty chain': (lambda: tfpc.ConditionalChain([]), ValueError, 'at least one'),
    'chain of stock parts only': (
        lambda: tfpc.ConditionalChain([tfb.Tanh()]), ValueError, 'tfb.Chain'),
    'chain of no bijector': (lambda: tfpc.ConditionalChain([FLOW, tf.tanh]),
                             TypeError, r'`bijectors\[1\]` must be a tfb.Bijector'),
    'chain of different condition sizes': (
        lambda: tfpc.ConditionalChain([FLOW, WIDE]), ValueError,
        "same condition_size.*'wide'|same condition_size.*4"),
    'chain of different event sizes': (
        lambda: tfpc.ConditionalChain(
            [FLOW, tfpc.ConditionalRealNVP(3, 3, 2, (4,), name='other')]), ValueError,
        'does not fit|must have last dimension'),
    'chain of different dtypes': (
        lambda: tfpc.ConditionalChain(
            [FLOW, tfpc.ConditionalRealNVP(2, 3, 2, (4,), dtype=tf.float64)]),
        ValueError, 'float64'),
    'chain that leaves vectors': (
        lambda: tfpc.ConditionalChain([tfb.Reshape([2, 1], [2]), FLOW]), ValueError,
        'vectors'),
    'chain with conditional parts in tfb.Blockwise': (
        lambda: tfpc.ConditionalChain([FLOW, tfb.Blockwise(ONES)]), ValueError,
        r'`bijectors\[1\]`.*holds the conditional.*does not look'),
    'chain of tfb.Blockwise alone': (
        lambda: tfpc.ConditionalChain([tfb.Blockwise(ONES)]), ValueError, 'not look'),
    'chain with conditional parts in tfb.JointMap': (
        lambda: tfpc.ConditionalChain([tfb.JointMap([FLOW, FLOW]), FLOW]), ValueError,
        r'`bijectors\[0\]`.*not look'),
    'chain with conditional parts in Blockwise in Chain in Invert': (
        lambda: tfpc.ConditionalChain([FLOW, tfb.Invert(tfb.Chain([
            tfb.Tanh(), tfb.Blockwise(ONES)]))]), ValueError, 'not look'),
    "chain with a stock part that takes keywords of TFP's": (
        lambda: tfpc.ConditionalChain([_stock_maf(), FLOW]), ValueError,
        "'masked_autoregressive_flow'.*keyword arguments of its own.*"
        'ConditionalMaskedAutoregressiveFlow'),
    'the same in tfb.Invert': (
        lambda: tfpc.ConditionalChain([FLOW, tfb.Invert(_stock_maf())]), ValueError,
        'keyword arguments of its own'),
    'template with some sizes': (
        lambda: tfpc.conditional_real_nvp_template(input_size=2), ValueError,
        'all of `input_size`'),
    'template before its first call': (
        lambda: tfpc.conditional_real_nvp_template().conditioner, ValueError,
        'no variables yet'),
    'template of other output_units': (
        lambda: TEMPLATE(X[:, :1], 2, conditions=C), ValueError, '`output_units`'),
    'exportable of another distribution': (
        lambda: tfpc.exportable(tfd.Normal(0., 1.)), TypeError,
        'TransformedDistribution'),
    'a log-det of another dtype': (
        lambda: _WrongLogDet(2, 3, dtype=tf.float64).forward(
            tf.cast(X, tf.float64), conditions=tf.cast(C, tf.float64)), TypeError,
        '`_forward_and_log_det`.*log-det of dtype float64; got float32'),
    'slicing a flow': (lambda: FLOW[0], TypeError, 'no batch shape to slice'),
    # Values, under validate_args.
    'NaN in y': (lambda: CHECKED.inverse(X * NAN, conditions=C),
                 tf.errors.InvalidArgumentError, '`y`.*finite'),
    'NaN in conditions': (lambda: CHECKED.forward(X, conditions=C * NAN),
                          tf.errors.InvalidArgumentError, '`conditions`.*finite'),
    'infinity in log_prob': (
        lambda: CHECKED_DIST.log_prob(X / 0., **flows.given(C)),
        tf.errors.InvalidArgumentError, '`y`.*finite'),
}


@pytest.mark.parametrize('name', CASES)
def test_misuse_is_refused(name):
    function, error, message = CASES[name]
    with pytest.raises(error, match=f'(?s){message}'):
        function()


def test_conditioned_parts_of_stock_bijectors_are_taken():
    chain = tfpc.ConditionalChain([
        FLOW, tfb.Blockwise([part.condition(C[0]) for part in ONES]), tfb.Invert(
            tfb.Chain([FLOW]))])
    x = flows.normal([5, 2], dtype=tf.float32)
    y = tf.identity(chain.forward(x, conditions=C))
    np.testing.assert_allclose(chain.inverse(y, conditions=C), x, atol=1e-5)


def test_arrays_whose_mask_masks_nothing_are_taken():
    np.testing.assert_array_equal(
        FLOW.forward(np.ma.array(X.numpy()), conditions=np.ma.array(C.numpy())),
        FLOW.forward(X, conditions=C))


def test_the_hint_for_a_stock_chain_is_right():
    chain = tfb.Chain([tfb.Tanh(), tfb.Invert(FLOW)])
    np.testing.assert_allclose(
        chain.forward(X, invert_conditional_real_nvp={'conditions': C}),
        tf.tanh(FLOW.inverse(X, conditions=C)), rtol=1e-6)
    np.testing.assert_allclose(
        CHAIN.forward(X, conditional_real_nvp={'conditions': C}),
        tf.tanh(FLOW.forward(X, conditions=C)), rtol=1e-6)


def test_the_table_is_long():
    assert len(CASES) >= 40


@pytest.mark.parametrize('jit_compile', [False, True])
def test_noise_shared_at_run_time_is_refused(jit_compile):
    """Shapes that only run time knows: still an error, never shared noise."""
    run = tf.function(lambda x, c: FLOW.forward(x, conditions=c), input_signature=[
        tf.TensorSpec([None, 2]), tf.TensorSpec([None, 3])], jit_compile=jit_compile)
    assert run(X, C).shape == [5, 2]
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        run(X[:1], C)


def test_refusals_come_before_any_work():
    conditioner = flows.CountingConditioner(1, 3, 2, tf.float32)
    layer = tfpc.ConditionalCoupling(2, 3, conditioner=conditioner)
    conditioner.taken()
    for kwargs in ({}, {'conditions': C[:, :1]}, {'condition': C}):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(X, **kwargs)
    with pytest.raises(ValueError):
        layer.forward(X[0], conditions=C)
    assert conditioner.taken() == 0
