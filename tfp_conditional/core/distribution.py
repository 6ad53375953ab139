"""`ConditionalTransformedDistribution`: a base distribution seen through a flow."""

from collections.abc import Callable
import copy
import functools
import os
import threading
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import _tfp
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import compiled
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import dropout
from tfp_conditional.core import one_pass
from tfp_conditional.core import serving
from tfp_conditional.core.one_pass import FORWARD, INVERSE
from tfp_conditional.core.types import Conditions, Path, Seed, Shape, TensorLike

tfd = tfp.distributions

_KWARGS = {'distribution_kwargs', 'bijector_kwargs'}
_lock = threading.RLock()


class ConditionalTransformedDistribution(_tfp.TransformedDistribution):
    """`Y = g(X; c)` for X of a base distribution; what `flow(base)` returns.

    ```none
    log_prob:  log p(y | c) = log p_X(g^-1(y; c)) + log |det dg^-1(y; c)/dy|
    sample:    y = g(x; c),  x ~ p_X
    ```

    It is a `tfd.TransformedDistribution`, and all that takes one takes it. Beyond
    that its methods make one pass of the flow each, and run, called eagerly, as one
    compiled function: base, flow and log-det together, traced once for each
    combination of ranks, for all batch sizes.

    `given(conditions)` is the distribution for given conditions. TFP's own way to
    pass them, `bijector_kwargs={'conditions': ...}`, is the same flow.

    #### Example

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(event_size=2, condition_size=3)
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))

    conditions = tf.ones([5, 3])
    given = dist.given(conditions)
    assert given.batch_shape == [5]
    samples, log_probs = given.experimental_sample_and_log_prob(7)
    assert samples.shape == [7, 5, 2] and log_probs.shape == [7, 5]
    same = dist.log_prob(samples, bijector_kwargs={'conditions': conditions})
    ```

    #### Seeds

    `seed` is an `int`, a TFP stateless seed (two integers) or `None`. The same seed
    gives the same sample, an `int` too, which TFP does not promise. `None` follows
    `tf.random.set_seed`.

    #### Copies

    `copy.deepcopy(dist)` has variables of its own: a target network. `dist.copy(...)`
    shares them, but for those of the parts that it is given. pickle,
    `tf.train.Checkpoint` and `tf.saved_model.save` (see `Exportable`) keep it whole.
    """

    # Whether `log_prob` is one of the density of the bijector's images of the base.
    is_continuous = True

    def __init__(self, distribution: tfp.distributions.Distribution,
                 bijector: one_pass.OnePassBijector,
                 kwargs_split_fn: Callable[..., Any] | None = None,
                 validate_args: bool = False, name: str | None = None,
                 parameters: dict[str, Any] | None = None) -> None:
        """Constructs the distribution.

        Args:
          distribution: `tfd.Distribution` of X, with events `[..., D]`.
          bijector: `ConditionalBijector` g, or `flow.condition(conditions)`, or
            another bijector of this package. For stock ones in between use
            `ConditionalChain`.
          kwargs_split_fn: as in `tfd.TransformedDistribution`; by default keyword
            arguments are `distribution_kwargs` and `bijector_kwargs`, and nothing
            else.
          validate_args: `bool`, as in `tfd.Distribution`.
          name: `str`; default the names of both.
          parameters: `dict` of a subclass' own arguments, as in `tfd.Distribution`.

        Raises:
          TypeError: for parts of other types.
          ValueError: for a base whose events the bijector does not take.
        """
        if parameters is None:
            parameters = {key: value for key, value in locals().items()
                          if key != 'parameters'}
        if not isinstance(distribution, tfd.Distribution):
            raise TypeError('`distribution` must be a tfd.Distribution; got '
                            f'{type(distribution).__name__}.')
        if not isinstance(bijector, one_pass.OnePassBijector):
            raise TypeError(
                '`bijector` must be one of this package, such as a '
                f'ConditionalBijector; got {type(bijector).__name__}. Put stock '
                'bijectors beside conditional ones into a `ConditionalChain`; for '
                'none but stock ones there is `tfd.TransformedDistribution`.')
        # Once, since TFP infers shapes anew at every question.
        batch_shape, event_shape = distribution.batch_shape, distribution.event_shape
        bijector.forward_event_shape(event_shape)
        super().__init__(distribution, bijector, kwargs_split_fn=kwargs_split_fn,
                         validate_args=validate_args, parameters=parameters,
                         name=name)
        self._compiled = compiled.CompiledMethods()
        self._base_batch_shape, self._base_event_shape = batch_shape, event_shape

    _has_latents = True     # Which `forward` and `inverse` are of.

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return super()._parameter_properties(dtype, num_classes=num_classes)

    def given(self, conditions: Conditions,
              name: str | None = None) -> 'ConditionalTransformedDistribution':
        """Returns the distribution for given conditions, which needs no keyword.

        It costs next to nothing to make: make a new one for each batch.

        Args:
          conditions: `[..., S]`, or the nest of tensors that the flow takes. Arrays
            and variables are read at every call.
          name: `str`.

        Returns:
          `ConditionalTransformedDistribution` of batch shape
          `conditions.shape[:-1]` over the same variables, with independent noise
          for each condition.

        Raises:
          TypeError, ValueError: for conditions that the flow does not take, and for
            a distribution whose conditions are given already.
        """
        flow = self._bijector
        if not isinstance(flow, bijector_lib.ConditionalBijector):
            raise TypeError(
                f'{self.name!r} takes no conditions: its bijector is a '
                f'{type(flow).__name__}. Call `given` of the distribution over the '
                'ConditionalBijector itself.')
        flow.check_conditions(conditions)
        given = object.__new__(type(self))
        # TFP takes milliseconds to make a distribution: it does when something asks
        # for what these do not answer.
        given.__dict__.update(_root=self, _conditions=conditions, _name_given=name,
                              _is_pending=True)
        if not tf.executing_eagerly():
            given._begin()
        return given

    def __getattr__(self, name):
        # Only what is not there comes here.
        if '_root' not in vars(self):
            raise AttributeError(f'{type(self).__name__!r} object has no attribute '
                                 f'{name!r}')
        with _lock:
            if vars(self).pop('_is_pending', False):
                with tf.init_scope():
                    self._begin()
            return object.__getattribute__(self, name)

    def _begin(self):
        """Makes all of a `given` distribution."""
        vars(self).pop('_is_pending', None)
        root = self._root
        ConditionalTransformedDistribution.__init__(
            self, root.distribution, root.bijector.condition(self._conditions),
            kwargs_split_fn=root._kwargs_split_fn, validate_args=root.validate_args,
            name=self._name_given or f'{root.name}_given')

    # Called eagerly, TFP's methods run as one compiled function; else as they are.

    def log_prob(self, value: TensorLike, name: str = 'log_prob',
                 **kwargs: Any) -> tf.Tensor:
        """Log-densities `[...]` of events `[..., D]`; see `tfd.Distribution`."""
        self._check_kwargs(kwargs)
        call = self._eager_call(kwargs)
        return (super().log_prob(value, name=name, **kwargs) if call is None
                else call.density('log_prob', value))

    def prob(self, value: TensorLike, name: str = 'prob', **kwargs: Any) -> tf.Tensor:
        """Densities `[...]` of events `[..., D]`; see `tfd.Distribution`."""
        self._check_kwargs(kwargs)
        call = self._eager_call(kwargs)
        return (super().prob(value, name=name, **kwargs) if call is None
                else call.density('prob', value))

    def unnormalized_log_prob(self, value: TensorLike,
                              name: str = 'unnormalized_log_prob',
                              **kwargs: Any) -> tf.Tensor:
        """`log_prob`."""
        return self.log_prob(value, name=name, **kwargs)

    def sample(self, sample_shape: Shape = (), seed: Seed | None = None,
               name: str = 'sample', **kwargs: Any) -> tf.Tensor:
        """Samples `[*sample_shape, ..., D]`; see the class for seeds."""
        self._check_kwargs(kwargs)
        call, seed = self._eager_call(kwargs), _stateless(seed)
        return (super().sample(sample_shape, seed=seed, name=name, **kwargs)
                if call is None else call.draw('sample', sample_shape, seed))

    def experimental_sample_and_log_prob(self, sample_shape: Shape = (),
                                         seed: Seed | None = None,
                                         name: str = 'sample_and_log_prob',
                                         **kwargs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Samples, as `sample`, and their log-densities, from one pass."""
        self._check_kwargs(kwargs)
        call, seed = self._eager_call(kwargs), _stateless(seed)
        return (super().experimental_sample_and_log_prob(
            sample_shape, seed=seed, name=name, **kwargs) if call is None
                else call.draw('sample_and_log_prob', sample_shape, seed))

    def _check_kwargs(self, kwargs):
        if not kwargs:
            return
        unknown = kwargs.keys() - _KWARGS
        if unknown and self.parameters.get('kwargs_split_fn') is None:
            raise TypeError(
                f'{self.name!r} takes the keyword arguments {sorted(_KWARGS)}; got '
                f"{sorted(unknown)}. Pass `bijector_kwargs={{'conditions': ...}}`, "
                'or use `given(conditions)`, which needs none.')

    def _eager_call(self, kwargs):
        """What answers for this call, or `None` where TFP's own methods do."""
        if not compiled.is_eager():
            return None
        if '_root' in vars(self) and not kwargs:
            return _EagerCall(self._root, self._conditions, True)
        own, given = self._kwargs_split_fn(kwargs)
        flow, bijector = self.flow, self.bijector
        if flow is bijector:
            fits, conditions = given.keys() <= {'conditions'}, given.get('conditions')
        else:
            fits, conditions = not given, getattr(bijector, 'conditions', None)
        if (own or not fits or not isinstance(flow, bijector_lib.ConditionalBijector)
                or not self._base_batch_shape.is_fully_defined()):
            return None
        return _EagerCall(self, conditions, flow is not bijector)

    @property
    def flow(self) -> one_pass.OnePassBijector:
        """The bijector, without the conditions that it may have been given."""
        bijector = self.bijector
        return (bijector.bijector if isinstance(
            bijector, bijector_lib.ConditionedBijector) else bijector)

    def _kwargs_of(self, leaves):
        """Those of the bijector, for the leaves of checked conditions."""
        flow = self.flow
        return ({'conditions': flow.checked(leaves)} if isinstance(
            flow, bijector_lib.ConditionalBijector) else {})

    def _conditions_of(self, kwargs):
        """The conditions of a call, and whether they are those of `given`."""
        own, given = self._kwargs_split_fn(kwargs)
        if self.bijector is self.flow:
            conditions_lib.reject_unknown({**own, **given}, self.name)
            return given.get('conditions'), False
        if own or given:
            raise TypeError(f'{self.name!r} has its conditions already and takes no '
                            f'keyword arguments; got {sorted({**own, **given})}.')
        return self.bijector.conditions, True

    def _compiled_density(self, method, value, *leaves):
        x, ildj = self.flow.inverse_and_log_det(
            value, event_ndims=self._event_ndims(), **self._kwargs_of(leaves))
        log_prob = _sum(self.distribution.log_prob(x), ildj)
        return tf.exp(log_prob) if method == 'prob' else log_prob

    def _compiled_draw(self, method, sample_rank, numbers, *leaves):
        seed, sample_shape, batch_shape = tf.split(
            numbers, [2, sample_rank, numbers.shape[0] - 2 - sample_rank])
        return self._draw(method, seed, sample_shape, batch_shape, *leaves)

    def _draw(self, method, seed, sample_shape, batch_shape, *leaves):
        base, flow = self.distribution, self.flow
        if batch_shape.shape[0]:
            base = tfd.BatchBroadcast(base, with_shape=batch_shape)
        kwargs = self._kwargs_of(leaves)
        if method == 'sample':
            x = base.sample(sample_shape, seed=seed)
            return flow.forward(x, **kwargs)
        x, log_prob = base.experimental_sample_and_log_prob(sample_shape, seed=seed)
        y, fldj = flow.forward_and_log_det(
            x, event_ndims=self._event_ndims(), **kwargs)
        return y, _sum(log_prob, -fldj)

    def _event_ndims(self):
        return self._base_event_shape.rank

    def compiled(self, method: str, batch_shape: Shape = (), frozen: bool = False,
                 seed: int | None = None, jit_compile: bool = True) -> Callable[..., Any]:
        """Returns a method compiled for one shape, from NumPy to NumPy: the hot loop.

        It is for the call that is made at every step of an environment, and checks
        nothing but what TensorFlow does. Compiling takes seconds, once.

        ```python
        import numpy as np
        import tensorflow as tf
        import tensorflow_probability as tfp
        import tfp_conditional as tfpc
        tfd = tfp.distributions

        flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
        dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
        act = dist.compiled('sample')
        action = act(np.zeros(3, np.float32))                  # an array [2]
        log_prob = dist.compiled('log_prob', batch_shape=[64])
        log_probs = log_prob(np.zeros([64, 2]), np.zeros([64, 3]))
        ```

        Args:
          method: `'sample'` or `'sample_and_log_prob'`, called with conditions, one
            event for each; `'log_prob'`, `'forward'` or `'inverse'`, called with
            events or latents `[*batch_shape, D]` and conditions.
          batch_shape: that of the conditions, `[*batch_shape, S]`.
          frozen: `bool`, whether to take the weights as they are now for constants:
            faster, and deaf to training. Else they are those of the moment.
          seed: `int`, for the same sequence of samples; `None` follows
            `tf.random.set_seed`.
          jit_compile: `bool`, whether to compile by XLA.

        Returns:
          A function of arrays that returns an array, or a tuple of two for
          `'sample_and_log_prob'`.

        Raises:
          TypeError: for a distribution whose conditions are given already.
          ValueError: for another `method`.
        """
        if self.bijector is not self.flow or not isinstance(
                self.bijector, bijector_lib.ConditionalBijector):
            raise TypeError(f'{self.name!r} takes no conditions to be called with; '
                            'compile the method of the distribution that does.')
        return _HotLoop(self, method, tf.TensorShape(batch_shape).as_list(), frozen,
                        seed, jit_compile)

    # What TFP's methods call: one pass each.

    def _log_prob(self, y, **kwargs):
        own, given = self._kwargs_split_fn(kwargs)
        x, ildj = self.bijector.inverse_and_log_det(
            y, event_ndims=self._event_ndims(), **given)
        return _sum(self.distribution.log_prob(x, **own), ildj)

    def _prob(self, y, **kwargs):
        return tf.exp(self._log_prob(y, **kwargs))

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        own, given = self._kwargs_split_fn(kwargs)
        base, batch_shape = self.distribution, self.batch_shape
        if batch_shape != base.batch_shape or not batch_shape.is_fully_defined():
            base = tfd.BatchBroadcast(base, with_shape=self.batch_shape_tensor())
        x, log_prob = base.experimental_sample_and_log_prob(
            sample_shape, seed=seed, **own)
        y, fldj = self.bijector.forward_and_log_det(
            x, event_ndims=self._event_ndims(), **given)
        return y, _sum(log_prob, -fldj)

    # Copies and exports.

    def export(self, path: Path) -> None:
        """Writes a SavedModel that needs neither this package nor TFP.

        It has the methods of `Exportable`, for Python, and signatures of named tensors,
        for TensorFlow Serving and other languages:

        ```none
        serving_default                  conditions             samples, log_probs
        sample                           n, conditions          samples
        sample_with_seed                 n, conditions, seed    samples
        sample_and_log_prob              n, conditions          samples, log_probs
        sample_and_log_prob_with_seed    n, conditions, seed    samples, log_probs
        log_prob                         events, conditions     log_probs
        forward                          latents, conditions    events
        inverse                          events, conditions     latents
        ```

        conditions and events `[B, ...]`, for any B; n `[]` and seed `[2]` of int32;
        samples `[n, B, D]` and their log_probs `[n, B]`, but one for each of the
        conditions, `[B, D]` and `[B]`, by `serving_default`. Values are, bit for bit,
        those of the distribution. Without a seed noise is fresh at each call, whatever
        `tf.random.set_seed` was.

        A nest of conditions is as many inputs: `{'a': ..., 'b': (..., ...)}` is
        `conditions_a`, `conditions_b_0` and `conditions_b_1`. A distribution that takes
        no conditions has none, no `serving_default`, and events `[n, ..., D]`.

        ```python
        import tensorflow as tf
        import tensorflow_probability as tfp
        import tfp_conditional as tfpc
        tfd = tfp.distributions

        flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
        dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
        dist.export('model/1')

        signatures = tf.saved_model.load('model/1').signatures
        drawn = signatures['sample_and_log_prob'](n=tf.constant(7),
                                                  conditions=tf.ones([5, 3]))
        assert drawn['samples'].shape == [7, 5, 2] and drawn['log_probs'].shape == [7, 5]
        ```

        Args:
          path: of a directory to make. A SavedModel that is there is replaced. It is
            written beside, as `path + '.part'`, and renamed when it is whole.

        Raises:
          ValueError: for a base with a batch shape or with events that are no vectors,
            and for a path at which something else stands.
          RuntimeError: within `training()`, whose dropout would be exported.
        """
        if self._base_batch_shape.rank != 0 or self._base_event_shape.rank != 1:
            raise ValueError(
                f'The base of {self.name!r} must have batch shape [] and vectors for '
                f'events, to be exported; got batch shape {self._base_batch_shape} and '
                f'event shape {self._base_event_shape}. Make it by '
                '`tfd.Independent(base, 1)`, or save the methods without signatures by '
                '`tf.saved_model.save(dist, path)`.')
        if dropout.is_training():
            raise RuntimeError('`export` must be called outside of `training()`: its '
                               'dropout would be exported.')
        path, methods = serving.checked_path(path), self._methods()
        serving.save(path, self.exported_parts(), methods.functions, methods.signatures())

    def exported_parts(self) -> list[tf.Module]:
        """What holds the variables that the exported methods read."""
        return [self.distribution, self.bijector]

    def exported_methods(self) -> dict[str, Callable[..., Any]]:
        """Name -> `tf.function`, as `Exportable` describes them.

        What they run is what eager calls run, so that values are the same bit for bit.
        """
        return self._methods().functions

    def _methods(self):
        flow, given = self.flow, None
        if not isinstance(flow, bijector_lib.ConditionalBijector):
            given = tuple
        elif self.bijector is not flow:
            def given():
                return tf.nest.flatten(flow.check_conditions(self.bijector.conditions))
        return serving.Methods(
            flow, given, [None] if given is None else self.batch_shape.as_list(),
            self._base_batch_shape, self._compiled_density, self._draw, self._kwargs_of,
            self._has_latents)

    def _trackable_children(self, save_type='checkpoint', **kwargs):
        # What `tf.saved_model.save` and `tf.train.Checkpoint` ask: see `_tfp`.
        if vars(self).get('_is_pending'):
            _ = self.batch_shape
        children = dict(super()._trackable_children(save_type, **kwargs))
        if save_type == _tfp.SAVED_MODEL:
            children.update(self.exported_methods())
        return children

    def copy(self, **overrides: Any) -> 'ConditionalTransformedDistribution':
        """Returns a distribution with other arguments, and the variables of its parts."""
        return type(self)(**{**self.parameters, **overrides})

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        clone = type(self)(**{key: _deepcopy(value, memo)
                              for key, value in self.parameters.items()})
        memo[id(self)] = clone
        return clone

    def __reduce__(self):
        return _rebuild, (type(self), _packed(self.parameters))


class _EagerCall:
    """One eager call: its arguments checked as they are, then run compiled."""

    def __init__(self, dist, conditions, has_own_batch):
        self._dist, self._flow, self._conditions = dist, dist.flow, conditions
        # Whether the distribution has the batch shape of the conditions.
        self._has_own_batch = has_own_batch

    def density(self, method, value):
        value, conditions = self._flow.check_pass(INVERSE, value, self._conditions)
        return self._compiled_call('_compiled_density', value, [value.shape[-1]],
                                   conditions, (method,))

    def draw(self, method, sample_shape, seed):
        flow, batch = self._flow, self._dist._base_batch_shape
        shape = np.atleast_1d(np.asarray(sample_shape, np.int64)).tolist()
        sample_rank = len(shape)
        conditions = flow.check_conditions(self._conditions)
        if self._has_own_batch:
            full = tf.broadcast_static_shape(batch, flow.batch_shape_of(conditions))
            if full != batch:
                shape = shape + full.as_list()
                # Where the base has no batch shape, these are so many samples more.
                sample_rank += 0 if batch.rank else full.rank
        else:
            flow.refuse_shared_noise(
                shape + batch + self._dist._base_event_shape[:-1], conditions)
        if seed is None:
            seed = _fresh_seed()
        numbers = tf.constant([*np.asarray(seed, np.int64).tolist(), *shape], tf.int32)
        return self._compiled_call('_compiled_draw', numbers, numbers.shape,
                                   conditions, (method, sample_rank))

    def _compiled_call(self, method, first, event_shape, conditions, static):
        return self._dist._compiled(
            self._dist, method, [first, *tf.nest.flatten(conditions)],
            [event_shape, *self._flow.condition_shapes], static)


class _HotLoop:
    """What `compiled` returns."""

    def __init__(self, dist, method, batch_shape, frozen, seed, jit_compile):
        self.reseed(seed)
        self._draws = method in ('sample', 'sample_and_log_prob')
        flow, base_batch = dist.bijector, dist._base_batch_shape
        shapes = ([], batch_shape) if base_batch.rank else (batch_shape, [])
        size = [flow.event_size]
        if self._draws:
            first = tf.TensorSpec([2], tf.int32)

            def run(seed, *leaves):
                return dist._draw(method, seed, *(
                    tf.constant(shape, tf.int32, [len(shape)]) for shape in shapes),
                                  *leaves)
        elif method == 'log_prob':
            run = functools.partial(dist._compiled_density, 'log_prob')
            size = flow.forward_event_shape(size)
        elif method in (FORWARD, INVERSE):
            size = size if method == FORWARD else flow.forward_event_shape(size)

            def run(*arguments):     # type: ignore[misc]
                return flow.exact_pass(method, *arguments)[0]
        else:
            raise ValueError(
                "`method` must be 'sample', 'sample_and_log_prob', 'log_prob', "
                f"'forward' or 'inverse'; got {method!r}.")
        if not self._draws:
            first = tf.TensorSpec([*batch_shape, *size], flow.dtype)
        leaves = tf.nest.flatten(flow.condition_signature(batch_shape))
        specs = leaves if self._draws else [first, *leaves]
        self._dtypes = [spec.dtype for spec in specs]
        self._is_flat = len(leaves) == 1 and isinstance(flow.condition_size, int)

        def compile_(run, jit_compile=None):
            return tf.function(run, autograph=False, jit_compile=jit_compile or None
                               ).get_concrete_function(first, *leaves)

        if frozen:
            traced = compile_(run)
            constant = _tfp.freeze(traced)

            def run(*arguments):     # type: ignore[misc]
                return tf.nest.pack_sequence_as(
                    traced.structured_outputs, constant(*arguments))
        self._function = compile_(run, jit_compile)
        self(*[np.zeros(spec.shape, spec.dtype.as_numpy_dtype) for spec in specs])
        self.reseed(seed)    # That call drew.

    def reseed(self, seed=None):
        """Begins the sequence of samples anew; see `compiled` for `seed`."""
        self._rng = np.random.default_rng(np.abs(
            _fresh_seed() if seed is None else _stateless(seed)))

    def __call__(self, *arguments):
        """Returns what the method does, as NumPy arrays."""
        flat = arguments if self._is_flat else tf.nest.flatten(arguments)
        tensors = [tf.constant(value, dtype) for value, dtype in zip(
            flat, self._dtypes, strict=True)]
        if self._draws:
            tensors.insert(0, tf.constant(
                self._rng.integers(-2**31, 2**31, 2, np.int32)))
        result = self._function(*tensors)
        return (tuple(part.numpy() for part in result) if isinstance(result, tuple)
                else result.numpy())


def _sum(log_prob, log_det):
    return log_prob + tf.cast(log_det, log_prob.dtype)


def _stateless(seed):
    """A seed that means the same at every call; `None` stays what it is."""
    if callable(seed):          # A `tfp.util.SeedStream`.
        seed = seed()
    if isinstance(seed, (int, np.integer)):
        return _wrapped([int(seed) >> 32, int(seed)])
    return seed


def _wrapped(numbers):
    """Integers as those of 32 bits, with a sign, that have the same lowest bits."""
    return [(number + 2**31) % 2**32 - 2**31 for number in numbers]


def _fresh_seed():
    """Two integers that follow `tf.random.set_seed`, or else are never the same."""
    numbers = tf.compat.v1.get_seed(None)
    if numbers[0] is None:
        numbers = np.frombuffer(os.urandom(8), np.int32).tolist()
    return _wrapped(numbers)


def _deepcopy(value, memo):
    """`copy.deepcopy`, where TFP's distributions have none that works."""
    if id(value) in memo or isinstance(value, ConditionalTransformedDistribution):
        return copy.deepcopy(value, memo)
    if isinstance(value, tfd.Distribution):
        clone = type(value)(**{key: _deepcopy(part, memo)
                               for key, part in value.parameters.items()})
        memo[id(value)] = clone
        return clone
    if type(value) in (list, tuple):
        return type(value)(_deepcopy(part, memo) for part in value)
    return copy.deepcopy(value, memo)


class _Packed:
    """A distribution as its type and its arguments, which pickle takes."""

    def __init__(self, dist):
        self.type, self.parameters = type(dist), _packed(dist.parameters)


def _packed(value):
    if isinstance(value, dict):
        return {key: _packed(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_packed, value))
    return _Packed(value) if isinstance(value, tfd.Distribution) else value


def _rebuild(cls, parameters):
    return cls(**{key: _unpacked(part) for key, part in parameters.items()})


def _unpacked(value):
    if isinstance(value, dict):
        return {key: _unpacked(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_unpacked, value))
    if isinstance(value, _Packed):
        return _rebuild(value.type, value.parameters)
    return value


def given(dist: tfp.distributions.Distribution,
          conditions: Conditions) -> ConditionalTransformedDistribution:
    """Returns `dist` for given conditions, also where `dist` is one of TFP's own.

    Of a `ConditionalTransformedDistribution` it is the method `given`.

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    stock = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1), tfpc.ConditionalRealNVP(2, 3))
    samples = tfpc.given(stock, tf.ones([5, 3])).sample(7)       # [7, 5, 2]
    ```

    Args:
      dist: `tfd.TransformedDistribution` over a `ConditionalBijector`.
      conditions: `[..., S]`, or the nest that the bijector takes.

    Returns:
      `ConditionalTransformedDistribution` of batch shape `conditions.shape[:-1]`
      over the same variables, with independent noise for each condition.

    Raises:
      TypeError: for any other distribution.
    """
    flow = conditional_bijector(dist, 'dist')
    if not isinstance(dist, ConditionalTransformedDistribution):
        dist = flow(dist.distribution, name=dist.name)
    return dist.given(conditions)


def refuse_cells(dist):
    """Raises for a `Quantized`, of which the density is one of no latents."""
    if not getattr(dist, 'is_continuous', True):
        raise TypeError(f'`dist` must have a density everywhere; {dist.name!r} is '
                        f'{type(dist).__name__}. Take its `density`.')


def parts(dist, conditions):
    """A distribution that takes conditions, and those, whichever way they came.

    Args:
      dist: `tfd.TransformedDistribution` over a `ConditionalBijector`, or, where
        `conditions` is None, one whose conditions are given already.
      conditions: `[..., S]`, the nest that the bijector takes, or None.

    Returns:
      `ConditionalTransformedDistribution` of batch shape `[]` over the same
      variables, and checked conditions.

    Raises:
      TypeError, ValueError: for other distributions, and for conditions that are
        missing, given twice or of other shapes.
    """
    conditioned = getattr(dist, 'bijector', None)
    is_given = isinstance(conditioned, bijector_lib.ConditionedBijector)
    if is_given and conditions is not None:
        raise TypeError(f'`dist` has its conditions already, {dist.name!r}; leave out '
                        '`conditions`, or pass the distribution before `given`.')
    if is_given:
        conditions = conditioned.conditions
        # The distribution it came from has functions that are compiled.
        dist = vars(dist).get('_root', dist)
        if dist.bijector is conditioned and not getattr(dist, 'is_continuous', True):
            raise TypeError(f'`dist`, {dist.name!r}, was made of a density whose conditions '
                            'are given; make it of the density itself, and then call '
                            '`given`.')
    flow = conditioned.bijector if is_given else conditional_bijector(dist, 'dist')
    if dist.bijector is not flow or not isinstance(
            dist, ConditionalTransformedDistribution):
        dist = flow(dist.distribution, name=dist.name)
    if dist.batch_shape.rank:
        raise ValueError('`dist` must have batch shape [], that of its base; got '
                         f'{dist.batch_shape}.')
    return dist, flow.check_conditions(conditions)


def conditional_bijector(dist, label):
    """The `ConditionalBijector` of a distribution; raises for others."""
    flow = getattr(dist, 'bijector', None)
    if not isinstance(flow, bijector_lib.ConditionalBijector):
        raise TypeError(f'`{label}` must be a tfd.TransformedDistribution over a '
                        f'ConditionalBijector; got {type(dist).__name__}'
                        + (f' over {type(flow).__name__}.' if flow else '.'))
    return flow
