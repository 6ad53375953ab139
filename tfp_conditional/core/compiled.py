"""`CompiledMethods`: methods of an object that eager calls run as one function."""

import weakref

import tensorflow as tf

from tfp_conditional.core import dropout


def is_eager():
    """Whether a call made here and now is to run as one compiled function."""
    return (tf.executing_eagerly() and not tf.config.functions_run_eagerly()
            and not dropout.is_training())


class CompiledMethods:
    """The compiled methods of one object, which no copy of it shares.

    A method is traced once for each combination of ranks, for all batch sizes. It
    holds its object weakly, lest every flow be a reference cycle, and it is dropped
    with it.
    """

    def __init__(self):
        self._functions = {}

    def __deepcopy__(self, memo):
        return type(self)()

    def __reduce__(self):
        return type(self), ()

    def __call__(self, owner, method, tensors, event_shapes, static=()):
        """Returns `getattr(owner, method)(*static, *tensors)`, compiled.

        Args:
          owner: the object.
          method: `str`, the name of one of its methods.
          tensors: list of tensors, its arguments.
          event_shapes: how the shape of each ends, after its batch axes.
          static: hashable arguments that come first, traced as they are.
        """
        key = (method, static, *[tensor.shape.rank for tensor in tensors])
        if tf.distribute.has_strategy():
            # A trace reads the variables of the replica that it was made in.
            replica = tf.distribute.get_replica_context()
            key += (tf.distribute.get_strategy(), None if replica is None else int(
                tf.get_static_value(replica.replica_id_in_sync_group)))
        function = self._functions.get(key)
        if function is None:
            this = weakref.ref(owner)
            function = tf.function(
                lambda *tensors: getattr(this(), method)(*static, *tensors),
                autograph=False,
            ).get_concrete_function(*[
                tf.TensorSpec([None] * (tensor.shape.rank - len(shape)) + list(shape),
                              tensor.dtype)
                for tensor, shape in zip(tensors, event_shapes)])
            self._functions[key] = function
        return function(*tensors)
