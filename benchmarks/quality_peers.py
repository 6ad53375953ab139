"""The models whose quality is measured, and all that was chosen for them.

Where a search was made, it was by seed 0 of the simulated tasks.
"""

import dataclasses

import numpy as np
from scipy import stats

import peers

# AdamW on a cosine to 0, gradients clipped by their global norm, and the weights of
# the epoch of least validation loss.
TRAINING = dict(epochs=60, patience=20, batch_size=128, learning_rate=1e-3,
                weight_decay=1e-4, clip_norm=5.)
TUNED = dict(TRAINING, epochs=40, batch_size=256, learning_rate=2e-3)
# What overfits soon.
SHORT = dict(epochs=8, batch_size=256, learning_rate=1e-3, weight_decay=0.1)


@dataclasses.dataclass(frozen=True)
class Model:
    """A conditional density p(y | c) of one package.

    Attributes:
      name: `str`.
      where: its class, as of `peers.load`.
      settings: keyword arguments of the constructor.
      tuned: name of a task -> those that were better there.
      quick: those of a model that is small.
      standardises: whether it does so by itself, so that it meets the rows as they
        are. Others meet columns of mean 0 and standard deviation 1.
      measured_only: whether it is a baseline for measured data alone.
    """
    name: str
    where: str
    settings: dict = dataclasses.field(default_factory=dict)
    tuned: dict = dataclasses.field(default_factory=dict)
    quick: dict = dataclasses.field(default_factory=dict)
    standardises: bool = False
    measured_only: bool = False

    def load(self):
        """The class; importing its package is no part of the time of a fit."""
        return peers.load(self.where)


class LinearGaussian:
    """Least squares and the covariance of what it leaves, from all rows."""

    requires = ()

    def __init__(self, build, event_size, condition_size, seed=0):
        self.num_parameters = (event_size * (condition_size + 1)
                               + event_size * (event_size + 1) // 2)

    def fit(self, train, validation):
        y, c = (np.concatenate(pair).astype(float)
                for pair in zip(train, validation))
        self._weights = np.linalg.lstsq(self._inputs(c), y, rcond=None)[0]
        rest = y - self._inputs(c) @ self._weights
        self._noise = stats.multivariate_normal(cov=rest.T @ rest / len(y), seed=0)
        return 1

    @staticmethod
    def _inputs(c):
        return np.concatenate([c, np.ones_like(c[..., :1])], axis=-1)

    def evaluate(self, y, c):
        return np.atleast_1d(self._noise.logpdf(y - self._inputs(c) @ self._weights))

    def draw(self, c, n):
        noise = self._noise.rvs(n).reshape(n, -1)
        return self._inputs(c) @ self._weights + noise


OURS, ZUKO_DEFAULTS, LINEAR = peers.OURS, 'zuko, its defaults', 'linear Gaussian'
_OURS = dict(
    settings=dict(flow={}, training=dict(jit_compile=True)),    # Else, all defaults.
    quick=dict(flow=dict(num_coupling_layers=2), training=dict(jit_compile=False)),
    standardises=True)
_SPLINES = dict(layers=5, hidden_features=128, blocks=2, tail_bound=3., dropout=0.,
                training=TUNED)
_NETWORK = dict(hidden_units=(64, 64), training=TRAINING)

MODELS = {model.name: model for model in (
    Model(OURS, 'with_tensorflow.Ours', **_OURS),
    Model('tfp_conditional without SoftBounds', 'with_tensorflow.OursWithoutBounds',
          **_OURS),
    Model('zuko', 'with_torch.Zuko',
          dict(transforms=5, hidden_features=(128, 128), bins=8, randperm=True,
               training=dict(TUNED, learning_rate=5e-3)),
          {'Gaussian mixture': dict(training=dict(learning_rate=2e-3)),
           'Gaussian linear': dict(transforms=3, training=SHORT)}),
    # 3 transforms, widths (64, 64), 8 bins.
    Model(ZUKO_DEFAULTS, 'with_torch.Zuko', dict(training=TRAINING)),
    Model('nflows', 'with_torch.NFlows', dict(_SPLINES, bins=10),
          {'Gaussian mixture': dict(hidden_features=64),
           'Gaussian linear': dict(hidden_features=50, dropout=0.2,
                                   training=dict(SHORT, epochs=15))}),
    Model('FlowJAX', 'with_jax.FlowJAX',
          dict(flow='masked_autoregressive_flow', knots=8, interval=4., flow_layers=5,
               nn_width=128, nn_depth=2, training=dict(TUNED, learning_rate=5e-3)),
          {'Gaussian linear': dict(flow_layers=3, training=SHORT)}),
    Model('normflows', 'with_torch.NormFlows', dict(_SPLINES, bins=8),
          {'Gaussian linear': dict(layers=3, training=SHORT)}),
    Model('hand-written TFP', 'with_tensorflow.Autoregressive',
          dict(_NETWORK, layers=5, bins=8, bound=4.), quick=dict(layers=1)),
    Model('mixture density network, TFP', 'with_tensorflow.GaussianMixture',
          dict(_NETWORK, components=5), measured_only=True),
    Model('neural Gaussian, TFP', 'with_tensorflow.GaussianMixture',
          dict(_NETWORK, components=1), measured_only=True),
    Model(LINEAR, 'quality_peers.LinearGaussian', measured_only=True))}
