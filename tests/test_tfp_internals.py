"""What `_tfp.py` takes for granted of TFP's private parts."""

import tensorflow as tf
import tensorflow_probability as tfp

from tests import flows
from tfp_conditional import _tfp

tfb, tfd = tfp.bijectors, tfp.distributions

ADVICE = ('TFP changed what tfp_conditional/_tfp.py relies on. Results stay right, but '
          '`log_prob` runs every network twice (or a ConditionalChain no longer sees '
          'into tfb.Invert and tfb.Chain): mend `_tfp.py`. ')


def test_density_methods_exist():
    for name in {*_tfp._DENSITY_METHODS, *_tfp._SAMPLING_METHODS}:
        method = getattr(tfd.TransformedDistribution, name, None)
        assert hasattr(method, '__code__'), (
            ADVICE + f'TransformedDistribution.{name} is no plain method any more.')
    assert len(_tfp._DENSITY_CODES) == len(_tfp._DENSITY_METHODS), ADVICE
    assert len(_tfp._SAMPLING_CODES) == len(_tfp._SAMPLING_METHODS), ADVICE


class _Recorder(tfb.Bijector):
    """Notes for each question whether it is seen to come from a density call."""

    def __init__(self):
        super().__init__(forward_min_event_ndims=1, parameters={}, name='recorder')
        self.seen = {}

    def forward(self, x, **kwargs):
        self.seen['forward'] = _tfp.density_call()
        return x

    def inverse(self, y, **kwargs):
        self.seen['inverse'] = _tfp.density_call()
        return y

    def forward_log_det_jacobian(self, x, event_ndims=None, **kwargs):
        self.seen['fldj'] = _tfp.density_call()
        return tf.zeros(x.shape[:-1], x.dtype)


def test_both_questions_of_a_density_call_have_one_identity(monkeypatch):
    # The recorder stands for a bijector of the package, which this file is not of.
    monkeypatch.setattr(_tfp, '_TRANSPARENT', (*_tfp._TRANSPARENT, 'tests.'))
    recorder = _Recorder()
    dist = tfd.TransformedDistribution(flows.base(), recorder)
    dist.log_prob(flows.normal([3, 2]))
    assert recorder.seen['inverse'] is not None, ADVICE
    assert recorder.seen['inverse'] is recorder.seen['fldj'], ADVICE
    recorder.seen.clear()
    dist.experimental_sample_and_log_prob(3)
    assert recorder.seen['forward'] is not None, ADVICE
    assert recorder.seen['forward'] is recorder.seen['fldj'], ADVICE


def test_other_callers_have_no_identity(monkeypatch):
    monkeypatch.setattr(_tfp, '_TRANSPARENT', (*_tfp._TRANSPARENT, 'tests.'))
    recorder = _Recorder()
    tfd.TransformedDistribution(flows.base(), recorder).sample(3)
    assert recorder.seen['forward'] is None
    recorder.inverse(flows.normal([3, 2]))
    assert recorder.seen['inverse'] is None


def test_users_code_inside_a_density_call_has_no_identity():
    recorder = _Recorder()

    class Meddler(tfd.Normal):
        """A base that calls the bijector by itself."""

        def _log_prob(self, x):
            recorder.inverse(x)
            self.inner = recorder.seen['inverse']
            return super()._log_prob(x)

    meddler = Meddler(tf.zeros([], tf.float64), tf.ones([], tf.float64))
    tfd.TransformedDistribution(tfd.Sample(meddler, 2), recorder).log_prob(
        flows.normal([3, 2]))
    assert meddler.inner is None


def test_composition_classes_are_found():
    inner = _Recorder()
    assert isinstance(tfb.Invert(inner), _tfp.Invert), ADVICE
    assert isinstance(tfb.Chain([inner]), _tfp.Chain), ADVICE
    assert isinstance(tfb.Invert(tfb.Exp()), _tfp.Invert), ADVICE
    assert isinstance(tfb.Chain([tfb.Exp()]), _tfp.Chain), ADVICE
    assert not isinstance(tfb.Exp(), (_tfp.Invert, _tfp.Chain)), ADVICE
