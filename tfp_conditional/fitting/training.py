"""An epoch of `fit`, one compiled function, or of a Dataset one for each batch."""

import functools
import weakref

import numpy as np
import tensorflow as tf

from tfp_conditional.core import dropout
from tfp_conditional.fitting import data as data_lib
from tfp_conditional.fitting import optimizer as optimizer_lib


class Training:
    """Epochs that depend on nothing but weights, seed and epoch, so that fits resume.

    One serves many fits, and holds no data, and `dist`, which may hold it, weakly.

    Args:
      dist: `tfd.Distribution` whose variables are trained.
      optimizer: one of `optimizer`, built.
      target_noise, jit_compile: as of `fit`.
    """

    def __init__(self, dist, optimizer, target_noise, jit_compile):
        self._dist, self._optimizer = weakref.ref(dist), optimizer
        self._target_noise = target_noise
        self._variables = list(dist.trainable_variables)
        self._strategy = tf.distribute.get_strategy()
        # XLA takes seconds to compile: only what runs often is worth them. A partial
        # is no function that TF counts the traces of over all fits.
        self._epoch, self._batch, self._replicas, self.log_prob = [
            tf.function(functools.partial(function), autograph=False,
                        reduce_retracing=True, jit_compile=jit_compile or None)
            for function, jit_compile in [
                (self._loop, jit_compile), (self._step, jit_compile),
                (self._per_replica, False), (self._averaged_log_prob, False)]]

    def epoch(self, number, data, num_steps, entropy):
        """One pass through the data; the mean loss of its steps.

        Args:
          number: `int`, of the epoch, from 1.
          data: `data.Arrays` or `data.Batches`.
          num_steps: of an epoch; a Dataset may give others.
          entropy: tuple of `int`, the seed.

        Raises:
          FloatingPointError: a loss or gradient was not finite.
        """
        rng = np.random.default_rng((*entropy, number))
        seed = tf.constant(rng.spawn(1)[0].integers(2**31, size=2))
        start = optimizer_lib.values(self._optimizer.weights)
        if isinstance(data, data_lib.Arrays):
            rows = data.order(rng, num_steps, self._strategy.num_replicas_in_sync)
            before = int(tf.convert_to_tensor(self._optimizer.count))
            total = _guarded(self._epoch, *data, rows, seed)
            if total is not None:
                return total / num_steps
            step = int(tf.convert_to_tensor(self._optimizer.count)) - before
            self._stop(f'Epoch {number}, step {step + 1} of {num_steps}', start,
                       *data.take(rows[step]), seed + [0, step], False)
        losses = []
        is_shared = self._strategy.num_replicas_in_sync > 1
        for step, batch in enumerate(
                data.distributed(self._strategy) if is_shared else data.batches()):
            arguments = (*batch, seed + [0, step], is_shared)
            losses.append(_guarded(self._batch, *arguments))
            if losses[-1] is None:
                self._stop(f'Epoch {number}, step {step + 1} of {num_steps}', start,
                           *arguments)
        if not losses:
            raise ValueError('`targets`, a Dataset, gave no batch in this epoch.')
        return np.mean(losses).item()

    def _loop(self, targets, conditions, weights, rows, seed):
        """All steps of an epoch, or those up to the first that is not finite."""
        def step(i, total, _):
            batch = data_lib.Arrays(targets, conditions, weights).take(rows[i])
            shift = tf.stack([0, tf.cast(i, seed.dtype)])
            loss, is_finite = self._step(*batch, seed + shift, False)
            return i + 1, total + loss, is_finite

        _, total, is_finite = tf.while_loop(
            lambda i, _, is_finite: (i < tf.shape(rows)[0]) & is_finite, step,
            (0, tf.zeros([], tf.float64), True))
        return total, is_finite

    def _step(self, *arguments):
        return self._optimizer.apply_gradients(*self._per_replica(*arguments))

    def _per_replica(self, *arguments):
        return self._strategy.run(self._gradients, arguments)

    def _gradients(self, targets, conditions, weights, seed, is_shared):
        """The loss and its gradients of all replicas, each of which has its rows.

        They are shared out among them already, or here.
        """
        context = tf.distribute.get_replica_context()
        count = context.num_replicas_in_sync
        if count > 1:
            replica = context.replica_id_in_sync_group
            if not is_shared:
                targets, conditions, weights = tf.nest.map_structure(
                    lambda x: tf.stack(tf.split(x, count))[replica],
                    (targets, conditions, weights))
            seed += tf.stack([0, tf.cast(replica, seed.dtype) * 2**32])
        if self._target_noise:
            targets += self._target_noise * tf.random.stateless_normal(
                tf.shape(targets), seed, dtype=targets.dtype)
        with tf.GradientTape() as tape, dropout.training(seed):
            log_prob = self._log_prob(targets, conditions)
            if not isinstance(weights, tuple):
                # Not over their sum in the batch, which a great one makes greater: of
                # mean 1 over all rows, batches have the gradient of all in the mean.
                log_prob *= tf.cast(weights, log_prob.dtype)
            loss = -tf.reduce_mean(log_prob) if count == 1 else -tf.reduce_sum(log_prob)
        gradients = tape.gradient(loss, self._variables)
        _check_variables(self._variables, gradients, tape.watched_variables(), count)
        both = [loss, *self._optimizer.pack(gradients)]
        if count > 1:
            # The last batch of a Dataset has few.
            rows = [tf.cast(tf.shape(targets)[0], tf.float32)]
            # Not `context.all_reduce`, whose gradient TensorFlow registers, and with
            # it the graph, for ever. What several workers sum at once has one dtype.
            both, [num_rows] = context.merge_call(
                lambda strategy, *parts: tuple(strategy.extended.batch_reduce_to(
                    tf.distribute.ReduceOp.SUM, [(x, x) for x in part])
                                               for part in parts), (both, rows))
            both = [x / tf.cast(num_rows, x.dtype) for x in both]
        return both[0], both[1:]

    def _averaged_log_prob(self, targets, conditions):
        """`[N]` in float64, by the averages of the weights, where there are some."""
        with self._optimizer.averaged():
            return tf.cast(self._log_prob(targets, conditions), tf.float64)

    def _log_prob(self, targets, conditions):
        conditions = data_lib.or_none(conditions)
        kwargs = ({} if conditions is None else
                  {'bijector_kwargs': {'conditions': conditions}})
        log_prob = self._dist().log_prob(targets, **kwargs)
        if not log_prob.shape.is_compatible_with(targets.shape[:1]):
            raise ValueError(
                '`dist.log_prob` must give one number for each row; got shape '
                f'{log_prob.shape} for targets of shape {targets.shape}. Wrap a '
                'base of scalar events as `tfd.Independent(base, 1)`.')
        return log_prob

    def _stop(self, place, start, *batch):
        """Raises for the batch that was not finite."""
        loss, *gradients = [self._strategy.experimental_local_results(x)[0]
                            for x in tf.nest.flatten(self._replicas(*batch))]
        gradients = self._optimizer.unpack(gradients)
        names = ['the loss', *[f'the gradient of {v.name}' for v in self._variables]]
        bad = [name for name, x in zip(names, [loss, *gradients])
               if not np.all(np.isfinite(x))] or ['the norm of the gradient']
        kept = 'before that step'
        if not all(np.all(np.isfinite(v))
                   for v in optimizer_lib.values(self._variables)):
            # A gradient may be finite and the step by it too far.
            optimizer_lib.assign(self._optimizer.weights, start)
            self._optimizer.write()
            kept = 'the start of the epoch, since the step before spoilt them'
        raise FloatingPointError(
            f'{place}: not finite: {", ".join(bad[:3])}{", ..." * (len(bad) > 3)}. '
            f'The weights are those from {kept}. Look for outliers in the batch, lower '
            '`learning_rate` or `clip_norm`, or use float64.')


def _guarded(function, *arguments):
    """The loss, or `None` where something was not finite."""
    try:
        loss, is_finite = function(*arguments)
        return float(loss) if is_finite else None
    except tf.errors.InvalidArgumentError as error:
        if optimizer_lib.NOT_FINITE not in str(error):
            raise
        return None


def _check_variables(variables, gradients, watched, num_replicas):
    """Refuses to train less than there is: nobody would notice."""
    unused = [v.name for v, g in zip(variables, gradients) if g is None]
    known = {id(v) for v in variables}
    hidden = [v.name for v in watched if id(v) not in known and num_replicas == 1]
    if unused or hidden:
        raise ValueError(
            'The trainable variables of `dist` must be those that its log_prob '
            f'depends on; it does not depend on {unused}, and depends on {hidden}, '
            'which `dist.trainable_variables` lacks. Make them `trainable=False`, '
            'or attributes of a tf.Module.')
