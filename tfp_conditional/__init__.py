"""Conditional normalizing flows as ordinary TensorFlow Probability bijectors."""

from tfp_conditional._version import __version__
from tfp_conditional.bijector import ConditionalBijector
from tfp_conditional.chain import ConditionalChain
from tfp_conditional.coupling import ConditionalCoupling
from tfp_conditional.coupling import ConditionalElementwise
from tfp_conditional.export import exportable
from tfp_conditional.fit import fit
from tfp_conditional.real_nvp import ConditionalRealNVP
from tfp_conditional.spline import RationalQuadratic
from tfp_conditional.template import conditional_real_nvp_template
from tfp_conditional.transformers import Additive
from tfp_conditional.transformers import Affine
from tfp_conditional.transformers import Transformer

__all__ = [
    'Additive',
    'Affine',
    'ConditionalBijector',
    'ConditionalChain',
    'ConditionalCoupling',
    'ConditionalElementwise',
    'ConditionalRealNVP',
    'RationalQuadratic',
    'Transformer',
    'conditional_real_nvp_template',
    'exportable',
    'fit',
]
