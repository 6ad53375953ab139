"""TFP distributions and bijectors as JSON, for `get_config` of either Keras."""

import collections.abc
import inspect

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc

_NAMESPACES = {'tfd': tfp.distributions, 'tfb': tfp.bijectors, 'tfpc': tfpc,
               'linalg': tf.linalg}


def serialize(value, label):
    """Returns `value` in terms of JSON.

    Args:
      value: numbers, strings, dtypes, arrays, variables (their present values),
        distributions, bijectors, transformers and linear operators, and lists, tuples
        and dicts of them.
      label: `str`, for messages.

    Raises:
      ValueError: for anything else, such as functions.
    """
    # A np.float64 is a float too, but one that makes tensors of float64.
    if value is None or (isinstance(value, (bool, int, float, str))
                         and not isinstance(value, np.generic)):
        return value
    if isinstance(value, (tuple, list)):
        parts = [serialize(part, f'{label}[{i}]') for i, part in enumerate(value)]
        return {'tuple': parts} if isinstance(value, tuple) else parts
    if isinstance(value, collections.abc.Mapping):
        return {'dict': {key: serialize(part, f'{label}[{key!r}]')
                         for key, part in value.items()}}
    if isinstance(value, tf.DType):
        return {'dtype': value.name}
    if isinstance(value, tf.Variable):
        return {'variable': value.numpy().tolist(), 'dtype': value.dtype.name,
                'trainable': value.trainable}
    if isinstance(value, tfp.util.TransformedVariable):
        return {'transformed': serialize(value.pretransformed_input, label),
                'bijector': serialize(value.bijector, f'{label}.bijector')}
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
        value = np.asarray(value)
        return {'array': value.tolist(), 'dtype': value.dtype.name}
    name = type(value).__name__.lstrip('_')
    for space, module in _NAMESPACES.items():
        cls = getattr(module, name, None)
        if isinstance(cls, type) and (type(value) is cls or
                                      issubclass(cls, type(value))):
            return {'class': f'{space}.{name}', 'parameters': {
                key: serialize(part, f'{label}.{key}')
                for key, part in _parameters(value, cls, label).items()}}
    raise ValueError(
        f'`{label}` cannot be part of a Keras config: it must be made of numbers, '
        'strings, arrays and of the distributions, bijectors and transformers of '
        f'tfd, tfb and tfp_conditional; got {value!r}. Name an activation by a '
        'string; or construct the model in code and use `save_weights` and '
        '`load_weights`.')


def deserialize(value):
    """Returns what was serialized."""
    if isinstance(value, list):
        return [deserialize(part) for part in value]
    if not isinstance(value, dict):
        return value
    if 'class' in value:
        space, _, name = value['class'].partition('.')
        return getattr(_NAMESPACES[space], name)(
            **{key: deserialize(part) for key, part in value['parameters'].items()})
    if 'tuple' in value:
        return tuple(deserialize(part) for part in value['tuple'])
    if 'transformed' in value:
        variable, bijector = (deserialize(value[key])
                              for key in ('transformed', 'bijector'))
        return tfp.util.TransformedVariable(
            bijector.forward(variable), bijector, trainable=variable.trainable)
    if 'dict' in value:
        return {key: deserialize(part) for key, part in value['dict'].items()}
    if 'variable' in value:
        return tf.Variable(value['variable'], dtype=value['dtype'],
                           trainable=value['trainable'])
    if 'array' in value:
        return np.array(value['array'], value['dtype'])[()]
    return tf.as_dtype(value['dtype'])


def _parameters(value, cls, label):
    """The constructor's arguments that are not its defaults."""
    found = getattr(value, 'parameters', None)
    found = vars(value) if found is None else found
    result = {}
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        if key == 'self' or parameter.kind in (parameter.VAR_KEYWORD,
                                               parameter.VAR_POSITIONAL):
            continue
        if key not in found:
            raise ValueError(f'`{label}` cannot be part of a Keras config: '
                             f'{cls.__name__} does not keep its argument `{key}`.')
        if found[key] is not parameter.default:
            result[key] = found[key]
    return result
