"""What all reports share: the environment, tables in Markdown, pictures."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import tfp_conditional as tfpc

MEASURED = ('numpy', 'tensorflow', 'keras', 'tensorflow-probability', 'torch', 'zuko',
            'nflows', 'normflows', 'jax', 'flowjax')
GRID = dict(which='both', color='#e5e5e5', lw=0.6)


def environment():
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    try:
        cpu = re.search(r'model name\s*: (.*)', pathlib.Path(
            '/proc/cpuinfo').read_text(encoding='utf-8'))[1]
    except (OSError, TypeError):
        pass
    record = {
        'date': datetime.date.today().isoformat(), 'CPU': cpu,
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                 else os.cpu_count(),
        'load before': round(os.getloadavg()[0], 2),
        'system': platform.system(), 'Python': platform.python_version(),
        'tfp_conditional': tfpc.__version__}
    for package in MEASURED:
        try:
            record[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            record[package] = 'not installed'
    return record


def heading(title, found):
    """The first lines of a report; `found` is an `environment()`."""
    return f'# {title}\n\n' + ', '.join(
        f'{key}: {value}' for key, value in found.items()) + '.\n'


def ms(seconds):
    """A time in milliseconds, three digits."""
    return f'{1e3 * seconds:.3g}' if seconds < 1. else f'{1e3 * seconds:.0f}'


def pivot(records, rows, columns, values='text'):
    """A wide frame; rows and columns stand in the order in which they first come.

    Args:
      records: `dict`s, or a frame.
      rows: `list` of fields, of which each combination that occurs is a row.
      columns: field of which each value is a column.
      values: field.
    """
    frame = pd.DataFrame(records)
    for field in (*rows, columns):
        frame[field] = pd.Categorical(frame[field], frame[field].unique())
    wide = frame.pivot(index=rows, columns=columns, values=values)
    wide.columns = list(wide.columns)
    return wide.reset_index()


def table(frame, empty=''):
    """A frame in Markdown; all columns but the first are numbers."""
    frame = frame.astype(object).where(frame.notna(), empty)
    lines = [list(frame.columns), ['---'] + ['--:'] * (frame.shape[1] - 1),
             *frame.values.tolist()]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |'
                     for line in lines) + '\n'


def panels(count, columns=3, size=(4., 3.4), **arguments):
    """A figure, and a `list` of `count` axes in rows of `columns`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False,
        layout='constrained', **arguments)
    for ax in axes.flat[count:]:
        ax.remove()
    for ax in axes.flat[:count]:
        ax.spines[['top', 'right']].set_visible(False)
        ax.set_axisbelow(True)
    return figure, list(axes.flat[:count])


def log_ticks(axis):
    """Plain numbers, enough of them, on an axis of logarithmic scale."""
    low, high = axis.get_view_interval()
    for steps in ([1.], [1., 2., 5.], np.arange(1., 10.)):
        ticks = np.outer(10.**np.arange(-12, 13), steps)
        axis.set_major_locator(plt.LogLocator(subs=steps))
        if np.sum((low <= ticks) & (ticks <= high)) >= 3:
            break
    else:
        axis.set_major_locator(plt.MaxNLocator(4))
    axis.set_major_formatter(plt.FuncFormatter('{0:g}'.format))
    axis.set_minor_locator(plt.NullLocator())


def save(figure, file):
    figure.savefig(file, dpi=150)
    plt.close(figure)
