"""Conditional normalizing flows as ordinary TensorFlow Probability bijectors."""

from tfp_conditional import embeddings
from tfp_conditional._version import __version__
from tfp_conditional.bijectors.autoregressive import ConditionalAutoregressive
from tfp_conditional.bijectors.bounds import SoftBounds
from tfp_conditional.bijectors.chain import ConditionalChain
from tfp_conditional.bijectors.coupling import ConditionalCoupling
from tfp_conditional.bijectors.coupling import ConditionalElementwise
from tfp_conditional.bijectors.embedding import ConditionalEmbedding
from tfp_conditional.bijectors.gaussianization import Gaussianization
from tfp_conditional.bijectors.mixing import ActNorm
from tfp_conditional.bijectors.mixing import InvertibleLinear
from tfp_conditional.bijectors.squash import Squash
from tfp_conditional.bijectors.standardize import Standardized
from tfp_conditional.bijectors.support import Circular
from tfp_conditional.bijectors.support import Simplex
from tfp_conditional.bijectors.support import support_bijector
from tfp_conditional.bijectors.tails import Tails
from tfp_conditional.config import from_config
from tfp_conditional.config import to_config
from tfp_conditional.core.bijector import ConditionalBijector
from tfp_conditional.core.distribution import given
from tfp_conditional.core.distribution import ConditionalTransformedDistribution
from tfp_conditional.core.dropout import training
from tfp_conditional.core.ensemble import ConditionalEnsemble
from tfp_conditional.export import Exportable
from tfp_conditional.export import exportable
from tfp_conditional.fitting.fit import fit
from tfp_conditional.flows.density import conditional_density
from tfp_conditional.flows.masked_autoregressive import ConditionalMaskedAutoregressiveFlow
from tfp_conditional.flows.quantized import Quantized
from tfp_conditional.flows.real_nvp import ConditionalRealNVP
from tfp_conditional.networks.mlp import MLP
from tfp_conditional.networks.residual import ResidualNetwork
from tfp_conditional.networks.template import ConditionalRealNVPTemplate
from tfp_conditional.networks.template import conditional_real_nvp_template
from tfp_conditional.transformers.affine import Additive
from tfp_conditional.transformers.affine import Affine
from tfp_conditional.transformers.spline import CircularRationalQuadratic
from tfp_conditional.transformers.spline import RationalQuadratic
from tfp_conditional.transformers.transformer import Transformer
from tfp_conditional.weights import load_weights

__all__ = [
    'ActNorm',
    'Additive',
    'Affine',
    'Circular',
    'CircularRationalQuadratic',
    'ConditionalAutoregressive',
    'ConditionalBijector',
    'ConditionalChain',
    'ConditionalCoupling',
    'ConditionalElementwise',
    'ConditionalEmbedding',
    'ConditionalEnsemble',
    'ConditionalMaskedAutoregressiveFlow',
    'ConditionalRealNVP',
    'ConditionalRealNVPTemplate',
    'ConditionalTransformedDistribution',
    'Exportable',
    'Gaussianization',
    'InvertibleLinear',
    'MLP',
    'Quantized',
    'RationalQuadratic',
    'ResidualNetwork',
    'Simplex',
    'SoftBounds',
    'Squash',
    'Standardized',
    'Tails',
    'Transformer',
    'conditional_density',
    'conditional_real_nvp_template',
    'embeddings',
    'exportable',
    'fit',
    'from_config',
    'given',
    'load_weights',
    'support_bijector',
    'to_config',
    'training',
]
