"""All checks by name, and `check_bijector`, which runs them."""

from collections.abc import Sequence
from typing import Any

import tensorflow_probability as tfp

from tfp_conditional.core.types import Sizes
from tfp_conditional.testing import densities
from tfp_conditional.testing import state
from tfp_conditional.testing import values
from tfp_conditional.testing.subject import Subject

# In the order of a report.
CHECKS = {function.__name__.removeprefix('check_'): function for function in (
    state.check_variables_tracked, values.check_round_trip, values.check_log_det,
    state.check_freshness, state.check_releases_tensors,
    values.check_depends_on_conditions, values.check_gradients,
    values.check_broadcasting, values.check_dtype, values.check_modes_agree,
    state.check_checkpoint, densities.check_sample_log_prob,
    densities.check_normalisation, densities.check_independent_noise)}


class CheckFailure(AssertionError):
    """What `check_bijector` raises; its `report` has the status of every check."""

    def __init__(self, message: str, report: dict[str, str]) -> None:
        super().__init__(message)
        self.report = report


def check_bijector(bijector: tfp.bijectors.Bijector, event_size: int | None = None,
                   condition_size: Sizes | None = None,
                   checks: Sequence[str] | None = None, skip: Sequence[str] = (),
                   **options: Any) -> dict[str, str]:
    """Runs every check that makes sense for the bijector.

    ```python
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tfp_conditional as tfpc
    import tfp_conditional.testing

    report = tfpc.testing.check_bijector(
        tfp.bijectors.Tanh(), event_size=1, support=(-1., 1.))
    assert report['log_det'] == 'passed'
    assert report['checkpoint'] == 'skipped: no variables'
    ```

    Args:
      bijector: a `tfb.Bijector` whose events are vectors, `[..., D]`.
      event_size: `int` D; default `bijector.event_size`.
      condition_size: `int`, or nest of `int`; default `bijector.condition_size`
        where there is one, else the bijector is called without conditions.
      checks: names of those to run, keys of `tfpc.testing.CHECKS`; default all.
      skip: names of those to leave out.
      **options: as in every check, for which see `check_round_trip`.

    Returns:
      `dict`: name of a check -> `'passed'` or `'skipped: ...'` with the reason.

    Raises:
      CheckFailure: an `AssertionError` with the messages of all checks that
        failed; its `report` says `'failed: ...'` for them.
      ValueError: for names that are none of a check.
    """
    names = list(CHECKS if checks is None else checks)
    unknown = sorted({*names, *skip} - CHECKS.keys())
    if unknown:
        raise ValueError(f'`checks` and `skip` must be among {list(CHECKS)}; got '
                         f'{unknown}.')
    Subject(bijector, event_size, condition_size, **options)   # Misuse raises.
    report, failures = {}, []
    for name in names:
        if name in skip:
            report[name] = 'skipped: by the caller'
            continue
        try:
            report[name] = CHECKS[name](bijector, event_size, condition_size,
                                        **options)
        except AssertionError as error:
            report[name] = f'failed: {error}'
            failures.append(f'  {error}')
    if failures:
        raise CheckFailure('\n'.join(
            [f'{len(failures)} of {len(names)} checks failed:', *failures]), report)
    return report
