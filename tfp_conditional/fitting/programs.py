"""The compiled epoch of the last fit of a distribution, for the next one.

To trace and compile takes most of the time of a short fit, and XLA keeps what it made
for the life of the process. So a distribution keeps the `Training` of its last fit, one
and no more, and drops it when it dies. A copy starts without.

A trace has made constants of all that is no variable. So a program serves again only
where settings are the same, and what Python holds in the distribution is what it was:
numbers, arrays, variables, parts.

It serves another distribution too, where that holds the same but for its variables:
`lent` puts the values of those in the place of the first one's, and back.
"""

import contextlib
import json
import types
import zlib

import numpy as np
import tensorflow as tf

from tfp_conditional.core import compiled
from tfp_conditional.fitting import optimizer as optimizer_lib
from tfp_conditional.fitting.training import Training

_SLOT = '_program_of_last_fit'
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), np.generic, tf.DType,
            tf.TensorShape, tf.TensorSpec)
_CONTAINERS = (dict, list, tuple, set, frozenset)
# Attributes by which TensorFlow keeps its books.
_BOOKS = (_SLOT, '_self_', '_name_scope')
# What these hold beside tf.Modules is their own affair, and changes at calls.
_OPAQUE = {'tensorflow', 'tensorflow_probability', 'numpy', 'builtins', 'weakref',
           'threading', '_thread', 'functools', 'collections', 'enum', 'inspect'}


class Program:
    """A `Training` with its optimizer, and what it was compiled from."""

    def __init__(self, key, state, training, optimizer):
        self.key, self.state = key, state
        self.parts = training, optimizer

    def __deepcopy__(self, memo):
        return None

    def __reduce__(self):
        return type(None), ()


@contextlib.contextmanager
def program(dist, make_optimizer, strategy, target_noise, jit_compile):
    """Lends the program of the last fit if it serves this one, or a new one.

    Args:
      dist: `tfd.Distribution`.
      make_optimizer: `functools.partial` that makes one of `optimizer`.
      strategy, target_noise, jit_compile: as of `Training`, the strategy in scope.

    Yields:
      A `Training`, and the optimizer.
    """
    key = (make_optimizer.func, *make_optimizer.args, strategy, target_noise,
           jit_compile, tf.config.functions_run_eagerly(), *[
               json.dumps(x.get_config(), default=str) for x in make_optimizer.args
               if hasattr(x, 'get_config')])
    state = [*dist.trainable_variables, *python_state(dist)]
    # Taken, lest a fit in a callback of this one train with the same moments.
    found = vars(dist).pop(_SLOT, None)
    if found is None or found.key != key or not same(found.state, state):
        found = None     # Freed before the next is made.
        optimizer = make_optimizer()
        optimizer.build(list(dist.trainable_variables))
        found = Program(key, state, Training(dist, optimizer, target_noise,
                                             jit_compile), optimizer)
    try:
        yield found.parts
    finally:
        # Not by `setattr`: it is no part of what is saved.
        vars(dist)[_SLOT] = found


@contextlib.contextmanager
def lent(dist, owner):
    """Lends `dist` the values of the variables of `owner`, and gives them back.

    Back come those that they have at the end; `dist` has its own again. Both are of one
    `structure`.
    """
    own = optimizer_lib.values(dist.variables)
    optimizer_lib.assign(dist.variables, optimizer_lib.values(owner.variables))
    try:
        yield
    finally:
        optimizer_lib.assign(owner.variables, optimizer_lib.values(dist.variables))
        optimizer_lib.assign(dist.variables, own)


def structure(root):
    """`python_state`, equal by `same` for distributions that differ in variables only.

    Variables are in it by their place, functions by their code, and parts by their
    type. What cannot be looked into is what it is, and makes others another structure.
    Seeds of this package's own parts are no part of it: what they decide are variables,
    and arrays, which are.
    """
    _ = root.parameters, root.batch_shape   # TFP keeps what it was first asked.
    places = {id(variable): i for i, variable in enumerate(root.variables)}

    def token(value):
        if id(value) in places:
            return (f'{places[id(value)]} {value.dtype.name} {value.shape} '
                    f'{value.trainable}')
        if isinstance(value, types.FunctionType):
            return value.__code__
        return type(value) if _is_open(value) else value

    def attributes(value):
        found = vars(value)
        if type(value).__module__.split('.')[0] != __name__.split('.')[0]:
            return found
        if '_parameters' in found:
            found = {**found, '_parameters': {
                **(found['_parameters'] or {}), 'seed': None}}
        return {key: part for key, part in found.items() if 'seed' not in key}
    return python_state(root, token, attributes)


def python_state(root, token=lambda value: value, attributes=vars):
    """What of an object a trace makes constants of: a list, for `same`.

    Values are in it as text, arrays by their checksum, variables, functions and
    objects of others as what `token` makes of them. `attributes` of an object are a
    `dict`.
    """
    found, seen, rest = [], {}, [root]
    while rest:
        value = rest.pop()
        if isinstance(value, _NUMBERS):
            found.append(repr(value))
            continue
        if isinstance(value, tf.Tensor) and hasattr(value, 'numpy'):
            value = np.asarray(value)
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            found.append(f'{value.dtype} {value.shape} '
                         f'{zlib.crc32(np.ascontiguousarray(value).tobytes())}')
            continue
        if isinstance(value, (Program, compiled.CompiledMethods)):
            continue
        if id(value) in seen:
            found.append(f'seen {seen[id(value)][0]}')
            continue
        seen[id(value)] = len(seen), value    # Kept, lest another get its id.
        if value is not root:
            # The root itself would be a cycle; containers count by what is in them.
            found.append(str(type(value)) if isinstance(value, _CONTAINERS)
                         else token(value))
        rest += _parts(value, attributes)
    return found


def _parts(value, attributes):
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, _CONTAINERS):
        return list(value)
    if isinstance(value, types.FunctionType):
        return [value.__defaults__, value.__kwdefaults__,
                *[_contents(cell) for cell in value.__closure__ or ()]]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if not _is_open(value) or not hasattr(value, '__dict__'):
        return []
    return [part for pair in sorted(attributes(value).items(), key=lambda pair: pair[0])
            for part in pair if not pair[0].startswith(_BOOKS)]


def _is_open(value):
    """Whether the attributes of an object are parts of it."""
    return not isinstance(value, (type, tf.Variable)) and (
        isinstance(value, tf.Module)
        or type(value).__module__.split('.')[0] not in _OPAQUE)


def _contents(cell):
    try:
        return cell.cell_contents
    except ValueError:    # It is empty.
        return None


def same(one, other):
    """Whether two of `python_state` are."""
    return len(one) == len(other) and all(
        a is b or (isinstance(a, str) and isinstance(b, str) and a == b)
        for a, b in zip(one, other))
