"""The tables and pictures of `quality.py`, from its stored runs."""

import json

import numpy as np
import pandas as pd

from peers import LINEAR, MODELS, OURS, ZUKO_DEFAULTS
import published
import report
import tasks
from tfp_conditional import calibration, plot

# Of the family and the tables there are tables in common; each other has a section.
MEASURED = [task for task in tasks.TASKS.values() if isinstance(task, tasks.Measured)]
SINGLE = [task for task in tasks.TASKS.values()
          if task not in (*tasks.FAMILY, *tasks.TABLES)]


def mean(values):
    return f'{values.mean():.3f}'


def median(values):
    return f'{values.median():.1f}'


def spread(values):
    """Mean ± standard deviation."""
    values = values.dropna()
    text = mean(values) if len(values) else ''
    return f'{text} ± {values.std():.3f}' if len(values) > 1 else text


def frame_of(found):
    """A row a run, with the mean of what its classifiers reached."""
    frame = pd.DataFrame(found, columns=None if found else ['task', 'model'])
    return frame.assign(c2st=frame['c2st'].map(np.mean)) if 'c2st' in frame else frame


def by_task(frame, chosen=SINGLE):
    """Pairs of the chosen tasks that were run, and their runs."""
    return [(task, part) for task in chosen
            if len(part := frame[frame['task'] == task.name])]


def by_model(part):
    """Pairs of a model's name and its runs, by rising mean loss."""
    order = part.groupby('model')['loss'].mean().sort_values()
    return [(name, part[part['model'] == name]) for name in order.index]


def compare(parts, show):
    """A row a task and what is shown, and a column a package.

    `show` is a `dict` of what is added to the task's name -> field, and function of
    its values.
    """
    if not parts:
        return ''
    texts = pd.DataFrame([
        {'': task.name + label, 'model': name, 'text': function(runs[field])}
        for task, part in parts for label, (field, function) in show.items()
        for name, runs in part.groupby('model')])
    texts['model'] = pd.Categorical(texts['model'], list(MODELS))
    return report.pivot(texts, [''], 'model')


def section(task, part):
    """The table of one task."""
    # Folds differ more than packages do, so differences are taken fold by fold.
    linear = part[part['model'] == LINEAR].set_index('seed')['loss']
    part = part.assign(less=part['loss'] - part['seed'].map(linear))
    lines = [f'## {task.name[0].upper()}{task.name[1:]}\n']
    if isinstance(task, tasks.Simulated):
        lines.append(f'Optimum {task.optimum:.3f} nats; {part["optimum"].iloc[0]:.3f} '
                     'on the draws that are used.\n')
        shown = {'gap': ('gap', spread), '−log q': ('loss', mean),
                 'C2ST': ('c2st', spread)}
    else:
        shown = {'−log q(y), held out': ('loss', spread),
                 'less linear Gaussian\'s': ('less', spread)}
    shown.update({
        'runs': ('loss', len), 'fit, s': ('seconds', median),
        'fit, CPU s': ('cpu_seconds', median),
        'epochs': ('epochs', lambda x: f'{x.median():.0f}'),
        'parameters': ('parameters', 'first')})
    return [*lines, report.table(
        [[name, *runs.groupby('model').agg(**shown).values[0]]
         for name, runs in by_model(part)], ['package', *shown]), *coverage_lines(part)]


def levels_of(runs):
    """Those of all curves."""
    return [curve for curves in runs.get('levels', pd.Series()).dropna()
            for curve in curves]


def coverage_lines(part):
    """What the levels say, where a model has any."""
    lines = []
    for name, runs in by_model(part):
        if not (levels := levels_of(runs)):
            continue
        _, lower, upper = calibration.coverage_band(len(levels[0]))
        curves = [calibration.coverage_curve(x)[1] for x in levels]
        inside = sum(np.all((lower <= x) & (x <= upper)) for x in curves)
        alphas, pooled = calibration.coverage_curve(np.concatenate(levels))
        worst = np.argmax(np.abs(pooled - alphas))
        lines.append(
            f'Expected coverage of {name}, on {len(levels[0])} fresh draws each: '
            f'{inside} of {len(levels)} curves, {len(levels) // len(runs)} of each '
            'fit, are inside the 95 % band of exact calibration from end to end. '
            f'Regions of credibility {alphas[worst]:.2f} hold {pooled[worst]:.3f} of '
            'all draws, which is farthest off.\n')
    return lines


def measured_lines(parts):
    """The densities of all measured tables, and who wins how many folds."""
    lines = ['## Measured tables\n\nMean log q(y), held out, nats.\n', compare(
        parts, {'': ('loss', lambda x: mean(-x))})]
    folds = pd.concat([part for _, part in parts]).pivot_table(
        index=['task', 'seed'], columns='model', values='loss')
    if {OURS, ZUKO_DEFAULTS} <= set(folds):
        less = (folds[OURS] - folds[ZUKO_DEFAULTS]).dropna()
        tables = less.groupby('task').mean()
        lines.append(
            f'{OURS} against {ZUKO_DEFAULTS!r}, fold by fold: {np.sum(less < 0.)} wins, '
            f'{np.sum(less > 0.)} losses; by the means of tables {np.sum(tables < 0.)} '
            f'wins, {np.sum(tables > 0.)} losses.\n')
    return lines


def published_lines(parts):
    """C2ST by the protocol of sbibm, beside what others published."""
    own = published.Published.protocol
    texts = pd.DataFrame([
        {'': task.name, 'model': name, 'text': text}
        for task, part in parts for name, text in [
            *((name, f'{spread(runs["c2st"])} ({median(runs["cpu_seconds"])} s)')
              for name, runs in part.groupby('model')),
            *((name, f'{value:.3f}') for name, value in task.anchors.items())]])
    texts['model'] = pd.Categorical(
        texts['model'], [*MODELS, published.NPE, published.BEST])
    return [
        f'## Published benchmark\n\nMean C2ST of {own["observations"]} observations, '
        f'{own["samples"]} draws of each side; CPU seconds of a fit. Published: '
        'Lueckmann et al. 2021; the best that is known of so many simulations, by '
        'transformers on a GPU or by sequential estimation.\n', report.pivot(texts, [''], 'model')]


def to_markdown(environment, protocol, found, failed):
    """The report of all tasks that were run."""
    frame = frame_of(found)
    family, measured = by_task(frame, tasks.FAMILY), by_task(frame, MEASURED)
    parts = [
        report.heading('Quality of learnt densities', environment),
        f'{protocol.simulations or "10000 or so many as are said"} simulations, a '
        f'tenth of them for validation; gap on {protocol.test_draws} fresh draws; C2ST '
        f'at {protocol.observations} observations with {protocol.samples} draws of '
        f'each side; measured data in {tasks.NUM_FOLDS} folds. Mean ± standard '
        'deviation of runs, nats; medians of times, on one thread, compilation '
        'included. `benchmarks/quality.py` says how, and `quality.json` with which '
        'settings.\n',
        compare(by_task(frame, [task for task in SINGLE if task not in MEASURED]), {
            ', gap': ('gap', spread), ', C2ST': ('c2st', mean),
            ', fit, s': ('seconds', median)})]
    if family:
        parts += ['## Family of priors\n\nGap, nats.\n', compare(
            family, {'': ('gap', spread)})]
    if measured:
        parts += measured_lines(measured)
    if asked := by_task(frame, published.TASKS.values()):
        parts += published_lines(asked)
    return '\n'.join([
        *parts, *(line for pair in by_task(frame) for line in section(*pair)),
        *(f'Not measured: {name}: {reason}\n' for name, reason in failed.items())])


def draw(file, parts):
    """A panel for each task, a point for each run, a line at the mean."""
    figure, axes = report.panels(len(parts), size=(4.6, 3.8))
    for ax, (task, part) in zip(axes, parts):
        key = 'gap' if isinstance(task, tasks.Simulated) else 'loss'
        models = by_model(part)[::-1]
        for i, (name, runs) in enumerate(models):
            colour = plot.VERMILION if name == OURS else plot.BLUE
            ax.plot(runs[key], [i] * len(runs), 'o', color=colour, alpha=0.5, mew=0)
            ax.plot([runs[key].mean()] * 2, [i - 0.3, i + 0.3], color=colour)
        ax.set_yticks(range(len(models)), [name.replace(' without', '\nwithout')
                                           for name, _ in models], fontsize=9)
        ax.set(title=task.name, ylim=(-0.6, len(models) - 0.4),
               xlabel='gap, nats' if key == 'gap' else '−log q(y), held out, nats')
        if key == 'gap' and part['gap'].min() > 0.:
            ax.set_xscale('log')
            report.log_ticks(ax.xaxis)
    report.save(figure, file)


def draw_coverage(file, parts):
    """A panel for each task, the curves of its runs, over the band of exact ones."""
    figure, axes = report.panels(len(parts), 5, (3.2, 2.8), sharey=True)
    for ax, (task, levels) in zip(axes, parts):
        alphas, lower, upper = calibration.coverage_band(len(levels[0]))
        # Less the diagonal, beside which all curves look alike.
        ax.fill_between(alphas, lower - alphas, upper - alphas, color=plot.BAND,
                        linewidth=0)
        for part in levels:
            ax.plot(alphas, calibration.coverage_curve(part)[1] - alphas,
                    color=plot.VERMILION, alpha=0.4)
        ax.set(title=task.name, xlabel='credibility', xlim=(0, 1))
    axes[0].set_ylabel('coverage less credibility')
    report.save(figure, file)


def write(out, protocol, found, failed):
    """Writes the tables, the numbers and the pictures; returns the tables."""
    environment = report.environment()
    text = to_markdown(environment, protocol, found, failed)
    (out / 'quality.md').write_text(text, encoding='utf-8')
    (out / 'quality.json').write_text(json.dumps(dict(
        environment=environment, failed=failed, runs=found), indent=1),
        encoding='utf-8')
    if found and (parts := by_task(pd.DataFrame(found))):
        draw(out / 'quality.png', parts)
        if levels := [(task, curves) for task, part in parts if (
                curves := levels_of(part[part['model'] == OURS]))]:
            draw_coverage(out / 'coverage.png', levels)
    return text
