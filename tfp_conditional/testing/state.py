"""Checks of variables and memory: tracked, read afresh, saved, and let go of."""

import copy
import gc
import os
import tempfile
import weakref

import numpy as np
import tensorflow as tf

from tfp_conditional.testing.check import check
from tfp_conditional.testing.subject import brief
from tfp_conditional.testing.subject import map_parts
from tfp_conditional.testing.subject import op_by_op


@check
def check_variables_tracked(s):
    """Whatever variable a pass reads is in `trainable_variables`, once.

    And calls add none, which only shows on a bijector that was never called.
    """
    before = s.tracked_at_first
    read = s.watched()
    after = list(s.bijector.trainable_variables)
    untracked = [v.name for v in read if not any(v is t for t in after)]
    if untracked:
        raise AssertionError('`trainable_variables` lacks variables that a pass '
                             f'reads: {untracked}.')
    if len({id(v) for v in after}) < len(after):
        raise AssertionError('`trainable_variables` holds a variable twice.')
    if len(before) != len(after):
        raise AssertionError(f'Calls added {len(after) - len(before)} variables.')
    if not after:
        return 'no variables'


@check
def check_freshness(s):
    """Answers are those of the variables and inputs as they are now.

    After assigning to the variables, values, log-dets, densities and gradients
    for tensors that the bijector has met are those for copies of the tensors. A
    sample may go into both branches of `tf.cond`. And conditions in a NumPy array
    or a variable may be changed in place.
    """
    if not s.variables and not s.conditional:
        return 'neither variables nor conditions that could change'
    failures = []
    for part in (_fresh_calls, _fresh_densities, _fresh_gradients, _fresh_in_cond,
                 _fresh_conditions):
        try:
            part(s)
        except AssertionError as error:
            failures.append(str(error))
        except Exception as error:   # The other parts have something to say, too.
            failures.append(f'{part.__name__[1:]} raised {type(error).__name__}: '
                            f'{brief(error)}')
    if failures:
        raise AssertionError('\n    '.join(failures))


def _fresh_calls(s):
    x, y, c = s.x_y_c()
    before = s.answers(x, y, c)
    s.move()
    fresh = s.answers(tf.identity(x), tf.identity(y), c)
    s.all_close(s.answers(x, y, c), fresh, 'after assigning to the variables',
                'that for a copy of its argument')
    if s.variables and all(np.array_equal(before[k], fresh[k]) for k in fresh):
        raise AssertionError('Assigning to the variables changes nothing.')


def _fresh_densities(s):
    distribution, c = s.distribution(), s.c()
    y = s.sample(distribution, c)
    s.move()
    s.close(s.log_prob(distribution, y, c),
            s.log_prob(distribution, tf.identity(y), c),
            'log_prob(sample) after assigning to the variables',
            'that for a copy of the sample')


def _fresh_gradients(s):
    distribution, c = s.distribution(), s.c()

    def gradients(of):
        return s.gradients(lambda y, c: tf.reduce_sum(
            s.log_prob(distribution, of(y), c)), y, c)

    y = s.sample(distribution, c)
    s.all_close(gradients(lambda y: y), gradients(tf.identity),
                ': gradient of log_prob(sample)', 'that for a copy of the sample')


def _fresh_in_cond(s):
    distribution, c = s.distribution(), s.c()

    @tf.function(autograph=False)
    def run(flag):
        y = s.sample(distribution, c)
        return y, tf.cond(flag, lambda: s.log_prob(distribution, y, c),
                          lambda: 2. * s.log_prob(distribution, y, c))

    for flag, factor in ((True, 1.), (False, 2.)):
        y, log_prob = run(tf.constant(flag))
        s.close(log_prob, factor * s.log_prob(distribution, y, c),
                'log_prob(sample) in tf.cond', 'that outside')


def _fresh_conditions(s):
    if not s.conditional:
        return
    x, y, c = s.x_y_c()
    fresh = map_parts(lambda leaf: leaf + 1., c)
    for kind, make, add_one in (
            ('a NumPy array', lambda leaf: leaf.numpy().copy(),
             lambda leaf: np.add(leaf, 1, out=leaf)),
            ('a tf.Variable', tf.Variable,
             lambda leaf: leaf.assign_add(tf.ones_like(leaf)))):
        changing = map_parts(make, c)
        s.answers(x, y, changing)
        map_parts(add_one, changing)
        s.all_close(s.answers(x, y, changing), s.answers(
            tf.identity(x), tf.identity(y), fresh),
                    f'after conditions changed in place in {kind}',
                    'that for a copy of them')


@check
def check_releases_tensors(s):
    """Arguments and results are not held, so that memory stays bounded."""
    x, y, c = s.x_y_c()
    held = []
    for _ in range(3):   # The last call may be remembered, the others not.
        fresh = map_parts(lambda leaf: leaf + 1., c)
        answers = s.answers(x, y, fresh)
        log_prob = s.log_prob(s.distribution(), y, fresh)
        held.append([weakref.ref(t) for t in [
            *answers.values(), log_prob,
            *(tf.nest.flatten(fresh) if s.conditional else [])]])
    del fresh, answers, log_prob
    gc.collect()
    alive = sum(ref() is not None for refs in held[:-1] for ref in refs)
    if alive and (s.conditional or s.variables):
        raise AssertionError(
            f'{alive} of {sum(map(len, held[:-1]))} tensors of earlier calls on the '
            'same x and y are still in memory: it grows with every call.')


@check
def check_checkpoint(s):
    """`tf.train.Checkpoint` carries a bijector over to another, bit for bit.

    The other one comes from `factory`, or is a deep copy, which has to be
    independent.
    """
    if not s.variables:
        return 'no variables'
    try:
        other = s.factory() if s.factory else copy.deepcopy(s.bijector)
    except Exception as error:
        if s.factory:
            raise
        return (f'deepcopy raised {type(error).__name__}: {brief(error)} Give a '
                '`factory`.')
    x, y, c = s.x_y_c()
    expected = s.answers(x, y, c)
    second = copy.copy(s)
    second.bijector = other
    second.__dict__.pop('variables', None)
    # Found op by op: nobody needs the gradients of its compiled functions.
    op_by_op(lambda: second.variables)
    if not s.factory:
        s.all_close(second.answers(x, y, c), expected, 'of the deep copy',
                    'that of the original', rtol=0.)
    shared = {id(v) for v in s.variables} & {id(v) for v in second.variables}
    if shared:
        raise AssertionError(f'The other bijector computes with {len(shared)} of '
                             'the variables of the first.')
    second.move()
    moved = second.answers(*map(tf.identity, (x, y)), c)
    if all(np.array_equal(value, expected[name]) for name, value in moved.items()):
        raise AssertionError('The other bijector is not affected by its variables.')
    s.all_close(moved, op_by_op(second.answers, *map(tf.identity, (x, y)), c),
                'of the other after assigning to its variables', 'that op by op',
                rtol=10 * s.rtol)
    s.all_close(s.answers(*map(tf.identity, (x, y)), c), expected,
                'of the first after assigning to the variables of the other',
                'that before', rtol=0.)
    with tempfile.TemporaryDirectory() as directory:
        path = tf.train.Checkpoint(bijector=s.bijector).write(
            os.path.join(directory, 'checkpoint'))
        status = tf.train.Checkpoint(bijector=other).read(path)
        status.assert_existing_objects_matched()
    s.all_close(second.answers(*map(tf.identity, (x, y)), c), expected,
                'after restoring a checkpoint', 'that of the saved one', rtol=0.)
