"""What all reports share: the environment, tables in Markdown, pictures."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re

import numpy as np

import tfp_conditional as tfpc
from tfp_conditional import calibration

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


def write(file, title, *parts, environment):
    """Writes and returns a page: its title, what it depends on, and its parts."""
    text = '\n'.join([f'# {title}\n', ', '.join(
        f'{key}: {value}' for key, value in environment.items()) + '.\n', *parts])
    file.write_text(text, encoding='utf-8')
    return text


def not_measured(failed, *fields):
    """A line for each of what failed, told apart by these fields, with the first reason."""
    reasons = {}
    for row in failed:
        reasons.setdefault(', '.join(row[field] for field in fields), row['why'])
    return [f'Not measured: {what}: {why.rstrip(".")}.\n' for what, why in reasons.items()]


def ms(seconds):
    """A time in milliseconds, three digits."""
    return f'{1e3 * seconds:.3g}' if seconds < 1. else f'{1e3 * seconds:.0f}'


def spread(values, mean='.3f', deviation='.3f'):
    """Mean ± standard deviation of a series."""
    values = values.dropna()
    text = format(values.mean(), mean) if len(values) else ''
    return f'{text} ± {values.std():{deviation}}' if len(values) > 1 else text


def in_band(curves):
    """How many curves, each of levels, lie within the 95 % band from end to end."""
    def inside(levels):
        _, lower, upper = calibration.coverage_band(len(levels))
        found = calibration.coverage_curve(levels)[1]
        return np.all((lower <= found) & (found <= upper))
    return sum(map(inside, curves))


def table(rows, columns=None):
    """Markdown of `dict`s, or of rows of cells; all but the first column are numbers."""
    if columns is None:
        columns, rows = list(rows[0]) if rows else [], [row.values() for row in rows]
    lines = [columns, ['---'] + ['--:'] * (len(columns) - 1), *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines) + '\n'


def pivot(frame, rows, column, values='text', function='first', empty='', order=None):
    """A table of a row for each of `rows`, fields, and a column for each of `column`.

    Both stand in the order in which they first come, or columns in the given `order`.
    `function` makes one of several `values`; `empty` stands where there are none.
    """
    wide = frame.pivot_table(values, list(rows), column, function, sort=False)
    if order is not None:
        wide = wide[[name for name in order if name in wide]]
    wide = wide.astype(object).where(wide.notna(), empty).reset_index()
    wide = wide.rename(columns=rows if isinstance(rows, dict) else {})
    return table(wide.to_numpy(), wide.columns)


def panels(count, columns=3, size=(4., 3.4), **arguments):
    """A figure, and a `list` of `count` axes in rows of `columns`."""
    from matplotlib import figure
    columns = min(columns, count)
    rows = -(-count // columns)
    picture = figure.Figure((size[0] * columns, size[1] * rows), 150, layout='constrained')
    axes = picture.subplots(rows, columns, squeeze=False, **arguments).flat
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[:count]:
        ax.spines[['top', 'right']].set_visible(False)
        ax.set_axisbelow(True)
    return picture, axes[:count]


def log_ticks(axis):
    """Plain numbers, enough of them, on an axis of logarithmic scale."""
    from matplotlib import ticker
    low, high = axis.get_view_interval()
    for steps in ([1.], [1., 2., 5.], [1., 1.5, 2., 3., 5., 7.]):
        ticks = np.outer(10.**np.arange(-12, 13), steps)
        axis.set_major_locator(ticker.LogLocator(subs=steps))
        if np.sum((low <= ticks) & (ticks <= high)) >= 3:
            break
    else:
        axis.set_major_locator(ticker.MaxNLocator(4))
    axis.set_major_formatter(ticker.FuncFormatter('{0:g}'.format))
    axis.set_minor_locator(ticker.NullLocator())
