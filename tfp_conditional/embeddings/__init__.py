"""Networks for structured conditions: sets, time series, images, with masks.

Each is an `embedding` for `conditional_density` and `ConditionalEmbedding`: a
`tf.Module` from `[..., N, D]` or `[..., H, W, C]` to vectors `[..., S]`.
"""

from tfp_conditional.embeddings.deep_set import DeepSet
from tfp_conditional.embeddings.image import ImageNetwork
from tfp_conditional.embeddings.masks import mask_nan
from tfp_conditional.embeddings.masks import pad
from tfp_conditional.embeddings.set_transformer import SetTransformer
from tfp_conditional.embeddings.time_series import TimeSeriesNetwork

__all__ = ['DeepSet', 'ImageNetwork', 'SetTransformer', 'TimeSeriesNetwork', 'mask_nan',
           'pad']
