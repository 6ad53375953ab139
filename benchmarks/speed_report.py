"""The targets, tables and pictures of `speed.py`, from its records."""

import json

import pandas as pd

import peers
import report
from peers import FLOOR, FLOWJAX, NFLOWS, OURS, STOCK_TFP, ZUKO
from report import matching, ms

# The mode of TensorFlow that the only mode of others is compared with.
EQUIVALENT = {'jit': 'XLA'}
SWEEPS = {'event_size': 'Units D', 'num_layers': 'Couplings',
          'condition_size': 'Width of the conditions',
          'samples': 'Samples for each condition', 'first_call': 'Couplings'}


def against(frame, by, **reference):
    """Joins to each row the one of the `reference` that has the same `by`.

    Adds `ratio`, of its `median` to that of the other; rows without one are left out.
    """
    other = matching(frame, **reference)[[*by, 'median']]
    joined = frame.merge(other, on=by, suffixes=('', '_reference'))
    return joined.assign(ratio=joined['median'] / joined['median_reference'])


def written(call):
    return f'`{call.replace("given_", "given(c).")}`'


def frames_of(results):
    """A frame of the records of each section, and some that are made of them.

    Calls stand as they are written. `faster` has the faster compiled mode of each
    implementation, or its only one.
    """
    frames = {section: pd.DataFrame(records) for section, records in results.items()
              if section in ('main', 'eager', 'hot', 'sweeps', 'first_call', 'memory',
                             'fits', 'imports')}
    for frame in frames.values():
        for field in {'operation', 'call'} & set(frame):
            frame[field] = frame[field].map(written)
    if 'main' in frames:
        frame = frames['main']
        frame = frame[(frame['mode'] != 'eager') | frame['name'].isin([ZUKO, NFLOWS])]
        frames['faster'] = frame.loc[frame.groupby(
            ['operation', 'batch', 'name'], sort=False)['median'].idxmin()]
    return frames


def targets(results):
    """What was asked for, as far as the sections that were run can tell.

    Returns a list of target, measured and met: `str`, `str` and `bool`.
    """
    frames, rows = frames_of(results), []

    def add(section, text, bound, place, who, by, least=False, **reference):
        """Holds the worst ratio to the `reference` against a bound."""
        if section not in frames:
            return
        frame = frames[section]
        frame = matching(against(frame, by, **reference) if reference
                         else frame.assign(ratio=frame['median']), **who)
        if len(frame):
            ratios = frame['ratio']
            worst = frame.loc[ratios.idxmin() if least else ratios.idxmax()]
            ratio = worst['ratio']
            rows.append((text, f'{ratio:.3g} ({place.format(**worst)})',
                         bool(ratio >= bound if least else ratio <= bound)))

    mine, by = dict(name=OURS, mode='eager'), ['call', 'batch']
    if 'eager' in frames:
        frames['small'] = frames['eager'][frames['eager']['batch'] <= 256]
    add('small', 'eager: at most 1.3 times the same call in a held `tf.function`, at '
        'batches up to 256', 1.3, '{call}, batch {batch}', mine, by, name=OURS,
        mode='graph')
    for peer in (ZUKO, NFLOWS):
        add('eager', f'eager: at most the time of {peer}', 1., '{call}, batch {batch}',
            mine, by, name=peer, mode='eager')
    for how, bound in (('`compiled`, XLA', 1.2), ('`compiled`, XLA, frozen', 1.)):
        add('hot', f"hot loop, {how}: at most {bound:.1f} times FlowJAX's jit", bound,
            '{operation}', dict(name=OURS, how=how), ['operation'], name=FLOWJAX,
            how='jit')
    mine, by, where = dict(name=OURS), ['operation', 'batch'], '{operation}, batch {batch}'
    for mode in ('graph', 'XLA'):
        add('main', f'compiled, {mode}: at most 1.1 times {FLOOR}', 1.1, where,
            dict(mine, mode=mode), by, name=FLOOR, mode=mode)
    for peer in (FLOWJAX, ZUKO, NFLOWS):
        add('faster', f'compiled, the faster mode: at most the time of {peer}', 1.,
            where, mine, by, name=peer)
    if 'sweeps' in frames:
        most = results['settings']['samples'][-1]
        add('sweeps', f'{most} samples for each condition: at least 4 times faster than '
            'concatenating', 4., '{mode}', dict(sweep='samples', value=most, name=FLOOR),
            ['sweep', 'value', 'mode', 'operation'], least=True, name=OURS)
    if 'first_call' in frames:
        first = frames['first_call']
        *_, few, many = [0, *sorted(set(first['value']))]
        frames['per coupling'] = first.assign(median=first['median'] / first['value'])
        add('per coupling', 'first call: at most linear in the couplings (1 is linear)',
            1., f'{{operation}} {{mode}}, from {few} to {many}',
            dict(mine, value=many), ['operation', 'mode'], name=OURS, value=few)
        add('first_call', "first call: at most stock TFP's time", 1.,
            '{operation} {mode}, couplings: {value}', mine,
            ['operation', 'mode', 'value'], name=STOCK_TFP)
    if 'memory' in frames:
        frames['memory']['median'] = frames['memory']['again'].clip(lower=1)
    add('memory', 'the memory of these samples: at most that of concatenating', 1.,
        '{mode}', mine, ['mode'], name=FLOOR)
    if 'fits' in frames:
        fits = frames['fits']
        frames['growth'] = fits.assign(median=fits['taken'].str[1] / fits['taken'].str[0])
        frames['graphs'] = fits.assign(median=fits['graphs'].str[1])
    add('growth', 'memory after the last fit without XLA: at most 1.05 times that after '
        'the second', 1.05, '{name}', dict(mode='graph'), [])
    add('graphs', 'live `FuncGraph`s after the last fit: none', 0, '{name}, {mode}', {},
        [])
    return rows


def ratio_table(frame, rows, column, by, who=None, bold=False, empty='', **reference):
    """A table of medians in ms, those of `who`, with their ratios to the reference.

    `bold` has the reference come first, in bold.
    """
    frame = matching(against(frame, by, **reference), **who or {})
    frame['text'] = frame['median'].map(ms) + frame['ratio'].map(' ({:.2f})'.format)
    if bold:
        first = matching(frame, **reference)
        first = first.assign(text='**' + first['median'].map(ms) + '**')
        frame = pd.concat([first, frame.drop(first.index)])
    return report.pivot(frame, rows, column, empty=empty)


def operation_table(frame):
    """Medians of one operation, and their ratios, with a group of columns a batch."""
    frame = frame.assign(text='**' + frame['median'].map(ms) + '**',
                         mode_of_tf=frame['mode'].replace(EQUIVALENT))
    # Of a mode that is only equivalent there is no reference.
    for column, name in (('/floor', FLOOR), ('/ours', OURS)):
        frame[column] = against(frame, ['batch', 'mode_of_tf'], name=name)[
            'ratio'].map('{:.2f}'.format).values
    by = ['name', 'mode']
    parts = [frame.groupby(by, sort=False)['first'].median().map(ms)]
    header = ['implementation', 'mode', 'first']
    for batch, part in frame.groupby('batch', sort=False):
        parts.append(part.set_index(by)[['text', '/floor', '/ours']])
        header += [f'batch {batch}', '/floor', '/ours']
    return report.table(pd.concat(parts, axis=1).reset_index().values, header)


def main(frames, settings):
    by = ['operation', 'batch']
    return [
        '## Summary\n\nMedians in ms and, in brackets, how many times that of '
        f'{OURS}. Each compiled, in the faster of its modes, but PyTorch eager.\n',
        ratio_table(frames['faster'], by, 'name', by, bold=True, name=OURS),
        '## Operations\n\nMedians in ms; `/floor` and `/ours` are ratios to '
        f'{FLOOR} and to {OURS} in the same mode (FlowJAX: to XLA), so more than 1 in '
        '`/ours` is slower than this package. `first` is the first call, the median '
        'over batch sizes.\n',
        *(text for operation, part in frames['main'].groupby('operation', sort=False)
          for text in (f'### {operation}\n', operation_table(part)))]


def eager(frames, settings):
    frame, by = frames['eager'], ['call', 'batch']
    frame['column'] = frame['name'] + ', ' + frame['mode']
    calls = [written(name) for name in (*peers.CALLS, *peers.GIVEN)]
    frame = frame.sort_values('call', key=lambda x: x.map(calls.index), kind='stable')
    return ['## Eager calls\n\nMedians in ms and, in brackets, how many times that of '
            f'{OURS} called eagerly. `graph` is the same call in a held '
            '`tf.function`. What other packages do for `given(c)` is their only way.\n',
            ratio_table(frame, by, 'column', by, bold=True, name=OURS, mode='eager')]


def hot(frames, settings):
    mine = dict(name=OURS, how='`compiled`, XLA')
    return [f'## Hot loop\n\nOne call at batch {settings["hot_batch"]}, from NumPy to '
            'NumPy. Medians in ms and, in brackets, how many times that of '
            f'{", ".join(mine.values())}. `frozen`: the weights are constants. Keys of '
            'FlowJAX are split by its compiled function, or before it. The empty '
            'function is what a call of TensorFlow costs in any case.\n',
            ratio_table(frames['hot'], {'name': 'implementation', 'how': 'call'},
                        'operation', ['operation'], empty='–', **mine)]


def sweeps(frames, settings):
    parts = ['## Sweeps\n\nMedians of this package in ms, batch '
             f'{settings["sweep_batch"]}; in brackets the ratio to {FLOOR}.\n']
    for sweep, frame in frames['sweeps'].groupby('sweep', sort=False):
        note = (f' ({settings["samples_batch"]} conditions of width '
                f'{settings["samples_condition_size"]}, `given(c)`; '
                'the floor concatenates the conditions to every sample)'
                if sweep == 'samples' else '')
        frame = by_value(frame)
        parts += [f'### {SWEEPS[sweep]}{note}\n', ratio_table(
            frame, {'value': sweep}, 'column', ['value', 'column'], dict(name=OURS),
            name=FLOOR)]
    return parts


def first_call(frames, settings):
    frame = by_value(frames['first_call'])
    built = frame.drop_duplicates(['value', 'name']).assign(
        column='construction', median=lambda x: x['construction'])
    frame = pd.concat([built, frame])
    return ['## Construction and first calls\n\nms.\n', report.pivot(
        frame.assign(text=frame['median'].map(ms)),
        {'value': 'couplings', 'name': 'implementation'}, 'column')]


def by_value(frame):
    return frame.sort_values('value', kind='stable').assign(
        column=lambda x: x['operation'] + ' ' + x['mode'])


def imports(frames, settings):
    return ['## Import\n\nSeconds of a process that does nothing else.\n',
            report.table([{'package': r['name'], 's': f'{r["median"]:.2f}'}
                          for r in frames['imports'].to_dict('records')])]


def memory(frames, settings):
    return [f'## Memory\n\n{settings["samples"][-1]} samples for each of '
            f'{settings["samples_batch"]} conditions of width '
            f'{settings["samples_condition_size"]}: by how much the peak of a '
            'process of its own exceeds what it held before the call. The first '
            'call for this number of samples traces and compiles. MB.\n',
            report.table([{
                'implementation': r['name'], 'mode': r['mode'],
                'first call': f'{r["first"] / 1e6:.1f}',
                'later call': f'{r["again"] / 1e6:.1f}'}
                          for r in frames['memory'].to_dict('records')])]


def fits(frames, settings):
    rows = []
    for r in frames['fits'].to_dict('records'):
        (early, late), (before, after) = r['fits'], r['taken']
        rows.append({
            'flow': r['name'], 'mode': r['mode'],
            'early': f'{before / 1e6:.0f} ({early})',
            'late': f'{after / 1e6:.0f} ({late})',
            'a fit more': f'{(after - before) / (late - early) / 1e6:.1f}',
            'growth': f'{100. * (after / before - 1.):.1f} %',
            'live `FuncGraph`s': r['graphs'][1]})
    return ['## Memory after fits\n\nOf one process, each fit of a new distribution '
            'that is let go of. MB after so many fits, in brackets; TensorFlow keeps '
            'what XLA has compiled for as long as the process lives.\n',
            report.table(rows)]


def to_markdown(results):
    """The report of all sections that were run."""
    frames = frames_of(results)
    parts = [report.heading('Speed', results['environment'])]
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
    parts += [f'Not measured: {name}: {reason}.\n'
              for name, reason in results.get('absent', {}).items()]
    parts += ['## Targets\n\nThe worst of all cases, with where it was.\n', report.table(
        [(*row, 'yes' if met else 'NO') for *row, met in targets(results)],
        ['target', 'measured', 'met'])]
    for section in (main, eager, hot, sweeps, first_call, imports, memory, fits):
        if section.__name__ in frames:
            parts += section(frames, results['settings'])
    return '\n'.join(parts)


COLOURS = dict(zip(peers.TENSORFLOW + peers.PEERS, (
    '#000000', '#d62728', '#ff7f0e', '#7f7f7f', '#1f77b4', '#2ca02c', '#9467bd')))
STYLES = {'graph': '--', 'XLA': '-', 'jit': '-', 'eager': ':'}


def draw_main(frame, file):
    """One panel for each operation: a row for each implementation and mode."""
    markers = dict(zip(frame['batch'].unique(), 'o^s'))
    rows = list(dict.fromkeys(zip(frame['name'], frame['mode'])))[::-1]
    figure, axes = report.panels(len(peers.OPERATIONS), 2,
                                 (5.5, 1. + 0.25 * len(rows)), sharey=True)
    for ax, (operation, panel) in zip(axes, frame.groupby('operation', sort=False)):
        for y, (name, mode) in enumerate(rows):
            part = matching(panel, name=name, mode=mode)
            ax.plot(1e3 * part['median'], [y] * len(part), color=COLOURS[name], lw=1)
            for batch, median in zip(part['batch'], part['median']):
                ax.plot(1e3 * median, y, markers[batch], color=COLOURS[name], ms=6)
        ax.set(title=operation.strip('`'), xscale='log', xlabel='median, ms')
        ax.set_yticks(range(len(rows)), [f'{name}, {mode}' for name, mode in rows])
        for label, (name, _) in zip(ax.get_yticklabels(), rows):
            label.set_color(COLOURS[name])
        report.log_ticks(ax.xaxis)
        ax.grid(axis='x', **report.GRID)
    report.save(figure, file, {f'batch {batch}': report.plt.Line2D(
        [], [], color='#444444', marker=marker, ls='')
                               for batch, marker in markers.items()})


def draw_sweeps(frame, file):
    """One panel for each sweep and operation."""
    groups, lines = dict(list(frame.groupby(['sweep', 'operation']))), {}
    shown = [(sweep, written(operation)) for operation in ('log_prob', 'train', 'sample')
             for sweep in SWEEPS if sweep != 'first_call']
    shown += [('first_call', written(operation)) for operation in ('log_prob', 'train')]
    shown = [key for key in shown if key in groups]
    figure, axes = report.panels(len(shown))
    for ax, (sweep, operation) in zip(axes, shown):
        panel = groups[sweep, operation]
        for (name, mode), part in panel.groupby(['name', 'mode'], sort=False):
            if len(part) == 1 and name == STOCK_TFP:
                continue        # It is part of the sweep over the couplings alone.
            part = part.sort_values('value')
            lines[f'{name}, {mode}'], = ax.plot(
                part['value'], 1e3 * part['median'], color=COLOURS[name],
                ls=STYLES[mode], marker='o', ms=4)
        values = sorted(set(panel['value']))
        ax.set(xscale='log', yscale='log', ylabel='ms', xlabel=SWEEPS[sweep],
               title='first call of ' * (sweep == 'first_call') + operation.strip('`'))
        ax.set_xticks(values, values)
        ax.xaxis.set_minor_locator(report.plt.NullLocator())
        report.log_ticks(ax.yaxis)
        ax.grid(**report.GRID)
    report.save(figure, file, lines)


def write(results, out):
    """Writes the report and the raw numbers."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'speed.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    (out / 'speed.md').write_text(to_markdown(results), encoding='utf-8')


def draw(results, out):
    """Draws the pictures."""
    frames = frames_of(results)
    if 'main' in frames:
        draw_main(frames['main'], out / 'speed.png')
    if 'sweeps' in frames:
        draw_sweeps(pd.concat([frames['sweeps'], frames['first_call']]),
                    out / 'sweeps.png')
