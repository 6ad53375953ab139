"""Tables and pictures of `policies.py`."""

import collections
import json

import numpy as np
import pandas as pd

import report

MEASURES = {'last': 'return, last evaluation', 'best': 'return, best evaluation',
            'cpu_seconds': 'CPU seconds', 'kept': 'goals that 5 % of episodes reach',
            'crashed': 'episodes that crash', 'none': 'episodes that reach none',
            'pace_error': 'lower level: error of its pace', 'sample': 'at random',
            'zero': 'latents 0, or the mean', 'densest': 'densest of 32'}
RATES = {'update': ('gradient steps a second', lambda seconds: 1. / seconds),
         'cpu': ('CPU ms a gradient step', lambda seconds: 1e3 * seconds),
         'act': ('ms an action', lambda seconds: 1e3 * seconds)}


def write(out, results, failed):
    """Writes `policies.md`, `policies.json` and pictures; returns the tables."""
    (out / 'policies.json').write_text(json.dumps(results, indent=1))
    speeds = [result for result in results if result['experiment'] == 'speed']
    results = [result for result in results if result['experiment'] != 'speed']
    parts = [report.heading('Policies', report.environment()),
             'Means ± standard deviations over seeds, of '
             '`python benchmarks/policies.py --out benchmarks/results`.\n']
    for name in dict.fromkeys(result['experiment'] for result in results):
        mine = [result for result in results if result['experiment'] == name]
        parts += [f'## {name}\n', _table(mine), _seeds(mine) + '\n']
    for result in speeds:
        frame = pd.DataFrame({kind: {
            label: scale(times[name]) for name, (label, scale) in RATES.items()}
            for kind, times in result.items() if isinstance(times, dict)})
        parts += [f'## Speed, {result["kind"]}\n', report.table(
            [[label, *map('{:.3g}'.format, row)] for label, row in zip(
                frame.index, frame.to_numpy())], ['', *frame.columns])]
    for (name, kind), why in failed.items():
        parts += [f'Failed: {name}, {kind}: {why}\n']
    text = '\n'.join(parts)
    (out / 'policies.md').write_text(text)
    _draw(out / 'policies.png', results)
    return text


def _table(results):
    frame = pd.DataFrame(results)
    kinds = list(dict.fromkeys(frame['kind']))
    rows = []
    for measure, label in MEASURES.items():
        if measure in frame:
            values = frame.groupby('kind')[measure]
            rows.append([label, *(_mean(values.get_group(kind).dropna())
                                  for kind in kinds)])
    return report.table(rows, ['', *kinds])


def _mean(values):
    if not len(values):
        return '–'
    spread = f' ± {values.std():.2g}' if len(values) > 1 else ''
    return f'{values.mean():.3g}{spread}'


def _seeds(results):
    counts = collections.Counter(result['kind'] for result in results)
    text = 'Seeds: ' + ', '.join(f'{kind} {n}' for kind, n in counts.items()) + '.'
    shares = [f"{result['kind']} " + '/'.join(
        f'{100 * share:.0f}' for share in result['counts'])
              for result in results if 'counts' in result]
    return text + (f' Per cent of episodes to each goal: {", ".join(shares)}.'
                   if shares else '')


def _draw(path, results):
    """Learning curves: a panel for each task, each kind's mean and its seeds."""
    curves = [result for result in results if 'returns' in result]
    names = list(dict.fromkeys(result['experiment'] for result in curves))
    if not names:
        return
    picture, panels = report.panels(len(names))
    colours = {}
    for axes, name in zip(panels, names):
        mine = [result for result in curves if result['experiment'] == name]
        for kind in dict.fromkeys(result['kind'] for result in mine):
            colour = colours.setdefault(kind, f'C{len(colours)}')
            runs = [result for result in mine if result['kind'] == kind]
            for run in runs:
                axes.plot(run['steps'], run['returns'], color=colour, alpha=0.25,
                          linewidth=0.8)
            axes.plot(runs[0]['steps'], np.mean([run['returns'] for run in runs], 0),
                      color=colour, label=kind, linewidth=2)
        axes.set(title=name, xlabel='steps in the environment', ylabel='return')
        axes.legend(frameon=False, fontsize=8)
    report.save(picture, path)
