"""`CustomConditioner`: a user's network, checked and tracked."""

import copy

import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import conditions as conditions_lib


class CustomConditioner(_tfp.Picklable, tf.Module):
    """A user's conditioner: its output checked, its variables tracked.

    Variables are found by running it once, so those of a Keras model, or of a
    network in a closure, count like those of a `tf.Module`.
    """

    def __init__(self, conditioner, input_size, condition_spec, output_size,
                 name='conditioner'):
        super().__init__(name=name)
        if not callable(conditioner):
            raise TypeError('`conditioner` must be a callable (units, conditions) -> '
                            f'parameters; got {type(conditioner).__name__}.')
        self._conditioner = conditioner
        self._condition_spec = condition_spec
        self._output_size = output_size
        self._untracked_variables = untracked(self, lambda: self(
            tf.zeros([1, input_size], condition_spec.dtype),
            condition_spec.example()))

    def __call__(self, units, conditions):
        # A network of the user's, which mostly concatenates, need not know that
        # conditions may have a smaller batch shape.
        conditions = conditions_lib.expand(conditions, units)
        parameters = self._conditioner(units, conditions)
        want = units.shape[:-1] + [self._output_size]
        if not tf.is_tensor(parameters):
            raise TypeError('`conditioner` must return one tensor; got '
                            f'{type(parameters).__name__}.')
        if parameters.dtype != self._condition_spec.dtype:
            raise TypeError('`conditioner` must return dtype '
                            f'{self._condition_spec.dtype.name}; got '
                            f'{parameters.dtype.name}.')
        if not parameters.shape.is_compatible_with(want):
            raise ValueError(
                f'`conditioner` must return shape {want.as_list()} for units of '
                f'shape {units.shape.as_list()}: all of parameter 0, then all of '
                f'parameter 1, and so on; got {parameters.shape.as_list()}.')
        return parameters

    def __deepcopy__(self, memo):
        return copy_owner(self, memo, 'conditioner')


def untracked(module, run):
    """The variables that a function reads and a module does not know of."""
    with tf.GradientTape() as tape:
        run()
    tracked = {id(variable) for variable in module.trainable_variables}
    return [variable for variable in tape.watched_variables()
            if id(variable) not in tracked]


def copy_owner(module, memo, network):
    """`copy.deepcopy` of a module with a network of the user's, or a refusal."""
    if module._untracked_variables:
        raise TypeError(
            f'This {network} cannot be copied: its variables '
            f'{[v.name for v in module._untracked_variables]} are no attributes of a '
            "tf.Module, so a copy would go on computing with the original's. Hand "
            'over a tf.Module that owns them.')
    return copy_attributes(module, memo)


def copy_attributes(module, memo):
    """What `copy.deepcopy` does with a class that has no `__deepcopy__`."""
    clone = object.__new__(type(module))
    memo[id(module)] = clone
    clone.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return clone
