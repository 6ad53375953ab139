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

import tfp_conditional as tfpc

MEASURED = ('numpy', 'tensorflow', 'keras', 'tensorflow-probability', 'torch', 'zuko',
            'nflows', 'normflows', 'jax', 'flowjax')
GRID = dict(which='both', color='#e5e5e5', lw=0.6)


def environment():
    """What the numbers depend on."""
    cpuinfo = pathlib.Path('/proc/cpuinfo')
    cpu = cpuinfo.exists() and re.search(r'model name\s*: (.*)', cpuinfo.read_text())
    found = {dist.name.lower().replace('_', '-'): dist.version
             for dist in importlib.metadata.distributions()}
    return {
        'date': datetime.date.today().isoformat(),
        'CPU': cpu[1] if cpu else platform.processor() or platform.machine(),
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                 else os.cpu_count(),
        'load before': round(os.getloadavg()[0], 2),
        'system': platform.system(), 'Python': platform.python_version(),
        'tfp_conditional': tfpc.__version__,
        **{name: found.get(name, 'not installed') for name in MEASURED}}


def heading(title, found):
    """The first lines of a report; `found` is an `environment()`."""
    return f'# {title}\n\n' + ', '.join(
        f'{key}: {value}' for key, value in found.items()) + '.\n'


def ms(seconds):
    """A time in milliseconds, three digits."""
    return f'{1e3 * seconds:.3g}' if seconds < 1. else f'{1e3 * seconds:.0f}'


def matching(frame, **values):
    """The rows in which fields have these values."""
    for field, value in values.items():
        frame = frame[frame[field] == value]
    return frame


def table(rows, columns=None):
    """Markdown of rows of cells, or of `dict`s; all but the first column are numbers."""
    if columns is None:
        columns, rows = list(rows[0]) if rows else [], [row.values() for row in rows]
    lines = [columns, ['---'] + ['--:'] * (len(columns) - 1), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines) + '\n'


def pivot(records, rows, column, empty=''):
    """A table of `text`: a row for each of `rows`, a column for each value of `column`.

    Both stand in the order in which they first come, or of their categories. `records`
    is a frame, or `dict`s; `rows` a list of fields, or a `dict` from fields to what
    they are called. `empty` stands where there is no record.
    """
    import pandas as pd
    frame = pd.DataFrame(records)
    for field in (*rows, column):
        if frame[field].dtype != 'category':
            frame[field] = pd.Categorical(frame[field], frame[field].unique())
        frame[field] = frame[field].cat.remove_unused_categories()
    wide = frame.pivot(index=list(rows), columns=column, values='text')
    header = [*(rows.values() if isinstance(rows, dict) else rows), *wide.columns]
    wide = wide.astype(object).where(wide.notna(), empty)
    return table(wide.reset_index().values, header)


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
    for steps in ([1.], [1., 2., 5.], [1., 1.5, 2., 3., 5., 7.]):
        ticks = np.outer(10.**np.arange(-12, 13), steps)
        axis.set_major_locator(plt.LogLocator(subs=steps))
        if np.sum((low <= ticks) & (ticks <= high)) >= 3:
            break
    else:
        axis.set_major_locator(plt.MaxNLocator(4))
    axis.set_major_formatter(plt.FuncFormatter('{0:g}'.format))
    axis.set_minor_locator(plt.NullLocator())


def save(figure, file, legend=None):
    """Writes the figure, with a legend of names and lines above it."""
    if legend:
        figure.legend(legend.values(), legend.keys(), loc='outside upper center',
                      ncols=3, frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)
