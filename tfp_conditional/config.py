"""`to_config` and `from_config`: what a distribution is, in terms of JSON."""

import collections.abc
import inspect
import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tfp_conditional import _version
from tfp_conditional.bijectors import angles
from tfp_conditional.bijectors import support
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.flows import cell_noise
from tfp_conditional.networks import network
from tfp_conditional.transformers import transformer

tfd, tfb = tfp.distributions, tfp.bijectors

FORMAT = 1   # Of what `to_config` returns; the only one that `from_config` reads.

# Where classes are looked for; the last are for `flow.condition(conditions)`, and for
# the parts of what a list of supports and `Quantized` make.
_NAMESPACES = {'tfd': tfd, 'tfb': tfb, 'tfpc': tfpc, 'linalg': tf.linalg,
               'core': bijector_lib, 'angles': angles, 'support': support,
               'cell_noise': cell_noise}
_KINDS = (tf.Module, transformer.Transformer, network.Conditioner)


def to_config(
        dist: tfp.distributions.Distribution | tfp.bijectors.Bijector,
        custom_objects: collections.abc.Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what a distribution or bijector is as a `dict` that JSON takes.

    That is the arguments that it was made with, seeds among them where they were drawn,
    so that `from_config` makes one of the same initial weights and permutations. Trained
    weights are no part of it: keep those in a `tf.train.Checkpoint`, see
    `load_weights`. The variables of a base distribution are saved as they are now.

    ```python
    import json
    import tensorflow as tf
    import tfp_conditional as tfpc

    dist = tfpc.conditional_density(2, 3, num_coupling_layers=2, mixing='random')
    text = json.dumps(tfpc.to_config(dist))
    tf.train.Checkpoint(dist=dist).write('weights')

    again = tfpc.from_config(json.loads(text))
    tfpc.load_weights('weights', dist=again)
    assert len(again.variables) == len(dist.variables)
    ```

    Args:
      dist: `tfd.Distribution` or `tfb.Bijector`, made of those of TFP and of this
        package, of numbers, strings, arrays and variables.
      custom_objects: `dict` of names -> classes, functions and other objects that are
        parts of it. Of an instance of such a class its arguments are saved: what
        `get_config` returns where it has one, as a Keras model does, else the attributes
        of their names. Anything else is saved as its name alone.

    Returns:
      `dict` of `version`, that of this format, `tfp_conditional`, that of this package,
      and `object`.

    Raises:
      TypeError: for a `dist` of another type.
      ValueError: for a part that no config can have, by its place.
    """
    if not isinstance(dist, (tfd.Distribution, tfb.Bijector)):
        raise TypeError('`dist` must be a tfd.Distribution or a tfb.Bijector; got '
                        f'{type(dist).__name__}.')
    return {'version': FORMAT, 'tfp_conditional': _version.__version__,
            'object': serialize(dist, 'dist', custom_objects)}


def from_config(
        config: collections.abc.Mapping[str, Any],
        custom_objects: collections.abc.Mapping[str, Any] | None = None
        ) -> tfp.distributions.Distribution | tfp.bijectors.Bijector:
    """Makes the distribution or bijector that `to_config` described.

    Args:
      config: what `to_config` returned, as it was or through JSON.
      custom_objects: as there.

    Returns:
      One of the same arguments, with variables of its own.

    Raises:
      TypeError, ValueError: for what is no config, or one of another format, and for
        classes and custom objects that are not there, by name.
    """
    if not isinstance(config, collections.abc.Mapping):
        raise TypeError('`config` must be a dict, as `to_config` returns and json.loads '
                        f'makes of a string; got {type(config).__name__}.')
    if not {'version', 'object'} <= config.keys():
        raise ValueError('`config` must be what `to_config` returned, of `version` and '
                         f'`object`; got the keys {sorted(map(str, config))}.')
    if config['version'] != FORMAT:
        raise ValueError(
            f'`config` has version {config["version"]!r}, of tfp_conditional '
            f'{config.get("tfp_conditional")}; this is tfp_conditional '
            f'{_version.__version__}, which reads version {FORMAT}. Read it with that '
            'release, or make the distribution in code.')
    return deserialize(config['object'], custom_objects)


def serialize(value: Any, label: str,
              custom_objects: collections.abc.Mapping[str, Any] | None = None) -> Any:
    """A part of what `to_config` returns; `label` is its place, for messages."""
    return _Writer(custom_objects or {}).write(value, label)


def deserialize(value: Any,
                custom_objects: collections.abc.Mapping[str, Any] | None = None) -> Any:
    """What `serialize` was given."""
    return _Reader(custom_objects or {}).read(value)


class _Writer:
    """Values in terms of JSON; a variable or module that comes again, by its number."""

    def __init__(self, custom_objects):
        self._custom = custom_objects
        self._seen = {}     # id -> the object, which so keeps it, and what was written.

    def write(self, value, label):
        for name, known in self._custom.items():
            if value is known:
                return {'custom': name}
        if not isinstance(value, (tf.Module, tf.Variable)):
            return self._write(value, label)
        if id(value) not in self._seen:
            self._seen[id(value)] = value, self._write(value, label)
            return self._seen[id(value)][1]
        written = self._seen[id(value)][1]
        number = sum('id' in other for _, other in self._seen.values())
        return {'same': written.setdefault('id', number)}

    def _write(self, value, label):
        # A np.float64 is a float too, but one that makes tensors of float64.
        if isinstance(value, float) and not isinstance(value, np.generic):
            return value if math.isfinite(value) else {'float': str(value)}
        if value is None or (isinstance(value, (bool, int, str))
                             and not isinstance(value, np.generic)):
            return value
        if isinstance(value, (tuple, list)):
            parts = [self.write(part, f'{label}[{i}]') for i, part in enumerate(value)]
            return {'tuple': parts} if isinstance(value, tuple) else parts
        if isinstance(value, collections.abc.Mapping):
            if not all(isinstance(key, str) for key in value):
                raise ValueError(f'Keys of `{label}` must be strings, to be part of a '
                                 f'config; got {list(value)}.')
            return {'dict': {key: self.write(part, f'{label}[{key!r}]')
                             for key, part in value.items()}}
        if isinstance(value, tf.DType):
            return {'dtype': value.name}
        if isinstance(value, tf.TensorSpec):
            return {'spec': value.shape.as_list(), 'dtype': value.dtype.name}
        if isinstance(value, tf.Variable):
            return {'variable': _numbers(value.numpy()), 'dtype': value.dtype.name,
                    'trainable': value.trainable}
        if isinstance(value, tfp.util.TransformedVariable):
            return {'transformed': self.write(value.pretransformed_input, label),
                    'bijector': self.write(value.bijector, f'{label}.bijector')}
        if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
            value = np.asarray(value)
            return {'array': _numbers(value), 'dtype': value.dtype.name}
        for name, cls in self._custom.items():
            if type(value) is cls:
                if hasattr(value, 'get_config') and hasattr(cls, 'from_config'):
                    return {'custom': name, 'config': self.write(
                        value.get_config(), f'{label}.get_config()')}
                return {'custom': name, 'parameters': self._parameters(
                    value, cls, label)}
        name = type(value).__name__.lstrip('_')
        for space, module in _NAMESPACES.items():
            cls = getattr(module, name, None)
            if isinstance(cls, type) and (type(value) is cls or
                                          issubclass(cls, type(value))):
                return {'class': f'{space}.{name}',
                        'parameters': self._parameters(value, cls, label)}
        raise ValueError(
            f'`{label}` cannot be part of a config: it must be made of numbers, '
            'strings, arrays and of the distributions, bijectors and transformers of '
            f'tfd, tfb and tfp_conditional; got {value!r}. Name an activation by a '
            'string, and other classes and functions by `custom_objects` of '
            '`to_config`; or make it in code, and save its weights alone.')

    def _parameters(self, value, cls, label):
        """The constructor's arguments that are not its defaults."""
        result, found = {}, getattr(value, 'parameters', None) or {}
        for key, parameter in inspect.signature(cls.__init__).parameters.items():
            if key == 'self' or parameter.kind in (parameter.VAR_KEYWORD,
                                                   parameter.VAR_POSITIONAL):
                continue
            if key not in found and not hasattr(value, key):
                raise ValueError(
                    f'`{label}` cannot be part of a config: {cls.__name__} does not '
                    f'keep its argument `{key}`, as an attribute of that name; nor has '
                    'it `get_config` and `from_config`.')
            part = found[key] if key in found else getattr(value, key)
            if part is not parameter.default:
                result[key] = self.write(part, f'{label}.{key}')
        return result


class _Reader:
    """What was written."""

    def __init__(self, custom_objects):
        self._custom = custom_objects
        self._made = {}

    def read(self, value):
        if isinstance(value, list):
            return [self.read(part) for part in value]
        if not isinstance(value, dict):
            return value
        if 'same' in value:
            return self._made[value['same']]
        made = self._read(value)
        if 'id' in value:
            self._made[value['id']] = made
        return made

    def _read(self, value):
        if 'custom' in value:
            return self._read_custom(value)
        if 'class' in value:
            return _known(value['class'])(**self._arguments(value))
        if 'tuple' in value:
            return tuple(self.read(part) for part in value['tuple'])
        if 'transformed' in value:
            variable, bijector = (self.read(value[key])
                                  for key in ('transformed', 'bijector'))
            return tfp.util.TransformedVariable(
                bijector.forward(variable), bijector, trainable=variable.trainable)
        if 'dict' in value:
            return {key: self.read(part) for key, part in value['dict'].items()}
        if 'float' in value:
            return float(value['float'])
        if 'dtype' not in value:
            raise ValueError('`config` must be what `to_config` returned; got a part of '
                             f'the keys {sorted(value)}.')
        dtype = tf.as_dtype(value['dtype'])
        if 'spec' in value:
            return tf.TensorSpec(value['spec'], dtype)
        if 'variable' in value:
            return tf.Variable(_array(value['variable'], dtype), dtype=dtype,
                               trainable=value['trainable'])
        return _array(value['array'], dtype)[()] if 'array' in value else dtype

    def _arguments(self, value):
        return {key: self.read(part) for key, part in value['parameters'].items()}

    def _read_custom(self, value):
        name = value['custom']
        if name not in self._custom:
            raise ValueError(
                f'`config` has a part {name!r} of its own: give `custom_objects={{'
                f'{name!r}: ...}}`, as to `to_config`; got {sorted(self._custom)}.')
        known = self._custom[name]
        if 'config' in value:
            return known.from_config(self.read(value['config']))
        return known(**self._arguments(value)) if 'parameters' in value else known


def _known(name):
    """The class of that name."""
    space, _, attribute = name.partition('.')
    cls = getattr(_NAMESPACES.get(space), attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, _KINDS)):
        raise ValueError(
            f'`config` names the class {name!r}, which neither tfp_conditional '
            f'{_version.__version__} nor TFP {tfp.__version__} has. Install the release '
            'that wrote it, or a later one.')
    return cls


def _numbers(array):
    """The numbers of an array; as strings where some are not finite, as JSON wants."""
    if np.all(np.isfinite(np.asarray(array, float))):
        return array.tolist()
    return array.astype(str).tolist()


def _array(numbers, dtype):
    array = np.asarray(numbers)
    if array.dtype.kind == 'U' and dtype != tf.string:
        array = array.astype(np.float64)
    return array.astype(dtype.as_numpy_dtype)
