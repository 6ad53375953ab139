"""Conditional normalizing flows as ordinary TensorFlow Probability bijectors."""

from tfp_conditional._version import __version__
from tfp_conditional.autoregressive import ConditionalAutoregressive
from tfp_conditional.autoregressive import ConditionalMaskedAutoregressiveFlow
from tfp_conditional.bijector import ConditionalBijector
from tfp_conditional.bounds import SoftBounds
from tfp_conditional.chain import ConditionalChain
from tfp_conditional.coupling import ConditionalCoupling
from tfp_conditional.coupling import ConditionalElementwise
from tfp_conditional.density import conditional_density
from tfp_conditional.density import given
from tfp_conditional.distribution import ConditionalTransformedDistribution
from tfp_conditional.dropout import training
from tfp_conditional.embedding import ConditionalEmbedding
from tfp_conditional.export import exportable
from tfp_conditional.fit import fit
from tfp_conditional.mixing import ActNorm
from tfp_conditional.mixing import InvertibleLinear
from tfp_conditional.networks import MLP
from tfp_conditional.networks import ResidualNetwork
from tfp_conditional.real_nvp import ConditionalRealNVP
from tfp_conditional.spline import RationalQuadratic
from tfp_conditional.squash import Squash
from tfp_conditional.standardize import Standardized
from tfp_conditional.support import support_bijector
from tfp_conditional.tails import Tails
from tfp_conditional.template import conditional_real_nvp_template
from tfp_conditional.transformers import Additive
from tfp_conditional.transformers import Affine
from tfp_conditional.transformers import Transformer

__all__ = [
    'ActNorm',
    'Additive',
    'Affine',
    'ConditionalAutoregressive',
    'ConditionalBijector',
    'ConditionalChain',
    'ConditionalCoupling',
    'ConditionalElementwise',
    'ConditionalEmbedding',
    'ConditionalMaskedAutoregressiveFlow',
    'ConditionalRealNVP',
    'ConditionalTransformedDistribution',
    'InvertibleLinear',
    'MLP',
    'RationalQuadratic',
    'ResidualNetwork',
    'SoftBounds',
    'Squash',
    'Standardized',
    'Tails',
    'Transformer',
    'conditional_density',
    'conditional_real_nvp_template',
    'exportable',
    'fit',
    'given',
    'support_bijector',
    'training',
]
