"""Properties that every bijector should have, to run on bijectors of your own.

`check_bijector` runs all of them, on a conditional or an ordinary `tfb.Bijector`
of vectors; each is also a function of its own, and fails by an `AssertionError`
that names what differs and by how much. Beside them stand `hypothesis`
strategies, which draw sizes, shapes, conditions and perturbed flows. It needs
hypothesis and SciPy; `import tfp_conditional` does not import it.

```python
import tfp_conditional as tfpc
import tfp_conditional.testing

layer = tfpc.ConditionalCoupling(event_size=2, condition_size=3, hidden_layers=(8,))
report = tfpc.testing.check_bijector(layer, skip=['normalisation'])
assert report['round_trip'] == 'passed'
```

Two traps that the checks avoid: TFP's cache answers `inverse(forward(x))` with
`x` itself, however wrong `inverse` is, so every tensor is copied before it goes
back; and a flow at its identity initialisation passes anything, so every variable
is perturbed during a check and restored after it.
"""

from tfp_conditional.testing.checks import CHECKS, CheckFailure, check_bijector
from tfp_conditional.testing.densities import (
    check_independent_noise, check_normalisation, check_sample_log_prob)
from tfp_conditional.testing.state import (
    check_checkpoint, check_freshness, check_releases_tensors,
    check_variables_tracked)
from tfp_conditional.testing.strategies import (
    batch_shapes, condition_sizes, conditions, dtypes, event_sizes, events, perturbed,
    seeds)
from tfp_conditional.testing.subject import RTOL, perturb
from tfp_conditional.testing.values import (
    check_broadcasting, check_depends_on_conditions, check_dtype, check_gradients,
    check_log_det, check_modes_agree, check_round_trip)

__all__ = [
    'CHECKS', 'CheckFailure', 'RTOL', 'batch_shapes', 'check_bijector',
    'check_broadcasting', 'check_checkpoint', 'check_depends_on_conditions',
    'check_dtype', 'check_freshness', 'check_gradients', 'check_independent_noise',
    'check_log_det', 'check_modes_agree', 'check_normalisation',
    'check_releases_tensors', 'check_round_trip', 'check_sample_log_prob',
    'check_variables_tracked', 'condition_sizes', 'conditions', 'dtypes',
    'event_sizes', 'events', 'perturb', 'perturbed', 'seeds',
]
