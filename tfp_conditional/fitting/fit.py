"""`fit`: maximum likelihood by mini-batches, each epoch one compiled function."""

import contextlib
import functools
import json
import math
import os
import warnings
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_conditional.bijectors import adapt as adapt_lib
from tfp_conditional.bijectors import settings as settings_lib
from tfp_conditional.core import _tfp
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import dropout
from tfp_conditional.core import seeds

_EVALUATION_ROWS = 4096   # Rows of validation data that meet the network at once.
_DATASET_ROWS = 10000   # The first of a Dataset, up to a whole batch, to adapt to.
# Of so few, without validation, a fit of the defaults is 4 nats from the optimum
# where one with a fifth held out is 0.3 from it.
_FEW_ROWS = 50
_ELSEWHERE = 2.   # Nats per dimension worse than a Gaussian: of another scale or place.
# Defaults, with those of `fit` itself: the least held-out loss on two moons and a
# Gaussian mixture, of 10,000 simulations each.
LEARNING_RATE, WEIGHT_DECAY, PATIENCE = 5e-3, 0.4, 20
_NOT_FINITE = 'fit met a loss or gradient that is not finite'


def fit(dist, targets, conditions=None, validation_data=None, validation_split=0.,
        epochs=100, batch_size=128, optimizer=None, learning_rate=None,
        weight_decay=None, clip_norm=10., patience=None, ema_decay=0.997,
        target_noise=0., seed=None, checkpoint=None, callback=None,
        jit_compile=False, verbose=True):
    """Fits the variables of `dist` in place by maximum likelihood.

    Minimizes `-mean(dist.log_prob(y, bijector_kwargs={'conditions': c}))` over
    mini-batches. An epoch of N rows is ceil(N / batch_size) batches of one size,
    at most `batch_size`; fewer rows than there are batches are left out, others in
    each epoch. A batch whose loss or gradient is not finite changes nothing and
    ends the fit.

    Parts of a flow that have an `adapt` and have not adapted yet do so before the
    first step: unconditional ones, as `SoftBounds` and `ActNorm`, to all training
    rows, those that depend on conditions, as `Standardized`, to all or, where targets
    and conditions are more than 1e7 numbers, to so many rows at random, at least
    10,000. Of a Dataset it is the first batches, of 10,000 rows or more together.

    They adapt once. A second fit goes on from the weights and scales of the first,
    which is right for more data of the same kind; where the flow gives the new targets
    a loss that is more than 2 nats per dimension above that of a Gaussian of their
    mean and deviation, as it does for targets of another scale or place, it warns.
    Make a new `dist` for such data.

    ```python
    import numpy as np
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    conditions = np.random.default_rng(0).normal(size=[512, 3])
    targets = conditions[:, :2] + np.random.default_rng(1).normal(size=[512, 2])
    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(16,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    history = tfpc.fit(dist, targets, conditions, validation_split=0.1, epochs=5,
                       batch_size=64, patience=3, seed=0, verbose=False)
    assert history['val_loss'][-1] < history['val_loss'][0]
    ```

    Args:
      dist: `tfd.Distribution` of batch shape `[]`: `flow(base)` or another
        `TransformedDistribution` over a conditional bijector, or any other, for
        targets alone.
      targets: `[N, ...]`, events in rows; or a `tf.data.Dataset` of batches
        (targets `[B, ...]`, conditions `[B, S]`), or of targets alone, whose
        shuffling is its own affair. Conditions of which a `tf.TensorSpec` leaves
        sizes open may differ in them from batch to batch. Arrays of which the dtype
        of `dist` leaves too little are refused, as times in seconds in float32.
      conditions: `[N, S]`, or the nest of such arrays that the flow takes; `None`
        for a dist that takes none.
      validation_data: (targets, conditions), targets alone, or a Dataset of them.
      validation_split: fraction of the rows to hold out, at random, in its place.
        With validation the best weights are those that stay in `dist`, be they
          those from before the first epoch.
      epochs: `int`, the most passes through the data.
      batch_size: `int`, the most rows of a batch.
      optimizer: Keras 3 or tf_keras optimizer. Default: AdamW (beta_2 0.99) on a
        cosine from `learning_rate` to 0 in `epochs`, which decays matrices only.
      learning_rate: of the default optimizer; `None` is 5e-3.
      weight_decay: of the default optimizer, decoupled: at each step matrices shrink
        by the fraction rate * decay; `None` is 0.4.
      clip_norm: greatest global norm of a gradient, or `None`.
      patience: `int`, epochs without a better `val_loss` before stopping; `None` is
        20 where there is validation, and for the default optimizer at least a third
        of `epochs`.
      ema_decay: in (0, 1): validate, and end with, a moving average of the weights
        (shorter in the first steps); or `None`.
      target_noise: standard deviation of Gaussian noise on targets, in training.
      seed: `int` for the split, the order of rows and the noise, which depend on
        it and the epoch only. `None`: one drawn from TensorFlow's generator.
      checkpoint: path of a file, written after each epoch. Where it exists, the fit
        goes on from it, and ends as if never interrupted, bit for bit (a Dataset
        must repeat itself for that).
      callback: called as `callback(history)` after each epoch's checkpoint.
      jit_compile: `bool`, whether to compile by XLA.
      verbose: `bool`, whether to show a progress bar where tqdm is installed.

    Returns:
      `dict` of lists, one entry an epoch: `'epoch'` from 1, `'loss'`, the mean over
      the epoch's steps, and `'val_loss'` with validation; nats per event.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came;
        for targets that are not finite, or lie on the edge of a support; for a
        checkpoint of other settings.
      FloatingPointError: a loss or gradient was not finite: names the step, and
        leaves the weights from before it.
    """
    if not tf.executing_eagerly():
        raise RuntimeError('`fit` must be called eagerly, not in a `tf.function`.')
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        weight_decay=weight_decay, clip_norm=clip_norm, patience=patience,
        ema_decay=ema_decay, target_noise=target_noise, seed=seed,
        validation_split=validation_split, jit_compile=bool(jit_compile))
    _check_settings(settings, optimizer, validation_data)
    _check_dist(dist)
    train = checked_data(dist, targets, conditions, 'targets')
    validation = _validation(dist, validation_data)
    entropy = seeds.resolve_seed(seed)
    if checkpoint is not None and os.path.exists(checkpoint):
        saved, arrays = _read(checkpoint)
        entropy = tuple(saved['entropy'])
    else:
        saved = None
    if validation_split:
        train, validation = _split(train, validation_split, entropy)
    if validation is None and not isinstance(train, tf.data.Dataset) and (
            _num_rows(train) < _FEW_ROWS):
        warnings.warn(
            f'A fit to so few rows, {_num_rows(train)}, without validation learns them '
            'by heart: its density rises without end at the rows and falls elsewhere. '
            'Give `validation_split` or `validation_data`, which end it before, or '
            'few `epochs`, or `target_noise`.', stacklevel=2)
    strategy = _strategy(dist.trainable_variables, train, jit_compile)
    with strategy.scope():
        run = _Run(dist, train, validation, optimizer, settings, entropy, strategy)
        if saved:
            run.restore(saved, arrays, checkpoint)
        else:
            run.start()
        with _progress(epochs, len(run.history['epoch']), verbose) as bar:
            while len(run.history['epoch']) < epochs and not run.is_stalled():
                run.train_epoch()
                if checkpoint is not None:
                    run.save(checkpoint)
                if bar is not None:
                    bar.set_postfix({k: v[-1] for k, v in run.history.items()
                                     if k != 'epoch'})
                    bar.update()
                if callback is not None:
                    callback(run.history)
                    run.layout.read()
        run.finish()
    return run.history


class _Run:
    """The state of a fit, and what changes it."""

    def __init__(self, dist, train, validation, optimizer, settings, entropy,
                 strategy):
        self.dist, self.train, self.validation = dist, train, validation
        self.settings, self.entropy, self.strategy = settings, entropy, strategy
        self.variables = list(dist.trainable_variables)
        self.steps = _num_steps(train, settings['batch_size'])
        # The default optimizer updates one vector, not each variable: a fraction of
        # the operations, for TensorFlow to run or XLA to compile. One of the user's
        # may know variables by name.
        self.layout = _Separate(self.variables) if optimizer else _Flat(
            self.variables, settings['jit_compile'])
        self.optimizer, self.decay = (optimizer, None) if optimizer else _adam(
            settings, self.steps)
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False)
        if optimizer is not None:
            self.settings = {k: v for k, v in settings.items() if k != 'epochs'}
        self.optimizer.build(self.layout.variables)
        self.averages = [] if settings['ema_decay'] is None else [
            tf.Variable(v, trainable=False)
            for v in self.layout.pack(self.variables)]
        # What is validated, and stays.
        self.results = self.averages or self.layout.variables
        # Under XLA a scale of 0 is to undo what is not finite.
        self._times = (tf.math.multiply_no_nan if settings['jit_compile'] else
                       tf.multiply)
        # What `adapt` learns.
        self.statistics = list(dist.non_trainable_variables)
        self.best, self.initial_loss = None, None
        self.history = {'epoch': [], 'loss': []}
        if validation is not None:
            self.history['val_loss'] = []
        # XLA takes seconds to compile: only what runs often is worth them. A partial
        # is no function that TF counts the traces of over all fits.
        self._epoch, self._batch, self._sum, self._replicas = [
            tf.function(functools.partial(function), autograph=False,
                        reduce_retracing=True, jit_compile=jit_compile or None)
            for function, jit_compile in [
                (self._loop, settings['jit_compile']),
                (self._step, settings['jit_compile']), (self._sum_log_prob, False),
                (self._per_replica, False)]]

    def start(self):
        """What comes before the first epoch."""
        flow = getattr(self.dist, 'bijector', None)
        has_learnt = flow is not None and adapt_lib.has_learnt(flow)
        if flow is not None and not adapt_lib.adapted(flow):
            self._adapt(flow)
        self.layout.read()
        _assign(self.averages, _values(self.layout.variables))
        if has_learnt:
            self._check_place()
        if self.validation is not None:
            self.initial_loss, self.best = self._validate(), _values(self.results)

    def _adapt(self, flow):
        """Lets the flow learn from the data what gradients do not."""
        batches = self._batches(None)
        if isinstance(self.train, tf.data.Dataset):
            for batch in batches:
                _check_values(flow, *batch, 'targets')
        adapt_lib.adapt_batches(flow, batches)

    def _batches(self, rows):
        """Training data: so many rows at random, or the first batches of a Dataset."""
        if isinstance(self.train, tf.data.Dataset):
            batches, count = [], 0
            for batch in map(_pair, self.train):
                batches.append(batch)
                count += len(batch[0])
                if count >= _DATASET_ROWS:
                    break
        elif rows is None or _num_rows(self.train) <= rows:
            batches = [self.train]
        else:
            batches = [_rows(self.train, np.random.default_rng(
                (*self.entropy, 0)).choice(_num_rows(self.train), rows, replace=False))]
        return [(targets, _or_none(conditions)) for targets, conditions in batches]

    def _check_place(self):
        """Warns where the data are not those that the flow has adapted to."""
        batches = self._batches(_EVALUATION_ROWS)
        targets = np.concatenate([np.asarray(y, np.float64) for y, _ in batches])
        scale = np.std(targets, axis=0)
        gaussian = np.sum(np.log(np.where(scale > 0, scale, 1.))
                          + .5 * np.log(2 * np.pi) + .5)
        loss = -sum(float(self._sum(y, () if c is None else c))
                    for y, c in batches) / len(targets)
        if not loss - gaussian <= _ELSEWHERE * scale.size:
            warnings.warn(
                f'{self.dist.name!r} has adapted to other data, and does not adapt '
                f'again: its loss on these targets is {loss:.4g} nats per event, where '
                f'a Gaussian of their mean and deviation has {gaussian:.4g}. Where '
                'targets or conditions are of another scale or place than those of the '
                'first fit, make a new dist, or bring them to that scale.',
                stacklevel=4)

    def train_epoch(self):
        """One pass through the data, the validation, and the history of both."""
        epoch = len(self.history['epoch']) + 1
        # Depends on nothing but the seed and the epoch, so a resumed fit need
        # know nothing of the epochs before.
        rng = np.random.default_rng((*self.entropy, epoch))
        seed = tf.constant(rng.spawn(1)[0].integers(2**31, size=2))
        start = _values(self.layout.variables)
        if isinstance(self.train, tf.data.Dataset):
            loss = self._dataset_epoch(seed, start)
        else:
            loss = self._array_epoch(rng, seed, start)
        self.history['epoch'].append(epoch)
        self.history['loss'].append(loss)
        if self.validation is not None:
            self.history['val_loss'].append(self._validate())
            if epoch == self._best_epoch():
                self.best = _values(self.results)

    def _array_epoch(self, rng, seed, start):
        replicas = self.strategy.num_replicas_in_sync
        size = _num_rows(self.train) // self.steps // replicas * replicas
        rows = rng.permutation(_num_rows(self.train))[:self.steps * size]
        rows = tf.constant(rows.reshape(self.steps, size))
        before = int(tf.convert_to_tensor(self.count))
        total = self._guarded(self._epoch, *self.train, rows, seed)
        if total is None:
            step = int(tf.convert_to_tensor(self.count)) - before
            self._stop(step, start, *_rows(self.train, rows[step]), seed + [0, step])
        return total / self.steps

    def _dataset_epoch(self, seed, start):
        losses = []
        for step, batch in enumerate(self.train):
            arguments = (*_pair(batch), seed + [0, step])
            loss = self._guarded(self._batch, *arguments)
            if loss is None:
                self._stop(step, start, *arguments)
            losses.append(loss)
        if not losses:
            raise ValueError('`targets`, a Dataset, gave no batch in this epoch.')
        return np.mean(losses).item()

    def _guarded(self, function, *arguments):
        """The loss, or `None` where something was not finite."""
        try:
            loss, good = function(*arguments)
            return float(loss) if good else None
        except tf.errors.InvalidArgumentError as error:
            if _NOT_FINITE not in str(error):
                raise
            return None

    def _loop(self, targets, conditions, rows, seed):
        """All steps of an epoch, or those up to the first that is not finite."""
        def step(i, total, _):
            batch = _rows((targets, conditions), rows[i])
            shift = tf.stack([0, tf.cast(i, seed.dtype)])
            loss, good = self._step(*batch, seed + shift)
            return i + 1, total + loss, good

        _, total, good = tf.while_loop(
            lambda i, _, good: (i < rows.shape[0]) & good, step,
            (0, tf.zeros([], tf.float64), True))
        return total, good

    def _step(self, targets, conditions, seed):
        """Updates the variables, if all is finite; returns the loss, and whether."""
        loss, gradients = self._per_replica(targets, conditions, seed)
        norm = tf.linalg.global_norm(self._local(gradients))
        loss = self._local([loss])[0]
        check = tf.stack([loss, tf.cast(norm, loss.dtype)])
        if self.settings['jit_compile']:   # XLA removes assertions.
            good = tf.reduce_all(tf.math.is_finite(check))
            self._update(gradients, norm, tf.cast(good, norm.dtype))
            return tf.cast(loss, tf.float64), good
        # Not a `cond`, which costs a quarter of a small flow's step, nor edges to
        # all of an update, which cost a fifth: numbers that wait for the check.
        with tf.control_dependencies([tf.debugging.check_numerics(
                check, _NOT_FINITE)]):
            one = tf.identity(tf.ones_like(norm))
        self._update(gradients, norm, one)
        return tf.cast(loss, tf.float64), tf.constant(True)

    def _per_replica(self, targets, conditions, seed):
        return self.strategy.run(self._gradients, (targets, conditions, seed))

    def _local(self, values):
        return [self.strategy.experimental_local_results(x)[0] for x in values]

    def _gradients(self, targets, conditions, seed):
        """The loss and its gradients, summed over replicas, each with its rows."""
        context = tf.distribute.get_replica_context()
        count = context.num_replicas_in_sync
        if count > 1:
            replica = context.replica_id_in_sync_group
            targets, conditions = tf.nest.map_structure(
                lambda x: tf.stack(tf.split(x, count))[replica],
                (targets, conditions))
            seed += tf.stack([0, tf.cast(replica, seed.dtype) * 2**32])
        if self.settings['target_noise']:
            targets += self.settings['target_noise'] * tf.random.stateless_normal(
                tf.shape(targets), seed, dtype=targets.dtype)
        with tf.GradientTape() as tape, dropout.training(seed):
            loss = -tf.reduce_mean(self._log_prob(targets, conditions)) / count
        gradients = tape.gradient(loss, self.variables)
        _check_variables(self.variables, gradients, tape.watched_variables(), count)
        both = [loss, *self.layout.pack(gradients)]
        if count > 1:
            # Not `context.all_reduce`, whose gradient TensorFlow registers, and with
            # it the graph, for ever.
            both = context.merge_call(
                lambda strategy, *sums: strategy.extended.batch_reduce_to(
                    tf.distribute.ReduceOp.SUM, [(x, x) for x in sums]), both)
        return both[0], both[1:]

    def _update(self, gradients, norm, one):
        """A step of optimizer and average, where `one` is no 0, and once it exists."""
        clip, ema = self.settings['clip_norm'], self.settings['ema_decay']
        jit_compile, scale = self.settings['jit_compile'], one
        if clip is not None:
            scale = self._times(clip / tf.maximum(norm, clip), scale)
        self.count.assign_add(tf.cast(one, self.count.dtype))
        variables = self.layout.variables
        before = [tf.identity(v) for v in variables if jit_compile]
        if self.decay is not None:
            rate = self.decay(self.optimizer.iterations) * tf.cast(one, tf.float32)
            for variable, mask in zip(variables, self.layout.masks):
                self.strategy.extended.update(
                    variable, lambda v, r, mask: v.assign_sub(
                        v * tf.cast(r, v.dtype) * mask), (rate, mask))
        # Some other optimizer may change variables whatever the gradient is.
        with tf.control_dependencies([one] if self.decay is None else []):
            self.strategy.run(self._apply, (gradients, scale))
        # Not a `cond`, of which XLA makes such a choice for each trained variable.
        for variable, value in zip(variables, before):
            variable.assign(tf.where(one > 0., variable, value))
        self.layout.write()
        for average, variable in zip(self.averages, variables):
            step = tf.cast(self.count, variable.dtype)
            keep = tf.minimum(tf.cast(ema, step.dtype), step / (step + 9.))
            self.strategy.extended.update(
                average, lambda a, v, keep: a.assign_sub((1. - keep) * (a - v)),
                (variable, keep))

    def _apply(self, gradients, scale):
        """Hands the optimizer gradients that are sums over all replicas already."""
        pairs = [(self._times(g, scale), v)
                 for g, v in zip(gradients, self.layout.variables)]
        # `all_reduce` once more would leak, as above.
        if isinstance(self.optimizer, tf_keras.optimizers.Optimizer):
            self.optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)
        elif tf.distribute.has_strategy():   # Here Keras 3 knows no way around it.
            self.optimizer.apply_gradients(
                [(g / self.strategy.num_replicas_in_sync, v) for g, v in pairs])
        else:
            tf.distribute.get_replica_context().merge_call(
                lambda _: self.optimizer.apply_gradients(pairs))

    def _sum_log_prob(self, targets, conditions):
        """With the averages of the weights, where there are some, in their place."""
        swapped = self.variables if self.averages else []
        weights = [tf.identity(v) for v in swapped]
        for variable, value in zip(swapped, self.layout.unpack(
                [tf.convert_to_tensor(average) for average in self.averages])):
            variable.assign(value)
        total = tf.reduce_sum(tf.cast(self._log_prob(targets, conditions),
                                      tf.float64))
        for variable, value in zip(swapped, weights):
            variable.assign(value)
        return total

    def _log_prob(self, targets, conditions):
        conditions = _or_none(conditions)
        kwargs = ({} if conditions is None else
                  {'bijector_kwargs': {'conditions': conditions}})
        log_prob = self.dist.log_prob(targets, **kwargs)
        if not log_prob.shape.is_compatible_with(targets.shape[:1]):
            raise ValueError(
                '`dist.log_prob` must give one number for each row; got shape '
                f'{log_prob.shape} for targets of shape {targets.shape}. Wrap a '
                'base of scalar events as `tfd.Independent(base, 1)`.')
        return log_prob

    def _validate(self):
        """The loss of the weights, or of their averages, on the validation data."""
        batches = self.validation
        if not isinstance(batches, tf.data.Dataset):
            batches = [_rows(batches, slice(i, i + _EVALUATION_ROWS))
                       for i in range(0, _num_rows(batches), _EVALUATION_ROWS)]
        total, count = 0., 0
        for batch in map(_pair, batches):
            total += float(self._sum(*batch))
            count += _num_rows(batch)
        return -total / count

    def _best_epoch(self):
        """The epoch of the least loss; 0 where training made it no better."""
        losses = [self.initial_loss, *self.history['val_loss']]
        return int(np.argmin([x if np.isfinite(x) else np.inf for x in losses]))

    def is_stalled(self):
        """Whether `val_loss` got no better for `patience` epochs."""
        if self.validation is None:
            return False
        # Until its cosine falls, a high rate may hide for long what is learnt.
        patience = self.settings['patience'] or max(
            PATIENCE, self.settings.get('epochs', 0) // 3)
        return len(self.history['epoch']) - self._best_epoch() >= patience

    def finish(self):
        """Leaves the best weights in the variables, or else the moving average."""
        _assign(self.layout.variables, self.best or _values(self.results))
        self.layout.write()

    def _stop(self, step, start, *batch):
        """Raises for the batch that was not finite."""
        loss, gradients = self._replicas(*batch)
        gradients = self.layout.unpack(self._local(gradients))
        names = ['the loss', *[f'the gradient of {v.name}' for v in self.variables]]
        bad = [name for name, x in zip(names, [*self._local([loss]), *gradients])
               if not np.all(np.isfinite(x))] or ['the norm of the gradient']
        kept = 'before that step'
        if not all(np.all(np.isfinite(v)) for v in _values(self.variables)):
            # A gradient may be finite and the step by it too far.
            _assign(self.layout.variables, start)
            self.layout.write()
            kept = 'the start of the epoch, since the step before spoilt them'
        raise FloatingPointError(
            f'Epoch {len(self.history["epoch"]) + 1}, step {step + 1} of '
            f'{self.steps}: not finite: {", ".join(bad[:3])}'
            f'{", ..." * (len(bad) > 3)}. The weights are those from {kept}. '
            'Look for outliers in the batch, lower `learning_rate` or `clip_norm`, '
            'or use float64.')

    # Checkpoints: one file, replaced at once, so that a kill leaves the old or the
    # new one.

    def _state(self):
        return [*self.variables, *self.optimizer.variables, *self.averages,
                self.count, *self.statistics]

    def _fingerprint(self):
        config = {k: v for k, v in self.optimizer.get_config().items()
                  if k != 'name'}
        digests = [data if data is None else str(data.element_spec)
                   if isinstance(data, tf.data.Dataset) else
                   [[list(x.shape), zlib.crc32(np.ascontiguousarray(x).tobytes())]
                    for x in tf.nest.flatten(data)]
                   for data in (self.train, self.validation)]
        variables = [[v.dtype.name, v.shape.as_list()]
                     for v in [*self.variables, *self.statistics]]
        return json.loads(json.dumps(dict(
            self.settings, optimizer=type(self.optimizer).__name__, config=config,
            data=digests[0], validation_data=digests[1], variables=variables,
            flow=settings_lib.collect(self.dist)),
            default=str))

    def save(self, path):
        """Writes all that `restore` needs."""
        meta = dict(history=self.history, entropy=self.entropy,
                    initial_loss=self.initial_loss, settings=self._fingerprint())
        arrays = _values(self._state()) + (self.best or [])
        with open(f'{path}.part', 'wb') as file:
            np.savez(file, meta=json.dumps(meta),
                     **{f'array_{i}': x for i, x in enumerate(arrays)})
        os.replace(f'{path}.part', path)

    def restore(self, saved, arrays, path):
        """Goes back to the state of a checkpoint of the same settings."""
        mine = self._fingerprint()
        for key in sorted(mine.keys() | saved['settings'].keys(),
                          key=lambda key: (key == 'config', key)):
            if mine.get(key) != saved['settings'].get(key):
                raise ValueError(
                    f'`checkpoint` {path!r} is of a fit with other settings: '
                    f'{key!r} was {saved["settings"].get(key)!r} and is '
                    f'{mine.get(key)!r}. Give it the same, or another path.')
        state = self._state()
        _assign(state, arrays[:len(state)])
        self.layout.read()
        self.best = arrays[len(state):] or None
        self.history, self.initial_loss = saved['history'], saved['initial_loss']


class _Separate:
    """The variables that are trained, each by itself."""

    def __init__(self, variables):
        self.variables = variables

    def read(self):
        """Takes over what the variables are."""

    def write(self):
        """Hands on what the optimizer made of them."""

    def pack(self, tensors):
        """Tensors like the variables that are trained -> like those it updates."""
        return list(map(tf.convert_to_tensor, tensors))

    def unpack(self, tensors):
        """The inverse of `pack`."""
        return tensors


class _Flat(_Separate):
    """All of one dtype as one vector, in which those of one shape are neighbours."""

    def __init__(self, variables, jit_compile):
        self._trained = variables
        self._groups = {}
        for i, v in enumerate(variables):
            self._groups.setdefault(v.dtype, {}).setdefault(
                tuple(v.shape), []).append(i)
        # XLA compiles a slice for each constant at which it starts, but only one for
        # each shape where that is an argument.
        self._indices = [tf.constant(i) for i in range(len(variables))
                         if jit_compile]
        super().__init__([tf.Variable(v, trainable=False, name='flat')
                          for v in self.pack(variables)])
        # A bias has no reason to be 0: matrices decay.
        self.masks = self.pack([tf.fill(v.shape, tf.cast(v.shape.rank > 1, v.dtype))
                                for v in variables])

    def read(self):
        for variable, value in zip(self.variables, self.pack(self._trained)):
            variable.assign(value)

    def write(self):
        for variable, value in zip(self._trained, self.unpack(
                [tf.convert_to_tensor(v) for v in self.variables], self._indices)):
            variable.assign(value)

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


def _read(path):
    """The meta data and the arrays of a checkpoint."""
    try:
        with np.load(path) as file:
            return json.loads(str(file['meta'])), [
                file[f'array_{i}'] for i in range(len(file.files) - 1)]
    except (ValueError, KeyError, OSError) as error:
        raise ValueError('`checkpoint` must be a file that `fit` wrote, or none '
                         f'yet; {path!r} is another: {error}') from error


def _values(variables):
    return [tf.convert_to_tensor(v).numpy() for v in variables]


def _assign(variables, values):
    for variable, value in zip(variables, values):
        # NumPy saves bfloat16 as bytes without a name.
        dtype = tf.as_dtype(variable.dtype).as_numpy_dtype
        variable.assign(value.view(dtype) if value.dtype.kind == 'V' else value)


def _adam(settings, steps):
    """Adam on a cosine, and the fraction by which weights decay at a step."""
    rate, decay = (default if settings[key] is None else float(settings[key])
                   for key, default in [('learning_rate', LEARNING_RATE),
                                        ('weight_decay', WEIGHT_DECAY)])
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        rate, steps * settings['epochs'])
    return (tf_keras.optimizers.Adam(schedule, beta_2=0.99, jit_compile=False),
            lambda step: decay * schedule(step))


def checked_data(dist, targets, conditions, label):
    """A Dataset, or (targets, conditions) as tensors, their rows checked."""
    flow = getattr(dist, 'bijector', None)
    if isinstance(targets, tf.data.Dataset):
        _check_elements(dist, targets.element_spec, conditions, label)
        return targets
    targets = conditions_lib.as_tensor(targets, dist.dtype, label, lossless=True)
    event = dist.event_shape
    if not targets.shape.rank or not targets.shape[1:].is_compatible_with(event):
        raise ValueError(f'`{label}` must have shape [N, ...] with rows of shape '
                         f'{event}; got {targets.shape}.')
    if not targets.shape[0]:
        raise ValueError(f'`{label}` must have at least one row; got none.')
    if isinstance(flow, bijector_lib.ConditionalBijector) and conditions is None:
        raise TypeError(f'`conditions` are required by {flow.name!r} and were not '
                        f'given with `{label}`; pass [N, {flow.condition_size}].')
    if conditions is None:
        conditions = ()
    elif flow is None or isinstance(flow, _tfp.Chain):
        raise TypeError(f'`dist` takes no conditions; got some with `{label}` for '
                        f'{dist.name!r}. Use `flow(base)` of a ConditionalBijector, '
                        'and ConditionalChain for tfb.Chain.')
    elif isinstance(flow, bijector_lib.ConditionalBijector):
        conditions = flow._condition_spec.check(conditions, flow.name, lossless=True)
    else:
        conditions = tf.nest.map_structure(tf.convert_to_tensor, conditions)
    for leaf in tf.nest.flatten(conditions):
        if leaf.shape[:1] != targets.shape[:1]:
            raise ValueError(f'`{label}` and its conditions must have as many rows; '
                             f'got shapes {targets.shape} and {leaf.shape}.')
    _check_values(flow, targets, conditions, label)
    return targets, conditions


def _check_values(flow, targets, conditions, label):
    for name, x in [(label, targets), *[
            ('conditions', leaf) for leaf in tf.nest.flatten(conditions)
            if leaf is not None and leaf.dtype.is_floating]]:
        finite = np.isfinite(np.asarray(x)).reshape(len(x), -1).all(-1)
        if not finite.all():
            raise ValueError(
                f'`{name}` must be finite; {np.sum(~finite)} of {len(x)} rows are '
                f'not, the first of them row {np.argmin(finite)}. Drop or fill '
                'them.')
    if flow is not None:
        adapt_lib.check_support(flow, targets, label)


def _check_elements(dist, spec, conditions, label):
    """Refuses a Dataset whose elements are not batches of what `fit` takes."""
    parts = spec if isinstance(spec, tuple) else (spec,)
    if conditions is not None or not 1 <= len(parts) <= 2 or isinstance(
            parts[0], (dict, tuple)):
        raise ValueError(f'`{label}`, a Dataset, must have elements (targets, '
                         'conditions), or targets alone, and `conditions` be '
                         f'None; got elements {spec}. Use `.map(...)` to make pairs.')
    for part in tf.nest.flatten(spec):
        if not isinstance(part, tf.TensorSpec):
            raise TypeError(f'Elements of `{label}`, a Dataset, must be dense tensors; '
                            f'got {part}. Use `.map(...)` with `.to_tensor()` of '
                            'ragged ones, `tf.sparse.to_dense(...)` of sparse ones.')
    flow = getattr(dist, 'bijector', None)
    if isinstance(flow, bijector_lib.ConditionalBijector) and len(parts) == 1:
        raise TypeError(f'`conditions` are required by {flow.name!r}, and `{label}`, a '
                        'Dataset, has targets alone; its elements must be (targets, '
                        'conditions).')
    shape, event = parts[0].shape, dist.event_shape
    if shape.rank is not None and event.rank == shape.rank:
        raise ValueError(f'`{label}`, a Dataset, must have batches of events for '
                         f'elements, [B, ...]; got targets {shape}, one event each. '
                         'Use `.batch(batch_size)`.')
    if not shape[1:].is_compatible_with(event):
        raise ValueError(f'`{label}`, a Dataset, must have targets [B, ...] of events '
                         f'{event}; got {shape}.')
    if parts[0].dtype != dist.dtype:
        raise TypeError(f'`{label}`, a Dataset, must have targets of dtype '
                        f'{dist.dtype.name}; got {parts[0].dtype.name}. Cast them by '
                        '`.map(...)`, or make the flow with that dtype.')


def _validation(dist, data):
    if data is None:
        return None
    pair = data if isinstance(data, (tuple, list)) else (data,)
    if len(pair) > 2:
        raise ValueError('`validation_data` must be (targets, conditions), targets '
                         f'alone, or a Dataset; got {len(pair)} parts.')
    return checked_data(dist, *pair, *[None] * (2 - len(pair)), 'validation_data')


def _split(data, fraction, entropy):
    """The rows to train on, and the others; (*entropy, 0) is no epoch's seed."""
    if isinstance(data, tf.data.Dataset):
        raise ValueError('`validation_split` needs arrays; got a Dataset. Split it '
                         'with `take` and `skip`, and give `validation_data`.')
    count = _num_rows(data)
    held = int(round(count * fraction))
    if not 0 < held < count:
        raise ValueError(f'`validation_split` must leave rows to both sides; got '
                         f'{fraction} of {count} rows.')
    order = np.random.default_rng((*entropy, 0)).permutation(count)
    return _rows(data, order[held:]), _rows(data, order[:held])


def _rows(data, at):
    return tf.nest.map_structure(
        lambda x: x[at] if isinstance(at, slice) else tf.gather(x, at), data)


def _num_rows(data):
    return data[0].shape[0]


def _pair(batch):
    return batch if isinstance(batch, tuple) else (batch, ())


def _or_none(conditions):
    return None if isinstance(conditions, tuple) and not conditions else conditions


def _num_steps(data, batch_size):
    if not isinstance(data, tf.data.Dataset):
        return -(-_num_rows(data) // batch_size)
    count = int(data.cardinality())
    if count == tf.data.INFINITE_CARDINALITY or not count:
        raise ValueError('`targets`, a Dataset, must have batches, and finitely '
                         f'many; got {count or "none"}. Use `.take(steps)`.'
                         .replace('-1', 'infinitely many'))
    if count == tf.data.UNKNOWN_CARDINALITY:
        count = int(data.reduce(np.int64(0), lambda n, _: n + 1))
    return count


def _check_settings(settings, optimizer, validation_data):
    for key in ('epochs', 'batch_size', 'patience'):
        if settings[key] is not None or key != 'patience':
            conditions_lib.positive_int(settings[key], key)
    for key, least, below, optional in [
            ('validation_split', 0, 1, False), ('target_noise', 0, np.inf, False),
            ('ema_decay', 1e-9, 1, True), ('clip_norm', 1e-30, np.inf, True),
            ('learning_rate', 1e-30, np.inf, True),
            ('weight_decay', 0, np.inf, True)]:
        value = settings[key]
        if value is None and optional:
            continue
        if isinstance(value, bool) or not isinstance(
                value, (int, float, np.number)):
            raise TypeError(f'`{key}` must be a number; got {value!r}.')
        if not least <= value < below:
            raise ValueError(f'`{key}` must be at least {least} and less than '
                             f'{below}; got {value}.')
    if settings['validation_split'] and validation_data is not None:
        raise ValueError('Give `validation_split` or `validation_data`; got both.')
    if settings['patience'] and not settings['validation_split'] and (
            validation_data is None):
        raise ValueError('`patience` must come with `validation_data` or '
                         '`validation_split`; got neither.')
    if optimizer is None:
        return
    if not (hasattr(optimizer, 'build') and hasattr(optimizer, 'apply_gradients')):
        raise TypeError('`optimizer` must be an optimizer of Keras 3 or tf_keras '
                        f'(not legacy); got {optimizer!r}.')
    for key in ('learning_rate', 'weight_decay'):
        if settings[key] is not None:
            raise ValueError(f'`{key}` must be set in `optimizer` where one is '
                             f'given; got {key}={settings[key]}.')


def _check_dist(dist):
    if not isinstance(dist, tfp.distributions.Distribution):
        raise TypeError('`dist` must be a tfd.Distribution; got '
                        f'{type(dist).__name__}.')
    if not isinstance(dist.dtype, tf.DType):
        raise TypeError(f'Events of `dist` must be one tensor; got {dist.dtype}.')
    if dist.batch_shape.rank:
        raise ValueError(f'`dist` must have batch shape []; got {dist.batch_shape}. '
                         'Give `conditions` to `fit`, not to `given` or `condition`; '
                         'wrap scalar events as `tfd.Independent(dist, 1)`.')
    if not dist.trainable_variables:
        raise ValueError(
            f'`dist` must have trainable variables; {dist.name!r} has none. TFP '
            'sees no variables of a Keras network in a closure: use '
            'ConditionalRealNVP or `conditional_real_nvp_template`.')


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


def _strategy(variables, data, jit_compile):
    """The strategy the variables were made under, or the current one."""
    strategy = getattr(variables[0], 'distribute_strategy', None) or (
        tf.distribute.get_strategy())
    count = strategy.num_replicas_in_sync
    if count > 1 and not (
            type(strategy) is tf.distribute.MirroredStrategy and not jit_compile
            and not isinstance(data, tf.data.Dataset)
            and all(getattr(v, 'distribute_strategy', None) is strategy
                    for v in variables)):
        raise ValueError(
            f'On {count} replicas `fit` needs a MirroredStrategy, under whose scope '
            'all variables were made, arrays rather than a Dataset, and '
            f'jit_compile=False; got {type(strategy).__name__}.')
    if count > 1 and _num_rows(data) < count:
        raise ValueError(f'`targets` must have a row for each of {count} replicas.')
    return strategy


def _progress(epochs, done, verbose):
    """A tqdm bar, or a context manager of None."""
    if verbose:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm
            return tqdm(total=epochs, initial=done, desc='fit', unit='epoch')
    return contextlib.nullcontext()
