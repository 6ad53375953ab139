"""`ConditionalEnsemble`: an equal mixture of conditional distributions."""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import bijector as bijector_lib
from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core.one_pass import INVERSE
from tfp_conditional.core.types import Conditions


class ConditionalEnsemble(distribution_lib.ConditionalTransformedDistribution):
    """The mixture, in equal parts, of K conditional distributions.

    ```none
    log_prob:  log p(y | c) = log (1/K) sum_k p_k(y | c)
    sample:    k ~ Uniform{1..K};  y ~ p_k(. | c)
    ```

    Fits from different first weights, to different splits of the data, agree where
    there are data and disagree elsewhere. So their mixture is less sure there, and its
    log-prob is never below the mean of theirs: a deep ensemble (Lakshminarayanan et
    al. 2017, https://arxiv.org/abs/1612.01474; Hermans et al. 2022,
    https://arxiv.org/abs/2110.06581). `fit` trains each member; those of one
    architecture cost one compilation.

    It is used as any `ConditionalTransformedDistribution`, at K times its cost: in a
    sample all members draw, and one of them is chosen for each event. The choice
    depends on no variable, so gradients of expectations of samples are right. There are
    no latents: `forward`, `inverse`, `posterior.mode` and all else that needs the
    bijector of a flow are refused.

    #### Example

    ```python
    import numpy as np
    import tfp_conditional as tfpc

    conditions = np.random.default_rng(0).normal(size=[200, 3])
    targets = conditions[:, :2] + np.random.default_rng(1).normal(size=[200, 2])
    ensemble = tfpc.ConditionalEnsemble([
        tfpc.conditional_density(2, 3, num_coupling_layers=1, seed=seed)
        for seed in range(3)])
    tfpc.fit(ensemble, targets, conditions, validation_split=0.1, epochs=2, seed=0,
             verbose=False)
    given = ensemble.given(conditions[:5])
    samples, log_probs = given.experimental_sample_and_log_prob(100)
    assert samples.shape == [100, 5, 2] and log_probs.shape == [100, 5]
    ```
    """

    def __init__(self,
                 members: Sequence[distribution_lib.ConditionalTransformedDistribution],
                 conditions: Conditions | None = None, validate_args: bool = False,
                 name: str | None = None) -> None:
        """Constructs the mixture.

        Args:
          members: K >= 1 distributions `flow(base)` of batch shape `[]` over
            conditional bijectors, of the same events, conditions and dtype. Each has
            variables of its own.
          conditions: those that `given` would be given, or `None`.
          validate_args: `bool`, as in `tfd.Distribution`.
          name: `str`.

        Raises:
          TypeError, ValueError: for members that are none, that differ in events or
            conditions, or that share trainable variables.
        """
        self._start(_Members(_checked(members)), conditions, validate_args,
                    name or 'conditional_ensemble')

    def _start(self, flow, conditions, validate_args, name):
        super().__init__(
            flow.members[0].distribution,
            flow if conditions is None else flow.condition(conditions),
            validate_args=validate_args, name=name)
        self._parameters = self._no_dependency(dict(
            members=tuple(flow.members), conditions=conditions,
            validate_args=validate_args, name=name))

    def _begin(self):
        vars(self).pop('_is_pending', None)
        root = self._root
        self._start(root.bijector, self._conditions, root.validate_args,
                    self._name_given or f'{root.name}_given')

    @property
    def members(self) -> tuple[distribution_lib.ConditionalTransformedDistribution, ...]:
        """The K distributions, before their conditions are given."""
        return tuple(self.flow.members)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def _batch_shape(self):
        flow, bijector = self.flow, self.bijector
        return tf.TensorShape([]) if bijector is flow else flow.batch_shape_of(
            flow.check_conditions(bijector.conditions))

    def _batch_shape_tensor(self):
        flow, bijector = self.flow, self.bijector
        return tf.zeros([0], tf.int32) if bijector is flow else (
            flow.batch_shape_tensor_of(flow.check_conditions(bijector.conditions)))

    def __getitem__(self, slices):
        raise TypeError(f'{self.name!r} cannot be sliced; slice its conditions.')

    _has_latents = False

    # What eager calls run compiled, and all others as it is.

    def _compiled_density(self, method, value, *leaves):
        log_prob = _log_mean_exp([
            member._compiled_density('log_prob', value, *leaves)
            for member in self.members])
        return tf.exp(log_prob) if method == 'prob' else log_prob

    def _draw(self, method, seed, sample_shape, batch_shape, *leaves):
        members = self.members
        seed, *seeds = tf.unstack(tfp.random.split_seed(seed, len(members) + 1))
        draws = [member._draw('sample', own, sample_shape, batch_shape, *leaves)
                 for member, own in zip(members, seeds)]
        chosen = tf.random.stateless_uniform(
            tf.concat([sample_shape, batch_shape], 0), seed, 0, len(members), tf.int32)
        y = draws[0]
        for k, draw in enumerate(draws[1:], 1):
            y = tf.where(chosen[..., tf.newaxis] == k, draw, y)
        if method == 'sample':
            return y
        return y, self._compiled_density('log_prob', y, *leaves)

    # What TFP's methods call.

    def _log_prob(self, y, **kwargs):
        conditions, _ = self._conditions_of(kwargs)
        y, conditions = self.flow.check_pass(INVERSE, y, conditions)
        return self._compiled_density('log_prob', y, *tf.nest.flatten(conditions))

    def _call_sample_n(self, sample_shape, seed, **kwargs):
        return self._traced_draw('sample', sample_shape, seed, kwargs)

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        return self._traced_draw('sample_and_log_prob', sample_shape, seed, kwargs)

    def _traced_draw(self, method, sample_shape, seed, kwargs):
        flow = self.flow
        conditions, is_own = self._conditions_of(kwargs)
        conditions = flow.check_conditions(conditions)
        leaves = tf.nest.flatten(conditions)
        shape = tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
        if is_own:
            shape = tf.concat([shape, self.batch_shape_tensor()], 0)
        else:
            static = tf.get_static_value(shape)
            flow.refuse_shared_noise(tf.TensorShape(
                [None] * shape.shape[0] if static is None else static), conditions)
        return self._draw(method, tfp.random.sanitize_seed(seed), shape,
                          tf.zeros([0], tf.int32), *leaves)


class _Members(bijector_lib.ConditionalBijector):
    """Members, and what they take for conditions: no map, for a mixture has none."""

    def __init__(self, members):
        flow = members[0].bijector
        super().__init__(flow.event_size, flow.condition_size,
                         output_event_size=flow.output_event_size, dtype=flow.dtype,
                         validate_args=flow.validate_args, name='ensemble')
        self.members = members

    def __call__(self, value, name=None, **kwargs):
        del value, kwargs       # The base is that of the first.
        return ConditionalEnsemble(self.members, name=name)

    def unchecked_pass(self, direction, value, conditions=None):
        raise TypeError(
            f'A ConditionalEnsemble has no `{direction}`: a mixture maps no latents to '
            'events. Use its members, or what needs `sample` and `log_prob` alone.')


def _checked(members):
    if not isinstance(members, (tuple, list)) or not members:
        raise TypeError('`members` must be a list of distributions, at least one; got '
                        f'{members!r}.')
    for member in members:
        flow = distribution_lib.conditional_bijector(member, 'members')
        if type(member) is not distribution_lib.ConditionalTransformedDistribution:
            raise TypeError('`members` must be distributions `flow(base)`; got '
                            f'{type(member).__name__}.')
        if member.batch_shape.rank or member.distribution.event_shape.rank != 1:
            raise ValueError(
                '`members` must have batch shape [] and vectors for events; got batch '
                f'shape {member.batch_shape} and event shape {member.event_shape}.')
        first = members[0].bijector
        for label in ('dtype', 'event_size', 'output_event_size', 'condition_size'):
            one, other = getattr(first, label), getattr(flow, label)
            if one != other:
                raise ValueError(f'`members` must have one `{label}`; got {one} and '
                                 f'{other}.')
    known = [id(v) for member in members for v in member.trainable_variables]
    if len(set(known)) < len(known):
        raise ValueError('`members` must have trainable variables of their own; some '
                         'share theirs. Make each anew, or by `copy.deepcopy`.')
    return tuple(members)


def _log_mean_exp(values):
    """`log mean_k exp(values[k])`; where all are -inf with gradients that are 0."""
    values = tf.stack(values)
    most = tf.stop_gradient(tf.reduce_max(values, 0))
    most = tf.where(tf.math.is_finite(most), most, tf.zeros_like(most))
    mean = tf.reduce_mean(tf.exp(values - most), 0)
    is_zero = tf.equal(mean, 0.)
    return tf.where(is_zero, tf.constant(float('-inf'), mean.dtype),
                    tf.math.log(tf.where(is_zero, tf.ones_like(mean), mean)) + most)
