"""What `fit` updates weights with: an optimizer of Keras, or the default, AdamW.

Both have `build(variables)` and `apply_gradients(loss, gradients)`, which clips the
gradient, refuses what is not finite, and keeps the moving average of the weights.
"""

import contextlib
import math

import tensorflow as tf
import tf_keras

# With the defaults of `fit`: the least held-out loss on two moons and a Gaussian
# mixture, of 10,000 simulations each.
LEARNING_RATE, LEAST_DECAY = 5e-3, 0.4
# What a fit decays by altogether grows with the size of events, not with its steps:
# on priors with edges or tails, D = 2 to 20 and 300 to 10,000 rows, about this is best,
# and 0.4 for all costs up to 1.5 nats. More than the most would undo a step. Of D = 1
# few rows need what those of D = 2 do, and 3000 lose by it.
DECAY_BY_SIZE, MOST_DECAY = 16., 20.
FEW_STEPS = 10   # Of an epoch.
NOT_FINITE = 'fit met a loss or gradient that is not finite'


def default_weight_decay(event_size, num_steps):
    """`16 D / num_steps`, of the steps of an epoch, between 0.4 and 20; see `fit`."""
    if num_steps <= FEW_STEPS:
        event_size = max(event_size, 2)
    return min(max(DECAY_BY_SIZE * event_size / num_steps, LEAST_DECAY), MOST_DECAY)


class KerasOptimizer:
    """An optimizer of Keras 3 or tf_keras, which updates each variable by itself.

    Attributes:
      weights: what is updated: here the variables, in `FlatAdamW` vectors of them.
      averages: moving averages of `weights`, or `[]`.
      results: those of the two that are validated, and stay.
      count: number of steps that were made.
    """

    def __init__(self, optimizer, clip_norm, ema_decay, jit_compile):
        self._optimizer, self._clip_norm = optimizer, clip_norm
        self._ema_decay, self._jit_compile = ema_decay, jit_compile
        # Under XLA a scale of 0 is to undo what is not finite.
        self._times = tf.math.multiply_no_nan if jit_compile else tf.multiply

    def build(self, variables):
        """Makes all state, under the strategy of the variables."""
        self._strategy = tf.distribute.get_strategy()
        self._variables = variables
        self.weights = self._make_weights()
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._optimizer.build(self.weights)
        self.averages = [] if self._ema_decay is None else [
            tf.Variable(v, trainable=False) for v in self.pack(variables)]
        self.results = self.averages or self.weights

    def _make_weights(self):
        return self._variables

    def begin(self):
        """Forgets all steps; an optimizer of the user's remembers its own."""
        self.count.assign(0)
        self.read()
        self.assign(values(self.weights))    # The averages, too.

    @property
    def state(self):
        """The variables that say how to go on, with those that are trained."""
        return [*self._optimizer.variables, *self.averages, self.count]

    def get_config(self):
        return {'optimizer': type(self._optimizer).__name__, 'config': {
            k: v for k, v in self._optimizer.get_config().items() if k != 'name'}}

    def pack(self, tensors):
        """Tensors like the variables -> tensors like `weights`."""
        return list(map(tf.convert_to_tensor, tensors))

    def unpack(self, tensors):
        """The inverse of `pack`."""
        return tensors

    def read(self):
        """Brings `weights` to what the variables are."""

    def write(self):
        """Brings the variables to what `weights` are."""

    def assign(self, values):
        """Brings weights, averages and variables to arrays like `weights`."""
        assign(self.weights, values)
        assign(self.averages, values)
        self.write()

    @contextlib.contextmanager
    def averaged(self):
        """In it, in a `tf.function`, the variables are their averages, if there are."""
        swapped = self._variables if self.averages else []
        before = [tf.identity(v) for v in swapped]
        for variable, value in zip(swapped, self.unpack(
                [tf.convert_to_tensor(average) for average in self.averages])):
            variable.assign(value)
        yield
        for variable, value in zip(swapped, before):
            variable.assign(value)

    def apply_gradients(self, loss, gradients):
        """Makes a step, unless the loss or the gradient is not finite.

        Args:
          loss, gradients: one per replica each, sums over replicas already;
            gradients like `weights`.

        Returns:
          The loss, and whether the step was made; without XLA it raises
          `InvalidArgumentError` with `NOT_FINITE` where it was not.
        """
        loss, *local = [self._strategy.experimental_local_results(x)[0]
                        for x in (loss, *gradients)]
        norm = tf.linalg.global_norm(local)
        numbers = tf.stack([loss, tf.cast(norm, loss.dtype)])
        if self._jit_compile:   # XLA removes assertions.
            is_finite = update_is_good = tf.reduce_all(tf.math.is_finite(numbers))
        else:
            is_finite = tf.constant(True)
            # Not a `cond`, which costs a quarter of a small flow's step, nor edges to
            # all of an update, which cost a fifth: numbers that wait for the check.
            with tf.control_dependencies([tf.debugging.check_numerics(
                    numbers, NOT_FINITE)]):
                update_is_good = tf.identity(is_finite)
        self.count.assign_add(tf.cast(update_is_good, self.count.dtype))
        before = [tf.identity(v) for v in self.weights if self._jit_compile]
        self._update(gradients, norm, tf.cast(update_is_good, norm.dtype))
        # Not a `cond`, of which XLA makes such a choice for each trained variable.
        for weight, value in zip(self.weights, before):
            weight.assign(tf.where(update_is_good, weight, value))
        self.write()
        self._average()
        return tf.cast(loss, tf.float64), is_finite

    def _update(self, gradients, norm, factor):
        """A step of the optimizer, by gradients times a factor, 1 or for no step 0."""
        # Some optimizers change variables whatever the gradient is.
        with tf.control_dependencies([factor]):
            self._step(gradients, norm, factor)

    def _step(self, gradients, norm, factor):
        if self._clip_norm is not None:
            factor = self._times(
                self._clip_norm / tf.maximum(norm, self._clip_norm), factor)
        self._strategy.run(self._apply, (gradients, factor))

    def _apply(self, gradients, factor):
        """Hands the optimizer gradients that are sums over all replicas already."""
        pairs = [(self._times(g, factor), w) for g, w in zip(gradients, self.weights)]
        # Its `all_reduce` would register a gradient, and with it the graph, for ever.
        if isinstance(self._optimizer, tf_keras.optimizers.Optimizer):
            self._optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        elif tf.distribute.has_strategy():   # Here Keras 3 knows no way around it.
            self._optimizer.apply_gradients(
                [(g / self._strategy.num_replicas_in_sync, w) for g, w in pairs])
        else:
            tf.distribute.get_replica_context().merge_call(
                lambda _: self._optimizer.apply_gradients(pairs))

    def _average(self):
        for average, weight in zip(self.averages, self.weights):
            step = tf.cast(self.count, weight.dtype)
            keep = tf.minimum(tf.cast(self._ema_decay, step.dtype), step / (step + 9.))
            self._strategy.extended.update(
                average, lambda a, w, keep: a.assign_sub((1. - keep) * (a - w)),
                (weight, keep))


class FlatAdamW(KerasOptimizer):
    """AdamW on a cosine, of one vector for all variables of a dtype.

    An update of one vector is a fraction of the operations, for TensorFlow to run or
    XLA to compile. Optimizers of the user's may know variables by name.
    """

    def __init__(self, num_steps, learning_rate, weight_decay, *guards):
        schedule = tf_keras.optimizers.schedules.CosineDecay(
            LEARNING_RATE if learning_rate is None else float(learning_rate), num_steps)
        self._schedule = schedule
        self._decay = float(weight_decay)
        super().__init__(tf_keras.optimizers.Adam(
            schedule, beta_2=0.99, jit_compile=False), *guards)

    def _make_weights(self):
        # By dtype and then shape: variables of one shape are neighbours.
        self._groups = {}
        for i, v in enumerate(self._variables):
            self._groups.setdefault(v.dtype, {}).setdefault(
                tuple(v.shape), []).append(i)
        # XLA compiles a slice for each constant at which it starts, but only one for
        # each shape where that is an argument.
        self._indices = [tf.constant(i) for i in range(len(self._variables))
                         if self._jit_compile]
        # A bias has no reason to be 0: matrices decay.
        self._masks = self.pack([tf.fill(v.shape, tf.cast(v.shape.rank > 1, v.dtype))
                                 for v in self._variables])
        return [tf.Variable(v, trainable=False, name='flat')
                for v in self.pack(self._variables)]

    def begin(self):
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        super().begin()

    def pack(self, tensors):
        return [tf.concat([tf.reshape(tensors[i], [-1])
                           for members in groups.values() for i in members], axis=0)
                for groups in self._groups.values()]

    def unpack(self, tensors, indices=()):
        result = {}
        for tensor, groups in zip(tensors, self._groups.values()):
            parts = tf.split(tensor, [len(members) * math.prod(shape)
                                      for shape, members in groups.items()])
            for part, (shape, members) in zip(parts, groups.items()):
                part = tf.reshape(part, [len(members), *shape])
                result.update(zip(members, [
                    tf.gather(part, i) for i in indices[:len(members)]
                ] or tf.unstack(part)))
        return [result[i] for i in range(len(result))]

    def read(self):
        for weight, value in zip(self.weights, self.pack(self._variables)):
            weight.assign(value)

    def write(self):
        for variable, value in zip(self._variables, self.unpack(
                [tf.convert_to_tensor(w) for w in self.weights], self._indices)):
            variable.assign(value)

    def _update(self, gradients, norm, factor):
        rate = self._decay * self._schedule(self._optimizer.iterations) * tf.cast(
            factor, tf.float32)
        for weight, mask in zip(self.weights, self._masks):
            self._strategy.extended.update(
                weight, lambda w, rate, mask: w.assign_sub(
                    w * tf.cast(rate, w.dtype) * mask), (rate, mask))
        self._step(gradients, norm, factor)


def values(variables):
    """Variables as arrays."""
    return [tf.convert_to_tensor(v).numpy() for v in variables]


def assign(variables, arrays):
    """The inverse of `values`, also of arrays from a file."""
    for variable, value in zip(variables, arrays):
        # NumPy saves bfloat16 as bytes without a name.
        dtype = tf.as_dtype(variable.dtype).as_numpy_dtype
        variable.assign(value.view(dtype) if value.dtype.kind == 'V' else value)
