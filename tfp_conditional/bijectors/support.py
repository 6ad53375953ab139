"""`support_bijector`: from unbounded vectors to the support of the events."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_conditional.core.types import DType, TensorLike

tfb = tfp.bijectors


def support_bijector(low: TensorLike | None = None, high: TensorLike | None = None,
                     simplex: bool = False, dtype: DType = tf.float32,
                     name: str = 'support') -> tfp.bijectors.Bijector:
    """A stock bijector onto intervals, half-lines or the simplex, unit by unit.

    It goes on the data side of a flow, for targets that are bounded. Its log-det
    counts, so that densities are those of the bounded events.

    ```python
    import numpy as np
    import tensorflow as tf
    import tfp_conditional as tfpc

    # A unit in (0, 1), a positive one, and an unbounded one.
    support = tfpc.support_bijector(low=[0., 0., -np.inf], high=[1., np.inf, np.inf])
    flow = tfpc.ConditionalChain([
        support, tfpc.ConditionalRealNVP(event_size=3, condition_size=2)])
    y = flow.forward(tf.zeros([5, 3]), conditions=tf.ones([5, 2]))
    np.testing.assert_allclose(y[0], [0.5, np.log(2.), 0.], rtol=1e-6)
    ```

    Events on a bound itself, where a float was rounded to it, are the image of no
    finite number: move them inside before you ask for their density.

    Args:
      low: least value of each unit, `[D]`, -inf for none.
      high: greatest value of each unit, `[D]`, inf for none.
      simplex: `bool`, instead of bounds: vectors `[D]` of positive numbers of sum 1,
        from `[D - 1]`.
      dtype: floating dtype.
      name: `str`.

    Returns:
      `tfb.Bijector`: `Sigmoid(low, high)` for intervals, a shifted `Softplus` for
      half-lines, `Identity` elsewhere; `IteratedSigmoidCentered` for a simplex.

    Raises:
      ValueError: for bounds that are not ordered, of different lengths or missing.
    """
    if simplex:
        if low is not None or high is not None:
            raise ValueError('Give bounds or `simplex=True`; got both.')
        return tfb.IteratedSigmoidCentered(name=name)
    if low is None and high is None:
        raise ValueError('Give `low`, `high` or `simplex=True`; got none of them.')
    dtype = tf.as_dtype(dtype)
    low = -np.inf if low is None else np.asarray(low, float)
    high = np.inf if high is None else np.asarray(high, float)
    try:
        low, high = np.broadcast_arrays(low, high)
    except ValueError as error:
        raise ValueError('`low` and `high` must have the same length; got shapes '
                         f'{np.shape(low)} and {np.shape(high)}.') from error
    if low.ndim != 1 or not low.size:
        raise ValueError('`low` and `high` must have shape [D]; got '
                         f'{list(low.shape)}.')
    if not np.all(low < high):
        raise ValueError(f'`low` must be less than `high`; got {low.tolist()} and '
                         f'{high.tolist()}.')
    kinds = 2 * np.isfinite(low) + np.isfinite(high)
    starts = np.flatnonzero(np.diff(kinds, prepend=-1))
    parts, sizes = [], np.diff([*starts, low.size])
    for start, size in zip(starts, sizes):
        below, above = (tf.constant(bound[start:start + size], dtype)
                        for bound in (low, high))
        parts.append({
            0: lambda: tfb.Identity(),
            1: lambda: tfb.Chain([tfb.Shift(above), tfb.Scale(
                tf.constant(-1., dtype)), tfb.Softplus()]),
            2: lambda: tfb.Chain([tfb.Shift(below), tfb.Softplus()]),
            3: lambda: tfb.Sigmoid(below, above)}[kinds[start]]())
    if len(parts) == 1:
        return parts[0]
    return tfb.Blockwise(parts, block_sizes=sizes.tolist(), name=name)
