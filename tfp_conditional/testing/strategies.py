"""`hypothesis` strategies of sizes, shapes, conditions and perturbed flows.

hypothesis draws shapes and seeds; arrays come from NumPy, since hypothesis would
spend its time on shrinking single numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

try:
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as hnp
except ImportError as error:
    raise ImportError('`tfp_conditional.testing` needs hypothesis: pip install '
                      "'tfp_conditional[testing]'.") from error

from tfp_conditional.core.types import DType, Sizes
from tfp_conditional.testing.subject import perturb


def event_sizes(max_size: int = 4) -> st.SearchStrategy[int]:
    """Strategy of `int` D >= 1."""
    return st.integers(1, max_size)


def condition_sizes(max_size: int = 3) -> st.SearchStrategy[Any]:
    """Strategy of `condition_size`: an `int`, a tuple of two, or a dict of two."""
    size = st.integers(1, max_size)
    return st.one_of(size, st.tuples(size, size),
                     st.fixed_dictionaries({'a': size, 'b': size}))


def dtypes() -> st.SearchStrategy[tf.DType]:
    """Strategy of the dtypes in which checks are sharp."""
    return st.sampled_from([tf.float64, tf.float32])


def seeds() -> st.SearchStrategy[int]:
    """Strategy of seeds for NumPy."""
    return st.integers(0, 2**32 - 1)


@st.composite
def batch_shapes(draw: st.DrawFn, max_dims: int = 2,
                 max_side: int = 3) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strategy of `(value_batch, conditions_batch)`, the second never the larger.

    ```python
    import hypothesis
    import tensorflow as tf
    import tfp_conditional as tfpc
    import tfp_conditional.testing

    flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))

    @hypothesis.settings(max_examples=3, deadline=None)
    @hypothesis.given(tfpc.testing.batch_shapes(), tfpc.testing.seeds())
    def test(shapes, seed):
        tfpc.testing.check_round_trip(flow, seed=seed, batch_shape=shapes[0],
                                      condition_batch_shape=shapes[1])

    test()
    ```

    Args:
      draw: given by hypothesis.
      max_dims: most batch axes.
      max_side: longest axis.

    Returns:
      Two tuples of `int`; `conditions_batch` broadcasts to `value_batch`.
    """
    value = draw(hnp.array_shapes(min_dims=0, max_dims=max_dims, min_side=1,
                                  max_side=max_side))
    dims = draw(st.integers(0, len(value)))
    conditions = tuple(draw(st.sampled_from(sorted({1, side})))
                       for side in value[len(value) - dims:])
    return value, conditions


def _normal(shape, dtype, seed):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), dtype)


def events(event_size: int, batch_shape: Sequence[int] = (),
           dtype: DType = tf.float32) -> st.SearchStrategy[Any]:
    """Strategy of events `[*batch_shape, event_size]`."""
    return seeds().map(
        lambda seed: _normal([*batch_shape, event_size], dtype, seed))


def conditions(condition_size: Sizes, batch_shape: Sequence[int] = (),
               dtype: DType = tf.float32) -> st.SearchStrategy[Any]:
    """Strategy of conditions, nested like `condition_size`: `[*batch_shape, S]`."""
    return seeds().map(lambda seed: tf.nest.pack_sequence_as(condition_size, [
        _normal([*batch_shape, size], dtype, [seed, i])
        for i, size in enumerate(tf.nest.flatten(condition_size))]))


def perturbed(factory: Callable[[], tf.Module],
              scale: float = 0.5) -> st.SearchStrategy[Any]:
    """Strategy of the modules that `factory()` makes, each with other weights."""
    return seeds().map(lambda seed: perturb(factory(), scale, seed))
