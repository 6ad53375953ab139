"""`progress`: a bar for what takes long."""

import contextlib


def progress(total, desc, unit, verbose, done=0):
    """A tqdm bar where it is installed and wanted, or a context manager of `None`."""
    if verbose:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm
            return tqdm(total=total, initial=done, desc=desc, unit=unit)
    return contextlib.nullcontext()
