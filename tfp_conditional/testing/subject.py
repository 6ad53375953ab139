"""`Subject`: a bijector, inputs for it, and the questions that checks ask of it."""

from collections.abc import Callable, Sequence
import contextlib
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core.types import DType, Sizes

tfb, tfd = tfp.bijectors, tfp.distributions

# Relative tolerances of values; those of log-dets, which add up many terms, and
# of gradients are ten times as large in float64.
RTOL = {tf.float64: 1e-10, tf.float32: 1e-5, tf.float16: 1e-2, tf.bfloat16: 5e-2}


def perturb(module: Any, scale: float = 0.5, seed: int = 0) -> Any:
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


class Subject:
    """A bijector, its inputs, and the questions that checks ask of it.

    `x [*batch, D]`, `conditions [*condition_batch, S]`.
    """

    def __init__(self, bijector: tfp.bijectors.Bijector, event_size: int | None = None,
                 condition_size: Sizes | None = None, *, seed: int = 0,
                 dtype: DType | None = None, rtol: float | None = None,
                 batch_shape: Sequence[int] = (4,),
                 condition_batch_shape: Sequence[int] | None = None,
                 perturb_scale: float = 0.5,
                 domain: tfp.bijectors.Bijector | None = None,
                 support: tuple[float, float] = (-np.inf, np.inf),
                 factory: Callable[[], tfp.bijectors.Bijector] | None = None,
                 make_kwargs: Callable[[Any], dict[str, Any]] | None = None) -> None:
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
        return map_parts(lambda size: tf.constant(
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

    def answers(self, x, y, c, one_pass=False):
        """What the four methods say; with `one_pass`, by two passes if it can."""
        if one_pass and hasattr(self.bijector, 'forward_and_log_det'):
            kwargs = self.kwargs(c)
            value, fldj = self.bijector.forward_and_log_det(x, 1, **kwargs)
            back, ildj = self.bijector.inverse_and_log_det(y, 1, **kwargs)
            return {'forward': value, 'inverse': back,
                    'forward_log_det_jacobian': fldj,
                    'inverse_log_det_jacobian': ildj}
        return {'forward': self.forward(x, c), 'inverse': self.inverse(y, c),
                'forward_log_det_jacobian': self.fldj(x, c),
                'inverse_log_det_jacobian': self.ildj(y, c)}

    def objective(self, direction, value, c):
        """A scalar that depends on all that a direction computes."""
        ask, log_det = ((self.forward, self.fldj) if direction == 'forward'
                        else (self.inverse, self.ildj))
        return scalar(ask(value, c)) + scalar(log_det(tf.identity(value), c))

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
            raise AssertionError(f'{what} is {brief(actual)}, but {than} is '
                                 f'{brief(expected)}.')
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
                raise AssertionError(f'{name} is not finite: {brief(values)}.')
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


def scalar(tensor):
    return tf.reduce_sum(tensor * tf.cos(tensor))


def map_parts(function, conditions):
    """`tf.nest.map_structure`, where an unconditional bijector's are `None`."""
    return (None if conditions is None
            else tf.nest.map_structure(function, conditions))


def brief(value):
    text = ' '.join(str(value).split())
    return text if len(text) < 300 else text[:300] + ' ...'


def op_by_op(function, *args):
    """`function(*args)`, of which no part runs as a compiled function."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return function(*args)
    finally:
        tf.config.run_functions_eagerly(before)


def or_refused(ask, value, c):
    try:
        return ask(value, c)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError):
        return None
