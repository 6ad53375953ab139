"""`check`: makes a public check of a function of a `Subject`."""

from collections.abc import Callable
import functools
import inspect

from tfp_conditional.testing.subject import brief
from tfp_conditional.testing.subject import Subject

_OPTIONS = """
    Args:
      bijector: a `tfb.Bijector` whose events are vectors, `[..., D]`.
      event_size: `int` D; default `bijector.event_size`.
      condition_size: `int`, or nest of `int`, the last dimension(s) of the
        conditions; default `bijector.condition_size` where there is one, else the
        bijector is called without conditions.
      seed: `int`, for inputs and perturbations.
      dtype: floating dtype; default that of the bijector, else float32.
      rtol: relative tolerance; default `tfpc.testing.RTOL[dtype]`.
      batch_shape: batch shape of x, which a bijector's own one is appended to.
      condition_batch_shape: batch shape of the conditions; default that of x.
      perturb_scale: how far variables are moved for the check; see `perturb`.
      domain: a `tfb.Bijector` from the reals to where x may lie. Default: x may
        be any vector.
      support: `(low, high)`, between which every unit of y lies.
      factory: a function of no arguments that makes another such bijector;
        default `copy.deepcopy`.
      make_kwargs: a function from conditions to the keyword arguments of the
        bijector's methods; default `{'conditions': conditions}`.

    Returns:
      `'passed'`, or `'skipped: ...'` with the reason.

    Raises:
      AssertionError: if the property does not hold, or the bijector raises.
      TypeError: if `bijector` is none or `event_size` is missing.
"""


def check(function: Callable[[Subject], str | None]) -> Callable[..., str]:
    """Makes a public check of a function of a `Subject`.

    The function fails by an `AssertionError` and returns a reason to skip, if any.
    """
    name = function.__name__.removeprefix('check_')

    @functools.wraps(function)
    def checked(bijector, event_size=None, condition_size=None, **options):
        subject = Subject(bijector, event_size, condition_size, **options)
        try:
            with subject.perturbed():
                reason = function(subject)
        except AssertionError as error:
            raise AssertionError(
                f'{name} failed for {bijector.name!r}: {error}') from error
        except Exception as error:
            raise AssertionError(
                f'{name} failed for {bijector.name!r}, which raised '
                f'{type(error).__name__}: {brief(error)}') from error
        return 'passed' if reason is None else f'skipped: {reason}'

    checked.__signature__ = inspect.signature(     # type: ignore[attr-defined]
        Subject).replace(return_annotation=str)
    checked.__doc__ = inspect.cleandoc(function.__doc__ or '') + '\n\n' + inspect.cleandoc(
        _OPTIONS)
    return checked
