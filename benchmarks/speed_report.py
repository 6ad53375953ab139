"""The targets, tables and pictures of `speed.py`, from its records."""

import json

import pandas as pd

import peers
import report
from peers import FLOOR, FLOWJAX, NFLOWS, OURS, STOCK_TFP, ZUKO
from report import matching, ms

# What tells the records of each section apart.
KEYS = {'main': ('operation', 'batch', 'name', 'mode'),
        'eager': ('call', 'batch', 'name', 'mode'), 'hot': ('operation', 'name', 'how'),
        'sweeps': ('sweep', 'value', 'operation', 'name', 'mode'), 'imports': ('name',),
        'memory': ('name', 'mode'), 'fits': ('name', 'mode')}
KEYS['first_call'] = KEYS['sweeps']
ALL_KEYS = set().union(*KEYS.values())
SWEEPS = {'event_size': 'Units D', 'num_layers': 'Couplings',
          'condition_size': 'Width of the conditions',
          'samples': 'Samples for each condition', 'first_call': 'Couplings'}


def against(frame, **reference):
    """Joins to each row the one of the `reference` whose other keys are the same.

    Adds `ratio`, of its `median` to that of the other; rows without one are left out.
    """
    by = [field for field in frame if field in ALL_KEYS - set(reference)]
    joined = frame.merge(matching(frame, **reference)[[*by, 'median']], on=by,
                         suffixes=('', '_reference'))
    return joined.assign(ratio=joined['median'] / joined['median_reference'])


def written(call):
    return f'`{call.replace("given_", "given(c).")}`'


def frames_of(results):
    """A frame of the records of each section, calls as they are written in them.

    `faster` has the faster compiled mode of each implementation, or its only one.
    """
    frames = {}
    for section, keys in KEYS.items():
        if results.get(section):
            frame = pd.DataFrame(results[section])
            frame = frame.drop(columns=set(frame) & ALL_KEYS - set(keys))
            for field in {'operation', 'call'} & set(frame):
                frame[field] = frame[field].map(written)
            frames[section] = frame
    if 'main' in frames:
        frame = frames['main']
        frame = frame[(frame['mode'] != 'eager') | frame['name'].isin([ZUKO, NFLOWS])]
        frames['faster'] = frame.loc[frame.groupby(
            ['operation', 'batch', 'name'], sort=False)['median'].idxmin()].drop(
                columns='mode')
    return frames


def targets(results):
    """What was asked for, as far as the sections that were run can tell.

    Returns a list of target, measured and met: `str`, `str` and `bool`.
    """
    frames, rows = frames_of(results), []

    def add(section, text, bound, place, who, least=False, **reference):
        """Holds the worst ratio to the `reference` against a bound."""
        if section in frames:
            frame = matching(against(frames[section], **reference) if reference else
                             frames[section].rename(columns={'median': 'ratio'}), **who)
            if len(frame):
                worst = frame.loc[frame['ratio'].idxmin() if least
                                  else frame['ratio'].idxmax()]
                ratio = worst['ratio']
                rows.append((text, f'{ratio:.3g} ({place.format(**worst)})',
                             bool(ratio >= bound if least else ratio <= bound)))

    mine, where = dict(name=OURS, mode='eager'), '{call}, batch {batch}'
    if 'eager' in frames:
        frames['small'] = frames['eager'][frames['eager']['batch'] <= 256]
    add('small', 'eager: at most 1.3 times the same call in a held `tf.function`, at '
        'batches up to 256', 1.3, where, mine, name=OURS, mode='graph')
    for peer in (ZUKO, NFLOWS):
        add('eager', f'eager: at most the time of {peer}', 1., where, mine, name=peer,
            mode='eager')
    for how, bound in (('`compiled`, XLA', 1.2), ('`compiled`, XLA, frozen', 1.)):
        add('hot', f"hot loop, {how}: at most {bound:.1f} times FlowJAX's jit", bound,
            '{operation}', dict(name=OURS, how=how), name=FLOWJAX, how='jit')
    mine, where = dict(name=OURS), '{operation}, batch {batch}'
    for mode in ('graph', 'XLA'):
        add('main', f'compiled, {mode}: at most 1.1 times {FLOOR}', 1.1, where,
            dict(mine, mode=mode), name=FLOOR, mode=mode)
    for peer in (FLOWJAX, ZUKO, NFLOWS):
        add('faster', f'compiled, the faster mode: at most the time of {peer}', 1.,
            where, mine, name=peer)
    if 'sweeps' in frames:
        most = results['settings']['samples'][-1]
        add('sweeps', f'{most} samples for each condition: at least 4 times faster than '
            'concatenating', 4., '{mode}', dict(sweep='samples', value=most, name=FLOOR),
            least=True, name=OURS)
    if 'first_call' in frames:
        first = frames['first_call']
        *_, few, many = sorted({0, *first['value']})
        frames['per coupling'] = first.assign(median=first['median'] / first['value'])
        add('per coupling', 'first call: at most linear in the couplings (1 is linear)',
            1., f'{{operation}} {{mode}}, from {few} to {many}', dict(mine, value=many),
            name=OURS, value=few)
        add('first_call', "first call: at most stock TFP's time", 1.,
            '{operation} {mode}, couplings: {value}', mine, name=STOCK_TFP)
    if 'memory' in frames:
        frames['memory']['median'] = frames['memory']['again'].clip(lower=1)
        add('memory', 'the memory of these samples: at most that of concatenating', 1.,
            '{mode}', mine, name=FLOOR)
    if 'fits' in frames:
        fits = frames['fits']
        fits['median'] = fits['taken'].str[1] / fits['taken'].str[0]
        add('fits', 'memory after the last fit without XLA: at most 1.05 times that '
            'after the second', 1.05, '{name}', dict(mode='graph'))
        fits['median'] = fits['graphs'].str[1]
        add('fits', 'live `FuncGraph`s after the last fit: none', 0, '{name}, {mode}', {})
    return rows


def ratio_table(frame, rows, column, who=None, bold=False, empty='', **reference):
    """A table of medians in ms, those of `who`, with their ratios to the reference.

    `bold` has the reference come first, in bold.
    """
    frame = matching(against(frame, **reference), **who or {})
    frame['text'] = frame['median'].map(ms) + frame['ratio'].map(' ({:.2f})'.format)
    if bold:
        first = matching(frame, **reference)
        first = first.assign(text='**' + first['median'].map(ms) + '**')
        frame = pd.concat([first, frame.drop(first.index)])
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
    return report.table(pd.concat(parts, axis=1).reset_index().values, header)


def main(frames, settings):
    return [
        '## Summary\n\nMedians in ms and, in brackets, how many times that of '
        f'{OURS}. Each compiled, in the faster of its modes, but PyTorch eager.\n',
        ratio_table(frames['faster'], ['operation', 'batch'], 'name', bold=True,
                    name=OURS),
        '## Operations\n\nMedians in ms; `/floor` and `/ours` are ratios to '
        f'{FLOOR} and to {OURS} in the same mode (FlowJAX: to XLA), so more than 1 in '
        '`/ours` is slower than this package. `first` is the first call, the median '
        'over batch sizes.\n',
        *(text for operation, part in frames['main'].groupby('operation', sort=False)
          for text in (f'### {operation}\n', operation_table(part)))]


def eager(frames, settings):
    frame = frames['eager']
    frame['column'] = frame['name'] + ', ' + frame['mode']
    calls = [written(name) for name in (*peers.CALLS, *peers.GIVEN)]
    frame = frame.sort_values('call', key=lambda x: x.map(calls.index), kind='stable')
    return ['## Eager calls\n\nMedians in ms and, in brackets, how many times that of '
            f'{OURS} called eagerly. `graph` is the same call in a held '
            '`tf.function`. What other packages do for `given(c)` is their only way.\n',
            ratio_table(frame, ['call', 'batch'], 'column', bold=True, name=OURS,
                        mode='eager')]


def hot(frames, settings):
    mine = dict(name=OURS, how='`compiled`, XLA')
    return [f'## Hot loop\n\nOne call at batch {settings["hot_batch"]}, from NumPy to '
            'NumPy. Medians in ms and, in brackets, how many times that of '
            f'{", ".join(mine.values())}. `frozen`: the weights are constants. Keys of '
            'FlowJAX are split by its compiled function, or before it. The empty '
            'function is what a call of TensorFlow costs in any case.\n',
            ratio_table(frames['hot'], {'name': 'implementation', 'how': 'call'},
                        'operation', empty='–', **mine)]


def sweeps(frames, settings):
    parts = ['## Sweeps\n\nMedians of this package in ms, batch '
             f'{settings["sweep_batch"]}; in brackets the ratio to {FLOOR}.\n']
    for sweep, frame in frames['sweeps'].groupby('sweep', sort=False):
        note = (f' ({settings["samples_batch"]} conditions of width '
                f'{settings["samples_condition_size"]}, `given(c)`; '
                'the floor concatenates the conditions to every sample)'
                if sweep == 'samples' else '')
        parts += [f'### {SWEEPS[sweep]}{note}\n', ratio_table(
            by_value(frame), {'value': sweep}, 'column', dict(name=OURS), name=FLOOR)]
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
    shown = [key for operation in map(written, ('log_prob', 'train', 'sample'))
             for sweep in SWEEPS if (key := (sweep, operation)) in groups]
    shown.sort(key=lambda key: key[0] == 'first_call')
    figure, axes = report.panels(len(shown))
    for ax, (sweep, operation) in zip(axes, shown):
        panel = groups[sweep, operation].sort_values('value', kind='stable')
        for (name, mode), part in panel.groupby(['name', 'mode'], sort=False):
            if len(part) > 1 or name != STOCK_TFP:  # It is in one sweep alone.
                lines[f'{name}, {mode}'], = ax.plot(
                    part['value'], 1e3 * part['median'], color=COLOURS[name],
                    ls=STYLES[mode], marker='o', ms=4)
        ax.set(xscale='log', yscale='log', ylabel='ms', xlabel=SWEEPS[sweep],
               title='first call of ' * (sweep == 'first_call') + operation.strip('`'))
        ax.set_xticks(panel['value'].unique(), panel['value'].unique())
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
