"""`exportable`: a distribution as a module that a SavedModel keeps whole."""

import tensorflow as tf

from tfp_conditional import density


class exportable(tf.Module):  # pylint: disable=invalid-name
    """What `tf.saved_model.save` needs to keep a conditional distribution's methods.

    `tf.saved_model.save(dist)` loads as an object without `log_prob`, since a
    distribution holds no traced functions. This module does.

    #### Example

    ```python
    import tempfile
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(event_size=2, condition_size=3)
    dist = tfd.TransformedDistribution(
        tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1), flow)
    path = tempfile.mkdtemp()
    tf.saved_model.save(tfpc.exportable(dist), path)

    loaded = tf.saved_model.load(path)               # needs no tfp_conditional
    samples = loaded.sample(7, tf.ones([5, 3]))      # [7, 5, 2]
    log_probs = loaded.log_prob(samples, tf.ones([5, 3]))        # [7, 5]
    ```

    Methods, for conditions `[B, S]` (or a nest of such), with B unknown:

    - `sample(n, conditions)`: `[n, B, D]`, independent noise.
    - `sample_and_log_prob(n, conditions)`: `[n, B, D]` and `[n, B]`.
    - `log_prob(events, conditions)`: events `[B, D]` or `[n, B, D]`.
    - `forward(latents, conditions)`, `inverse(events, conditions)`: likewise.
    """

    def __init__(self, distribution, name='exportable'):
        """Traces the methods.

        Args:
          distribution: `tfd.TransformedDistribution` over a `ConditionalBijector`,
            with a base of batch shape `[]`.
          name: `str`.

        Raises:
          TypeError: for any other distribution.
        """
        flow = density.conditional_bijector(distribution, 'distribution')
        super().__init__(name=name)
        self._distribution, self._flow = distribution, flow
        conditions = flow._condition_spec.signature([None])
        n = tf.TensorSpec([], tf.int32)

        self.sample = tf.function(
            lambda n, conditions: density.given(
                self._distribution, conditions).sample(n),
            input_signature=[n, conditions], autograph=False)
        self.sample_and_log_prob = tf.function(
            lambda n, conditions: density.given(
                self._distribution, conditions).experimental_sample_and_log_prob(n),
            input_signature=[n, conditions], autograph=False)
        self.log_prob = tf.function(
            lambda events, conditions: density.given(
                self._distribution, conditions).log_prob(events),
            autograph=False)
        self.forward = tf.function(
            lambda latents, conditions: flow.forward(latents, conditions=conditions),
            autograph=False)
        self.inverse = tf.function(
            lambda events, conditions: flow.inverse(events, conditions=conditions),
            autograph=False)
        for batch in ([None], [None, None]):
            x = tf.TensorSpec(batch + [flow.event_size], flow.dtype)
            y = tf.TensorSpec(batch + flow.forward_event_shape([flow.event_size]),
                              flow.dtype)
            self.log_prob.get_concrete_function(y, conditions)
            self.inverse.get_concrete_function(y, conditions)
            self.forward.get_concrete_function(x, conditions)
