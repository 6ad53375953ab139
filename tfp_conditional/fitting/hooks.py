"""What `fit` asks of a distribution beside `log_prob`, where it has no answer of its own."""

from tfp_conditional.bijectors import adapt as adapt_lib


def hooks(dist):
    """Those of a distribution: its own, as a `Quantized` has, or those of its bijector."""
    return dist if hasattr(dist, 'adapt_batches') else _OfBijector(dist)


class _OfBijector:
    """Targets are points, and it is the bijector, if there is one, that adapts to them."""

    is_continuous = True
    log_cell = 0.

    def __init__(self, dist):
        self._bijector = getattr(dist, 'bijector', None)

    @property
    def adapted(self):
        """Whether nothing is left that `adapt_batches` would change."""
        return self._bijector is None or adapt_lib.adapted(self._bijector)

    @property
    def has_learnt(self):
        """Whether any part has adapted to data."""
        return self._bijector is not None and adapt_lib.has_learnt(self._bijector)

    def adapt_batches(self, batches, entropy):
        """Lets the bijector learn from data what gradients do not."""
        del entropy
        adapt_lib.adapt_batches(self._bijector, batches)

    def check_targets(self, targets, label):
        """Refuses rows that have no density."""
        if self._bijector is not None:
            adapt_lib.check_support(self._bijector, targets, label)
