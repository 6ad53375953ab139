"""The packages that are compared, behind one interface for speed and for quality.

`with_tensorflow.py`, `with_torch.py` and `with_jax.py` have a class for each package.
None is imported before it is asked for: a package that is missing raises
`ImportError`, one that cannot do what is asked `NotImplementedError`.
"""

import dataclasses
import importlib
import math

import numpy as np

OPERATIONS = ('log_prob', 'sample', 'sample_and_log_prob', 'train')
CALLS = OPERATIONS[:3]
# The same of `given(c)`, which in other packages is the only way.
GIVEN = {f'given_{operation}': operation for operation in CALLS}

FLOOR, OURS, STOCK_CLASS, STOCK_TFP = TENSORFLOW = (
    'hand-written TensorFlow', 'tfp_conditional', 'stock class over the flow',
    'stock TFP')
ZUKO, NFLOWS, FLOWJAX, NORMFLOWS = PEERS = ('zuko', 'nflows', 'FlowJAX', 'normflows')
# Of the conditional affine Real NVP whose speed is measured.
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


class Package:
    """One package's flow, of its own kind of tensors `y [B, D]` and `c [B, S]`.

    Attributes:
      requires: names of modules that are imported with the class.
      modes: names of the ways in which the package runs.
      mode: that of fits.
    """

    requires = ()
    modes: tuple
    mode: str

    def __init__(self, build, *sizes, seed=0, learning_rate=1e-5, training=None,
                 **settings):
        """Constructs the flow.

        Args:
          build: `'real_nvp'` or `'density'`, the method that makes it.
          *sizes: `Architecture`, or D and S.
          seed: `int`.
          learning_rate: that of Adam in the operation `train`. By default so small
            that training for the sake of timing does not change what is timed.
          training: `dict`, of `fit`.
          **settings: further arguments of `density`.
        """
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.learning_rate, self.training = learning_rate, training
        self.reseed(seed)
        getattr(self, build)(*sizes, **settings)

    # Subclasses have besides:
    #   reseed(seed)
    #   real_nvp(architecture), density(event_size, condition_size, **settings)
    #   num_parameters            a property
    #   tensor(array)             float32 of the package's own kind
    #   operation(name, mode)     a new function (y, c): one of `OPERATIONS`, of which
    #                             `train` is a loss, its gradients and a step of Adam;
    #                             `forward`, noise to data; `inverse`
    #   sampler(n, mode)          a new function (c) -> n samples each, [n, B, D]
    #   hot(operation, batch)     by name, functions (y, c) from NumPy to NumPy
    # and for `fit`:
    #   prepare(steps)            makes the optimizer
    #   step(y, c)                returns the loss
    #   weights(), restore(weights)

    def evaluate(self, y, c):
        """Log-densities of NumPy arrays `[N, D]` given `[N, S]`."""
        if not hasattr(self, '_log_prob'):
            self._log_prob = self.operation('log_prob', self.mode)
        return np.asarray(self._log_prob(self.tensor(y), self.tensor(c)))

    def draw(self, c, n):
        """Samples `[n, D]` given an array `[S]`."""
        self.reseed(0)
        return np.asarray(self.sampler(n, self.mode)(self.tensor(c[None])))[:, 0]

    def fit(self, train, validation):
        """AdamW on a cosine to 0, and the weights of least validation loss.

        Returns:
          The number of epochs that were run.
        """
        count = len(train[0])
        size = min(self.training['batch_size'], count)
        self.prepare(self.training['epochs'] * (count // size))
        best, best_epoch = math.inf, 0
        for epoch in range(1, self.training['epochs'] + 1):
            for rows in self.rng.permutation(count)[:count // size * size].reshape(
                    -1, size):
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


def to_numpy(result):
    """A tensor of TensorFlow or PyTorch, or a tuple of them, as NumPy arrays."""
    return (tuple(map(to_numpy, result)) if isinstance(result, tuple)
            else result.numpy())


def load(where):
    """The class `'module.Name'`, with the package that it needs."""
    module, name = where.split('.')
    found = getattr(importlib.import_module(module), name)
    for required in found.requires:
        importlib.import_module(required)
    return found


def available(architecture, names=TENSORFLOW + PEERS, **arguments):
    """The flows that can be built here, and why others cannot.

    Returns:
      `dict` of name -> `Package`, and `dict` of name -> reason.
    """
    built, absent = {}, {}
    for name in names:
        try:
            built[name] = load(CLASSES[name])('real_nvp', architecture, **arguments)
        except ImportError as error:
            absent[name] = f'not installed ({error})'
        except NotImplementedError as error:
            absent[name] = str(error)
    return built, absent
