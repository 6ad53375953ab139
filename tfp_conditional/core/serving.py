"""What a SavedModel keeps of an object: methods for Python, signatures for servers."""

from collections.abc import Callable, Iterable
import functools
import os
import re
from typing import Any

import tensorflow as tf

from tfp_conditional.core.types import Path

SEED = tf.TensorSpec([2], tf.int32)
_COUNT = tf.TensorSpec([], tf.int32)


def fresh_seed() -> tf.Tensor:
    """A seed `[2]` that is another in each process, and at each run."""
    # The operation itself: its seed of 0 is fresh in each process, where that of a
    # `tf.random` function is kept by the export.
    return tf.raw_ops.RandomUniformInt(shape=[2], minval=tf.int32.min,
                                       maxval=tf.int32.max)


class Methods:
    """The methods of a distribution for a SavedModel, and their signatures.

    Values are the same bit for bit as of eager calls, which run the same graph. So
    `functions` are not inlined into whatever calls them: TensorFlow reorders sums where
    shapes are known. And what signatures call is: TensorFlow optimises a function in a
    function twice, and fuses other operations.

    Args:
      flow: its bijector, without the conditions that it may have been given.
      given: the leaves of the conditions, where they are no arguments: a function.
      batch: list, the batch shape of a distribution that takes no conditions; else
        `[None]`.
      base_batch: `tf.TensorShape`, of the base.
      density: function (`'log_prob'`, events, *leaves of conditions).
      draw: function (method, seed, sample_shape, batch_shape, *leaves).
      kwargs_of: function of leaves: the keyword arguments of the flow.
      has_latents: `bool`, whether there are `forward` and `inverse`.
    """

    def __init__(self, flow, given, batch, base_batch, density, draw, kwargs_of,
                 has_latents):
        self._flow, self._given, self._batch = flow, given, batch
        self._base_batch, self._draw = base_batch, draw
        self._conditions = ([] if given is not None else
                            [flow.condition_signature([None])])
        size = [flow.event_size]
        self._latents, self._events = size, flow.forward_event_shape(size).as_list()
        calls = {
            'sample': self._of_seed('sample'),
            'sample_and_log_prob': self._of_seed('sample_and_log_prob'),
            'log_prob': self._of_value(functools.partial(density, 'log_prob'))}
        if has_latents:
            calls.update(
                forward=self._of_value(lambda x, *leaves: flow.forward(
                    x, **kwargs_of(leaves))),
                inverse=self._of_value(lambda y, *leaves: flow.inverse(
                    y, **kwargs_of(leaves))))
        self._calls = {name: tf.function(call, autograph=False)
                       for name, call in calls.items()}
        self.functions = {name: self._traced(name) for name in calls}

    def _leaves(self, conditions):
        return (self._given() if self._given is not None else
                tf.nest.flatten(self._flow.check_conditions(*conditions)))

    def _of_value(self, run):
        return lambda value, *conditions: run(value, *self._leaves(conditions))

    def _of_seed(self, method):
        def run(n, seed, *conditions):
            leaves = self._leaves(conditions)
            shape = (self._flow.batch_shape_tensor_of(leaves) if leaves else
                     tf.zeros([0], tf.int32))
            if self._base_batch.rank:
                shape = tf.broadcast_dynamic_shape(shape, self._base_batch)
            n, none = tf.expand_dims(n, 0), tf.zeros([0], tf.int32)
            shapes = ((n, shape) if self._base_batch.rank else
                      (tf.concat([n, shape], 0), none))
            return self._draw(method, seed, *shapes, *leaves)
        return run

    def _traced(self, name):
        """The `tf.function` that a SavedModel has for Python."""
        call = self._calls[name]
        function = functools.partial(tf.function, autograph=False,
                                     experimental_attributes={'_noinline': True})
        if name in ('sample', 'sample_and_log_prob'):
            def draw(n, seed, *conditions):
                return call(n, fresh_seed() if seed is None else seed, *conditions)
            traced = function(
                (lambda n, conditions, seed=None: draw(n, seed, conditions))
                if self._conditions else lambda n, seed=None: draw(n, seed))
            for seed in ({}, {'seed': SEED}):
                traced.get_concrete_function(_COUNT, *self._conditions, **seed)
            return traced
        traced = function(lambda value, *conditions: call(value, *conditions))
        event = self._latents if name == 'forward' else self._events
        for shape in (self._batch, [None, *self._batch]):
            traced.get_concrete_function(
                tf.TensorSpec([*shape, *event], self._flow.dtype), *self._conditions)
        return traced

    def signatures(self):
        """Name -> concrete function; see `ConditionalTransformedDistribution.export`."""
        # One event for each of the conditions, or any number of them for those given.
        batch = self._batch if self._conditions else [None, *self._batch]
        events, latents = (tf.TensorSpec([*batch, *shape], self._flow.dtype)
                           for shape in (self._events, self._latents))
        conditions = dict(zip(['conditions'], self._conditions))
        both = self._calls['sample_and_log_prob']
        found = {
            name: signature(self._calls[name], [output], **{label: spec}, **conditions)
            for name, output, label, spec in [
                ('log_prob', 'log_probs', 'events', events),
                ('forward', 'events', 'latents', latents),
                ('inverse', 'latents', 'events', events)] if name in self._calls}
        for name, call, outputs in [('sample', self._calls['sample'], ['samples']), (
                'sample_and_log_prob', both, ['samples', 'log_probs'])]:
            found[name] = signature(
                lambda n, *rest, call=call: call(n, fresh_seed(), *rest), outputs,
                n=_COUNT, **conditions)
            found[f'{name}_with_seed'] = signature(call, outputs, n=_COUNT, seed=SEED,
                                                   **conditions)
        if conditions:
            # Its only input and its outputs have the batch axis first, as servers want
            # that join requests in batches.
            found['serving_default'] = signature(
                lambda conditions: [part[0] for part in both(
                    tf.constant(1), fresh_seed(), conditions)],
                ['samples', 'log_probs'], **conditions)
        return found


def signature(run, outputs, **inputs):
    """Returns a concrete function of named tensors that returns a dict of such.

    Args:
      run: function of as many arguments as there are `inputs`.
      outputs: names of the tensors that it returns.
      **inputs: nests of `tf.TensorSpec`; a leaf `state` of `conditions` is the tensor
        `conditions_state`.

    Raises:
      ValueError: for leaves of one name.
    """
    names = {label: _names(label, nest) for label, nest in inputs.items()}
    flat = sum(names.values(), [])
    if len(set(flat)) < len(flat):
        raise ValueError('The keys of conditions must make different names of inputs, '
                         f'joined by "_"; got {sorted(flat)}.')
    specs = dict(zip(flat, tf.nest.flatten(list(inputs.values()))))

    def named(**tensors):
        result = run(*(tf.nest.pack_sequence_as(nest, [tensors[name] for name in
                                                       names[label]])
                       for label, nest in inputs.items()))
        return dict(zip(outputs, tf.nest.flatten(result), strict=True))
    return tf.function(named, autograph=False).get_concrete_function(**specs)


def _names(label, nest):
    """Names of the leaves of a nest, in their order."""
    parts = (sorted(nest.items()) if isinstance(nest, dict) else
             enumerate(nest) if isinstance(nest, tuple) else None)
    if parts is None:
        return [re.sub(r'\W', '_', label)]
    return [name for key, part in parts for name in _names(f'{label}_{key}', part)]


def checked_path(path: Path) -> str:
    """The path of a SavedModel to write; raises where something else stands."""
    path, files = os.fspath(path).rstrip('/'), tf.io.gfile
    if files.exists(path) and not (files.isdir(path) and (
            not files.listdir(path) or files.exists(f'{path}/saved_model.pb'))):
        raise ValueError(
            '`path` must be that of a directory to make, or of a SavedModel to replace; '
            f'{path!r} is a ' + ('directory of other files.' if files.isdir(path) else
                                 'file.'))
    return path


def save(path: str, parts: Iterable[Any], functions: dict[str, Callable[..., Any]],
         signatures: dict[str, Callable[..., Any]]) -> None:
    """Writes a SavedModel, which stands at `path` when it is whole, and not before.

    Args:
      path: what `checked_path` returned.
      parts: objects that hold the variables of the functions.
      functions: `dict` of name -> `tf.function`, for Python.
      signatures: `dict` of name -> concrete function, for servers.
    """
    module = tf.Module()
    module.parts = tuple(parts)
    for name, call in functions.items():
        setattr(module, name, call)
    part, old = f'{path}.part', f'{path}.old'
    _remove(part)    # Of an export that was killed.
    tf.saved_model.save(module, part, signatures=signatures)
    if tf.io.gfile.exists(path):
        _remove(old)
        tf.io.gfile.rename(path, old)
    tf.io.gfile.rename(part, path)
    _remove(old)


def _remove(path):
    if tf.io.gfile.exists(path):
        tf.io.gfile.rmtree(path)
