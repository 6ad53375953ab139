"""The data of a fit, checked: `Arrays` of rows, or the `Batches` of a Dataset."""

import typing
import zlib

import numpy as np
import tensorflow as tf

from tfp_conditional.core import _tfp
from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.fitting import hooks as hooks_lib

EVALUATION_ROWS = 4096   # Rows that meet the network at once where nothing is trained.
_DATASET_ROWS = 10000   # The first of a Dataset, up to a whole batch, to adapt to.


class Arrays(typing.NamedTuple):
    """Targets `[N, ...]`, and a nest of conditions `[N, ...]`, `()` for none.

    `weights` are `[N]`, positive, float64; `()` where all are 1.
    """

    targets: typing.Any
    conditions: typing.Any = ()
    weights: typing.Any = ()

    @property
    def num_rows(self):
        return self.targets.shape[0]

    def take(self, at):
        """The rows at a slice or at indices."""
        return tf.nest.map_structure(
            lambda x: x[at] if isinstance(at, slice) else tf.gather(x, at), self)

    def split(self, fraction, entropy):
        """The rows to train on, and the others; (*entropy, 0) is no epoch's seed."""
        count = self.num_rows
        held = int(round(count * fraction))
        if not 0 < held < count:
            raise ValueError(f'`validation_split` must leave rows to both sides; got '
                             f'{fraction} of {count} rows.')
        order = np.random.default_rng((*entropy, 0)).permutation(count)
        return self.take(order[held:]).scaled(), self.take(order[:held])

    def scaled(self):
        """These rows, with weights of mean 1."""
        if not has_weights(self):
            return self
        weights = self.weights / tf.reduce_max(self.weights)   # Equal ones are 1.
        return self._replace(weights=weights / tf.reduce_mean(weights))

    def num_steps(self, batch_size):
        return -(-self.num_rows // batch_size)

    def order(self, rng, num_steps, multiple):
        """Indices of the rows of an epoch `[num_steps, B]`, B a multiple of this."""
        size = self.num_rows // num_steps // multiple * multiple
        rows = rng.permutation(self.num_rows)[:num_steps * size]
        return tf.constant(rows.reshape(num_steps, size))

    def sample(self, entropy, rows=None):
        """One batch of all rows, or of so many at random."""
        if rows is None or self.num_rows <= rows:
            return [self]
        return [self.take(np.random.default_rng((*entropy, 0)).choice(
            self.num_rows, rows, replace=False))]

    def batches(self, part=0, num_parts=1):
        """All rows in their order, or of so many parts of them one."""
        return [self.take(slice(i, i + EVALUATION_ROWS)) for i in range(
            part * EVALUATION_ROWS, self.num_rows, num_parts * EVALUATION_ROWS)]

    def digest(self):
        return [[list(x.shape), zlib.crc32(np.ascontiguousarray(x).tobytes())]
                for x in tf.nest.flatten(self)]


class Batches:
    """A Dataset of batches (targets, conditions, weights), the last ones optional."""

    def __init__(self, dataset, label):
        self._dataset, self._label = dataset, label
        self._scale = None    # What weights are divided by: their mean.

    @property
    def has_weights(self):
        return isinstance(self._dataset.element_spec, tuple) and (
            len(self._dataset.element_spec) == 3)

    def split(self, fraction, entropy):
        del fraction, entropy
        raise ValueError('`validation_split` needs arrays; got a Dataset. Split it '
                         'with `take` and `skip`, and give `validation_data`.')

    def num_steps(self, batch_size):
        del batch_size   # The Dataset has its own.
        count = int(self._dataset.cardinality())
        if count == tf.data.INFINITE_CARDINALITY or not count:
            raise ValueError('`targets`, a Dataset, must have batches, and finitely '
                             f'many; got {count or "none"}. Use `.take(steps)`.'
                             .replace('-1', 'infinitely many'))
        if count == tf.data.UNKNOWN_CARDINALITY:
            count = int(self._dataset.reduce(np.int64(0), lambda n, _: n + 1))
        return count

    def sample(self, entropy, rows=None):
        """The first batches."""
        del entropy, rows
        batches, count = [], 0
        for batch in self.batches():
            batches.append(batch)
            count += batch.num_rows
            if count >= _DATASET_ROWS:
                break
        return batches

    def batches(self, part=0, num_parts=1):
        """`Arrays`, without the rows whose weight is 0; all, or one part of many."""
        for batch in self._dataset.shard(num_parts, part):
            batch = as_batch(batch)
            if has_weights(batch):
                if self._scale is None:
                    self._scale = self._mean_weight()
                batch = present(batch._replace(
                    weights=tf.cast(batch.weights, tf.float64) / self._scale))
            if batch.num_rows:
                yield batch

    def distributed(self, strategy):
        """`Arrays` of what replicas have each, of batches that are shared out."""
        return map(as_batch, strategy.experimental_distribute_dataset(self._dataset))

    def _mean_weight(self):
        """That of all rows that have one, from a pass through the data."""
        total, count = 0., 0
        for batch in self._dataset:
            batch = as_batch(batch)
            weights = checked_weights(batch.weights, batch.num_rows,
                                      f'weights of {self._label}')
            total += float(tf.reduce_sum(weights))
            count += int(tf.math.count_nonzero(weights))
        if not 0. < total < np.inf:
            raise ValueError(f'Weights of `{self._label}`, a Dataset, must have a '
                             f'positive and finite sum; it is {total}.')
        return total / count

    def digest(self):
        return str(self._dataset.element_spec)


def checksum(data):
    """A number that tells data apart."""
    return zlib.crc32(str(data.digest()).encode())


def as_batch(element):
    """An element of a Dataset as `Arrays`."""
    targets, conditions, weights = (
        *(element if isinstance(element, tuple) else (element,)), (), ())[:3]
    return Arrays(targets, () if conditions is None else conditions, weights)


def has_weights(batch):
    return not isinstance(batch.weights, tuple)


def present(data):
    """The rows of `Arrays` whose weight is not 0."""
    if not has_weights(data) or np.all(data.weights):
        return data
    return data.take(np.flatnonzero(data.weights))


def thinned(batches, entropy):
    """Batches without weights, their rows kept as often as they weigh.

    A row of weight w stays with probability min(1, w / c), and none is twice there,
    which would look like an edge or a peak. With c the greatest weight this is exact;
    where that would leave few rows c is less, and greater weights count as c (Ionides
    2008): so at least half as many stay, in the mean, as the effective sample size.
    """
    if not all(map(has_weights, batches)):
        return batches
    weights = np.concatenate([batch.weights for batch in batches])
    most = min(np.max(weights), 2. * np.sum(weights**2) / np.sum(weights))
    rng = np.random.default_rng((*entropy, 0))
    kept = [batch.take(np.flatnonzero(
        rng.uniform(size=batch.num_rows) * most < batch.weights))._replace(weights=())
            for batch in batches]
    return [batch for batch in kept if batch.num_rows]


def checked_weights(weights, count, label):
    """Weights of rows as a tensor `[N]` in float64."""
    if tf.is_tensor(weights) and (
            weights.dtype.is_floating or weights.dtype.is_integer):
        weights = tf.cast(weights, tf.float64)
    weights = conditions_lib.as_tensor(weights, tf.float64, label)
    if weights.shape != [count]:
        raise ValueError(f'`{label}` must have shape [{count}], one number for each '
                         f'row; got {weights.shape}.')
    bad = ~(np.isfinite(weights) & (weights.numpy() >= 0.))
    if bad.any():
        raise ValueError(
            f'`{label}` must be finite and not negative; {np.sum(bad)} of {count} are '
            f'not, the first of them row {np.argmax(bad)}.')
    return weights


def or_none(conditions):
    """`None` for `()`, the conditions of dists that take none."""
    return None if isinstance(conditions, tuple) and not conditions else conditions


def checked_data(dist, targets, conditions, label, weights=None):
    """Targets, conditions and weights as `Arrays`, checked, or as `Batches`."""
    flow = getattr(dist, 'bijector', None)
    if isinstance(targets, tf.data.Dataset):
        if weights is not None:
            raise ValueError(
                f'`sample_weight` must be None where `{label}` is a Dataset; make its '
                'elements (targets, conditions, weights), without conditions (targets, '
                '(), weights).')
        _check_elements(dist, targets.element_spec, conditions, label)
        return Batches(targets, label)
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
        conditions = flow.condition_spec.check(conditions, flow.name, lossless=True)
    else:
        conditions = tf.nest.map_structure(tf.convert_to_tensor, conditions)
    for leaf in tf.nest.flatten(conditions):
        if leaf.shape[:1] != targets.shape[:1]:
            raise ValueError(f'`{label}` and its conditions must have as many rows; '
                             f'got shapes {targets.shape} and {leaf.shape}.')
    data = Arrays(targets, conditions)
    if weights is not None:
        name = 'sample_weight' if label == 'targets' else f'weights of {label}'
        weights = checked_weights(weights, data.num_rows, name)
        if not np.any(weights):
            raise ValueError(f'`{name}` must have a row that is not 0; all are.')
        data = present(data._replace(weights=weights).scaled()).scaled()
    check_values(dist, data.targets, data.conditions, label)
    return data


def check_values(dist, targets, conditions, label):
    """Refuses rows that are not finite, or have no density under the flow."""
    for name, x in [(label, targets), *[
            ('conditions', leaf) for leaf in tf.nest.flatten(conditions)
            if leaf is not None and leaf.dtype.is_floating]]:
        conditions_lib.check_finite_rows(x, name, ' Drop or fill them.')
    hooks_lib.hooks(dist).check_targets(targets, label)


def _check_elements(dist, spec, conditions, label):
    """Refuses a Dataset whose elements are not batches of what `fit` takes."""
    parts = spec if isinstance(spec, tuple) else (spec,)
    if conditions is not None or not 1 <= len(parts) <= 3 or isinstance(
            parts[0], (dict, tuple)):
        raise ValueError(f'`{label}`, a Dataset, must have elements (targets, '
                         'conditions), (targets, conditions, weights) or targets '
                         'alone, and `conditions` be '
                         f'None; got elements {spec}. Use `.map(...)` to make pairs.')
    if len(parts) == 3 and (not isinstance(parts[2], tf.TensorSpec)
                            or parts[2].shape.rank not in (1, None)):
        raise ValueError(f'Elements (targets, conditions, weights) of `{label}`, a '
                         f'Dataset, must have weights [B]; got {parts[2]}.')
    for part in tf.nest.flatten(spec):
        if not isinstance(part, tf.TensorSpec):
            raise TypeError(f'Elements of `{label}`, a Dataset, must be dense tensors; '
                            f'got {part}. Use `.map(...)` with `.to_tensor()` of '
                            'ragged ones, `tf.sparse.to_dense(...)` of sparse ones.')
    flow = getattr(dist, 'bijector', None)
    if (flow is None or isinstance(flow, _tfp.Chain)) and len(parts) > 1 and (
            tf.nest.flatten(parts[1])):
        raise TypeError(f'`dist`, {dist.name!r}, takes no conditions, and `{label}`, a '
                        'Dataset, has some. Elements with weights alone are (targets, '
                        '(), weights).')
    if isinstance(flow, bijector_lib.ConditionalBijector) and not (
            tf.nest.flatten(parts[1:2])):
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


def checked_validation(dist, data):
    """`checked_data` of what a user gives as `validation_data`, or `None`."""
    if data is None:
        return None
    pair = data if isinstance(data, (tuple, list)) else (data,)
    if len(pair) > 3:
        raise ValueError('`validation_data` must be (targets, conditions), (targets, '
                         'conditions, weights), targets alone, or a Dataset; got '
                         f'{len(pair)} parts.')
    targets, conditions, weights = (list(pair) + [None] * 3)[:3]
    return checked_data(dist, targets, or_none(conditions), 'validation_data', weights)
