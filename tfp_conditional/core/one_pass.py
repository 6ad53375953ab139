"""`OnePassBijector`: value and log-det from one pass, and nothing remembered.

TFP's `Bijector` asks a subclass for a value and for a log-det separately and
joins the two by a cache keyed by tensor identity, which knows nothing of
variable updates, tapes, graphs or arrays changed in place. Here both come from
one method per direction, and every answer is computed from the variables and
inputs as they are now.

`ConditionalTransformedDistribution` asks for both at once. TFP's own
`tfd.TransformedDistribution` asks for the inverse and then, in the same call, for
the density correction at the very tensor that it got: to that question alone the
pass before it answers. The log-det lies on that tensor, and is freed with it.
"""

import copy
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import _tfp
from tfp_conditional.core import compiled
from tfp_conditional.core.types import do_not_convert, TensorLike

tfd = tfp.distributions

FORWARD, INVERSE = 'forward', 'inverse'

_NOTE = '_tfp_conditional_note'   # Where a tensor keeps the log-det of its pass.


class OnePassBijector(_tfp.Picklable, tfp.bijectors.Bijector):
    """A bijector whose value and log-det come from one pass.

    A subclass writes `one_pass`, which all methods of TFP's come down to.

    Two such bijectors are equal only if they are the same object: equal
    hyperparameters do not make equal variables.
    """

    # Whether events may lie outside of what it maps onto, its log-det then -inf.
    has_edges = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(forward_min_event_ndims=1, **kwargs)
        self._compiled = compiled.CompiledMethods()

    def one_pass(self, direction: str, value: TensorLike,
                 kwargs: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        """The value and the log-det of a direction, always afresh.

        Args:
          direction: `FORWARD` or `INVERSE`.
          value: `[..., D]`, as it came from the caller.
          kwargs: `dict` of the keyword arguments of TFP's method.

        Returns:
          `[..., D']` and `[...]`.
        """
        raise NotImplementedError(
            f'{type(self).__name__} must implement `one_pass`.')

    def unchecked_pass(self, direction: str, value: tf.Tensor,
                       conditions: Any = None) -> tuple[tf.Tensor, tf.Tensor]:
        """`one_pass` on what was checked, for a chain to make one pass of many.

        Args:
          direction: `FORWARD` or `INVERSE`.
          value: tensor `[..., D]`.
          conditions: checked conditions, which unconditional bijectors ignore.

        Returns:
          The value, `[..., D']`, and the log-det, which broadcasts to `[...]`.
        """
        del conditions
        return self.one_pass(direction, value, {})

    # TFP's four public methods. They are overridden, rather than the private
    # ones beneath them, because TFP's own go through its cache.

    @do_not_convert
    def forward(self, x: TensorLike, name: str = 'forward', **kwargs: Any) -> tf.Tensor:
        """Returns `y = g(x)`; see the class for shapes."""
        return self._named_pass(FORWARD, x, name, kwargs)[0]

    @do_not_convert
    def inverse(self, y: TensorLike, name: str = 'inverse', **kwargs: Any) -> tf.Tensor:
        """Returns `x = g^-1(y)`; see the class for shapes."""
        x, ildj = self._named_pass(INVERSE, y, name, kwargs)
        if self.has_edges:    # Where there is no density there is no latent.
            x = tf.where(ildj[..., tf.newaxis] == -np.inf,
                         tf.constant(np.nan, x.dtype), x)
        if x is not y:
            setattr(x, _NOTE, _Note(self, kwargs, -ildj))
        return x

    @do_not_convert
    def forward_log_det_jacobian(self, x: TensorLike,
                                 event_ndims: int | tf.Tensor | None = None,
                                 name: str = 'forward_log_det_jacobian',
                                 **kwargs: Any) -> tf.Tensor:
        """Returns `log |det dg(x)/dx|`, summed over all but the batch axes."""
        return self._over_event(self._named_pass(FORWARD, x, name, kwargs)[1], event_ndims)

    @do_not_convert
    def inverse_log_det_jacobian(self, y: TensorLike,
                                 event_ndims: int | tf.Tensor | None = None,
                                 name: str = 'inverse_log_det_jacobian',
                                 **kwargs: Any) -> tf.Tensor:
        """Returns `log |det dg^-1(y)/dy|`, summed over all but the batch axes."""
        return self._over_event(self._named_pass(INVERSE, y, name, kwargs)[1], event_ndims)

    @do_not_convert
    def forward_and_log_det(self, x: TensorLike,
                            event_ndims: int | tf.Tensor | None = None,
                            name: str = 'forward_and_log_det',
                            **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `forward(x)` and `forward_log_det_jacobian(x)` from one pass."""
        y, log_det = self._named_pass(FORWARD, x, name, kwargs)
        return y, self._over_event(log_det, event_ndims)

    @do_not_convert
    def inverse_and_log_det(self, y: TensorLike,
                            event_ndims: int | tf.Tensor | None = None,
                            name: str = 'inverse_and_log_det',
                            **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `inverse(y)` and `inverse_log_det_jacobian(y)` from one pass."""
        x, log_det = self._named_pass(INVERSE, y, name, kwargs)
        return x, self._over_event(log_det, event_ndims)

    def experimental_compute_density_correction(self, x: tf.Tensor, tangent_space: Any,
                                                backward_compat: bool = False,
                                                **kwargs: Any) -> Any:
        """TFP's question for the log-det at what `inverse` has just returned.

        `tfd.TransformedDistribution.log_prob` asks it, in the call that asked for
        `inverse`, and nobody else does: see the module.
        """
        event_ndims = kwargs.get('event_ndims')
        note = vars(x).pop(_NOTE, None) if hasattr(x, _NOTE) else None
        given = {key: value for key, value in kwargs.items() if key != 'event_ndims'}
        if not (backward_compat and note is not None and note.answers(self, given)):
            return super().experimental_compute_density_correction(
                x, tangent_space, backward_compat=backward_compat, **kwargs)
        return tangent_space.transform_dimension_preserving(
            x, _Answered(self, self._over_event(note.log_det, event_ndims)), **kwargs)

    def __call__(self, value: Any, name: str | None = None, **kwargs: Any) -> Any:
        """`flow(base)`: a `ConditionalTransformedDistribution` of a distribution.

        Of a bijector it makes a `tfb.Chain`, and of a tensor `forward`, as TFP does.
        """
        if isinstance(value, tfd.Distribution):
            # It is built on this class, as TFP's distributions are on bijectors.
            from tfp_conditional.core import distribution
            return distribution.ConditionalTransformedDistribution(
                value, self, name=name, **kwargs)
        return super().__call__(value, name=name, **kwargs)

    def _named_pass(self, direction, value, name, kwargs):
        with tf.name_scope(f'{self.name}/{name}'):
            return self.one_pass(direction, value, kwargs)

    def _over_event(self, log_det, event_ndims):
        """Sums the log-det of vectors over the further axes of an event."""
        if event_ndims is None:
            return log_det
        static = tf.get_static_value(event_ndims)
        if static is None or int(static) < 1:
            raise ValueError(
                f'`event_ndims` must be a static integer >= 1, since {self.name} '
                f'transforms vectors; got {event_ndims}. If this came from a '
                '`TransformedDistribution`, its base has scalar events: wrap it '
                'as `tfd.Independent(base, 1)`.')
        if static > 1:
            log_det = tf.reduce_sum(log_det, axis=list(range(1 - int(static), 0)))
        return log_det

    def _event_shape(self, shape, size, new_size):
        """The shape after this, of events whose last dimension is to be `size`."""
        if shape.rank is None:
            return shape
        if shape.rank == 0 or shape[-1] not in (None, size):
            hint = ('' if shape.rank else ' Its events are scalars: wrap the base '
                    'distribution as `tfd.Independent(base, 1)`.')
            raise ValueError(
                f'Events of {self.name!r} must have last dimension {size}; got '
                f'event shape {shape.as_list()}.{hint}')
        return shape[:-1] + [new_size]

    # TFP's internal hooks, for code that calls them without the public ones.

    def _forward(self, x, **kwargs):
        return self.one_pass(FORWARD, x, kwargs)[0]

    def _inverse(self, y, **kwargs):
        return self.one_pass(INVERSE, y, kwargs)[0]

    def _forward_log_det_jacobian(self, x, **kwargs):
        return self.one_pass(FORWARD, x, kwargs)[1]

    def _inverse_log_det_jacobian(self, y, **kwargs):
        return self.one_pass(INVERSE, y, kwargs)[1]

    # Identity and copies.

    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__

    def __copy__(self):
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__, _compiled=compiled.CompiledMethods())
        return clone

    def copy(self, **overrides: Any) -> Any:
        """Returns another bijector over the same variables.

        Args:
          **overrides: `name` or `validate_args` change that of the copy. Any
            other argument of the constructor makes a new bijector from
            `parameters`, with new variables.

        Returns:
          A bijector of the same type. For independent variables use
          `copy.deepcopy`.
        """
        if overrides.keys() - {'name', 'validate_args'}:
            return super().copy(**overrides)
        clone = copy.copy(self)
        for key, value in overrides.items():
            object.__setattr__(clone, '_' + key, value)
        if self.parameters is not None:
            object.__setattr__(clone, '_parameters',
                               {**self.parameters, **overrides})
        return clone


class _Note:
    """The log-det of a pass, and what it was a pass of; holds nothing else alive."""

    def __init__(self, bijector, kwargs, log_det):
        self._bijector, self.log_det = weakref.ref(bijector), log_det
        try:
            self._kwargs = {
                key: [weakref.ref(leaf) for leaf in tf.nest.flatten(value)]
                for key, value in kwargs.items()}
        except TypeError:      # A list of numbers: it answers nothing.
            self._kwargs = None

    def answers(self, bijector, kwargs):
        """Whether these are the bijector and the very keyword arguments it is of."""
        return (self._kwargs is not None and self._bijector() is bijector
                and kwargs.keys() == self._kwargs.keys() and all(
                    len(leaves := tf.nest.flatten(kwargs[key])) == len(refs)
                    and all(ref() is leaf for ref, leaf in zip(refs, leaves))
                    for key, refs in self._kwargs.items()))


class _Answered:
    """A bijector whose log-det is known."""

    def __init__(self, bijector, log_det):
        self._bijector, self._log_det = bijector, log_det

    def forward_log_det_jacobian(self, x, event_ndims=None, **kwargs):
        return self._log_det

    def __getattr__(self, name):
        return getattr(self._bijector, name)
