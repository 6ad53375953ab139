"""The checkpoint of a fit: one file, replaced at once.

A kill leaves the old one or the new one.
"""

import json
import os
import zipfile
import zlib

import numpy as np

from tfp_conditional.bijectors import settings as settings_lib

VERSION = 1   # Of what `write` writes; the only one that `read` reads.


def read(path):
    """The meta data and the arrays of a file of `write`."""
    try:
        with np.load(path) as file:
            meta = json.loads(str(file['meta']))
            arrays = [file[f'array_{i}'] for i in range(len(file.files) - 1)]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile,
            zlib.error) as error:
        raise ValueError(
            '`checkpoint` must be a file that `fit` wrote, or none yet; '
            f'{path!r} is another, or was cut short: {error}') from error
    if meta.get('version') != VERSION:
        raise ValueError(
            f'`checkpoint` {path!r} is of version {meta.get("version")} of such files; '
            f'this release goes on from version {VERSION}. End the fit with the release '
            'that began it, or give another path.')
    return meta, arrays


def write(path, meta, arrays):
    """Writes a `dict` for JSON and a list of arrays."""
    with open(f'{path}.part', 'wb') as file:
        np.savez(file, meta=json.dumps(dict(meta, version=VERSION)),
                 **{f'array_{i}': x for i, x in enumerate(arrays)})
    os.replace(f'{path}.part', path)


def fingerprint(dist, train, validation, optimizer, settings):
    """What is to be the same where a fit goes on, as JSON gives it back."""
    variables = [[v.dtype.name, v.shape.as_list()]
                 for v in [*dist.trainable_variables, *dist.non_trainable_variables]]
    return json.loads(json.dumps(dict(
        settings, **optimizer.get_config(), data=train.digest(),
        validation_data=None if validation is None else validation.digest(),
        variables=variables, flow=settings_lib.collect(dist)), default=str))


def check(saved, mine, path):
    """Refuses the fingerprint of another fit."""
    for key in sorted(mine.keys() | saved.keys(), key=lambda k: (k == 'config', k)):
        if mine.get(key) != saved.get(key):
            raise ValueError(
                f'`checkpoint` {path!r} is of a fit with other settings: '
                f'{key!r} was {saved.get(key)!r} and is {mine.get(key)!r}. Give it the '
                'same, or another path.')
