"""The targets, tables and pictures of `speed.py`, from its records."""

import json

import numpy as np
import pandas as pd

import peers
from peers import FLOOR, FLOWJAX, NFLOWS, OURS, PEERS, STOCK_CLASS, STOCK_TFP, ZUKO
import report
from report import ms

# What tells records of a section apart.
KEYS = ['operation', 'batch', 'name', 'mode', 'sweep', 'value']
EAGER = {(OURS, 'eager'), (OURS, 'graph'), (STOCK_CLASS, 'eager'), (ZUKO, 'eager'),
         (NFLOWS, 'eager'), (FLOWJAX, 'jit')}
SWEEPS = {'event_size': 'Units D', 'num_layers': 'Couplings',
          'condition_size': 'Width of the conditions',
          'samples': 'Samples for each condition', 'first_call': 'Couplings'}


def written(call):
    return f'`{call.replace("given_", "given(c).")}`'


def matching(frame, **values):
    """The rows in which fields have these values."""
    for field, value in values.items():
        frame = frame[frame[field] == value]
    return frame


def against(frame, **reference):
    """Joins to each row the one of the `reference` whose other keys are the same.

    Adds `ratio`, of its `median` to that of the other; rows without one are left out.
    """
    by = [field for field in KEYS if field not in reference]
    joined = frame.merge(matching(frame, **reference)[[*by, 'median']], on=by,
                         suffixes=('', '_reference'))
    return joined.assign(ratio=joined['median'] / joined['median_reference'])


def frames_of(results):
    """A frame of each section, and those that follow from them.

    `eager` has what others do for `given(c)`, their only way, as that too; `faster` the
    faster compiled mode of each implementation, or its only one.
    """
    frame = pd.DataFrame(results['records'])
    frame = frame.reindex(columns=list(dict.fromkeys([*frame, *KEYS, 'section']))).astype(
        {'batch': 'Int64', 'value': 'Int64'})
    frames = dict(list(frame.groupby('section', sort=False)))
    if 'calls' in frames:
        calls = frames['calls']
        frames['main'] = main = calls[calls['operation'].isin(peers.OPERATIONS)]
        compiled = main[(main['mode'] != 'eager') | main['name'].isin([ZUKO, NFLOWS])]
        frames['faster'] = compiled.loc[compiled.groupby(
            ['operation', 'batch', 'name'], sort=False)['median'].idxmin()].assign(mode='')
        theirs = calls[calls['name'].isin(PEERS)]
        eager = pd.concat([calls, theirs.assign(operation='given_' + theirs['operation'])])
        order = [*peers.CALLS, *peers.GIVEN]
        frames['eager'] = eager[eager['operation'].isin(order) & np.array([
            way in EAGER for way in zip(eager['name'], eager['mode'])])].sort_values(
                'operation', key=lambda x: x.map(order.index), kind='stable')
    if 'sweeps' in frames:
        couplings = matching(frames['sweeps'], sweep='num_layers')
        if len(couplings):
            frames['first_call'] = couplings.assign(sweep='first_call', median=couplings['first'])
    return {section: part.assign(operation=part['operation'].map(written, na_action='ignore'))
            for section, part in frames.items()}


def targets(results):
    """What was asked for, as far as the sections that were run can tell.

    Returns a list of `dict`s of target, measured and met.
    """
    frames, rows = frames_of(results), []

    def add(section, text, bound, place, who, least=False, of=None, **reference):
        """Holds the worst ratio to the `reference` against a bound; `of` changes the frame."""
        if section not in frames:
            return
        frame = frames[section] if of is None else of(frames[section])
        frame = matching(against(frame, **reference) if reference else
                         frame.assign(ratio=frame['median']), **who)
        if len(frame):
            worst = frame.loc[frame['ratio'].idxmin() if least else frame['ratio'].idxmax()]
            ratio = worst['ratio']
            rows.append({
                'target': text, 'measured': f'{ratio:.3g} ({place.format(**worst)})',
                'met': 'yes' if (ratio >= bound if least else ratio <= bound) else 'NO'})

    mine, batch = dict(name=OURS, mode='eager'), '{operation}, batch {batch}'
    add('eager', 'eager: at most 1.3 times the same call in a held `tf.function`, at '
        'batches up to 256', 1.3, batch, mine, of=lambda x: x[x['batch'] <= 256],
        name=OURS, mode='graph')
    for peer in (ZUKO, NFLOWS):
        add('eager', f'eager: at most the time of {peer}', 1., batch, mine, name=peer,
            mode='eager')
    for how, bound in (('`compiled`, XLA', 1.2), ('`compiled`, XLA, frozen', 1.)):
        add('hot', f"hot loop, {how}: at most {bound:.1f} times FlowJAX's jit", bound,
            '{operation}', dict(name=OURS, mode=how), name=FLOWJAX, mode='jit')
    mine = dict(name=OURS)
    for mode in ('graph', 'XLA'):
        add('main', f'compiled, {mode}: at most 1.1 times {FLOOR}', 1.1, batch,
            dict(mine, mode=mode), name=FLOOR)
    for peer in (FLOWJAX, ZUKO, NFLOWS):
        add('faster', f'compiled, the faster mode: at most the time of {peer}', 1.,
            batch, mine, name=peer)
    most = results['settings']['samples'][-1]
    add('sweeps', f'{most} samples for each condition: at least 4 times faster than '
        'concatenating', 4., '{mode}', dict(sweep='samples', value=most, name=FLOOR),
        least=True, name=OURS)
    if 'first_call' in frames:
        *_, few, many = sorted({0, *frames['first_call']['value']})
        add('first_call', 'first call: at most linear in the couplings (1 is linear)', 1.,
            f'{{operation}} {{mode}}, from {few} to {many}', dict(mine, value=many),
            of=lambda x: x.assign(median=x['median'] / x['value']), name=OURS, value=few)
    add('first_call', "first call: at most stock TFP's time", 1.,
        '{operation} {mode}, couplings: {value}', mine, name=STOCK_TFP)
    add('memory', 'the memory of these samples: at most that of concatenating', 1., '{mode}',
        mine, of=lambda x: x.assign(median=x['again'].clip(lower=1)), name=FLOOR)
    add('fits', 'memory after the last fit without XLA: at most 1.05 times that after the '
        'second', 1.05, '{name}', dict(mode='graph'), of=lambda x: x.assign(
            median=x['taken'].str[1] / x['taken'].str[0]))
    add('fits', 'live `FuncGraph`s after the last fit: none', 0, '{name}, {mode}', {},
        of=lambda x: x.assign(median=x['graphs']))
    return rows


def ratio_table(frame, rows, column, who=None, bold=False, empty='', **reference):
    """A table of medians in ms, those of `who`, with their ratios to the reference.

    `bold` has the reference come first, in bold.
    """
    frame = matching(against(frame, **reference), **who or {})
    frame['text'] = frame['median'].map(ms) + frame['ratio'].map(' ({:.2f})'.format)
    if bold:
        own = np.logical_and.reduce([frame[key] == value for key, value in reference.items()])
        frame.loc[own, 'text'] = '**' + frame['median'].map(ms) + '**'
        frame = pd.concat([frame[own], frame[~own]])
    return report.pivot(frame, rows, column, empty=empty)


def operation_table(frame):
    """Medians of one operation, and their ratios, with a group of columns a batch."""
    # The only mode of JAX is compared with that of TensorFlow that is most like it.
    frame = frame.assign(text='**' + frame['median'].map(ms) + '**', own=frame['mode'],
                         mode=frame['mode'].replace('jit', 'XLA'))
    for column, name in (('/floor', FLOOR), ('/ours', OURS)):
        frame[column] = against(frame, name=name)['ratio'].map('{:.2f}'.format).values
    by = ['name', 'own']
    parts = [frame.groupby(by, sort=False)['first'].median().map(ms)]
    header = ['implementation', 'mode', 'first']
    for batch, part in frame.groupby('batch', sort=False):
        parts.append(part.set_index(by)[['text', '/floor', '/ours']])
        header += [f'batch {batch}', '/floor', '/ours']
    return report.table(pd.concat(parts, axis=1).reset_index().to_numpy(), header)


def tables(frames, settings):
    """The parts of the report, of the sections that were run."""
    many = (f'{settings["samples_batch"]} conditions of width '
            f'{settings["samples_architecture"]["condition_size"]}')
    if 'main' in frames:
        yield ('## Summary\n\nMedians in ms and, in brackets, how many times that of '
               f'{OURS}. Each compiled, in the faster of its modes, but PyTorch eager.\n')
        yield ratio_table(frames['faster'], ['operation', 'batch'], 'name', bold=True, name=OURS)
        yield ('## Operations\n\nMedians in ms; `/floor` and `/ours` are ratios to '
               f'{FLOOR} and to {OURS} in the same mode (FlowJAX: to XLA), so more than 1 in '
               '`/ours` is slower than this package. `first` is the first call, the median '
               'over batch sizes.\n')
        for operation, part in frames['main'].groupby('operation', sort=False):
            yield f'### {operation}\n\n{operation_table(part)}'
        yield ('## Eager calls\n\nMedians in ms and, in brackets, how many times that of '
               f'{OURS} called eagerly. `graph` is the same call in a held `tf.function`. '
               'What other packages do for `given(c)` is their only way.\n')
        frame = frames['eager'].assign(column=lambda x: x['name'] + ', ' + x['mode'])
        yield ratio_table(frame, {'operation': 'call', 'batch': 'batch'}, 'column', bold=True,
                          name=OURS, mode='eager')
    if 'hot' in frames:
        mine = dict(name=OURS, mode='`compiled`, XLA')
        yield ('## Hot loop\n\nOne call at batch 1, from NumPy to NumPy. Medians in ms and, in '
               f'brackets, how many times that of {", ".join(mine.values())}. `frozen`: the '
               'weights are constants. The empty function is what a call of TensorFlow costs '
               'in any case.\n')
        yield ratio_table(frames['hot'], {'name': 'implementation', 'mode': 'call'},
                          'operation', **mine)
    if 'sweeps' in frames:
        yield ('## Sweeps\n\nMedians of this package in ms, batch '
               f'{settings["sweep_batch"]}; in brackets the ratio to {FLOOR}.\n')
        for sweep, frame in frames['sweeps'].groupby('sweep', sort=False):
            note = (f' ({many}, `given(c)`; the floor concatenates the conditions to every '
                    'sample)' if sweep == 'samples' else '')
            yield f'### {SWEEPS[sweep]}{note}\n\n' + ratio_table(
                by_mode(frame), {'value': sweep}, 'column', dict(name=OURS), name=FLOOR)
    if 'first_call' in frames:
        frame = by_mode(frames['first_call'])
        built = frame.drop_duplicates(['value', 'name']).assign(
            column='construction', median=lambda x: x['construction'])
        yield '## Construction and first calls\n\nms.\n\n' + report.pivot(
            pd.concat([built, frame]).assign(text=lambda x: x['median'].map(ms)),
            {'value': 'couplings', 'name': 'implementation'}, 'column')
    if 'imports' in frames:
        yield '## Import\n\nSeconds of a process that does nothing else.\n\n' + report.table([
            {'package': row['name'], 's': f'{row["median"]:.2f}'}
            for row in frames['imports'].to_dict('records')])
    if 'memory' in frames:
        yield (f'## Memory\n\n{settings["samples"][-1]} samples for each of {many}: by how '
               'much the peak of a process of its own exceeds what it held before the call. '
               'The first call for this number of samples traces and compiles. MB.\n')
        yield report.table([{
            'implementation': row['name'], 'mode': row['mode'],
            'first call': f'{row["first"] / 1e6:.1f}', 'later call': f'{row["again"] / 1e6:.1f}'}
            for row in frames['memory'].to_dict('records')])
    if 'fits' in frames:
        yield ('## Memory after fits\n\nOf one process, each fit of a new distribution that is '
               'let go of, and collected. MB after so many fits, in brackets; TensorFlow '
               'keeps what XLA has compiled for as long as the process lives.\n')
        yield report.table([{
            'flow': row['name'], 'mode': row['mode'],
            'early': f'{before / 1e6:.0f} ({early})', 'late': f'{after / 1e6:.0f} ({late})',
            'a fit more': f'{(after - before) / (late - early) / 1e6:.1f}',
            'growth': f'{100. * (after / before - 1.):.1f} %',
            'live `FuncGraph`s': f'{row["graphs"]:.0f}'}
            for row in frames['fits'].to_dict('records')
            for (early, late), (before, after) in [(row['fits'], row['taken'])]])


def by_mode(frame):
    return frame.assign(column=frame['operation'] + ' ' + frame['mode'])


COLOURS = dict(zip(peers.TENSORFLOW + peers.PEERS, (
    '#000000', '#d62728', '#ff7f0e', '#7f7f7f', '#1f77b4', '#2ca02c', '#9467bd')))
STYLES = {'graph': '--', 'XLA': '-'}


def draw_main(frame, file):
    """One panel for each operation: a row for each implementation and mode."""
    groups = frame.groupby('operation', sort=False)
    height = 1. + 0.25 * len(frame.drop_duplicates(['name', 'mode']))
    figure, axes = report.panels(len(groups), 2, (5.5, height), sharey=True)
    for ax, (operation, panel) in zip(axes, groups):
        wide = 1e3 * panel.pivot_table('median', ['name', 'mode'], 'batch', sort=False)[::-1]
        colours = [COLOURS[name] for name, _ in wide.index]
        ax.hlines(range(len(wide)), wide.min(axis=1), wide.max(axis=1), colours, lw=1)
        for batch, marker in zip(wide, 'o^s'):
            ax.scatter(wide[batch], range(len(wide)), c=colours, marker=marker,
                       label=f'batch {batch}')
        ax.set(title=operation.strip('`'), xscale='log', xlabel='median, ms')
        ax.set_yticks(range(len(wide)), wide.index.map(', '.join))
        for label, colour in zip(ax.get_yticklabels(), colours):
            label.set_color(colour)
        report.log_ticks(ax.xaxis)
        ax.grid(axis='x', **report.GRID)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside upper center', ncols=3,
                  frameon=False)
    figure.savefig(file)


def draw_sweeps(frame, file):
    """One panel for each sweep and operation."""
    groups = frame.groupby([frame['sweep'] == 'first_call', 'operation', 'sweep'])
    figure, axes = report.panels(len(groups))
    for ax, ((_, operation, sweep), panel) in zip(axes, groups):
        for (name, mode), part in panel.groupby(['name', 'mode'], sort=False):
            ax.plot(part['value'], 1e3 * part['median'], STYLES[mode], color=COLOURS[name],
                    marker='o', ms=4, label=f'{name}, {mode}')
        ax.set(xscale='log', yscale='log', ylabel='ms', xlabel=SWEEPS[sweep],
               title='first call of ' * (sweep == 'first_call') + operation.strip('`'))
        values = panel['value'].unique()
        ax.set_xticks(values, values)
        ax.set_xticks([], minor=True)
        report.log_ticks(ax.yaxis)
        ax.grid(**report.GRID)
    lines = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(lines.values(), lines, loc='outside upper center', ncols=3, frameon=False)
    figure.savefig(file)


def write(results, out):
    """Writes the report and the raw numbers."""
    (out / 'speed.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    parts = []
    if 'parameters' in results:
        parts.append(
            'Conditional affine Real NVP, D = {event_size}, {condition_size} '
            'conditions, {num_layers} couplings, hidden layers {hidden_layers}, '
            'float32, '.format(**results['settings']['architecture'])
            + f'{set(results["parameters"].values()).pop()} parameters in each of '
            + ', '.join(results['parameters']) + '. Log-densities of the TensorFlow '
            f'implementations agree to {results["agreement"]:.1e} (relative), and '
            'so do gradients and samples. `train` is the loss, the gradients of all '
            "parameters and a step of the framework's own Adam. PyTorch runs under "
            '`no_grad` where nothing is trained.\n')
    report.write(
        out / 'speed.md', 'Speed', *parts, *report.not_measured(results.get('failed', []), 'name'),
        '## Targets\n\nThe worst of all cases, with where it was.\n',
        report.table(targets(results)), *tables(frames_of(results), results['settings']),
        environment=results['environment'])


def draw(results, out):
    """Draws the pictures."""
    frames = frames_of(results)
    if 'main' in frames:
        draw_main(frames['main'], out / 'speed.png')
    if 'sweeps' in frames:
        draw_sweeps(pd.concat([frames['sweeps'], frames.get('first_call')]), out / 'sweeps.png')
