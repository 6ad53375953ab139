"""The checks reject broken bijectors, each by the check that is made for it."""

import copy

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tfp_conditional import testing

tfb = tfp.bijectors


class Good(tfpc.ConditionalBijector):
    """`y = x exp(s) + t`, with (s, t) linear in the conditions; D = S = 2."""

    def __init__(self, dtype=tf.float64):
        super().__init__(2, 2, dtype=dtype, name='subject')
        self.kernel = tf.Variable([[0.1, 0.2, 1., -1.], [-0.2, 0.3, 0.5, 2.]],
                                  dtype=dtype)

    def scale_and_shift(self, conditions):
        return tf.split(tf.tensordot(conditions, self.kernel, 1), 2, -1)

    def _forward_and_log_det(self, x, conditions):
        s, t = self.scale_and_shift(conditions)
        return x * tf.exp(s) + t, tf.reduce_sum(s, -1)

    def _inverse_and_log_det(self, y, conditions):
        s, t = self.scale_and_shift(conditions)
        return (y - t) * tf.exp(-s), -tf.reduce_sum(s, -1)


class WrongInverse(Good):
    def _inverse_and_log_det(self, y, conditions):
        x, ildj = super()._inverse_and_log_det(y, conditions)
        return x + 1e-6, ildj


class FlippedLogDet(Good):
    def _forward_and_log_det(self, x, conditions):
        y, fldj = super()._forward_and_log_det(x, conditions)
        return y, -fldj

    def _inverse_and_log_det(self, y, conditions):
        x, ildj = super()._inverse_and_log_det(y, conditions)
        return x, -ildj


class FlippedInverseLogDet(Good):
    def _inverse_and_log_det(self, y, conditions):
        x, ildj = super()._inverse_and_log_det(y, conditions)
        return x, -ildj


class MissingTerm(Good):
    def _forward_and_log_det(self, x, conditions):
        s, _ = self.scale_and_shift(conditions)
        return super()._forward_and_log_det(x, conditions)[0], s[..., 0]

    def _inverse_and_log_det(self, y, conditions):
        s, _ = self.scale_and_shift(conditions)
        return super()._inverse_and_log_det(y, conditions)[0], -s[..., 0]


class LogDetOff(Good):
    """By a constant, consistently: still a bijector, but no density."""

    def _forward_and_log_det(self, x, conditions):
        y, fldj = super()._forward_and_log_det(x, conditions)
        return y, fldj - 0.1

    def _inverse_and_log_det(self, y, conditions):
        x, ildj = super()._inverse_and_log_det(y, conditions)
        return x, ildj + 0.1


class IgnoresConditions(Good):
    def scale_and_shift(self, conditions):
        return super().scale_and_shift(tf.ones_like(conditions))


class IgnoresPart(Good):
    def __init__(self):
        super().__init__()
        tfpc.ConditionalBijector.__init__(self, 2, {'a': 2, 'b': 1},
                                          dtype=tf.float64, name='subject')

    def scale_and_shift(self, conditions):
        return super().scale_and_shift(conditions['a'])


class NanGradient(Good):
    """Right values, but the branch not taken has an infinite gradient."""

    def scale_and_shift(self, conditions):
        return super().scale_and_shift(tf.where(
            conditions > 0., conditions ** 1.5, conditions))


class NoGradient(Good):
    def scale_and_shift(self, conditions):
        return super().scale_and_shift(tf.stop_gradient(conditions))


class WrongGradient(Good):
    def scale_and_shift(self, conditions):
        @tf.custom_gradient
        def identity(x):
            return x, lambda dy: 1.01 * dy
        return super().scale_and_shift(identity(conditions))


class Float32Inside(Good):
    def _forward_and_log_det(self, x, conditions):
        y, fldj = super()._forward_and_log_det(x, conditions)
        return tf.cast(tf.cast(y, tf.float32), tf.float64), fldj


class DependsOnBatch(Good):
    def scale_and_shift(self, conditions):
        s, t = super().scale_and_shift(conditions)
        return s, t + tf.reduce_mean(conditions)


class Holds(Good):
    def one_pass(self, *args):
        self.__dict__.setdefault('held', []).append(super().one_pass(*args))
        return self.held[-1]


class RemembersByIdentity(Good):
    """A cache of its own, keyed by the tensor alone."""

    def one_pass(self, direction, value, kwargs):
        memory = self.__dict__.setdefault('memory', {})
        if (direction, id(value)) not in memory:
            memory[direction, id(value)] = (
                value, super().one_pass(direction, value, kwargs))
        return memory[direction, id(value)][1]


class InClosure(Good):
    def __init__(self):
        super().__init__()
        kernel = self.kernel
        del self.kernel
        self._network = lambda conditions: tf.tensordot(conditions, kernel, 1)

    def scale_and_shift(self, conditions):
        return tf.split(self._network(conditions), 2, -1)


class TrackedTwice(Good):
    @property
    def trainable_variables(self):
        return (self.kernel, self.kernel)


class MadeByCalls(Good):
    def one_pass(self, *args):
        if not hasattr(self, 'late'):
            self.late = tf.Variable(tf.zeros([], tf.float64))
        return super().one_pass(*args)


class NotInCheckpoint(Good):
    """A part of its weights is no variable."""

    made = 0

    def __init__(self):
        super().__init__()
        NotInCheckpoint.made += 1
        self.offset = float(NotInCheckpoint.made)

    def scale_and_shift(self, conditions):
        return super().scale_and_shift(conditions + self.offset)


class SharedWithCopy(Good):
    def __deepcopy__(self, memo):
        return copy.copy(self)


class Stock(tfb.Bijector):
    """An ordinary bijector, whose kwargs and dtype nobody checks."""

    def __init__(self, forward, inverse):
        super().__init__(forward_min_event_ndims=1, name='subject')
        self._functions = forward, inverse

    def _forward(self, x, conditions=None):
        return self._functions[0](x, conditions)

    def _inverse(self, y, conditions=None):
        return self._functions[1](y, conditions)

    def _forward_log_det_jacobian(self, x, conditions=None):
        return tf.zeros([], tf.float64)


def right_by_cache():
    return Stock(lambda x, c: x + 1., lambda y, c: tf.zeros_like(y))


def expands_noise():
    return Stock(lambda x, c: x + c, lambda y, c: y - c)


def another_dtype():
    return Stock(lambda x, c: tf.cast(x, tf.float32), lambda y, c: y)


def eager_differs():
    def shift():
        return 1. if tf.executing_eagerly() else 2.
    return Stock(lambda x, c: x + shift(), lambda y, c: y - shift())


def unknown_size_differs():
    def shift(x):
        return 1. if x.shape[0] else 2.
    return Stock(lambda x, c: x + shift(x), lambda y, c: y - shift(y))


STOCK = dict(event_size=2, dtype=tf.float64)

REJECTED = [
    ('round_trip', WrongInverse, {}, r'inverse\(forward\(x\)\) differs from x by'),
    ('round_trip', right_by_cache, STOCK, r'inverse\(forward\(x\)\) differs'),
    ('log_det', FlippedLogDet, {}, 'forward_log_det_jacobian.* differs from the '
                                   'log-det of the autodiff Jacobian by'),
    ('log_det', FlippedInverseLogDet, {}, '-inverse_log_det_jacobian.* differs'),
    ('log_det', MissingTerm, {}, 'forward_log_det_jacobian.* differs'),
    ('log_det', LogDetOff, {}, 'by 0.1; allowed'),
    ('sample_log_prob', WrongInverse, {},
     'experimental_sample_and_log_prob differs'),
    ('sample_log_prob', LogDetOff, {}, 'importance weights .* average to 1.1'),
    ('normalisation', LogDetOff, {}, 'integrates to 1.10'),
    ('depends_on_conditions', IgnoresConditions, {}, 'does not depend on'),
    ('depends_on_conditions', IgnoresPart, {}, r'`conditions` \(part 1\)'),
    ('gradients', NanGradient, {}, r'with respect to conditions .* is not finite'),
    ('gradients', NoGradient, {}, r'with respect to conditions .* is None'),
    ('gradients', WrongGradient, {}, 'conditions .* differs from the difference'),
    ('dtype', Float32Inside, {}, 'is a part of it float32'),
    ('dtype', another_dtype, STOCK, "must be float64; got .*'forward': 'float32'"),
    ('broadcasting', DependsOnBatch, {}, 'differs from that of the element alone'),
    ('releases_tensors', Holds, {}, 'still in memory'),
    ('freshness', RemembersByIdentity, {}, 'after assigning to the variables'),
    ('freshness', RemembersByIdentity, {}, 'conditions changed in place in a NumPy'),
    ('variables_tracked', InClosure, {}, 'lacks variables that a pass reads'),
    ('variables_tracked', TrackedTwice, {}, 'twice'),
    ('variables_tracked', MadeByCalls, {}, 'Calls added 1'),
    ('checkpoint', NotInCheckpoint, dict(factory=NotInCheckpoint),
     'after restoring a checkpoint differs'),
    ('checkpoint', SharedWithCopy, {}, 'computes with 1 of the variables'),
    ('independent_noise', expands_noise, dict(STOCK, condition_size=2),
     'conditions share noise'),
    ('modes_agree', eager_differs, STOCK, 'in tf.function .* differs'),
    ('modes_agree', unknown_size_differs, STOCK, 'with unknown batch size differs'),
]


@pytest.mark.parametrize('check,broken,options,message', [
    pytest.param(*case, id=f'{case[1].__name__}-{case[0]}-{i}')
    for i, case in enumerate(REJECTED)])
def test_rejects(check, broken, options, message):
    with pytest.raises(AssertionError, match=f"(?s){check} failed.*'subject'.*"
                                             f'{message}'):
        testing.CHECKS[check](broken(), **options)


def test_every_check_rejects_something():
    assert {case[0] for case in REJECTED} == set(testing.CHECKS)


def test_accepts_and_restores():
    good = Good()
    before = good.kernel.numpy()
    report = testing.check_bijector(good)
    assert report == dict.fromkeys(testing.CHECKS, 'passed')
    np.testing.assert_array_equal(good.kernel, before)


def failing(bijector, skip=('modes_agree', 'normalisation'), **options):
    """Names of the checks that fail, and the report."""
    try:
        report = testing.check_bijector(bijector, skip=skip, **options)
    except testing.CheckFailure as failure:
        report = failure.report
    return {k for k, v in report.items() if v.startswith('failed')}, report


# What is known of TFP. Where one of these changes, a reason for this package went.


def test_stock_real_nvp():
    template = tfpc.conditional_real_nvp_template(
        (4,), 'tanh', input_size=1, output_units=1, condition_size=2,
        dtype=tf.float64)
    real_nvp = tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=template)
    failed, report = failing(real_nvp, event_size=2, condition_size=2,
                             dtype=tf.float64)
    # One from the cache, which also remembers every `conditions` for one y, and
    # a deep copy that goes on computing with the original's variables.
    assert failed == {'freshness', 'releases_tensors', 'checkpoint'}
    for part in ('log_prob(sample) after assigning', 'gradient of log_prob(sample)',
                 'fresh_in_cond raised', 'changed in place in a NumPy array'):
        assert part in report['freshness']
    assert 'computes with 5 of the variables of the first' in report['checkpoint']


def test_stock_masked_autoregressive_flow():
    network = tfb.AutoregressiveNetwork(
        params=2, event_shape=[2], hidden_units=[4], activation='tanh',
        conditional=True, conditional_event_shape=[2])
    flow = tfb.MaskedAutoregressiveFlow(network)
    failed, report = failing(
        flow, event_size=2, condition_size=2,
        make_kwargs=lambda conditions: {'conditional_input': conditions})
    # Its variables come with the first call; and conditions share their noise.
    assert failed == {'variables_tracked', 'freshness', 'releases_tensors',
                      'independent_noise'}
    assert 'Unknown initializer' in report['checkpoint']


def test_stock_scale():
    scale = tfb.Scale(tf.Variable(2., dtype=tf.float64))
    failed, report = failing(scale, skip=(), event_size=2)
    assert failed == {'freshness'}
    assert report['round_trip'] == 'passed'
    assert report['independent_noise'] == 'skipped: not conditional'


def test_domain_and_support():
    report = testing.check_bijector(
        tfb.Power(np.float64(3.)), event_size=1, domain=tfb.Exp(),
        dtype=tf.float64, support=(0., np.inf))
    assert report['normalisation'] == report['log_det'] == 'passed'


# The interface itself.


def test_misuse():
    with pytest.raises(TypeError, match='`event_size` must be given'):
        testing.check_bijector(tfb.Tanh())
    with pytest.raises(TypeError, match='must be a tfb.Bijector; got Dense'):
        testing.check_round_trip(type('Dense', (), {})(), 2)
    with pytest.raises(ValueError, match="got .'roundtrip'"):
        testing.check_bijector(Good(), checks=['roundtrip'])
    with pytest.raises(ValueError, match='no variable to perturb'):
        testing.perturb(tfb.Tanh())


def test_one_error_lists_all_failures():
    with pytest.raises(testing.CheckFailure, match='2 of 3 checks') as error:
        testing.check_bijector(
            LogDetOff(), checks=['round_trip', 'log_det', 'normalisation'])
    assert 'Jacobian' in str(error.value) and 'integrates' in str(error.value)
    assert error.value.report['round_trip'] == 'passed'


def test_perturb():
    first, second = Good(), Good()
    assert testing.perturb(first, seed=1) is first
    assert np.all(first.kernel != second.kernel)
    testing.perturb(second.trainable_variables, seed=1)
    np.testing.assert_array_equal(first.kernel, second.kernel)


@hypothesis.given(hypothesis.strategies.data())
def test_strategies(data):
    size = data.draw(testing.condition_sizes())
    value_batch, batch = data.draw(testing.batch_shapes())
    dtype = data.draw(testing.dtypes())
    assert np.broadcast_shapes(value_batch, batch) == value_batch
    conditions = data.draw(testing.conditions(size, batch, dtype))
    tf.nest.assert_same_structure(conditions, size)
    for leaf, width in zip(tf.nest.flatten(conditions), tf.nest.flatten(size)):
        assert leaf.shape == [*batch, width] and leaf.dtype == dtype
    event_size = data.draw(testing.event_sizes())
    event = data.draw(testing.events(event_size, value_batch, dtype))
    assert event.shape == [*value_batch, event_size]
    bijector = data.draw(testing.perturbed(Good))
    assert np.all(bijector.kernel != Good().kernel)
