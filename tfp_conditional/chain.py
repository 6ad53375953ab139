"""`ConditionalChain`: composition that hands `conditions` to every part."""

import contextlib

import numpy as np
import tensorflow as tf

from tfp_conditional import _tfp
from tfp_conditional import bijector as bijector_lib
from tfp_conditional import conditions as conditions_lib
from tfp_conditional import networks
from tfp_conditional import one_pass
from tfp_conditional import settings
from tfp_conditional.one_pass import FORWARD, INVERSE

_CHUNK = 4096   # Rows that meet a network at once.
# Numbers (targets and conditions) that parts which depend on conditions adapt to, and
# the least number of rows: enough for means within 1% of a standard deviation.
_ADAPTATION_NUMBERS, _ADAPTATION_ROWS = 10**7, 10**4


class ConditionalChain(bijector_lib.ConditionalBijector):
    """`y = b_1(b_2(... b_n(x; c) ...))`, conditional and stock parts mixed freely.

    ```none
    forward:  x -> b_n -> ... -> b_1 -> y     log-det =  sum of the parts'
    inverse:  y -> b_1^-1 -> ... -> b_n^-1 -> x
    ```

    As in `tfb.Chain` the last bijector is applied first. Every
    `ConditionalBijector` among the parts, also inside `tfb.Invert` and
    `tfb.Chain`, is given the conditions; stock bijectors are called without.

    Events on the edge of what a stock part such as a `tfb.Sigmoid` maps onto, or
    outside, are the image of no finite number: their latents are NaN, their density is
    0, its logarithm -inf, and rows beside them keep their gradients. For densities on
    the edges themselves see `Squash`.

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfb = tfp.bijectors

    flow = tfpc.ConditionalChain([
        tfb.Tanh(),
        tfpc.ConditionalCoupling(event_size=4, condition_size=3),
        tfb.Permute([3, 2, 1, 0]),
        tfpc.ConditionalCoupling(event_size=4, condition_size=3),
    ])
    y = flow.forward(tf.ones([5, 4]), conditions=tf.ones([5, 3]))
    ```
    """

    def __init__(self, bijectors, validate_args=False, parameters=None,
                 name='conditional_chain'):
        """Constructs the composition.

        Args:
          bijectors: sequence of `tfb.Bijector`, at least one of them conditional.
            All conditional ones have the same `condition_size` and dtype, and
            events stay vectors throughout.
          validate_args: `bool`, whether to check that values are finite.
          parameters: `dict` of a subclass' own arguments, as in `tfb.Bijector`.
          name: `str`.

        Raises:
          TypeError: for a part that is no `tfb.Bijector`.
          ValueError: for no parts, none conditional, or parts that do not fit.
        """
        parameters = dict(locals()) if parameters is None else parameters
        bijectors = tuple(bijectors)
        if not bijectors:
            raise ValueError('`bijectors` must hold at least one bijector.')
        for i, part in enumerate(bijectors):
            if not isinstance(part, _tfp.tfb.Bijector):
                raise TypeError(f'`bijectors[{i}]` must be a tfb.Bijector; got '
                                f'{type(part).__name__}.')
            _refuse_hidden(part, f'bijectors[{i}]')
        steps = [(part, direction) for bijector in reversed(bijectors)
                 for part, direction in _flatten(bijector, FORWARD)]
        first = _common(steps)
        event_size, output_event_size = _event_sizes(steps)
        self._bijectors = bijectors
        self._directions = tuple(direction for _, direction in steps)
        self._steps = tuple(part for part, _ in steps)
        super().__init__(
            event_size, first.condition_size, output_event_size=output_event_size,
            is_constant_jacobian=all(part.is_constant_jacobian for part, _ in steps),
            dtype=first.dtype, validate_args=validate_args, parameters=parameters,
            name=name)
        tracked = {id(variable) for variable in self.trainable_variables}
        self._untracked_variables = [variable for variable in self._stock_variables()
                                     if id(variable) not in tracked]
        # The places, from the data side, of the parts that not all events go through.
        self._bounded = self._no_dependency(self._find_bounded())
        self._has_edges = bool(self._bounded)
        self._settings = settings.Settings(self.name, bijectors=bijectors)

    def _stock_variables(self):
        """The trainable variables that stock parts read, wherever they keep them.

        TFP's own networks keep theirs in closures, where nothing finds them.
        """
        read, size = [], self.event_size
        for part, direction in zip(self._steps, self._directions):
            new_size = _next_size(part, direction, size)
            if not isinstance(part, one_pass.OnePassBijector):
                with tf.GradientTape() as tape:
                    _trace(part, direction, tf.TensorSpec([1, size], self.dtype))
                read += tape.watched_variables()
            size = new_size
        return read

    def _find_bounded(self):
        """Place -> vector inside of what the part maps onto, of stock parts with edges."""
        found, size = {}, self._output_event_size
        for i, (part, direction) in enumerate(self._inverse_steps()):
            new_size = _next_size(part, direction, size)
            if not isinstance(part, one_pass.OnePassBijector):
                # No part that is defined for all numbers is undefined for these.
                probe = tf.constant([[-1e4] * size, [1e4] * size], self.dtype)
                # As a function, since TFP's own networks may have been traced as one.
                run = tf.function(lambda ask, x: ask(x), autograph=False)
                with tf.init_scope(), _tfp.uncached(), contextlib.suppress(
                        tf.errors.InvalidArgumentError):
                    if np.isnan(run(getattr(part, direction), probe)).any():
                        found[i] = run(getattr(part, _opposite(direction)), tf.zeros(
                            [new_size], self.dtype)).numpy()
            size = new_size
        return found

    def __deepcopy__(self, memo):
        clone = networks.copy_attributes(self, memo)
        own = {id(variable) for variable in self.trainable_variables}
        shared = [v.name for v in clone._stock_variables() if id(v) in own]
        if shared:
            raise TypeError(
                f'{self.name!r} cannot be copied: its stock parts keep the variables '
                f"{shared} in closures, so a copy would go on computing with the "
                "original's. Use the parts of this package, or a tf.Module.")
        return clone

    @property
    def bijectors(self):
        """The parts, in the order given; the last is applied first."""
        return tuple(self._bijectors)

    @property
    def adapted(self):
        """`bool`, whether no part is left that `adapt` would change."""
        return not _unadapted(self._inverse_steps())

    def adapt(self, y, conditions=None):
        """Lets parts that have an `adapt` learn from data what gradients do not.

        From the data side to the noise side, each such part that has not `adapted`
        does so, and passes the data on. One in `tfb.Invert` is left as it is.

        Args:
          y: `[..., D]`, events.
          conditions: nest of `[..., S]`.

        Raises:
          TypeError, ValueError: as `inverse` does, or as a part's `adapt` does.
        """
        self.adapt_batches([(y, conditions)])

    def adapt_batches(self, batches):
        """`adapt`, to data in batches, the shapes of whose conditions may differ.

        This is what `fit` calls, and `adapt` for its one batch.

        Args:
          batches: list of pairs (y, conditions).
        """
        _adapt(self._inverse_steps(), [check_data(self, *pair) for pair in batches])

    def _forward_and_log_det(self, x, conditions):
        return self._walk(zip(self._steps, self._directions), x, conditions)

    def _inverse_and_log_det(self, y, conditions):
        return self._walk(self._inverse_steps(), y, conditions, self._bounded)

    def _inverse_steps(self):
        return [(part, _opposite(direction)) for part, direction in
                zip(self._steps[::-1], self._directions[::-1])]

    def _walk(self, steps, value, conditions, bounded=()):
        total = None
        for i, (part, direction) in enumerate(steps):
            if i in bounded:
                value, log_det = _step_inside(part, direction, value, bounded[i])
            else:
                value, log_det = _step(part, direction, value, conditions)
            total = log_det if total is None else total + log_det
        return value, total


def adapted(bijector):
    """Whether nothing in any bijector is left that `adapt` would change."""
    return not _unadapted(_flatten(bijector, INVERSE))


def has_learnt(bijector):
    """Whether any part of a bijector has adapted to data."""
    return any(getattr(part, 'adapted', False) and not hasattr(part, 'adapt_batches')
               for part in (bijector, *bijector.submodules) if hasattr(part, 'adapt'))


def adapt(bijector, y, conditions=None):
    """`ConditionalChain.adapt` for any bijector, also one that has no `adapt`."""
    adapt_batches(bijector, [(y, conditions)])


def adapt_batches(bijector, batches):
    """`ConditionalChain.adapt_batches` for any bijector."""
    _adapt(_flatten(bijector, INVERSE), batches)


def check_data(bijector, y, conditions):
    """Events and conditions as tensors that suit a conditional bijector."""
    conditions = bijector._condition_spec.check(
        conditions, bijector.name, lossless=True)
    y = conditions_lib.check_last_dimension(
        conditions_lib.as_tensor(y, bijector.dtype, 'y', lossless=True),
        bijector._output_event_size, 'y')
    return bijector._align(INVERSE, y, conditions), conditions


def check_support(bijector, y, label):
    """Raises where events have no finite image under the stock parts they meet first.

    Args:
      bijector: any `tfb.Bijector`.
      y: finite tensor `[N, ...]`, events in rows.
      label: `str`, its name in messages.
    """
    events, passed = y, []
    for part, direction in _opened(_flatten(bijector, INVERSE)):
        if hasattr(part, 'adapt') or isinstance(
                part, bijector_lib.ConditionalBijector):
            return
        step, (first, *others) = getattr(part, direction), chunks(y)
        with tf.GradientTape() as tape:
            images = [step(tf.identity(first))]
        if tape.watched_variables():   # A network, slow to run and without edges.
            return
        y = tf.concat(images + [step(tf.identity(chunk)) for chunk in others], axis=0)
        passed.append((part, _opposite(direction)))
        finite = np.isfinite(y).reshape(len(y), -1).all(-1)
        if not finite.all():
            raise ValueError(
                f'{np.sum(~finite)} of {len(y)} rows of `{label}`, the first of them '
                f'row {np.argmin(finite)}, lie on the edge of the support of '
                f'{part.name!r}{_edges(passed, events, y)}, or outside: they are the '
                'image of no finite number, and have no finite density. Move them '
                'inside, drop them, or make the support wider.')


def _edges(passed, events, images):
    """In words, from where to where parts map, if they map units one by one."""
    if events.shape != images.shape:
        return ''
    ends = []
    for sign in (-1., 1.):
        end = tf.fill(images.shape[1:], tf.constant(sign * np.inf, images.dtype))
        for part, direction in passed[::-1]:
            end = getattr(part, direction)(end)
        ends.append(end)
    low, high = np.sort(ends, axis=0)
    if np.isnan([low, high]).any():
        return ''
    low, high = (np.array2string(x, separator=', ', threshold=8) for x in (low, high))
    return f', from {low} to {high}'


def _adapt(steps, batches):
    waiting = _unadapted(steps)
    for i, (part, direction) in enumerate(steps[:max(waiting, default=-1) + 1]):
        is_conditional = isinstance(part, bijector_lib.ConditionalBijector)
        if i in waiting:
            if hasattr(part, 'adapt_batches'):
                part.adapt_batches(batches)
            elif is_conditional:
                part.adapt(*_joined(fewer(batches), part))
            else:   # All rows, for what depends on extremes.
                part.adapt(tf.concat([y for y, _ in batches], axis=0), None)
        if i < waiting[-1]:
            if is_conditional:
                batches = fewer(batches)
            batches = [(_step(part, direction, y, conditions)[0], conditions)
                       for batch in batches for y, conditions in chunks(batch)]


def _joined(batches, part):
    """Batches as one."""
    if len(batches) == 1:
        return batches[0]
    try:
        return _map(lambda *parts: tf.concat(parts, 0), *batches)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f'{part.name!r} adapts to conditions of one shape; got batches of several. '
            'Put it into a `ConditionalEmbedding`, which makes vectors of them.'
        ) from error


def fewer(batches):
    """Batches, or so many of their rows, at random, as networks are to meet."""
    leaves = [_leaves(batch) for batch in batches]
    counts = [len(parts[0]) for parts in leaves]
    count = sum(counts)
    numbers = sum(int(tf.size(x)) for parts in leaves for x in parts)
    keep = max(_ADAPTATION_ROWS, _ADAPTATION_NUMBERS * count // numbers)
    if count <= keep or not all(map(_in_rows, batches)):
        return batches
    kept = np.sort(np.random.default_rng(0).choice(count, keep, replace=False))
    starts = np.cumsum([0, *counts])
    parts = np.split(kept, np.searchsorted(kept, starts[1:-1]))
    return [_map(lambda x: tf.gather(x, rows - start), batch)
            for batch, rows, start in zip(batches, parts, starts) if len(rows)]


def chunks(batch):
    """A nest of tensors as several, of so few rows that networks may meet them."""
    if not _in_rows(batch):
        return [batch]
    return [_map(lambda x: x[i:i + _CHUNK], batch)
            for i in range(0, len(_leaves(batch)[0]), _CHUNK)]


def _in_rows(batch):
    """Whether all tensors have the rows of the first, the events."""
    first, *others = _leaves(batch)
    return first.shape.rank > 1 and all(
        x.shape.rank > 1 and len(x) == len(first) for x in others)


def _leaves(batch):
    return [x for x in tf.nest.flatten(batch) if x is not None]


def _map(function, *batches):
    return tf.nest.map_structure(
        lambda x, *more: x if x is None else function(x, *more), *batches)


def _unadapted(steps):
    """The indices of the parts, met from their data side, that are to adapt."""
    return [i for i, (part, direction) in enumerate(steps)
            if direction == INVERSE and hasattr(part, 'adapt')
            and not getattr(part, 'adapted', False)]


def _opposite(direction):
    return INVERSE if direction == FORWARD else FORWARD


def _flatten(bijector, direction):
    """The parts of nested `tfb.Chain` and `tfb.Invert`, in order of application."""
    if isinstance(bijector, _tfp.Invert):
        return _flatten(bijector.bijector, _opposite(direction))
    if isinstance(bijector, _tfp.Chain):
        parts = bijector.bijectors
        return [step for part in (reversed(parts) if direction == FORWARD else parts)
                for step in _flatten(part, direction)]
    return [(bijector, direction)]


def _opened(steps):
    """Steps, with the parts of conditional chains and embedded ones in their place."""
    for part, direction in steps:
        if isinstance(part, ConditionalChain):
            yield from _opened(part._inverse_steps() if direction == INVERSE else
                               zip(part._steps, part._directions))
        elif hasattr(part, 'embedding'):
            yield from _opened([(part.bijector, direction)])
        else:
            yield part, direction


def _step(part, direction, value, conditions):
    """One pass of one part: the value and the log-det `[...]` in that direction."""
    if isinstance(part, bijector_lib.ConditionalBijector):
        return part._pass(direction, value, conditions)
    if isinstance(part, one_pass.OnePassBijector):
        return part._run(direction, value, {})
    # A copy, since a stock part's cache would answer from before the last update
    # of its variables if it had met this very tensor.
    value = tf.identity(value)
    with _tfp.uncached():
        if direction == FORWARD:
            return part.forward(value), part.forward_log_det_jacobian(value, 1)
        return part.inverse(value), part.inverse_log_det_jacobian(value, 1)


def _step_inside(part, direction, value, inside):
    """`_step` of a stock part with edges: the log-det is -inf on them and outside.

    There, the part is asked at a vector inside instead, or its gradients, times 0,
    would be NaN.
    """
    def is_outside(image):
        return tf.reduce_any(tf.math.is_inf(image) | tf.math.is_nan(image), -1)

    with _tfp.uncached():
        image = getattr(part, direction)(tf.identity(value))
    outside = is_outside(image) & ~is_outside(value)
    value, log_det = _step(part, direction, tf.where(
        outside[..., tf.newaxis], inside, value), None)
    return value, tf.where(outside, tf.constant(-np.inf, log_det.dtype), log_det)


def _refuse_hidden(part, label):
    """Raises for conditional parts where the chain does not look for them."""
    if isinstance(part, (bijector_lib.ConditionalBijector,
                         bijector_lib.ConditionedBijector)):
        return
    is_open = isinstance(part, (_tfp.Chain, _tfp.Invert))
    for inner in tf.nest.flatten(list(part.parameters.values())):
        if isinstance(inner, bijector_lib.ConditionalBijector) and not is_open:
            raise ValueError(
                f'`{label}`, {part.name!r}, holds the conditional {inner.name!r}, '
                'where a ConditionalChain does not look for it: it looks into '
                '`tfb.Chain` and `tfb.Invert` only. Give it a conditional part that acts on all '
                'units, such as a ConditionalCoupling with a `mask`.')
        if isinstance(inner, _tfp.tfb.Bijector):
            _refuse_hidden(inner, label)


def _trace(part, direction, spec):
    """Traces a stock part, which is to need nothing but events."""
    try:
        with _tfp.uncached():
            tf.function(getattr(part, direction), autograph=False
                        ).get_concrete_function(spec)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{part.name!r} must map events without keyword arguments of its own: a '
            'ConditionalChain passes on `conditions`, to conditional parts, and '
            'nothing else. For an autoregressive flow of conditions use '
            f'ConditionalMaskedAutoregressiveFlow. It says: {error}') from error


def _common(steps):
    """The first conditional part, once all agree on conditions and dtype."""
    parts = [part for part, _ in steps
             if isinstance(part, bijector_lib.ConditionalBijector)]
    if not parts:
        raise ValueError('`bijectors` must hold at least one ConditionalBijector; '
                         'for none, use `tfb.Chain`.')
    for part in parts[1:]:
        if part._condition_spec != parts[0]._condition_spec:
            raise ValueError(
                'Conditional parts of a chain must have the same condition_size and '
                f'dtype; got {parts[0].condition_size}, {parts[0].dtype.name} in '
                f'{parts[0].name!r} and {part.condition_size}, {part.dtype.name} in '
                f'{part.name!r}.')
    return parts[0]


def _event_sizes(steps):
    """The last dimension of events before the first step and after the last."""
    at = next(i for i, (part, _) in enumerate(steps)
              if isinstance(part, bijector_lib.ConditionalBijector))
    part, direction = steps[at]
    size = part.event_size if direction == FORWARD else part._output_event_size
    start = end = size
    for part, direction in steps[:at][::-1]:
        start = _next_size(part, _opposite(direction), start)
    for part, direction in steps[at:]:
        end = _next_size(part, direction, end)
    return start, end


def _next_size(part, direction, size):
    try:
        shape = (part.forward_event_shape([size]) if direction == FORWARD
                 else part.inverse_event_shape([size]))
        shape = tf.TensorShape(shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{part.name!r} does not fit into the chain, where events '
                         f'have size {size}: {error}') from error
    if shape.rank != 1 or shape[0] is None:
        raise ValueError(f'{part.name!r} turns events of shape [{size}] into '
                         f'{shape}; all parts of a ConditionalChain must map vectors '
                         'of static size to such vectors.')
    return shape[0]
