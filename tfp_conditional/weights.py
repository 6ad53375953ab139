"""`load_weights`: a checkpoint, all of it or nothing."""

import tensorflow as tf

from tfp_conditional.core.types import Path

_COUNTER = 'save_counter/.ATTRIBUTES/VARIABLE_VALUE'   # What `Checkpoint.save` adds.


def load_weights(path: Path, **objects: tf.Module) -> None:
    """Reads what `tf.train.Checkpoint(**objects)` wrote, or changes nothing.

    TensorFlow's own `restore` assigns some of the variables before it finds that others
    do not fit, and says nothing of those that are not there. This raises, and leaves
    all variables as they were.

    ```python
    import tensorflow as tf
    import tfp_conditional as tfpc

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    path = tf.train.Checkpoint(flow=flow).write('weights')
    tfpc.load_weights(path, flow=flow)
    ```

    Args:
      path: what `write` or `save` of the checkpoint returned.
      **objects: distributions, bijectors, policies and other `tf.Module`s, by the names
        that the checkpoint was given.

    Raises:
      TypeError: for objects that are no `tf.Module`.
      ValueError: for a file that is not there, cut short or no checkpoint; that has
        another map, such as of another mask or activation; that lacks variables of the
        objects or has others; or in which they have other shapes.
    """
    for key, value in objects.items():
        if not isinstance(value, tf.Module):
            raise TypeError(f'`{key}` must be a tf.Module, such as a distribution or a '
                            f'bijector; got {type(value).__name__}.')
    if not objects:
        raise TypeError('`load_weights` must be given the objects to load, by the names '
                        'of the checkpoint, such as `dist=dist`; got none.')
    path = str(path)
    variables = [variable for value in objects.values() for variable in value.variables]
    before = [variable.numpy() for variable in variables]
    checkpoint = tf.train.Checkpoint(**objects)
    try:
        saved = tf.train.load_checkpoint(path).get_variable_to_shape_map()
        read = checkpoint.restore if _COUNTER in saved else checkpoint.read
        read(path).assert_consumed()
    except Exception as error:
        for variable, value in zip(variables, before):
            variable.assign(value)
        raise ValueError(
            f'`path` must be that of a checkpoint of {sorted(objects)} as they are here; '
            f'{path!r} is another, and nothing was loaded: {error}') from error
