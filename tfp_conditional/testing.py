"""Properties that every bijector should have, to run on bijectors of your own.

`check_bijector` runs all of them, on a conditional or an ordinary `tfb.Bijector`
of vectors; each is also a function of its own, and fails by an `AssertionError`
that names what differs and by how much. Beside them stand `hypothesis`
strategies, which draw sizes, shapes, conditions and perturbed flows. Only this
module needs hypothesis, and `import tfp_conditional` does not import it.

```python
import tfp_conditional as tfpc
import tfp_conditional.testing

flow = tfpc.ConditionalRealNVP(event_size=2, condition_size=3,
                               num_coupling_layers=2, hidden_layers=(8,))
report = tfpc.testing.check_bijector(flow, skip=['normalisation'])
assert report['round_trip'] == 'passed'
```

Two traps that the checks avoid: TFP's cache answers `inverse(forward(x))` with
`x` itself, however wrong `inverse` is, so every tensor is copied before it goes
back; and a flow at its identity initialisation passes anything, so every variable
is perturbed during a check and restored after it.
"""

import contextlib
import copy
import functools
import gc
import inspect
import os
import tempfile
import weakref

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions

# Relative tolerances of values; those of log-dets, which add up many terms, and
# of gradients are ten times as large in float64.
RTOL = {tf.float64: 1e-10, tf.float32: 1e-5, tf.float16: 1e-2, tf.bfloat16: 5e-2}

CHECKS = {}   # Filled by `_check`, in the order of this file.


class CheckFailure(AssertionError):
    """What `check_bijector` raises; its `report` has the status of every check."""

    def __init__(self, message, report):
        super().__init__(message)
        self.report = report


def perturb(module, scale=0.5, seed=0):
    """Moves every variable by normal noise, within its constraint if it has one.

    ```python
    import tfp_conditional as tfpc
    import tfp_conditional.testing

    flow = tfpc.testing.perturb(tfpc.ConditionalRealNVP(2, 3), seed=1)
    ```

    Args:
      module: a `tf.Module` (any bijector is one), whose trainable variables are
        meant; or a sequence of variables.
      scale: standard deviation; for a kernel `[..., m, n]` it is divided by
        sqrt(m), so that what the kernel gives moves by about `scale`.
      seed: `int`.

    Returns:
      `module`, for use in an expression.

    Raises:
      ValueError: if there is no variable.
    """
    variables = getattr(module, 'trainable_variables', module)
    if not variables:
        raise ValueError(f'There is no variable to perturb in {module!r}.')
    rng = np.random.default_rng(seed)
    for variable in variables:
        shape = variable.shape.as_list()
        noise = rng.normal(scale=scale, size=shape)
        if len(shape) > 1:
            noise /= np.sqrt(max(shape[-2], 1))
        value = variable + tf.cast(noise, variable.dtype)
        # An autoregressive network keeps its masks by constraints.
        constrain = getattr(variable, 'constraint', None) or tf.identity
        variable.assign(constrain(value))
    return module


class _Subject:
    """A bijector, its inputs, and the questions that checks ask of it.

    `x [*batch, D]`, `conditions [*condition_batch, S]`.
    """

    def __init__(self, bijector, event_size=None, condition_size=None, *, seed=0,
                 dtype=None, rtol=None, batch_shape=(4,),
                 condition_batch_shape=None, perturb_scale=0.5, domain=None,
                 support=(-np.inf, np.inf), factory=None, make_kwargs=None):
        if not isinstance(bijector, tfb.Bijector):
            raise TypeError('`bijector` must be a tfb.Bijector; got '
                            f'{type(bijector).__name__}.')
        event_size = (event_size if event_size is not None
                      else getattr(bijector, 'event_size', None))
        if event_size is None:
            raise TypeError(f'`event_size` must be given: {bijector.name!r} has no '
                            'attribute of that name.')
        self.bijector, self.event_size, self.seed = bijector, event_size, seed
        self.condition_size = (condition_size if condition_size is not None
                               else getattr(bijector, 'condition_size', None))
        self.dtype = tf.as_dtype(dtype or bijector.dtype or tf.float32)
        self.rtol = rtol or RTOL[self.dtype]
        self.loose_rtol = 10 * self.rtol if self.dtype == tf.float64 else self.rtol
        self.perturb_scale, self.support = perturb_scale, support
        self.domain = domain or tfb.Identity()
        self.factory = factory
        self._make_kwargs = make_kwargs or (lambda c: {'conditions': c})
        self.tracked_at_first = list(bijector.trainable_variables)
        try:
            own_batch = bijector.experimental_batch_shape(x_event_ndims=1)
        except NotImplementedError:   # It does not say; mostly it has none.
            own_batch = ()
        self.own_batch = tuple(own_batch)
        self.batch_shape = (*batch_shape, *self.own_batch)
        self.condition_batch_shape = (self.batch_shape if condition_batch_shape
                                      is None else condition_batch_shape)
        self.rng = np.random.default_rng(seed)
        self.moves = 0

    # Inputs.

    @property
    def conditional(self):
        return self.condition_size is not None

    def x(self, batch_shape=None, scale=1.):
        batch = self.batch_shape if batch_shape is None else batch_shape
        normal = self.rng.normal(scale=scale, size=[*batch, self.event_size])
        return self.domain.forward(tf.constant(normal, self.dtype))

    def c(self, batch_shape=None):
        """Conditions, or `None` for an unconditional bijector."""
        batch = self.condition_batch_shape if batch_shape is None else batch_shape
        return _map(lambda size: tf.constant(
            self.rng.normal(size=[*batch, size]), self.dtype), self.condition_size)

    def x_y_c(self):
        x, c = self.x(), self.c()
        return x, tf.identity(self.forward(x, c)), c

    def kwargs(self, c):
        return self._make_kwargs(c) if self.conditional else {}

    # Questions.

    def forward(self, x, c):
        return self.bijector.forward(x, **self.kwargs(c))

    def inverse(self, y, c):
        return self.bijector.inverse(y, **self.kwargs(c))

    def fldj(self, x, c):
        return self.bijector.forward_log_det_jacobian(x, 1, **self.kwargs(c))

    def ildj(self, y, c):
        return self.bijector.inverse_log_det_jacobian(y, 1, **self.kwargs(c))

    def answers(self, x, y, c):
        return {'forward': self.forward(x, c), 'inverse': self.inverse(y, c),
                'forward_log_det_jacobian': self.fldj(x, c),
                'inverse_log_det_jacobian': self.ildj(y, c)}

    def objective(self, direction, value, c):
        """A scalar that depends on all that a direction computes."""
        ask, log_det = ((self.forward, self.fldj) if direction == 'forward'
                        else (self.inverse, self.ildj))
        return _scalar(ask(value, c)) + _scalar(log_det(tf.identity(value), c))

    def gradients(self, function, value, c):
        """Name -> gradient of the scalar `function(value, c)`."""
        sources = [value, *tf.nest.flatten(c)] if self.conditional else [value]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*sources, *self.variables])
            result = function(value, c)
        gradients = tape.gradient(result, [*sources, *self.variables])
        return dict(zip(self.source_names, gradients))

    @functools.cached_property
    def source_names(self):
        conditions = [f'conditions (part {i})' for i in range(
            len(tf.nest.flatten(self.condition_size)) if self.conditional else 0)]
        return ['the event', *conditions,
                *(f'variable {i} ({v.name})' for i, v in enumerate(self.variables))]

    def distribution(self):
        base = tfd.Independent(tfd.Normal(
            tf.zeros(self.event_size, self.dtype),
            tf.ones(self.event_size, self.dtype)), 1)
        if not isinstance(self.domain, tfb.Identity):
            base = tfd.TransformedDistribution(base, self.domain)
        return tfd.TransformedDistribution(base, self.bijector)

    def sample(self, distribution, c, shape=None, seed=0):
        if shape is None:
            shape = self.batch_shape[:len(self.batch_shape) - len(self.own_batch)]
        return distribution.sample(shape, seed=tfp.random.sanitize_seed([seed, 7]),
                                   bijector_kwargs=self.kwargs(c))

    def log_prob(self, distribution, y, c):
        return distribution.log_prob(y, bijector_kwargs=self.kwargs(c))

    # Variables.

    def watched(self):
        """The variables that the passes read."""
        with tf.GradientTape() as tape:
            self.answers(*self.x_y_c())
        return tape.watched_variables()

    @functools.cached_property
    def variables(self):
        """All trainable ones, tracked or only read."""
        return list({id(v): v for v in [*self.bijector.trainable_variables,
                                        *self.watched()]}.values())

    def move(self):
        """Assigns to every variable."""
        self.moves += 1
        if self.variables:
            perturb(self.variables, self.perturb_scale, [self.seed, self.moves])

    @contextlib.contextmanager
    def perturbed(self):
        before = [variable.numpy() for variable in self.variables]
        self.move()
        try:
            yield
        finally:
            for variable, value in zip(self.variables, before):
                variable.assign(value)

    # Assertions.

    def close(self, actual, expected, what, than, rtol=None, size=0.):
        """Asserts |actual - expected| <= rtol (1 + |expected| + size)."""
        if (actual is None) != (expected is None):
            raise AssertionError(f'{what} is {_brief(actual)}, but {than} is '
                                 f'{_brief(expected)}.')
        if actual is None:
            return
        actual, expected = np.asarray(actual), np.asarray(expected)
        if actual.dtype != expected.dtype or actual.shape != expected.shape:
            raise AssertionError(
                f'{what} is {actual.dtype} {list(actual.shape)}, but {than} is '
                f'{expected.dtype} {list(expected.shape)}.')
        actual, expected = (a.astype(np.float64) for a in (actual, expected))
        for name, values in ((what, actual), (than, expected)):
            if not np.isfinite(values).all():
                raise AssertionError(f'{name} is not finite: {_brief(values)}.')
        rtol = self.loose_rtol if rtol is None else rtol
        allowed = rtol * (1 + np.max(np.abs(expected), initial=0.) + size)
        error = np.max(np.abs(actual - expected), initial=0.)
        if not error <= allowed:
            raise AssertionError(f'{what} differs from {than} by {error:.3g}; '
                                 f'allowed is {allowed:.3g} in {self.dtype.name}.')

    def all_close(self, actual, expected, when, than, **kwargs):
        """`close` for two dicts with the same keys, all failures in one message."""
        failures = []
        for name in expected:
            try:
                self.close(actual[name], expected[name], f'{name} {when}', than,
                           **kwargs)
            except AssertionError as error:
                failures.append(str(error))
        if failures:
            raise AssertionError(' '.join(failures))


_OPTIONS = """
    Args:
      bijector: a `tfb.Bijector` whose events are vectors, `[..., D]`.
      event_size: `int` D; default `bijector.event_size`.
      condition_size: `int`, or nest of `int`, the last dimension(s) of the
        conditions; default `bijector.condition_size` where there is one, else the
        bijector is called without conditions.
      seed: `int`, for inputs and perturbations.
      dtype: floating dtype; default that of the bijector, else float32.
      rtol: relative tolerance; default `tfpc.testing.RTOL[dtype]`.
      batch_shape: batch shape of x, which a bijector's own one is appended to.
      condition_batch_shape: batch shape of the conditions; default that of x.
      perturb_scale: how far variables are moved for the check; see `perturb`.
      domain: a `tfb.Bijector` from the reals to where x may lie. Default: x may
        be any vector.
      support: `(low, high)`, between which every unit of y lies.
      factory: a function of no arguments that makes another such bijector;
        default `copy.deepcopy`.
      make_kwargs: a function from conditions to the keyword arguments of the
        bijector's methods; default `{'conditions': conditions}`.

    Returns:
      `'passed'`, or `'skipped: ...'` with the reason.

    Raises:
      AssertionError: if the property does not hold, or the bijector raises.
      TypeError: if `bijector` is none or `event_size` is missing.
"""


def _check(function):
    """Makes a public check of a function of a `_Subject`.

    The function fails by an `AssertionError` and returns a reason to skip, if any.
    """
    name = function.__name__.removeprefix('check_')

    @functools.wraps(function)
    def check(bijector, event_size=None, condition_size=None, **options):
        subject = _Subject(bijector, event_size, condition_size, **options)
        try:
            with subject.perturbed():
                reason = function(subject)
        except AssertionError as error:
            raise AssertionError(
                f'{name} failed for {bijector.name!r}: {error}') from error
        except Exception as error:
            raise AssertionError(
                f'{name} failed for {bijector.name!r}, which raised '
                f'{type(error).__name__}: {_brief(error)}') from error
        return 'passed' if reason is None else f'skipped: {reason}'

    check.__signature__ = inspect.Signature(
        list(inspect.signature(_Subject).parameters.values()))
    check.__doc__ = inspect.cleandoc(function.__doc__) + '\n\n' + inspect.cleandoc(
        _OPTIONS)
    CHECKS[name] = check
    return check


def _scalar(tensor):
    return tf.reduce_sum(tensor * tf.cos(tensor))


def _map(function, conditions):
    """`tf.nest.map_structure`, where an unconditional bijector's are `None`."""
    return (None if conditions is None
            else tf.nest.map_structure(function, conditions))


def _brief(value):
    text = ' '.join(str(value).split())
    return text if len(text) < 300 else text[:300] + ' ...'


@_check
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


@_check
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


@_check
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
        jacobian = _jacobian(lambda v: function(v, c), value)
        if jacobian.shape[-1] != jacobian.shape[-2]:
            return 'the Jacobian is not square'
        expected = np.linalg.slogdet(jacobian.astype(np.float64))[1]
        expected = expected if function == s.forward else -expected
        s.close(log_dets[name], expected.astype(jacobian.dtype), name,
                'the log-det of the autodiff Jacobian')
    s.close(*log_dets.values(), *log_dets)


def _jacobian(function, value):
    """`[..., D', D]`, where the rows of a batch do not depend on each other."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(value)
        result = function(tf.identity(value))
        units = tf.unstack(result, axis=-1)
    return np.stack([tape.gradient(unit, value, unconnected_gradients='zero')
                     for unit in units], axis=-2)


@_check
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
                            f'{_brief(error)}')
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
    fresh = _map(lambda leaf: leaf + 1., c)
    for kind, make, add_one in (
            ('a NumPy array', lambda leaf: leaf.numpy().copy(),
             lambda leaf: np.add(leaf, 1, out=leaf)),
            ('a tf.Variable', tf.Variable,
             lambda leaf: leaf.assign_add(tf.ones_like(leaf)))):
        changing = _map(make, c)
        s.answers(x, y, changing)
        _map(add_one, changing)
        s.all_close(s.answers(x, y, changing), s.answers(
            tf.identity(x), tf.identity(y), fresh),
                    f'after conditions changed in place in {kind}',
                    'that for a copy of them')


@_check
def check_releases_tensors(s):
    """Arguments and results are not held, so that memory stays bounded."""
    x, y, c = s.x_y_c()
    held = []
    for _ in range(3):   # The last call may be remembered, the others not.
        fresh = _map(lambda leaf: leaf + 1., c)
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


@_check
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


@_check
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
                    f'finite, at {_brief(value[0].numpy())}.')
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


@_check
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
        alone = s.answers(at(x), at(y), _map(at, c))
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
        expanded = expand(x), _map(expand, c)
        y = s.forward(*expanded)
        when = f'for x {[*batch, "D"]} and conditions {[*condition_batch, "S"]}'
        expected = s.answers(expanded[0], tf.identity(y), expanded[1])
        if smaller:
            actual = s.answers(x, tf.identity(y), c)
        else:
            y = s.x([*batch, *own]) if s.support[0] == -np.inf else None
            actual = {name: _or_refused(ask, value, c) for name, ask, value in (
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


def _or_refused(ask, value, c):
    try:
        return ask(value, c)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        return None


@_check
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
        jacobian = _jacobian(lambda v: ask(v, c), value)
        along = s.rng.normal(size=value.shape)
        moved = ask(value + step * along, c) - ask(value - step * along, c)
        s.close(moved / (2 * step), np.einsum('...ij,...j', jacobian, along),
                f'The difference quotient of {name} over a step of {step}',
                'the derivative (is a part of it float32?)', rtol=1e-4)


def _check_dtypes(s, results):
    wrong = {name: value.dtype.name for name, value in results.items()
             if value.dtype != s.dtype}
    if wrong:
        raise AssertionError(f'Results must be {s.dtype.name}; got {wrong}.')


@_check
def check_modes_agree(s):
    """Eager, run op by op, `tf.function` with unknown batch size, and XLA agree.

    In values, log-dets and gradients.
    """
    x, y, c = s.x_y_c()
    tensors = [x, y, *(tf.nest.flatten(c) if s.conditional else [])]

    def run(*tensors):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*tensors, *s.variables])
            x, y, *leaves = tensors
            results = s.answers(x, y, tf.nest.pack_sequence_as(
                s.condition_size, leaves) if s.conditional else None)
            objective = tf.add_n([_scalar(value) for value in results.values()])
        gradients = tape.gradient(objective, [*tensors, *s.variables])
        results.update({f'gradient {i}': tf.convert_to_tensor(gradient)
                        for i, gradient in enumerate(gradients)
                        if gradient is not None})
        return results

    expected = run(*tensors)
    signature = [tf.TensorSpec([None] * (t.shape.rank - 1) + [t.shape[-1]], t.dtype)
                 for t in tensors]
    modes = {'in tf.function with unknown batch size':
             lambda: tf.function(run, signature, autograph=False)(*tensors),
             'under XLA (jit_compile=True)':
             lambda: tf.function(run, signature, autograph=False,
                                 jit_compile=True)(*tensors),
             'op by op (run_functions_eagerly)': lambda: _op_by_op(run, tensors)}
    for mode, compute in modes.items():
        # XLA rounds otherwise, and gradients sum up many terms.
        s.all_close(compute(), expected, mode, 'that in eager mode',
                    rtol=10 * s.rtol)


def _op_by_op(function, tensors):
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return function(*map(tf.identity, tensors))
    finally:
        tf.config.run_functions_eagerly(before)


@_check
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
        return (f'deepcopy raised {type(error).__name__}: {_brief(error)} Give a '
                '`factory`.')
    x, y, c = s.x_y_c()
    expected = s.answers(x, y, c)
    second = copy.copy(s)
    second.bijector = other
    second.__dict__.pop('variables', None)
    if not s.factory:
        s.all_close(second.answers(x, y, c), expected, 'of the deep copy',
                    'that of the original', rtol=0.)
    shared = {id(v) for v in s.variables} & {id(v) for v in second.variables}
    if shared:
        raise AssertionError(f'The other bijector computes with {len(shared)} of '
                             'the variables of the first.')
    second.move()
    if all(np.array_equal(value, expected[name]) for name, value in second.answers(
            *map(tf.identity, (x, y)), c).items()):
        raise AssertionError('The other bijector is not affected by its variables.')
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


@_check
def check_sample_log_prob(s):
    """Densities belong to samples, in `tfd.TransformedDistribution`.

    `experimental_sample_and_log_prob`, `log_prob` of a copy of the sample, and the
    density of the base plus the log-det agree. And, for a single condition, the
    importance weights p(y) / q(y) of a proposal q that is wider than the
    distribution average to 1.
    """
    distribution, c = s.distribution(), s.c()
    shape = s.batch_shape[:len(s.batch_shape) - len(s.own_batch)]
    y, log_prob = distribution.experimental_sample_and_log_prob(
        shape, seed=tfp.random.sanitize_seed([s.seed, 1]),
        bijector_kwargs=s.kwargs(c))
    y = tf.identity(y)
    expected = s.log_prob(distribution, tf.identity(y), c)
    s.close(log_prob, expected, 'The log_prob of experimental_sample_and_log_prob',
            'log_prob of a copy of the sample')
    by_hand = (distribution.distribution.log_prob(s.inverse(y, c))
               + s.ildj(tf.identity(y), c))
    s.close(by_hand, expected, 'base.log_prob(inverse(y)) + the log-det',
            'log_prob(y)')
    if s.own_batch or s.event_size > 3:
        return   # Rows of differing densities, or too few weights that count.
    c = s.c([])
    samples = s.sample(distribution, c, [4000]).numpy().astype(np.float64)
    if samples.shape[-1] != s.event_size:
        return
    proposal = _StudentT(samples)
    points, log_q = proposal.sample(20000, s.rng)
    inside = np.all((points > s.support[0]) & (points < s.support[1]), -1)
    weights = np.zeros(len(points))
    weights[inside] = np.exp(np.asarray(s.log_prob(
        distribution, tf.constant(points[inside], s.dtype), c), np.float64)
                             - log_q[inside])
    if not np.isfinite(weights).all():
        raise AssertionError('Densities are not finite for '
                             f'{_brief(points[~np.isfinite(weights)][0])}.')
    error = weights.std() / np.sqrt(len(weights))
    if abs(weights.mean() - 1) > 6 * error + 1e-3:
        raise AssertionError(
            f'The importance weights of a wide proposal average to '
            f'{weights.mean():.4g} +- {error:.2g}, not to 1: densities and samples '
            'do not belong together.')


class _StudentT:
    """A multivariate t distribution, fitted to samples and a bit wider."""

    dof = 4.

    def __init__(self, samples):
        size = samples.shape[-1]
        self.mean = samples.mean(0)
        covariance = np.atleast_2d(np.cov(samples.T))
        self.scale = np.linalg.cholesky(
            1.2 * covariance + 1e-9 * np.trace(covariance) * np.eye(size))

    def sample(self, count, rng):
        """Returns points `[count, D]` and their log-densities `[count]`."""
        size = len(self.mean)
        normal = rng.normal(size=[count, size])
        chi = rng.chisquare(self.dof, size=[count, 1])
        t = normal * np.sqrt(self.dof / chi)
        log_gamma = lambda z: float(tf.math.lgamma(tf.constant(z, tf.float64)))
        constant = (log_gamma((self.dof + size) / 2) - log_gamma(self.dof / 2)
                    - size / 2 * np.log(self.dof * np.pi)
                    - np.log(np.diag(self.scale)).sum())
        log_q = constant - (self.dof + size) / 2 * np.log1p(
            (t ** 2).sum(-1) / self.dof)
        return self.mean + t @ self.scale.T, log_q


@_check
def check_normalisation(s):
    """The density integrates to 1, up to 1e-3, on a grid in 1-D and 2-D."""
    if s.event_size > 2 or s.own_batch:
        return 'for event_size <= 2 and no batch shape'
    distribution, c = s.distribution(), s.c([])
    samples = s.sample(distribution, c, [4000]).numpy().astype(np.float64)
    if samples.shape[-1] != s.event_size:
        return 'y has another size than x'
    axes, spacings = zip(*(_grid(column, s, {1: 8000, 2: 500}[s.event_size])
                           for column in samples.T))
    points, spacings = (np.stack(np.meshgrid(*part, indexing='ij'), -1).reshape(
        [-1, s.event_size]) for part in (axes, spacings))
    density = np.exp(np.asarray(s.log_prob(
        distribution, tf.constant(points, s.dtype), c), np.float64))
    integral = (density * spacings.prod(-1)).sum()
    if not abs(integral - 1) < 1e-3:
        raise AssertionError(f'The density integrates to {integral:.5g}, not to 1.')


def _grid(samples, s, count):
    """Points and their spacings: dense among the samples, ever wider around."""
    low, high = s.support
    line = _from_line(low, high)
    samples = line.inverse(samples).numpy()
    samples = samples[np.isfinite(samples)]   # Not those rounded onto the ends.
    lower, middle, upper = np.quantile(samples, [0.25, 0.5, 0.75])
    width = upper - lower
    end = np.arcsinh(10 * np.max(np.abs(samples - middle)) / width)
    even = end * (2 * np.arange(count) + 1 - count) / count
    u = middle + width * np.sinh(even)
    points = line.forward(u).numpy().astype(s.dtype.as_numpy_dtype)
    spacings = (width * np.cosh(even) * 2 * end / count
                * np.exp(line.forward_log_det_jacobian(u, 0)))
    inside = (points > low) & (points < high)
    return points[inside], spacings[inside]


def _from_line(low, high):
    """A bijector from the real line onto the open interval."""
    low, high = np.float64(low), np.float64(high)
    if np.isfinite([low, high]).all():
        return tfb.Sigmoid(low, high)
    if np.isfinite(low):
        return tfb.Chain([tfb.Shift(low), tfb.Softplus()])
    if np.isfinite(high):
        return tfb.Chain([tfb.Shift(high), tfb.Scale(np.float64(-1)),
                          tfb.Softplus()])
    return tfb.Identity()


@_check
def check_independent_noise(s):
    """Samples for different conditions do not share noise.

    For equal conditions `[B, S]`, samples of a base without batch shape either
    differ, or are refused. Those of `bijector.condition(conditions)` differ.
    """
    if not s.conditional:
        return 'not conditional'
    count = 3
    c = _map(lambda leaf: tf.repeat(leaf, count, axis=0), s.c([1]))
    distribution = s.distribution()
    samples = {f'sample({shape})': _or_refused(
        lambda shape, c: s.sample(distribution, c, shape), shape, c)
               for shape in ([], [1], [count], [2, count])}
    if hasattr(s.bijector, 'condition'):
        given = tfd.TransformedDistribution(
            distribution.distribution, s.bijector.condition(c))
        for shape in ([], [1], [2]):
            samples[f'condition(...) and sample({shape})'] = given.sample(
                shape, seed=tfp.random.sanitize_seed([s.seed, 7]))
    for name, sample in samples.items():
        if sample is None:
            continue
        rows = sample.numpy().reshape([-1, sample.shape[-1]])
        if len(np.unique(rows, axis=0)) < len(rows):
            raise AssertionError(f'{name} with conditions of batch shape [{count}] '
                                 'gives equal samples: conditions share noise.')


def check_bijector(bijector, event_size=None, condition_size=None, checks=None,
                   skip=(), **options):
    """Runs every check that makes sense for the bijector.

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.testing

    report = tfpc.testing.check_bijector(
        tfp.bijectors.Tanh(), event_size=1, support=(-1., 1.))
    assert report['log_det'] == 'passed'
    assert report['checkpoint'] == 'skipped: no variables'
    ```

    Args:
      bijector: a `tfb.Bijector` whose events are vectors, `[..., D]`.
      event_size: `int` D; default `bijector.event_size`.
      condition_size: `int`, or nest of `int`; default `bijector.condition_size`
        where there is one, else the bijector is called without conditions.
      checks: names of those to run, keys of `tfpc.testing.CHECKS`; default all.
      skip: names of those to leave out.
      **options: as in every check, for which see `check_round_trip`.

    Returns:
      `dict`: name of a check -> `'passed'` or `'skipped: ...'` with the reason.

    Raises:
      CheckFailure: an `AssertionError` with the messages of all checks that
        failed; its `report` says `'failed: ...'` for them.
      ValueError: for names that are none of a check.
    """
    names = list(CHECKS if checks is None else checks)
    unknown = sorted({*names, *skip} - CHECKS.keys())
    if unknown:
        raise ValueError(f'`checks` and `skip` must be among {list(CHECKS)}; got '
                         f'{unknown}.')
    _Subject(bijector, event_size, condition_size, **options)   # Misuse raises.
    report, failures = {}, []
    for name in names:
        if name in skip:
            report[name] = 'skipped: by the caller'
            continue
        try:
            report[name] = CHECKS[name](bijector, event_size, condition_size,
                                        **options)
        except AssertionError as error:
            report[name] = f'failed: {error}'
            failures.append(f'  {error}')
    if failures:
        raise CheckFailure('\n'.join(
            [f'{len(failures)} of {len(names)} checks failed:', *failures]), report)
    return report


# Strategies. hypothesis draws shapes and seeds; arrays come from NumPy, since
# hypothesis would spend its time on shrinking single numbers.


def event_sizes(max_size=4):
    """Strategy of `int` D >= 1."""
    return st.integers(1, max_size)


def condition_sizes(max_size=3):
    """Strategy of `condition_size`: an `int`, a tuple of two, or a dict of two."""
    size = st.integers(1, max_size)
    return st.one_of(size, st.tuples(size, size),
                     st.fixed_dictionaries({'a': size, 'b': size}))


def dtypes():
    """Strategy of the dtypes in which checks are sharp."""
    return st.sampled_from([tf.float64, tf.float32])


def seeds():
    """Strategy of seeds for NumPy."""
    return st.integers(0, 2**32 - 1)


@st.composite
def batch_shapes(draw, max_dims=2, max_side=3):
    """Strategy of `(value_batch, conditions_batch)`, the second never the larger.

    ```python
    import hypothesis
    import tensorflow as tf
    import tfp_conditional as tfpc
    import tfp_conditional.testing

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))

    @hypothesis.settings(max_examples=3, deadline=None)
    @hypothesis.given(tfpc.testing.batch_shapes(), tfpc.testing.seeds())
    def test(shapes, seed):
        tfpc.testing.check_round_trip(flow, seed=seed, batch_shape=shapes[0],
                                      condition_batch_shape=shapes[1])

    test()
    ```

    Args:
      draw: given by hypothesis.
      max_dims: most batch axes.
      max_side: longest axis.

    Returns:
      Two tuples of `int`; `conditions_batch` broadcasts to `value_batch`.
    """
    value = draw(hnp.array_shapes(min_dims=0, max_dims=max_dims, min_side=1,
                                  max_side=max_side))
    dims = draw(st.integers(0, len(value)))
    conditions = tuple(draw(st.sampled_from(sorted({1, side})))
                       for side in value[len(value) - dims:])
    return value, conditions


def _normal(shape, dtype, seed):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


def events(event_size, batch_shape=(), dtype=tf.float32):
    """Strategy of events `[*batch_shape, event_size]`."""
    return seeds().map(
        lambda seed: _normal([*batch_shape, event_size], dtype, seed))


def conditions(condition_size, batch_shape=(), dtype=tf.float32):
    """Strategy of conditions, nested like `condition_size`: `[*batch_shape, S]`."""
    return seeds().map(lambda seed: tf.nest.pack_sequence_as(condition_size, [
        _normal([*batch_shape, size], dtype, [seed, i])
        for i, size in enumerate(tf.nest.flatten(condition_size))]))


def perturbed(factory, scale=0.5):
    """Strategy of the modules that `factory()` makes, each with other weights."""
    return seeds().map(lambda seed: perturb(factory(), scale, seed))
