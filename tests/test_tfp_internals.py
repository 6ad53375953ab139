"""What `_tfp.py` takes for granted of TFP's private parts."""

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional.core import _tfp

tfb, tfd = tfp.bijectors, tfp.distributions

ADVICE = ('TFP or TensorFlow changed what tfp_conditional/core/_tfp.py relies on: mend it '
          'there. ')


def test_what_stock_factories_return_is_of_the_classes_found():
    flow = flows.flow()
    assert type(tfb.Invert(flow)) is _tfp.Invert, ADVICE
    assert type(tfb.Chain([flow])) is _tfp.Chain, ADVICE
    assert type(tfd.TransformedDistribution(
        flows.base(), flow)) is _tfp.TransformedDistribution, ADVICE
    assert isinstance(flow(flows.base()), _tfp.TransformedDistribution)


def test_a_distribution_asks_inverse_and_then_the_correction_at_that_very_tensor():
    """What makes a stock `log_prob` one pass, by a public hook."""
    asked = []

    class Recorder(tfb.Bijector):
        def __init__(self):
            super().__init__(forward_min_event_ndims=1, parameters={})

        def inverse(self, y, **kwargs):
            asked.append(tf.identity(y))
            return asked[-1]

        def experimental_compute_density_correction(self, x, space, **kwargs):
            assert x is asked[-1] and kwargs['backward_compat'], ADVICE
            asked.append(kwargs['event_ndims'])
            return tf.zeros([], tf.float64), space

    tfd.TransformedDistribution(flows.base(), Recorder()).log_prob(flows.normal([3, 2]))
    assert len(asked) == 2 and asked[1] == 1, ADVICE


def test_saving_asks_for_the_parts_of_an_object(tmp_path):
    asked = []

    class Asked(tf.Module):
        def _trackable_children(self, save_type='checkpoint', **kwargs):
            asked.append(save_type)
            return super()._trackable_children(save_type, **kwargs)

    tf.saved_model.save(Asked(), str(tmp_path))
    assert _tfp.SAVED_MODEL in asked, ADVICE


def test_the_cache_of_bijectors_is_found_and_only_what_is_new_is_dropped():
    exp, x = tfb.Exp(), flows.normal([2])
    kept = exp.forward(x)
    assert exp.inverse(kept) is x, ADVICE
    with _tfp.uncached():
        dropped = exp.forward(kept)
        assert exp.inverse(dropped) is kept, ADVICE
    assert exp.inverse(dropped) is not kept and exp.inverse(kept) is x, ADVICE


def test_a_sample_is_drawn_in_a_name_scope_that_says_so():
    seen = []

    class Recorder(tfpc.ConditionalBijector):
        def _inverse_and_log_det(self, y, conditions):
            seen.append(_tfp.is_drawing())
            return y + 0., tf.zeros([], y.dtype)

    recorder = Recorder(2, 3, dtype=tf.float64)
    c = flows.normal([5, 3])
    tf.config.run_functions_eagerly(True)
    try:
        for bijector, kwargs in [(tfb.Invert(recorder), flows.given(c)),
                                 (tfb.Invert(recorder.condition(c)), {})]:
            dist = tfd.TransformedDistribution(flows.base(), bijector)
            n = 5 if kwargs else []
            for call in (dist.sample, dist.sample):
                call(n, **kwargs)
                assert seen.pop(), ADVICE
        tfd.TransformedDistribution(flows.base(), recorder).log_prob(
            flows.normal([5, 2]), **flows.given(c))
        recorder.inverse(flows.normal([5, 2]), conditions=c)
        assert not any(seen), ADVICE
    finally:
        tf.config.run_functions_eagerly(False)


class _Other(tfb.Bijector):
    def __init__(self):
        super().__init__(forward_min_event_ndims=1, parameters={})


def test_composition_classes_are_found():
    inner = _Other()
    assert isinstance(tfb.Invert(inner), _tfp.Invert), ADVICE
    assert isinstance(tfb.Chain([inner]), _tfp.Chain), ADVICE
    assert isinstance(tfb.Invert(tfb.Exp()), _tfp.Invert), ADVICE
    assert isinstance(tfb.Chain([tfb.Exp()]), _tfp.Chain), ADVICE
    assert not isinstance(tfb.Exp(), (_tfp.Invert, _tfp.Chain)), ADVICE
