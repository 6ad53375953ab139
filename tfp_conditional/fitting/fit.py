"""`fit`: maximum likelihood by mini-batches, each epoch one compiled function."""

from collections.abc import Callable
import functools
import os
from typing import Any
import warnings
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import ensemble as ensemble_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.progress import progress
from tfp_conditional.core.types import Conditions, Path, TensorLike
from tfp_conditional.fitting import checkpoint as checkpoint_lib
from tfp_conditional.fitting import data as data_lib
from tfp_conditional.fitting import hooks as hooks_lib
from tfp_conditional.fitting import optimizer as optimizer_lib
from tfp_conditional.fitting import programs
from tfp_conditional.fitting.validation import PATIENCE, Validation
from tfp_conditional.fitting.workers import Workers

# Of so few, without validation, a fit of the defaults is 4 nats from the optimum
# where one with a fifth held out is 0.3 from it.
_FEW_ROWS = 50
_ELSEWHERE = 2.   # Nats per dimension worse than a Gaussian: of another scale or place.


def fit(dist: tfp.distributions.Distribution, targets: TensorLike | tf.data.Dataset,
        conditions: Conditions | None = None, validation_data: Any = None,
        validation_split: float = 0., epochs: int = 100, batch_size: int = 128,
        optimizer: Any = None, learning_rate: float | None = None,
        weight_decay: float | None = None, clip_norm: float = 10.,
        patience: int | None = None, ema_decay: float = 0.997, target_noise: float = 0.,
        seed: int | None = None, checkpoint: Path | None = None,
        callback: Callable[[dict[str, list]], Any] | None = None,
        jit_compile: bool = False, verbose: bool = True,
        sample_weight: TensorLike | None = None) -> dict[str, list]:
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
    Make a new `dist` for such data. With the settings of the first and data of its
    shapes a second fit takes what the first compiled, which `dist` keeps.

    The members of a `ConditionalEnsemble` are fitted in turn, number k from 0 with
    `seed + k`: by `validation_split`, to other rows. Those that differ in variables
    only all take what the first compiled.

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
        targets alone; or a `ConditionalEnsemble`.
      targets: `[N, ...]`, events in rows; or a `tf.data.Dataset` of batches
        (targets `[B, ...]`, conditions `[B, S]`), of (targets, conditions, weights
        `[B]`), with `()` for no conditions, or of targets alone, whose shuffling is its
        own affair. Several replicas share out each batch. Conditions of which a
        `tf.TensorSpec` leaves sizes open may differ in them from batch to batch. Arrays
        of which the dtype of `dist` leaves too little are refused, as times in seconds
        in float32.
      conditions: `[N, S]`, or the nest of such arrays that the flow takes; `None`
        for a dist that takes none.
      validation_data: (targets, conditions), (targets, conditions, weights) with
        `None` for no conditions, targets alone, or a Dataset.
      validation_split: fraction of the rows to hold out, at random, in its place.
        With validation the weights of the least `val_loss` stay in `dist`, be they
        those from before the first epoch. A flow that adapts in this fit begins as a
        Gaussian of the data, and goes back to it unless the validation rows gain
        from training more than twice the standard error of their mean gain.
      epochs: `int`, the most passes through the data.
      batch_size: `int`, the most rows of a batch.
      optimizer: Keras 3 or tf_keras optimizer. Default: AdamW (beta_2 0.99) on a
        cosine from `learning_rate` to 0 in `epochs`, which decays matrices only.
      learning_rate: of the default optimizer; `None` is 5e-3.
      weight_decay: of the default optimizer, decoupled: at each step matrices shrink
        by the fraction rate * decay. `None` is 16 D / S, for events of D numbers and S
        steps an epoch, of one number as of two where S is at most 10; but at least 0.4
        and at most 20: few rows of many dimensions are soon learnt by heart.
      clip_norm: greatest global norm of a gradient, or `None`.
      patience: `int`, epochs without a better `val_loss` before stopping; `None` is
        20 where there is validation, and for the default optimizer at least a third
        of `epochs`, or all of them, where an epoch is of 10 steps or fewer.
      ema_decay: in (0, 1): validate, and end with, a moving average of the weights
        (shorter in the first steps); or `None`.
      target_noise: standard deviation of Gaussian noise on targets, in training.
      seed: `int` for the split, the order of rows and the noise, which depend on
        it and the epoch only. `None`: one drawn from TensorFlow's generator.
      checkpoint: path of a file, written after each epoch. Where it exists, the fit
        goes on from it, and ends as if never interrupted, bit for bit (a Dataset
        must repeat itself for that). Of several workers the chief writes it, and all
        read it. Member k >= 1 of an ensemble has a file of its own, with `.k` added.
      callback: called as `callback(history)` after each epoch's checkpoint.
      jit_compile: `bool`, whether to compile by XLA.
      verbose: `bool`, whether to show a progress bar where tqdm is installed.
      sample_weight: `[N]`, how much each row counts, not negative; `None`: equally.
        Losses are weighted means, and only the ratios of weights matter; a row of
        weight 0 is as one that is not there. Importance weights p / q of rows drawn
        from q fit p. Parts that `adapt` do so to rows that are kept in proportion to
        their weights. A Dataset has its weights in its elements; one more pass, before
        the first step, finds their mean.

    Returns:
      `dict` of lists, one entry an epoch: `'epoch'` from 1, `'loss'`, the mean over
      the epoch's steps, and `'val_loss'` with validation; nats per event. Of an
      ensemble the epochs of all members, with `'member'` from 0.

    Raises:
      TypeError, ValueError: naming the argument, what was expected and what came;
        for targets that are not finite, or lie on the edge of a support; for a
        checkpoint of other settings.
      FloatingPointError: a loss or gradient was not finite: names the step, and
        leaves the weights from before it.
    """
    if not tf.executing_eagerly():
        raise RuntimeError('`fit` must be called eagerly, not in a `tf.function`.')
    if isinstance(dist, ensemble_lib.ConditionalEnsemble):
        return _fit_members(dist, optimizer, seed, checkpoint, callback, dict(
            targets=targets, conditions=conditions, validation_data=validation_data,
            validation_split=validation_split, epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate, weight_decay=weight_decay, clip_norm=clip_norm,
            patience=patience, ema_decay=ema_decay, target_noise=target_noise,
            jit_compile=jit_compile, verbose=verbose, sample_weight=sample_weight))
    settings = dict(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        weight_decay=weight_decay, clip_norm=clip_norm, patience=patience,
        ema_decay=ema_decay, target_noise=target_noise, seed=seed,
        validation_split=validation_split, jit_compile=bool(jit_compile))
    _check_settings(settings, optimizer, validation_data)
    _check_dist(dist)
    hooks = hooks_lib.hooks(dist)
    if target_noise and not hooks.is_continuous:
        raise ValueError(f'`target_noise` must be 0 for a {type(dist).__name__}, whose '
                         f'values are cells; got {target_noise}.')
    train = data_lib.checked_data(dist, targets, conditions, 'targets', sample_weight)
    held_out = data_lib.checked_validation(dist, validation_data)
    entropy, saved = seeds.resolve_seed(seed), None
    if checkpoint is not None and os.path.exists(checkpoint):
        saved, arrays = checkpoint_lib.read(checkpoint)
        entropy = tuple(saved['entropy'])
    if validation_split:
        train, held_out = train.split(validation_split, entropy)
    if held_out is None and isinstance(train, data_lib.Arrays) and (
            train.num_rows < _FEW_ROWS):
        warnings.warn(
            f'A fit to so few rows, {train.num_rows}, without validation learns them '
            'by heart: its density rises without end at the rows and falls elsewhere. '
            'Give `validation_split` or `validation_data`, which end it before, or '
            'few `epochs`, or `target_noise`.', stacklevel=2)
    strategy = _strategy(dist.trainable_variables, train, jit_compile)
    with strategy.scope():
        workers = Workers(strategy)
        num_steps = train.num_steps(batch_size)
        if workers.count > 1:
            _check_workers(workers, settings, optimizer, saved, num_steps,
                           train, held_out)
        if optimizer is None:
            if weight_decay is None:
                weight_decay = optimizer_lib.default_weight_decay(
                    dist.event_shape.num_elements() or 1, num_steps)
            # Until its cosine falls, a high rate may hide for long what is learnt, and
            # so does chance where few rows validate: of 900 with a box prior, D = 1, and
            # 100 that validate, a third loses 0.02 nats.
            patience = patience or max(
                PATIENCE, epochs if num_steps <= optimizer_lib.FEW_STEPS else epochs // 3)
            make = functools.partial(optimizer_lib.FlatAdamW, num_steps * epochs,
                                     learning_rate, weight_decay)
        else:
            patience = patience or PATIENCE
            del settings['epochs']   # It may go on for more.
            make = functools.partial(optimizer_lib.KerasOptimizer, optimizer)
        # An error on one worker would end what the others wait for.
        make = functools.partial(make, clip_norm, ema_decay,
                                 settings['jit_compile'] or workers.count > 1)
        has_learnt = hooks.has_learnt
        has_adapted = saved is None and _adapt(dist, hooks, train, entropy)
        workers.follow([*dist.trainable_variables, *dist.non_trainable_variables])
        with programs.program(dist, make, strategy, target_noise,
                              settings['jit_compile']) as (training, updates):
            validation = Validation(held_out, training.log_prob, updates, patience,
                                    workers)
            # Beside them, a checkpoint holds what `adapt` has learnt.
            state = [*dist.trainable_variables, *updates.state,
                     *dist.non_trainable_variables]
            history: dict[str, list] = {'epoch': [], 'loss': []}
            if held_out is not None:
                history['val_loss'] = []
            fingerprint = None if checkpoint is None else checkpoint_lib.fingerprint(
                dist, train, held_out, updates, settings)
            updates.begin()
            if saved is None:
                if has_learnt:
                    _check_place(dist, hooks.log_cell, data_lib.thinned(train.sample(
                        entropy, data_lib.EVALUATION_ROWS), entropy), training)
                validation.start(has_adapted)
            else:
                checkpoint_lib.check(saved['settings'], fingerprint, checkpoint)
                optimizer_lib.assign(state, arrays)
                updates.read()
                history = saved['history']
                validation.restore(saved['losses'], arrays[len(state):])
            with progress(epochs, 'fit', 'epoch', verbose and not workers.index,
                          len(history['epoch'])) as bar:
                while len(history['epoch']) < epochs and not validation.is_stalled():
                    epoch = len(history['epoch']) + 1
                    history['loss'].append(
                        training.epoch(epoch, train, num_steps, entropy))
                    history['epoch'].append(epoch)
                    if held_out is not None:
                        history['val_loss'].append(validation.validate())
                    if checkpoint is not None and not workers.index:
                        checkpoint_lib.write(
                            checkpoint, dict(
                                history=history, entropy=entropy,
                                losses=validation.losses, settings=fingerprint),
                            [*optimizer_lib.values(state), *validation.best,
                             *validation.first])
                    if bar is not None:
                        bar.set_postfix({k: v[-1] for k, v in history.items()
                                         if k != 'epoch'})
                        bar.update()
                    if callback is not None:
                        callback(history)
                        updates.read()
            validation.finish()
    return history


def _fit_members(ensemble, optimizer, seed, checkpoint, callback, settings):
    """`fit` of each member, in the variables of the first where that is the same."""
    if optimizer is not None:
        raise ValueError('`optimizer` must be None for an ensemble: its moments would go '
                         'on from member to member. Give `learning_rate` and the like, '
                         'or fit each of `members` with an optimizer of its own.')
    if ensemble.parameters['conditions'] is not None:
        raise ValueError('`dist` must be the ensemble before `given`; give `conditions` '
                         'to `fit`.')
    first, *rest = ensemble.members
    structures = [programs.structure(member) for member in ensemble.members]
    columns = {}

    def fit_member(number, dist):
        def joined(history):
            return {key: columns.get(key, []) + list(column) for key, column in {
                'member': [number] * len(history['epoch']), **history}.items()}

        suffix = f'.{number}' if number else ''
        history = fit(
            dist, seed=None if seed is None else seed + number,
            checkpoint=None if checkpoint is None else os.fspath(checkpoint) + suffix,
            callback=None if callback is None else lambda h: callback(joined(h)),
            **settings)
        columns.update(joined(history))

    fit_member(0, first)
    for number, member in enumerate(rest, 1):
        # What `adapt` may have learnt beside variables cannot be lent.
        if programs.same(structures[0], structures[number]) and programs.same(
                structures[0], programs.structure(first)):
            with programs.lent(first, member):
                fit_member(number, first)
        else:
            fit_member(number, member)
    return columns


def _adapt(dist, hooks, train, entropy):
    """Lets the flow learn from data what gradients do not; returns whether it did."""
    if hooks.adapted:
        return False
    batches = [(targets, data_lib.or_none(conditions)) for targets, conditions, _
               in data_lib.thinned(train.sample(entropy), entropy)]
    if isinstance(train, data_lib.Batches):
        for batch in batches:
            data_lib.check_values(dist, *batch, 'targets')
    hooks.adapt_batches(batches, entropy)
    return True


def _check_place(dist, log_cell, batches, training):
    """Warns where the data are not those that the flow has adapted to."""
    targets = np.concatenate([np.asarray(y, np.float64) for y, *_ in batches])
    scale = np.std(targets, axis=0)
    gaussian = np.sum(np.log(np.where(scale > 0, scale, 1.))
                      + .5 * np.log(2 * np.pi) + .5) - log_cell
    loss = -sum(float(tf.reduce_sum(training.log_prob(*batch[:2])))
                for batch in batches) / len(targets)
    if not loss - gaussian <= _ELSEWHERE * scale.size:
        warnings.warn(
            f'{dist.name!r} has adapted to other data, and does not adapt again: its '
            f'loss on these targets is {loss:.4g} nats per event, where a Gaussian of '
            f'their mean and deviation has {gaussian:.4g}. Where targets or conditions '
            'are of another scale or place than those of the first fit, make a new '
            'dist, or bring them to that scale.', stacklevel=3)


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
            'ConditionalRealNVP or ConditionalRealNVPTemplate.')


def _strategy(variables, data, jit_compile):
    """The strategy the variables were made under, or the current one."""
    strategy = getattr(variables[0], 'distribute_strategy', None) or (
        tf.distribute.get_strategy())
    count = strategy.num_replicas_in_sync
    if count > 1 and not (
            type(strategy) in (tf.distribute.MirroredStrategy,
                               tf.distribute.MultiWorkerMirroredStrategy)
            and not jit_compile
            and all(getattr(v, 'distribute_strategy', None) is strategy
                    for v in variables)):
        raise ValueError(
            f'On {count} replicas `fit` needs a MirroredStrategy or a '
            'MultiWorkerMirroredStrategy, under whose scope all variables were made, '
            f'and jit_compile=False; got {type(strategy).__name__}.')
    if count > 1 and isinstance(data, data_lib.Arrays) and data.num_rows < count:
        raise ValueError(f'`targets` must have a row for each of {count} replicas.')
    if count > 1 and isinstance(data, data_lib.Batches) and data.has_weights:
        raise ValueError(f'On {count} replicas a Dataset must be without weights; give '
                         'arrays and `sample_weight`.')
    return strategy


def _check_workers(workers, settings, optimizer, saved, num_steps, train, held_out):
    """Refuses what would be another fit on each worker."""
    if settings['seed'] is None:
        raise ValueError('On several workers `fit` needs a `seed`, the same on all.')
    if optimizer is not None and not isinstance(
            optimizer, tf_keras.optimizers.Optimizer):
        raise ValueError('On several workers `optimizer` must be one of tf_keras, or '
                         'None; Keras 3 knows nothing of them.')
    workers.check_same(0 if saved is None else len(saved['history']['epoch']), (
        'The epochs in `checkpoint`, a file that all workers can read,'))
    for number, label in [
            (zlib.crc32(str(settings).encode()), 'Arguments of `fit`'),
            (num_steps, 'The number of batches'), (data_lib.checksum(train), 'Data'),
            (0 if held_out is None else data_lib.checksum(held_out),
             'Data for validation')]:
        workers.check_same(number, label)
