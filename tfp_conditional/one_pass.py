"""`OnePassBijector`: value and log-det from one pass, and nothing remembered.

TFP's `Bijector` asks a subclass for a value and for a log-det separately and
joins the two by a cache keyed by tensor identity, which knows nothing of
variable updates, tapes, graphs or arrays changed in place. Here both come from
one method per direction, every answer is computed from the variables and inputs
as they are now, and only the two questions that make up one call of
`tfd.TransformedDistribution` share a pass (see `_tfp.density_call`).
"""

import collections
import copy
import weakref

import tensorflow as tf

from tfp_conditional import _tfp

tfb = _tfp.tfb

FORWARD, INVERSE = 'forward', 'inverse'

_Memo = collections.namedtuple('_Memo', 'call x y kwargs fldj')


class _Transient:
    """What a bijector may hold but never copies, saves or tracks."""

    def __init__(self):
        self.memo = None
        self.functions = {}

    def __deepcopy__(self, memo):
        return type(self)()

    def __reduce__(self):
        return type(self), ()


class OnePassBijector(tfb.Bijector):
    """A bijector whose value and log-det come from one pass.

    A subclass writes `_run(direction, value, kwargs)`, which returns the value
    and the log-det of that direction, `([..., D'], [...])`, always afresh.

    Two such bijectors are equal only if they are the same object: equal
    hyperparameters do not make equal variables.
    """

    def __init__(self, **kwargs):
        super().__init__(forward_min_event_ndims=1, **kwargs)
        self._transient = _Transient()

    def _run(self, direction, value, kwargs):
        raise NotImplementedError(
            f'{type(self).__name__} must implement `_run`.')

    # TFP's four public methods. They are overridden, rather than the private
    # ones beneath them, because TFP's own go through its cache.

    @tf.autograph.experimental.do_not_convert
    def forward(self, x, name='forward', **kwargs):
        """Returns `y = g(x)`; see the class for shapes."""
        return self._ask(FORWARD, x, name, kwargs)[0]

    @tf.autograph.experimental.do_not_convert
    def inverse(self, y, name='inverse', **kwargs):
        """Returns `x = g^-1(y)`; see the class for shapes."""
        return self._ask(INVERSE, y, name, kwargs)[0]

    @tf.autograph.experimental.do_not_convert
    def forward_log_det_jacobian(self, x, event_ndims=None,
                                 name='forward_log_det_jacobian', **kwargs):
        """Returns `log |det dg(x)/dx|`, summed over all but the batch axes."""
        return self._ask_log_det(FORWARD, x, event_ndims, name, kwargs)

    @tf.autograph.experimental.do_not_convert
    def inverse_log_det_jacobian(self, y, event_ndims=None,
                                 name='inverse_log_det_jacobian', **kwargs):
        """Returns `log |det dg^-1(y)/dy|`, summed over all but the batch axes."""
        return self._ask_log_det(INVERSE, y, event_ndims, name, kwargs)

    @tf.autograph.experimental.do_not_convert
    def forward_and_log_det(self, x, name='forward_and_log_det', **kwargs):
        """Returns `forward(x)` and `forward_log_det_jacobian(x)` from one pass."""
        with tf.name_scope(f'{self.name}/{name}'):
            return self._run(FORWARD, x, kwargs)

    @tf.autograph.experimental.do_not_convert
    def inverse_and_log_det(self, y, name='inverse_and_log_det', **kwargs):
        """Returns `inverse(y)` and `inverse_log_det_jacobian(y)` from one pass."""
        with tf.name_scope(f'{self.name}/{name}'):
            return self._run(INVERSE, y, kwargs)

    def _ask(self, direction, value, name, kwargs):
        """Answers from the pass of this very density call, or by a new one."""
        call = _tfp.density_call()
        memo = self._transient.memo
        if (memo is not None and memo.call is call
                and value is (memo.x if direction == FORWARD else memo.y)
                and kwargs.keys() == memo.kwargs.keys()
                and all(kwargs[k] is memo.kwargs[k] for k in kwargs)):
            if direction == FORWARD:
                return memo.y, memo.fldj
            return memo.x, -memo.fldj
        self._transient.memo = None
        with tf.name_scope(f'{self.name}/{name}'):
            result, log_det = self._run(direction, value, kwargs)
        if call is not None:
            x, y, fldj = ((value, result, log_det) if direction == FORWARD
                          else (result, value, -log_det))
            self._transient.memo = _Memo(call, x, y, kwargs, fldj)
        return result, log_det

    def _ask_log_det(self, direction, value, event_ndims, name, kwargs):
        event_ndims = 1 if event_ndims is None else event_ndims
        static = tf.get_static_value(event_ndims)
        if static is None or int(static) < 1:
            raise ValueError(
                f'`event_ndims` must be a static integer >= 1, since {self.name} '
                f'transforms vectors; got {event_ndims}. If this came from a '
                '`TransformedDistribution`, its base has scalar events: wrap it '
                'as `tfd.Independent(base, 1)`.')
        log_det = self._ask(direction, value, name, kwargs)[1]
        # The second question of a density call is the last: let go of it all.
        self._transient.memo = None
        if static > 1:
            log_det = tf.reduce_sum(log_det, axis=list(range(1 - int(static), 0)))
        return log_det

    # TFP's internal hooks, for code that calls them without the public ones.

    def _forward(self, x, **kwargs):
        return self._run(FORWARD, x, kwargs)[0]

    def _inverse(self, y, **kwargs):
        return self._run(INVERSE, y, kwargs)[0]

    def _forward_log_det_jacobian(self, x, **kwargs):
        return self._run(FORWARD, x, kwargs)[1]

    def _inverse_log_det_jacobian(self, y, **kwargs):
        return self._run(INVERSE, y, kwargs)[1]

    # Identity and copies.

    def __eq__(self, other):
        return self is other

    __hash__ = object.__hash__

    def __copy__(self):
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__, _transient=_Transient())
        return clone

    def copy(self, **overrides):
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

    def _run_compiled(self, method, tensors, event_shapes):
        """Calls a method of this object as a compiled function.

        It is traced once for each combination of ranks, for all batch sizes, and
        holds this object weakly, lest every flow be a reference cycle.

        Args:
          method: `str`, its name.
          tensors: its arguments.
          event_shapes: how the shape of each ends, after its batch axes.
        """
        key = (method, *(tensor.shape.rank for tensor in tensors))
        function = self._transient.functions.get(key)
        if function is None:
            this = weakref.ref(self)
            function = tf.function(
                lambda *tensors: getattr(this(), method)(*tensors), autograph=False,
            ).get_concrete_function(*[
                tf.TensorSpec([None] * (t.shape.rank - len(shape)) + list(shape),
                              t.dtype)
                for t, shape in zip(tensors, event_shapes)])
            self._transient.functions[key] = function
        return function(*tensors)
