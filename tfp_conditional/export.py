"""`Exportable`: a distribution as a module that a SavedModel keeps whole."""

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core import distribution as distribution_lib
from tfp_conditional.core.types import Path


class Exportable(tf.Module):
    """What `tf.saved_model.save` needs to keep a conditional distribution's methods.

    `tf.saved_model.save(dist)`, and `dist.export`, do it by themselves for a
    `ConditionalTransformedDistribution`, which is what `flow(base)` returns. TFP's
    own `tfd.TransformedDistribution` loads as an object without `log_prob`: for
    one of those, save this, or `export` it, for servers.

    #### Example

    ```python
    import tempfile
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    tfd = tfp.distributions

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    path = tempfile.mkdtemp()
    tf.saved_model.save(dist, path)      # or `tfpc.Exportable(dist)`

    loaded = tf.saved_model.load(path)               # needs no tfp_conditional
    samples = loaded.sample(7, tf.ones([5, 3]))      # [7, 5, 2]
    log_probs = loaded.log_prob(samples, tf.ones([5, 3]))        # [7, 5]
    ```

    Methods, for conditions `[B, S]` (or a nest of such), with B unknown:

    - `sample(n, conditions, seed)`: `[n, B, D]`, independent noise.
    - `sample_and_log_prob(n, conditions, seed)`: `[n, B, D]` and `[n, B]`.
    - `log_prob(events, conditions)`: events `[B, D]` or `[n, B, D]`.
    - `forward(latents, conditions)`, `inverse(events, conditions)`: likewise.

    `seed` is two integers, for the same sample each time. Without it noise is fresh
    in every process and call, whatever `tf.random.set_seed` was. A distribution
    for given conditions has the same methods without that argument.
    """

    def __init__(self, distribution: tfp.distributions.Distribution,
                 name: str = 'exportable') -> None:
        """Traces the methods.

        Args:
          distribution: `tfd.TransformedDistribution` over a `ConditionalBijector`,
            with a base of batch shape `[]`.
          name: `str`.

        Raises:
          TypeError: for any other distribution.
        """
        flow = distribution_lib.conditional_bijector(distribution, 'distribution')
        super().__init__(name=name)
        if not isinstance(distribution,
                          distribution_lib.ConditionalTransformedDistribution):
            distribution = flow(distribution.distribution, name=distribution.name)
        # The methods are traced here; a distribution that is tracked traces its own.
        self._distribution = self._no_dependency(distribution)
        self._parts = tuple(distribution.exported_parts())
        for method, function in distribution.exported_methods().items():
            setattr(self, method, function)

    def export(self, path: Path) -> None:
        """`ConditionalTransformedDistribution.export`, signatures included."""
        self._distribution.export(path)


exportable = Exportable   # As it was called first.
