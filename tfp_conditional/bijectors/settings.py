"""`Settings`: what a bijector is beside its variables, saved with them.

A checkpoint holds numbers. Read into a bijector of another mask, bound or activation
they would be another map, of which nothing tells. So bijectors note such arguments
as a part of what they save, and a restore where they differ is refused.
"""

import collections.abc
import json
import math

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import one_pass
from tfp_conditional.embeddings import embedding
from tfp_conditional.networks import network
from tfp_conditional.transformers import transformer

tfb = tfp.bijectors

# Arguments that do not change the map, and what stands for those of which nothing can
# be told, such as functions: equal to anything.
_IGNORED = ('name', 'dtype', 'validate_args', 'dropout')
UNKNOWN = '?'


class Settings(tf.Module):
    """The arguments of one bijector that decide its map, but are not its variables.

    `tf.train.Checkpoint` saves them. Its `read` and `restore`, into a bijector of
    others, raise a ValueError that names the difference, before any variable is
    assigned. In a checkpoint that has none, they are one of those objects that
    `assert_consumed` complains of. For other formats see `collect` and `check`.

    A bijector holds its own as an attribute:

    ```python
    import tfp_conditional as tfpc
    from tfp_conditional.bijectors import settings

    layer = tfpc.ConditionalCoupling(event_size=2, condition_size=3)
    assert isinstance(layer._settings, settings.Settings)
    described, = settings.collect(layer)
    assert described['mask'] == [True, False]
    assert described['conditioner']['activation'] == 'relu'
    ```
    """

    def __init__(self, owner, **settings):
        """Takes them down.

        Args:
          owner: `str`, the name of the bijector, for messages.
          **settings: numbers, strings, arrays, functions, transformers, conditioners,
            bijectors, and nests of them.
        """
        super().__init__(name='settings')
        self._state = _State(owner, describe(settings))

    def _trackable_children(self, save_type='checkpoint', **kwargs):
        # A SavedModel has them in its functions; TensorFlow would warn for each that
        # it does not restore Python objects.
        if save_type == 'savedmodel':
            return {}
        return super()._trackable_children(save_type, **kwargs)


class _State(tf.train.experimental.PythonState):
    """How TensorFlow saves what is no tensor."""

    def __init__(self, owner, settings):
        self.owner, self.settings = owner, settings

    def serialize(self):
        return json.dumps(self.settings)

    def deserialize(self, string_value):
        self.check(json.loads(string_value))

    def check(self, saved):
        found = _difference(saved, self.settings)
        if found is not None:
            path, was, here = found
            raise ValueError(
                f'What was saved is another map than {self.owner!r}: its `{path}` was '
                f'{was!r}, and is {here!r} here. Construct the bijector with the same '
                'arguments.')


def collect(module):
    """The settings of all bijectors in a `tf.Module`, in terms of JSON."""
    return [part._state.settings for part in _parts(module)]


def check(module, saved):
    """Raises a ValueError unless `saved` is what `collect` gives for a module."""
    parts = _parts(module)
    if len(parts) != len(saved):
        raise ValueError(
            f'What was saved is another map than {module.name!r}: it has settings of '
            f'{len(saved)} bijectors, and here are {len(parts)}.')
    for part, settings in zip(parts, saved):
        part._state.check(settings)


def _parts(module):
    return [part for part in module.submodules if isinstance(part, Settings)]


def describe(value):
    """Returns `value` in terms of JSON, `UNKNOWN` where nothing can be told."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return describe(value.tolist())
    if isinstance(value, (tuple, list)):
        return [describe(part) for part in value]
    if isinstance(value, collections.abc.Mapping):
        return {str(key): describe(part) for key, part in value.items()}
    if isinstance(value, tf.Tensor) and hasattr(value, 'numpy'):
        return describe(value.numpy())
    if isinstance(value, one_pass.OnePassBijector):
        found = {}    # It saves its own.
    elif isinstance(value, tfb.Bijector):
        found = value.parameters
    elif isinstance(value, (transformer.Transformer, network.Conditioner)):
        found = vars(value)
    elif isinstance(value, embedding.Embedding):
        found = value.settings
    else:
        return next((
            name for name in network.ACTIVATIONS if callable(value)
            and network.activation_function(name) is network.activation_function(
                value)), UNKNOWN)
    return {'class': type(value).__name__.lstrip('_'), **{
        key: describe(part) for key, part in found.items()
        if key not in _IGNORED and not key.startswith('_')}}


def _difference(was, here, path=''):
    """The first difference of two descriptions, `(path, was, here)`, or `None`."""
    if UNKNOWN in (was, here):
        return None
    if isinstance(was, dict) and isinstance(here, dict):
        if was.get('class') == here.get('class'):
            pairs = [(f'{path}.{key}'.lstrip('.'), was.get(key), here.get(key))
                     for key in {**was, **here}]
            return _first(pairs)
    elif isinstance(was, list) and isinstance(here, list):
        if len(was) == len(here):
            return _first((f'{path}[{i}]', *pair)
                          for i, pair in enumerate(zip(was, here)))
    elif isinstance(was, float) and isinstance(here, (float, int)):
        # The same number may have been given in another precision.
        if math.isclose(was, here, rel_tol=1e-6):
            return None
    if was == here:
        return None
    return path, was, here


def _first(pairs):
    return next((found for path, was, here in pairs
                 if (found := _difference(was, here, path)) is not None), None)
