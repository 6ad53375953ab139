"""Is `p(y | c)` right? Calibration from pairs (y, c) of the true joint distribution.

Where the density is the true one, a target and samples for the same condition come
from one distribution, so the rank of any quantity of the target among those of L
samples is uniform on 0..L. Three choices of the quantity make three tests:

```none
simulation_based_calibration   each coordinate        biased, too wide or narrow
expected_coverage              -log p(y | c)          too wide or narrow
tarp                           |y - r|, r at random   any error, if r may depend on c
```

`uniformity_test` gives a p-value, `coverage_curve` and `coverage_band` a picture of
it (see `tfp_conditional.plot`). Beside them:

```none
z_scores_and_contraction           what each coordinate has learnt
local_classifier_two_sample_test   where, for which conditions, it is wrong
classifier_two_sample_test         against true samples, where there are some
posterior_predictive_check         does it predict what was observed?
misspecification_test              are simulations like what was observed?
conformal_regions                  regions that hold the truth in any case
```

This module is not imported by `import tfp_conditional`; it needs SciPy, and classifiers
scikit-learn.

```python
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tfp_conditional as tfpc
import tfp_conditional.calibration
tfd = tfp.distributions

rng = np.random.default_rng(0)
conditions = rng.normal(size=[200, 3])
targets = rng.normal(size=[200, 2])         # and so the base alone is right
flow = tfpc.ConditionalRealNVP(2, 3, num_coupling_layers=2, hidden_layers=(8,))
dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
ranks = tfpc.calibration.simulation_based_calibration(
    dist, targets, conditions, num_samples=99, seed=0, verbose=False)
distance, p_value = tfpc.calibration.uniformity_test(ranks, num_samples=99)
assert ranks.shape == (200, 2) and np.all(p_value > 0.01)
```
"""

from tfp_conditional.calibration.classifiers import classifier_two_sample_test
from tfp_conditional.calibration.classifiers import local_classifier_two_sample_test
from tfp_conditional.calibration.conformal import conformal_regions
from tfp_conditional.calibration.diagnostics import misspecification_test
from tfp_conditional.calibration.diagnostics import posterior_predictive_check
from tfp_conditional.calibration.diagnostics import z_scores_and_contraction
from tfp_conditional.calibration.ranks import expected_coverage
from tfp_conditional.calibration.ranks import simulation_based_calibration
from tfp_conditional.calibration.ranks import tarp
from tfp_conditional.calibration.uniformity import coverage_band
from tfp_conditional.calibration.uniformity import coverage_curve
from tfp_conditional.calibration.uniformity import histogram_band
from tfp_conditional.calibration.uniformity import uniformity_test

__all__ = [
    'classifier_two_sample_test', 'conformal_regions', 'coverage_band', 'coverage_curve',
    'expected_coverage', 'histogram_band', 'local_classifier_two_sample_test',
    'misspecification_test', 'posterior_predictive_check',
    'simulation_based_calibration', 'tarp', 'uniformity_test',
    'z_scores_and_contraction',
]
