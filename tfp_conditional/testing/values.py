"""Checks that values, log-dets and gradients are right."""

import functools

import numpy as np
import tensorflow as tf

from tfp_conditional.testing.check import check
from tfp_conditional.testing.subject import brief
from tfp_conditional.testing.subject import map_parts
from tfp_conditional.testing.subject import op_by_op
from tfp_conditional.testing.subject import or_refused
from tfp_conditional.testing.subject import scalar


@check
def check_round_trip(s):
    """`inverse(forward(x)) == x` and `forward(inverse(y)) == y`.

    Every value is copied before it goes back, so that no cache can answer.
    """
    x, y, c = s.x_y_c()
    back = s.inverse(y, c)
    magnitude = np.max(np.abs(y), initial=0.)
    s.close(back, x, 'inverse(forward(x))', 'x', s.rtol, size=magnitude)
    s.close(s.forward(tf.identity(back), c), y, 'forward(inverse(y))', 'y', s.rtol,
            size=np.max(np.abs(x), initial=0.))


@check
def check_log_det(s):
    """Both log-dets are log |det J| of the Jacobian found by differentiation.

    And `forward_log_det_jacobian(x) == -inverse_log_det_jacobian(forward(x))`.
    """
    x, y, c = s.x_y_c()
    fldj, ildj = s.fldj(x, c), s.ildj(y, c)
    shape = x.shape[:-1]
    log_dets = {'forward_log_det_jacobian(x)': fldj,
                '-inverse_log_det_jacobian(y)': -ildj}
    # An ordinary bijector may give one log-det for a whole batch.
    log_dets = {k: tf.broadcast_to(v, shape) for k, v in log_dets.items()}
    for function, value, name in ((s.forward, x, 'forward_log_det_jacobian(x)'),
                                  (s.inverse, y, '-inverse_log_det_jacobian(y)')):
        matrix = jacobian(lambda v: function(v, c), value)
        if matrix.shape[-1] != matrix.shape[-2]:
            return 'the Jacobian is not square'
        expected = np.linalg.slogdet(matrix.astype(np.float64))[1]
        expected = expected if function == s.forward else -expected
        s.close(log_dets[name], expected.astype(matrix.dtype), name,
                'the log-det of the autodiff Jacobian')
    s.close(*log_dets.values(), *log_dets)


def jacobian(function, value):
    """`[..., D', D]`, where the rows of a batch do not depend on each other."""
    # A tape for each unit: for a persistent one TensorFlow traces the gradients of
    # gradients of every compiled function too.
    rows, units = [], None
    while units is None or len(rows) < len(units):
        with tf.GradientTape() as tape:
            tape.watch(value)
            units = tf.unstack(function(tf.identity(value)), axis=-1)
        rows.append(tape.gradient(units[len(rows)], value,
                                  unconnected_gradients='zero'))
    return np.stack(rows, axis=-2)


@check
def check_depends_on_conditions(s):
    """Another value of any part of the conditions gives another result."""
    if not s.conditional:
        return 'not conditional'
    x, y, c = s.x_y_c()
    leaves = tf.nest.flatten(c)
    for i, leaf in enumerate(leaves):
        changed = tf.nest.pack_sequence_as(
            c, [*leaves[:i], leaf + 1., *leaves[i + 1:]])
        for name, ask, value in (('forward', s.forward, x),
                                 ('inverse', s.inverse, y)):
            if np.array_equal(ask(value, c), ask(tf.identity(value), changed)):
                part = f' (part {i})' if len(leaves) > 1 else ''
                raise AssertionError(f'{name} does not depend on `conditions`'
                                     f'{part}.')


@check
def check_gradients(s):
    """Gradients are there, finite, and, in float64, the difference quotients.

    With respect to x (also where units are 0 or large), y, the conditions and
    every variable.
    """
    x, y, c = s.x_y_c()
    zeros = s.domain.forward(tf.zeros_like(x))
    cases = [('forward', x), ('inverse', y), ('forward', zeros),
             ('inverse', tf.identity(s.forward(zeros, c))),
             ('forward', s.x(scale=10.))]
    for i, (direction, value) in enumerate(cases):
        function = functools.partial(s.objective, direction)
        gradients = s.gradients(function, value, c)
        for name, gradient in gradients.items():
            if gradient is None:
                raise AssertionError(f'The gradient of {direction} with respect to '
                                     f'{name} is None.')
            if not np.isfinite(tf.convert_to_tensor(gradient)).all():
                raise AssertionError(
                    f'The gradient of {direction} with respect to {name} is not '
                    f'finite, at {brief(value[0].numpy())}.')
        if i < 2 and s.dtype == tf.float64:
            _check_difference_quotients(s, function, value, c, gradients, direction)


def _check_difference_quotients(s, function, value, c, gradients, direction):
    """Compares gradients to central differences, each along a random direction."""
    step = 1e-6
    leaves = tf.nest.flatten(c) if s.conditional else []
    sources = [value, *leaves]
    for i, (name, gradient) in enumerate(gradients.items()):
        source = [*sources, *s.variables][i]
        along = tf.constant(s.rng.normal(size=source.shape), s.dtype)
        ends = []
        for sign in (1, -1):
            if i < len(sources):
                moved = [t + sign * step * along if j == i else t
                         for j, t in enumerate(sources)]
                ends.append(function(moved[0], tf.nest.pack_sequence_as(
                    s.condition_size, moved[1:]) if s.conditional else None))
            else:
                before = source.numpy()
                source.assign_add(sign * step * along)
                ends.append(function(tf.identity(value), c))
                source.assign(before)
        quotient = (ends[0] - ends[1]) / (2 * step)
        slope = tf.reduce_sum(tf.convert_to_tensor(gradient) * along)
        s.close(slope, quotient, f'The gradient of {direction} with respect to '
                f'{name}', 'the difference quotient', rtol=1e-5,
                size=abs(float(ends[0])))


@check
def check_broadcasting(s):
    """A batch gives what its elements give alone, for all shapes that broadcast.

    Conditions may have fewer or smaller batch axes than x. An expansion of x to
    the conditions may be refused (by raising), but not be wrong.
    """
    own = s.own_batch
    x, c = s.x([2, 3, *own]), s.c([2, 3, *own])
    y = tf.identity(s.forward(x, c))
    expected = s.answers(x, y, c)
    batched = {name: _full(value, x.shape[:-1] if 'log_det' in name else None)
               for name, value in expected.items()}
    for index in ((0, 0), (1, 2)):
        at = lambda t: tf.identity(t[index])
        alone = s.answers(at(x), at(y), map_parts(at, c))
        alone = {name: _full(value, own if 'log_det' in name else None)
                 for name, value in alone.items()}
        s.all_close({name: value[index] for name, value in batched.items()}, alone,
                    f'of a batch [2, 3] at {list(index)}',
                    'that of the element alone')
    if not s.conditional:
        return
    for batch, condition_batch in (
            ([2, 3], []), ([2, 3], [3]), ([2, 3], [2, 1]), ([3], [1]),
            ([], [3]), ([3], [2, 3]), ([1], [3]), ([2, 1], [1, 3])):
        full = np.broadcast_shapes(batch, condition_batch)
        smaller = list(full) == batch
        x, c = s.x([*batch, *own]), s.c([*condition_batch, *own])
        expand = lambda t: tf.broadcast_to(t, [*full, *own, t.shape[-1]])
        expanded = expand(x), map_parts(expand, c)
        y = s.forward(*expanded)
        when = f'for x {[*batch, "D"]} and conditions {[*condition_batch, "S"]}'
        expected = s.answers(expanded[0], tf.identity(y), expanded[1])
        if smaller:
            actual = s.answers(x, tf.identity(y), c)
        else:
            y = s.x([*batch, *own]) if s.support[0] == -np.inf else None
            actual = {name: or_refused(ask, value, c) for name, ask, value in (
                ('forward', s.forward, x), ('inverse', s.inverse, y),
                ('forward_log_det_jacobian', s.fldj, x),
                ('inverse_log_det_jacobian', s.ildj, y)) if value is not None}
            if y is not None:
                expected.update(
                    inverse=s.inverse(expand(y), expanded[1]),
                    inverse_log_det_jacobian=s.ildj(expand(y), expanded[1]))
            actual = {k: v for k, v in actual.items() if v is not None}
        for name in actual:
            shape = [*full, *own] if 'log_det' in name else None
            s.close(_full(actual[name], shape), _full(expected[name], shape),
                    f'{name} {when}', 'that of both expanded')


def _full(log_det, shape):
    """Expands the log-det of an ordinary bijector, which may be one for many."""
    return log_det if shape is None else tf.broadcast_to(log_det, shape)


@check
def check_dtype(s):
    """Results and gradients have the dtype of the bijector, and its precision.

    In float64 a result must follow its argument over a step that float32 cannot
    resolve, which it does not where something on the way is float32.
    """
    x, y, c = s.x_y_c()
    if s.bijector.dtype not in (None, s.dtype):
        raise AssertionError(f'`dtype` is {s.bijector.dtype}, not {s.dtype}.')
    _check_dtypes(s, s.answers(x, y, c))
    for direction, value in (('forward', x), ('inverse', y)):
        _check_dtypes(s, {
            f'gradient of {direction} for {name}': gradient
            for name, gradient in s.gradients(functools.partial(
                s.objective, direction), value, c).items()
            if gradient is not None and 'variable' not in name})
    if s.dtype != tf.float64:
        return
    step = 1e-9
    for name, ask, value in (('forward', s.forward, x), ('inverse', s.inverse, y)):
        matrix = jacobian(lambda v: ask(v, c), value)
        along = s.rng.normal(size=value.shape)
        moved = ask(value + step * along, c) - ask(value - step * along, c)
        s.close(moved / (2 * step), np.einsum('...ij,...j', matrix, along),
                f'The difference quotient of {name} over a step of {step}',
                'the derivative (is a part of it float32?)', rtol=1e-4)


def _check_dtypes(s, results):
    wrong = {name: value.dtype.name for name, value in results.items()
             if value.dtype != s.dtype}
    if wrong:
        raise AssertionError(f'Results must be {s.dtype.name}; got {wrong}.')


@check
def check_modes_agree(s):
    """Eager, run op by op, `tf.function` with unknown batch size, and XLA agree.

    In values, log-dets and gradients. Of a bijector that gives both from one pass,
    by `forward_and_log_det`, they are compared for that pass; eagerly, its four
    methods answer.
    """
    x, y, c = s.x_y_c()
    tensors = [x, y, *(tf.nest.flatten(c) if s.conditional else [])]

    def run(*tensors):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*tensors, *s.variables])
            x, y, *leaves = tensors
            c = (tf.nest.pack_sequence_as(s.condition_size, leaves)
                 if s.conditional else None)
            results = s.answers(x, y, c, one_pass=not tf.executing_eagerly())
            objective = tf.add_n([scalar(value) for value in results.values()])
        gradients = tape.gradient(objective, [*tensors, *s.variables])
        results.update({f'gradient {i}': tf.convert_to_tensor(gradient)
                        for i, gradient in enumerate(gradients)
                        if gradient is not None})
        return results

    expected = run(*tensors)
    signature = [tf.TensorSpec([None] * (t.shape.rank - 1) + [t.shape[-1]], t.dtype)
                 for t in tensors]
    # Each traced for itself: for XLA, loops are traced in another way.
    modes = {'in tf.function with unknown batch size':
             lambda: tf.function(run, signature, autograph=False)(*tensors),
             'under XLA (jit_compile=True)':
             lambda: tf.function(run, signature, autograph=False,
                                 jit_compile=True)(*tensors),
             'op by op (run_functions_eagerly)':
             lambda: op_by_op(run, *map(tf.identity, tensors))}
    for mode, compute in modes.items():
        # XLA rounds otherwise, and gradients sum up many terms.
        s.all_close(compute(), expected, mode, 'that in eager mode',
                    rtol=10 * s.rtol)
