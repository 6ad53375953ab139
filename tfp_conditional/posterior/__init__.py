"""What to do with a fitted density: modes, regions, truncation, corrections.

All take a conditional distribution and conditions, or a distribution for given
conditions, of any batch shape, and answer for all conditions at once, in arrays:

```none
mode                      the event of highest density
highest_density_regions   thresholds, volumes and membership of the smallest regions
truncated                 the density cut to the support of a prior, normalised
importance_resampling     samples corrected by weights, with effective size and Pareto k
latent_mcmc               samples corrected by chains in latents, with R-hat
```

The last two need another, unnormalised log-density, such as a likelihood times a prior.
This module is not imported by `import tfp_conditional`.
"""

from tfp_conditional.posterior.mcmc import latent_mcmc
from tfp_conditional.posterior.mode import mode
from tfp_conditional.posterior.regions import highest_density_regions
from tfp_conditional.posterior.resampling import importance_resampling
from tfp_conditional.posterior.resampling import pareto_smooth
from tfp_conditional.posterior.truncation import truncated

__all__ = ['highest_density_regions', 'importance_resampling', 'latent_mcmc', 'mode',
           'pareto_smooth', 'truncated']
