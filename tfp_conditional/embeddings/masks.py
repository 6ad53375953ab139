"""`pad` and `mask_nan`: from what was measured to values and their mask."""

import collections.abc

import numpy as np
import numpy.typing as npt

KINDS = (None, 'elements', 'entries')


def pad(sequences: collections.abc.Sequence[npt.ArrayLike],
        length: int | None = None) -> dict[str, np.ndarray]:
    """Sets or series of several lengths as one array, with a mask of what is there.

    ```python
    import numpy as np
    from tfp_conditional import embeddings

    conditions = embeddings.pad([np.ones([2, 1]), np.ones([3, 1])])
    assert conditions['values'].shape == (2, 3, 1)
    assert conditions['mask'].tolist() == [[True, True, False], [True, True, True]]
    ```

    Args:
      sequences: sequence of B arrays `[n_i, D]`, `n_i` >= 0.
      length: `int` N, at least all `n_i`; default: the greatest of them.

    Returns:
      `dict` of `values` `[B, N, D]`, 0 where nothing is, and `mask` `[B, N]`, as a
      network with `mask='elements'` takes them.

    Raises:
      ValueError: for arrays of other shapes or different D, or longer than `length`.
    """
    arrays = [np.asarray(x) for x in sequences]
    shapes = [x.shape for x in arrays]
    if not arrays or any(len(shape) != 2 or shape[1] != shapes[0][-1]
                         for shape in shapes):
        raise ValueError('`sequences` must be arrays [n, D] of one D, at least one; '
                         f'got shapes {sorted(set(shapes))}.')
    lengths = np.array([len(x) for x in arrays])
    length = max(lengths) if length is None else length
    if max(lengths) > length:
        raise ValueError(f'`length` must be at least that of all sequences, '
                         f'{max(lengths)}; got {length}.')
    mask = np.arange(length) < lengths[:, np.newaxis]
    values = np.zeros([*mask.shape, shapes[0][1]], np.result_type(*arrays))
    values[mask] = np.concatenate(arrays)
    return {'values': values, 'mask': mask}


def mask_nan(values: npt.ArrayLike | collections.abc.Mapping[str, npt.ArrayLike],
             mask: str = 'entries') -> dict[str, np.ndarray]:
    """Values with 0 for NaN, which is taken to be missing, and a mask of the others.

    ```python
    import numpy as np
    from tfp_conditional import embeddings

    conditions = embeddings.mask_nan([[[1., 2.], [np.nan, 3.]]])
    assert conditions['values'].tolist() == [[[1., 2.], [0., 3.]]]
    assert conditions['mask'].tolist() == [[[True, True], [False, True]]]
    ```

    Args:
      values: floating array `[..., D]`, or what `pad` gives.
      mask: `'entries'`, or `'elements'` to leave out each element with a NaN.

    Returns:
      `dict` of `values` `[..., D]` and `mask`, `[..., D]` or, for elements, `[...]`, as
      a network with that `mask` takes them.

    Raises:
      ValueError: for another `mask`.
    """
    if mask not in KINDS[1:]:
        raise ValueError(f'`mask` must be one of {list(KINDS[1:])}; got {mask!r}.')
    there = True
    if isinstance(values, collections.abc.Mapping):
        there, values = np.asarray(values['mask'])[..., np.newaxis], values['values']
    values = np.asarray(values)
    there = there & ~np.isnan(values)
    if mask == 'elements':
        there = there.all(-1, keepdims=True)
    return {'values': np.where(there, values, np.zeros_like(values)),
            'mask': there[..., 0] if mask == 'elements' else there}
