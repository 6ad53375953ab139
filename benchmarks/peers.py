"""The packages that are compared, behind one interface for speed and for quality.

`with_tensorflow.py`, `with_torch.py` and `with_jax.py` have a class for each package.
None is imported before it is asked for: a package that is missing raises
`ImportError`, one that cannot do what is asked `NotImplementedError`.
"""

import dataclasses
import importlib
import itertools
import math

import numpy as np
from scipy import stats

import processes

CALLS = ('log_prob', 'sample', 'sample_and_log_prob')
OPERATIONS = (*CALLS, 'train')
# The same of `given(c)`, which in other packages is the only way.
GIVEN = {f'given_{operation}': operation for operation in CALLS}

FLOOR, OURS, STOCK_CLASS, STOCK_TFP = TENSORFLOW = (
    'hand-written TensorFlow', 'tfp_conditional', 'stock class over the flow',
    'stock TFP')
ZUKO, NFLOWS, FLOWJAX, NORMFLOWS = PEERS = ('zuko', 'nflows', 'FlowJAX', 'normflows')
CLASSES = {
    FLOOR: 'with_tensorflow.Floor', OURS: 'with_tensorflow.Ours',
    STOCK_CLASS: 'with_tensorflow.StockClass', STOCK_TFP: 'with_tensorflow.StockTFP',
    ZUKO: 'with_torch.Zuko', NFLOWS: 'with_torch.NFlows', FLOWJAX: 'with_jax.FlowJAX',
    NORMFLOWS: 'with_torch.NormFlows'}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What every `real_nvp` builds: affine couplings, ReLU networks."""
    event_size: int = 8
    condition_size: int = 16
    num_layers: int = 8
    hidden_layers: tuple = (128, 128)

    def data(self, batch, seed=0):
        """Arrays `y [batch, D]` and `c [batch, S]`."""
        rng = np.random.default_rng(seed)
        return [rng.normal(size=[batch, size]).astype(np.float32)
                for size in (self.event_size, self.condition_size)]


class Package:
    """One package's flow, of its own kind of tensors `y [B, D]` and `c [B, S]`.

    Subclasses have `modes`, the names of the ways in which the package runs, `mode`,
    that of fits, and `requires`, the modules to import with the class; and

        real_nvp(**architecture), density(event_size, condition_size, **settings)
        num_parameters, reseed(seed), tensor(array)     a property; float32
        operation(name, mode, n)    a new function (y, c): one of `OPERATIONS`, of which
                                `train` is a loss, its gradients and a step of Adam;
                                `forward`, noise to data; `inverse`; `many`, n samples
                                for each condition, [n, B, D]
        hot(operation)          by name, functions (y, c) from NumPy to NumPy
        prepare(steps), step(y, c), weights(), restore(weights)     for `fit`
    """

    requires = ()

    def __init__(self, build, *, seed=0, learning_rate=1e-5, training=None, **settings):
        """Constructs the flow by the method `build`, of `settings`.

        `training` is a `dict`, of `fit`. `learning_rate` is that of Adam in the
        operation `train`, by default so small that training for the sake of timing does
        not change what is timed.
        """
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.learning_rate, self.training = learning_rate, training
        self.reseed(seed)
        getattr(self, build)(**settings)

    def ways(self):
        """Pairs of an operation and a mode."""
        return itertools.product(OPERATIONS, self.modes)

    def evaluate(self, y, c):
        """Log-densities of NumPy arrays `[N, D]` given `[N, S]`."""
        if not hasattr(self, '_log_prob'):
            self._log_prob = self.operation('log_prob', self.mode)
        return np.asarray(self._log_prob(self.tensor(y), self.tensor(c)))

    def draw(self, c, n):
        """Samples `[n, D]` given an array `[S]`."""
        self.reseed(0)
        return np.asarray(self.operation('many', self.mode, n)(
            None, self.tensor(c[None])))[:, 0]

    def fit(self, train, validation):
        """AdamW on a cosine to 0, and the weights of least validation loss.

        Returns the number of epochs that were run.
        """
        epochs, count = self.training['epochs'], len(train[0])
        size = min(self.training['batch_size'], count)
        self.prepare(epochs * (count // size))
        best, best_epoch = math.inf, 0
        for epoch in range(1, epochs + 1):
            for rows in self.rng.permutation(count)[:count // size * size].reshape(-1, size):
                if not math.isfinite(self.step(*(self.tensor(x[rows]) for x in train))):
                    raise FloatingPointError(f'not finite in epoch {epoch}')
            loss = self.loss(*validation)
            if loss < best:
                best, best_epoch, weights = loss, epoch, self.weights()
            if epoch - best_epoch >= self.training['patience']:
                break
        self.restore(weights)
        return epoch

    def loss(self, y, c):
        return -float(np.mean(self.evaluate(y, c)))


class LinearGaussian:
    """Least squares and the covariance of what it leaves, from all rows."""

    requires = ()

    def __init__(self, build, event_size, condition_size, seed=0, training=None,
                 correlated=True):
        self.correlated = correlated
        self.num_parameters = event_size * (condition_size + 1) + (
            event_size * (event_size + 1) // 2 if correlated else event_size)

    def fit(self, train, validation):
        y, c = (np.concatenate(pair).astype(float) for pair in zip(train, validation))
        self._weights = np.linalg.lstsq(np.insert(c, 0, 1., axis=1), y, rcond=None)[0]
        rest = y - self._mean(c)
        covariance = rest.T @ rest / len(y)
        self._noise = stats.multivariate_normal(
            cov=covariance if self.correlated else np.diag(np.diag(covariance)), seed=0)
        return 1

    def _mean(self, c):
        return self._weights[0] + c @ self._weights[1:]

    def evaluate(self, y, c):
        return np.atleast_1d(self._noise.logpdf(y - self._mean(c)))

    def draw(self, c, n):
        return self._mean(c) + self._noise.rvs(n).reshape(n, -1)


def load(where):
    """The class `'module.Name'`, with the package that it needs."""
    found = processes.load(where)
    for required in found.requires:
        importlib.import_module(required)
    return found


def construct(name, architecture, **arguments):
    """The `real_nvp` of one of `CLASSES`."""
    return load(CLASSES[name])('real_nvp', **vars(architecture), **arguments)


def available(architecture, names, **arguments):
    """`dict` of name -> flow that can be built here, and rows of what cannot."""
    built, failed = {}, []
    for name in names:
        try:
            built[name] = construct(name, architecture, **arguments)
        except (ImportError, NotImplementedError) as error:
            failed.append(dict(name=name, why=str(error)))
    return built, failed


@dataclasses.dataclass(frozen=True)
class Model:
    """A conditional density p(y | c) of one package, whose quality is measured.

    Where a search for settings was made, it was by seed 0 of the simulated tasks.
    """
    name: str
    where: str      # its class, as of `load`
    settings: dict = dataclasses.field(default_factory=dict)    # of the constructor
    # Name of a task -> settings that were better there; those of a model that is small.
    tuned: dict = dataclasses.field(default_factory=dict)
    quick: dict = dataclasses.field(default_factory=dict)
    # Whether it does so by itself, so that it meets the rows as they are. Others meet
    # columns of mean 0 and standard deviation 1.
    standardises: bool = False
    measured_only: bool = False     # a baseline for measured data alone


# AdamW on a cosine to 0, gradients clipped by their global norm, and the weights of
# the epoch of least validation loss.
TRAINING = dict(epochs=60, patience=20, batch_size=128, learning_rate=1e-3,
                weight_decay=1e-4, clip_norm=5.)
TUNED = dict(TRAINING, epochs=40, batch_size=256, learning_rate=2e-3)
# What overfits soon.
SHORT = dict(epochs=8, batch_size=256, learning_rate=1e-3, weight_decay=0.1)
ZUKO_DEFAULTS, LINEAR = 'zuko, its defaults', 'linear Gaussian'
NO_BOUNDS = 'tfp_conditional without SoftBounds'
_OURS = dict(settings=dict(training=dict(jit_compile=True)),    # Else, all defaults.
             quick=dict(num_coupling_layers=2, training=dict(jit_compile=False)),
             standardises=True)
_SPLINES = dict(layers=5, hidden_features=128, blocks=2, tail_bound=3., dropout=0.,
                training=TUNED)
_NETWORK = dict(hidden_units=(64, 64), training=TRAINING)
MODELS = {model.name: model for model in (
    Model(OURS, CLASSES[OURS], **_OURS),
    Model(NO_BOUNDS, 'with_tensorflow.OursWithoutBounds', **_OURS),
    Model(f'{OURS}, five members', 'with_tensorflow.OursMixed',
          **dict(_OURS, settings=dict(_OURS['settings'], members=5),
                 quick=dict(_OURS['quick'], members=2))),
    Model(ZUKO, CLASSES[ZUKO],
          dict(transforms=5, hidden_features=(128, 128), bins=8, randperm=True,
               training=dict(TUNED, learning_rate=5e-3)),
          {'Gaussian mixture': dict(training=dict(learning_rate=2e-3)),
           'Gaussian linear': dict(transforms=3, training=SHORT)}),
    # 3 transforms, widths (64, 64), 8 bins.
    Model(ZUKO_DEFAULTS, CLASSES[ZUKO], dict(training=TRAINING)),
    Model(NFLOWS, CLASSES[NFLOWS], dict(_SPLINES, bins=10),
          {'Gaussian mixture': dict(hidden_features=64),
           'Gaussian linear': dict(hidden_features=50, dropout=0.2,
                                   training=dict(SHORT, epochs=15))}),
    Model(FLOWJAX, CLASSES[FLOWJAX],
          dict(flow='masked_autoregressive_flow', knots=8, interval=4., flow_layers=5,
               nn_width=128, nn_depth=2, training=dict(TUNED, learning_rate=5e-3)),
          {'Gaussian linear': dict(flow_layers=3, training=SHORT)}),
    Model(NORMFLOWS, CLASSES[NORMFLOWS], dict(_SPLINES, bins=8),
          {'Gaussian linear': dict(layers=3, training=SHORT)}),
    # What sbibm fitted; sbi standardises its rows by itself.
    Model('sbi, NPE', 'with_torch.SBI', dict(density_estimator='nsf'),
          standardises=True),
    Model('hand-written TFP', 'with_tensorflow.Autoregressive',
          dict(_NETWORK, layers=5, bins=8, bound=4.), quick=dict(layers=1)),
    Model('mixture density network, TFP', 'with_tensorflow.GaussianMixture',
          dict(_NETWORK, components=5), measured_only=True),
    Model('neural Gaussian, TFP', 'with_tensorflow.GaussianMixture',
          dict(_NETWORK, components=1), measured_only=True),
    Model(LINEAR, 'peers.LinearGaussian', measured_only=True))}
