"""`ConditionalChain`: composition that hands `conditions` to every part."""

from collections.abc import Sequence
import contextlib
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import settings
from tfp_conditional.bijectors import steps as steps_lib
from tfp_conditional.core import _tfp
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import one_pass
from tfp_conditional.core.one_pass import FORWARD, INVERSE
from tfp_conditional.core.types import Conditions, TensorLike
from tfp_conditional.networks import custom


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

    def __init__(self, bijectors: Sequence[tfp.bijectors.Bijector],
                 validate_args: bool = False, parameters: dict[str, Any] | None = None,
                 name: str = 'conditional_chain') -> None:
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
                 for part, direction in steps_lib.flatten(bijector, FORWARD)]
        first = steps_lib.common(steps)
        event_size, output_event_size = steps_lib.event_sizes(steps)
        self._bijectors = bijectors
        self._directions = tuple(direction for _, direction in steps)
        self._parts = tuple(part for part, _ in steps)
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
        self.has_edges = bool(self._bounded)
        self._settings = settings.Settings(self.name, bijectors=bijectors)

    def _stock_variables(self):
        """The trainable variables that stock parts read, wherever they keep them.

        TFP's own networks keep theirs in closures, where nothing finds them.
        """
        read, size = [], self.event_size
        for part, direction in self.steps(FORWARD):
            new_size = steps_lib.next_size(part, direction, size)
            if not isinstance(part, one_pass.OnePassBijector):
                with tf.GradientTape() as tape:
                    _trace(part, direction, tf.TensorSpec([1, size], self.dtype))
                read += tape.watched_variables()
            size = new_size
        return read

    def _find_bounded(self):
        """Place -> vector inside of what the part maps onto, of stock parts with edges."""
        found, size = {}, self.output_event_size
        for i, (part, direction) in enumerate(self.steps(INVERSE)):
            new_size = steps_lib.next_size(part, direction, size)
            if not isinstance(part, one_pass.OnePassBijector):
                # No part that is defined for all numbers is undefined for these.
                probe = tf.constant([[-1e4] * size, [1e4] * size], self.dtype)
                # As a function, since TFP's own networks may have been traced as one.
                run = tf.function(lambda ask, x: ask(x), autograph=False)
                with tf.init_scope(), _tfp.uncached(), contextlib.suppress(
                        tf.errors.InvalidArgumentError):
                    if np.isnan(run(getattr(part, direction), probe)).any():
                        back = getattr(part, steps_lib.opposite(direction))
                        found[i] = run(back, tf.zeros([new_size], self.dtype)).numpy()
            size = new_size
        return found

    def __deepcopy__(self, memo):
        clone = custom.copy_attributes(self, memo)
        own = {id(variable) for variable in self.trainable_variables}
        shared = [v.name for v in clone._stock_variables() if id(v) in own]
        if shared:
            raise TypeError(
                f'{self.name!r} cannot be copied: its stock parts keep the variables '
                f"{shared} in closures, so a copy would go on computing with the "
                "original's. Use the parts of this package, or a tf.Module.")
        return clone

    @property
    def bijectors(self) -> tuple[tfp.bijectors.Bijector, ...]:
        """The parts, in the order given; the last is applied first."""
        return tuple(self._bijectors)

    @property
    def adapted(self) -> bool:
        """`bool`, whether no part is left that `adapt` would change."""
        return not adapt_lib.unadapted(self.steps(INVERSE))

    def adapt(self, y: TensorLike, conditions: Conditions | None = None) -> None:
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

    def adapt_batches(self, batches: list[tuple[Any, Any]]) -> None:
        """`adapt`, to data in batches, the shapes of whose conditions may differ.

        This is what `fit` calls, and `adapt` for its one batch.

        Args:
          batches: list of pairs (y, conditions).
        """
        adapt_lib.adapt_steps(self.steps(INVERSE), [
            adapt_lib.check_data(self, *pair) for pair in batches])

    def _forward_and_log_det(self, x, conditions):
        return self._compose(self.steps(FORWARD), x, conditions)

    def _inverse_and_log_det(self, y, conditions):
        return self._compose(self.steps(INVERSE), y, conditions, self._bounded)

    def steps(self, direction: str) -> list[tuple[tfp.bijectors.Bijector, str]]:
        """The parts in order of application, each with its own direction: a list."""
        steps = list(zip(self._parts, self._directions))
        return steps if direction == FORWARD else [
            (part, steps_lib.opposite(own)) for part, own in steps[::-1]]

    def _compose(self, steps, value, conditions, bounded=()):
        total = None
        for i, (part, direction) in enumerate(steps):
            if i in bounded:
                value, log_det = steps_lib.step_inside(part, direction, value,
                                                       bounded[i])
            else:
                value, log_det = steps_lib.step(part, direction, value, conditions)
            total = log_det if total is None else total + log_det
        return value, total


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
