"""The tables and pictures of `quality.py`, from its stored runs."""

import json

import numpy as np
import pandas as pd

from peers import LINEAR, MODELS, OURS, ZUKO_DEFAULTS
import published
import report
from report import spread
import tasks
from tfp_conditional import calibration, plot

# Of the family and the tables there are tables in common; each other has a section.
MEASURED = [task for task in tasks.TASKS.values() if isinstance(task, tasks.Measured)]
SINGLE = [task for task in tasks.TASKS.values()
          if task not in (*tasks.FAMILY, *tasks.TABLES)]
SIMULATED = [task for task in SINGLE if task not in MEASURED]
GAP, LOSS = 'gap, nats', '−log q(y), held out, nats'


def mean(values):
    return f'{values.mean():.3f}'


def median(values):
    return f'{values.median():.1f}'


def of(frame, chosen):
    """The runs of these tasks, in their order."""
    names = [task.name for task in chosen]
    return frame[frame['task'].isin(names)].sort_values(
        'task', key=lambda x: x.map(names.index), kind='stable')


def compare(frame, **show):
    """A row a task and what is shown, and a column a package.

    `show` has a field and a function of its values, by what is added to the task's name.
    """
    return report.pivot(pd.DataFrame([
        {'': task + label, 'model': model, 'text': function(runs[field])}
        for task, part in frame.groupby('task', sort=False)
        for label, (field, function) in show.items()
        for model, runs in part.groupby('model')]), [''], 'model', order=MODELS)


def by_model(part):
    """Pairs of a model's name and its runs, by rising mean loss."""
    order = part.groupby('model')['loss'].mean().sort_values()
    return [(name, part[part['model'] == name]) for name in order.index]


def section(task, part):
    """The lines of one task."""
    yield f'## {task.name[0].upper()}{task.name[1:]}\n'
    if task in MEASURED:
        # Folds differ more than packages do, so differences are taken fold by fold.
        linear = part[part['model'] == LINEAR].set_index('seed')['loss']
        part = part.assign(less=part['loss'] - part['seed'].map(linear))
        shown = {'−log q(y), held out': ('loss', spread), 'less linear Gaussian\'s': (
            'less', spread)}
    else:
        yield (f'Optimum {task.optimum:.3f} nats; {part["optimum"].iloc[0]:.3f} on the draws '
               'that are used.\n')
        shown = {'gap': ('gap', spread), '−log q': ('loss', mean), 'C2ST': ('c2st', spread)}
    shown.update({
        'runs': ('loss', len), 'fit, s': ('seconds', median), 'fit, CPU s': (
            'cpu_seconds', median), 'epochs': ('epochs', lambda x: f'{x.median():.0f}'),
        'parameters': ('parameters', 'first')})
    yield report.table([[name, *runs.groupby('model').agg(**shown).to_numpy()[0]]
                        for name, runs in by_model(part)], ['package', *shown])
    for name, runs in by_model(part):
        if levels := levels_of(runs):
            alphas, pooled = calibration.coverage_curve(np.concatenate(levels))
            worst = np.argmax(np.abs(pooled - alphas))
            yield (f'Expected coverage of {name}, on {len(levels[0])} fresh draws each: '
                   f'{report.in_band(levels)} of {len(levels)} curves, '
                   f'{len(levels) // len(runs)} of each fit, are inside the 95 % band of '
                   'exact calibration from end to end. '
                   f'Regions of credibility {alphas[worst]:.2f} hold {pooled[worst]:.3f} of '
                   'all draws, which is farthest off.\n')


def levels_of(runs):
    """Those of all curves."""
    return [curve for curves in runs.get('levels', pd.Series()).dropna() for curve in curves]


def wins(frame):
    """Who wins how many folds and tables."""
    folds = frame.pivot_table('loss', ['task', 'seed'], 'model')
    if not {OURS, ZUKO_DEFAULTS} <= set(folds):
        return ''
    less = (folds[OURS] - folds[ZUKO_DEFAULTS]).dropna()
    tables = less.groupby('task').mean()
    return (f'{OURS} against {ZUKO_DEFAULTS!r}, fold by fold: {np.sum(less < 0.)} wins, '
            f'{np.sum(less > 0.)} losses; by the means of tables {np.sum(tables < 0.)} '
            f'wins, {np.sum(tables > 0.)} losses.\n')


def against_published(frame):
    """C2ST by the protocol of sbibm, beside what others published."""
    texts = [(task, model, f'{spread(runs["c2st"])} ({median(runs["cpu_seconds"])} s)')
             for (task, model), runs in frame.groupby(['task', 'model'], sort=False)]
    texts += [(task, name, f'{value:.3f}') for task in frame['task'].unique()
              for name, value in published.TASKS[task].anchors.items()]
    return report.pivot(pd.DataFrame(texts, columns=['', 'model', 'text']), [''], 'model',
                        order=[*MODELS, published.NPE, published.BEST])


def lines(protocol, found):
    """The report of all tasks that were run."""
    yield (f'{protocol.simulations or "10000 or so many as are said"} simulations, a '
           f'tenth of them for validation; gap on {protocol.test_draws} fresh draws; C2ST '
           f'at {protocol.observations} observations with {protocol.samples} draws of '
           f'each side; measured data in {tasks.NUM_FOLDS} folds. Mean ± standard '
           'deviation of runs, nats; medians of times, on one thread, compilation '
           'included. `benchmarks/quality.py` says how, and `quality.json` with which '
           'settings.\n')
    if not found:
        return
    frame = pd.DataFrame(found)
    if 'c2st' in frame:
        frame['c2st'] = frame['c2st'].map(np.mean)
    if len(part := of(frame, SIMULATED)):
        yield compare(part, **{', gap': ('gap', spread), ', C2ST': ('c2st', mean),
                               ', fit, s': ('seconds', median)})
    if len(part := of(frame, tasks.FAMILY)):
        yield '## Family of priors\n\nGap, nats.\n\n' + compare(part, **{'': ('gap', spread)})
    if len(part := of(frame, MEASURED)):
        yield '## Measured tables\n\nMean log q(y), held out, nats.\n\n' + compare(
            part, **{'': ('loss', lambda x: mean(-x))})
        yield wins(part)
    if len(part := of(frame, published.TASKS.values())):
        own = published.Published.protocol
        yield (f'## Published benchmark\n\nMean C2ST of {own["observations"]} observations, '
               f'{own["samples"]} draws of each side; CPU seconds of a fit. Published: '
               'Lueckmann et al. 2021; the best that is known of so many simulations, by '
               'transformers on a GPU or by sequential estimation.\n')
        yield against_published(part)
    for task in SINGLE:
        if len(part := of(frame, [task])):
            yield from section(task, part)


def draw(file, frame):
    """A panel for each task, a point for each run, a line at the mean."""
    groups = frame.groupby('task', sort=False)
    figure, axes = report.panels(len(groups), size=(4.6, 3.8))
    for ax, (task, part) in zip(axes, groups):
        key = 'loss' if tasks.TASKS[task] in MEASURED else 'gap'
        models = by_model(part)[::-1]
        for i, (name, runs) in enumerate(models):
            colour = plot.VERMILION if name == OURS else plot.BLUE
            ax.plot(runs[key], [i] * len(runs), 'o', color=colour, alpha=0.5, mew=0)
            ax.plot([runs[key].mean()] * 2, [i - 0.3, i + 0.3], color=colour)
        ax.set_yticks(range(len(models)), [name for name, _ in models], fontsize=9)
        ax.set(title=task, xlabel=GAP if key == 'gap' else LOSS)
        if key == 'gap' and part['gap'].min() > 0.:
            ax.set_xscale('log')
            report.log_ticks(ax.xaxis)
    figure.savefig(file)


def write(out, protocol, found, failed):
    """Writes the tables, the numbers and the pictures; returns the tables."""
    environment = report.environment()
    text = report.write(out / 'quality.md', 'Quality of learnt densities',
                        *lines(protocol, found), *report.not_measured(failed, 'model'),
                        environment=environment)
    (out / 'quality.json').write_text(json.dumps(dict(
        environment=environment, failed=failed, runs=found), indent=1), encoding='utf-8')
    if found and len(frame := of(pd.DataFrame(found), SINGLE)):
        draw(out / 'quality.png', frame)
        ours = frame[frame['model'] == OURS]
        levels = {task: np.concatenate(levels_of(runs)) for task, runs in ours.groupby(
            'task', sort=False) if levels_of(runs)}
        if levels:
            figure, axes = report.panels(len(levels))
            for ax, (task, part) in zip(axes, levels.items()):
                plot.coverage(part, ax=ax).set_title(task)
            figure.savefig(out / 'coverage.png')
    return text
