"""What a type checker must find: mypy reads this, and nothing runs it.

A line that it must refuse says so by `type: ignore`, which is itself an error where
there is nothing to refuse: a public name without types, which takes anything, is found.
"""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from typing_extensions import assert_type

import tfp_conditional as tfpc
from tfp_conditional import calibration
from tfp_conditional import plot
from tfp_conditional import rl
from tfp_conditional import testing

tfd = tfp.distributions

# Constructors.
flow = tfpc.ConditionalRealNVP(
    2, {'image': tf.TensorSpec([8, 8, 1]), 'state': 3}, hidden_layers=[8],
    activation=tf.nn.relu, transformer=tfpc.RationalQuadratic(num_bins=4),
    conditioner=tfpc.MLP((8,), 'silu'), dtype='float64', seed=[0, 1])
tfpc.ConditionalRealNVP('2', 3)                     # type: ignore[arg-type]
tfpc.ConditionalRealNVP(2, 3, hidden_layers=8)      # type: ignore[arg-type]
tfpc.ConditionalRealNVP(2, 3, coupling_layers=8)    # type: ignore[call-arg]
tfpc.ConditionalRealNVP(2, 3, transformer=8)        # type: ignore[arg-type]
tfpc.MLP(8)                                         # type: ignore[arg-type]
maf = tfpc.ConditionalMaskedAutoregressiveFlow(2, 3, conditioner=tfpc.MLP())
tfpc.ConditionalMaskedAutoregressiveFlow(
    2, 3, conditioner=tfpc.ResidualNetwork())       # type: ignore[arg-type]

# Bijectors and distributions.
assert_type(flow.event_size, int)
assert_type(tfpc.Standardized(flow).bijector, tfpc.ConditionalBijector)
flow.forward(np.zeros([7, 2]), conditions={'state': np.zeros([7, 3])})
flow.forward(np.zeros([7, 2]), name=7)              # type: ignore[arg-type]
dist = tfpc.conditional_density(2, 3, num_coupling_layers=4)
assert_type(dist.given(np.zeros([7, 3])), tfpc.ConditionalTransformedDistribution)
dist.sample([7], seed=0)
dist.sample(7, name=7)                              # type: ignore[arg-type]
dist.given(7, names='given')                        # type: ignore[call-arg]
with tfpc.training(seed=0):
    pass

# Fits, and what tells whether they are right.
history = tfpc.fit(dist, np.zeros([9, 2]), np.zeros([9, 3]), checkpoint='file')
assert_type(history['loss'], list)
tfpc.fit(dist, np.zeros([9, 2]), epochs='9')        # type: ignore[arg-type]
tfpc.fit(dist, np.zeros([9, 2]), epoch=9)           # type: ignore[call-arg]
ranks = calibration.simulation_based_calibration(
    dist, np.zeros([9, 2]), np.zeros([9, 3]), num_samples=99)
calibration.uniformity_test(ranks, num_samples=99.)     # type: ignore[arg-type]
plot.rank_histogram(ranks, '99')                    # type: ignore[arg-type]
plot.corner({'fit': np.zeros([9, 2])})

# Policies.
policy = rl.LatentSpacePolicy(17, (-1., 1.), seed=0)
assert_type(policy.act(np.zeros(17)), np.ndarray)
policy.act(np.zeros(17), candidates='many')         # type: ignore[arg-type]
assert_type(policy.get_weights(), list[np.ndarray])
learner = rl.SoftActorCritic(policy, discount=0.9)
rl.SoftActorCritic(17)                              # type: ignore[arg-type]
rl.train(lambda: None, learner, steps=9.)           # type: ignore[arg-type]

# Checks.
assert_type(testing.check_bijector(flow, skip=['dtype']), dict[str, str])
assert_type(testing.check_round_trip(flow), str)


class Own(tfpc.ConditionalBijector):
    """A subclass may have types, or none."""

    def _forward_and_log_det(self, x, conditions):
        return x, tf.zeros([])

    def _inverse_and_log_det(
            self, y: tf.Tensor, conditions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return y, tf.zeros([])
