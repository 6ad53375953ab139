"""The targets, tables and pictures of `speed.py`, from its records."""

import json

import numpy as np
import pandas as pd

import peers
import report
from peers import FLOOR, FLOWJAX, NFLOWS, OURS, STOCK_TFP, ZUKO
from report import ms

# The mode of TensorFlow that the only mode of others is compared with.
EQUIVALENT = {'jit': 'XLA'}
SWEEPS = {'event_size': 'Units D', 'num_layers': 'Couplings',
          'condition_size': 'Width of the conditions',
          'samples': 'Samples for each condition',
          'first_call': 'Couplings'}


def matching(frame, **values):
    """The rows in which fields have these values."""
    return frame[np.all([frame[field] == value for field, value in values.items()],
                        axis=0)]


def against(frame, by, **reference):
    """Joins to each row the one of the `reference` that has the same `by`.

    Adds `ratio`, of its `median` to that of the other; rows without one are left out.
    """
    other = matching(frame, **reference)[[*by, 'median']]
    joined = frame.merge(other, on=by, suffixes=('', '_reference'))
    return joined.assign(ratio=joined['median'] / joined['median_reference'])


def compiled(records):
    """The faster compiled mode of each, or the only one."""
    frame = pd.DataFrame(records)
    frame = frame[(frame['mode'] != 'eager') | frame['name'].isin([ZUKO, NFLOWS])]
    return frame.loc[frame.groupby(['operation', 'batch', 'name'],
                                   sort=False)['median'].idxmin()]


def call(name):
    """A call as it is written."""
    return f'`{name.replace("given_", "given(c).")}`'


def targets(results):
    """What was asked for, as far as the sections that were run can tell.

    Returns:
      A list of target, measured and met: `str`, `str` and `bool`.
    """
    rows = []
    frames = {section: pd.DataFrame(results[section]) for section in (
        'main', 'eager', 'hot', 'sweeps', 'first_call', 'memory', 'fits')
        if section in results}

    def add(text, frame, place, bound, least=False):
        """Holds the worst ratio against a bound; `place` formats where it was."""
        if len(frame):
            worst = frame.iloc[np.argmin(frame['ratio']) if least
                               else np.argmax(frame['ratio'])]
            ratio = worst['ratio']
            rows.append((text, f'{ratio:.3g} ({place(worst)})',
                         bool(ratio >= bound if least else ratio <= bound)))

    def over(frame, by, who, **reference):
        return matching(against(frame, by, **reference), **who)

    def batch(field):
        return lambda row: f'{call(row[field])}, batch {row["batch"]}'

    def mode(row):
        return row['mode']

    if 'eager' in frames:
        mine, by = dict(name=OURS, mode='eager'), ['call', 'batch']
        frame = over(frames['eager'], by, mine, name=OURS, mode='graph')
        add('eager: at most 1.3 times the same call in a held `tf.function`, at '
            'batches up to 256', frame[frame['batch'] <= 256], batch('call'), 1.3)
        for peer in (ZUKO, NFLOWS):
            add(f'eager: at most the time of {peer}',
                over(frames['eager'], by, mine, name=peer, mode='eager'),
                batch('call'), 1.)
    if 'hot' in frames:
        for how, bound in (('`compiled`, XLA', 1.2), ('`compiled`, XLA, frozen', 1.)):
            add(f"hot loop, {how}: at most {bound:.1f} times FlowJAX's jit",
                over(frames['hot'], ['operation'], dict(name=OURS, how=how),
                     name=FLOWJAX, how='jit'),
                lambda row: call(row['operation']), bound)
    if 'main' in frames:
        by = ['operation', 'batch']
        for each in ('graph', 'XLA'):
            add(f'compiled, {each}: at most 1.1 times {FLOOR}',
                over(frames['main'], by, dict(name=OURS, mode=each),
                     name=FLOOR, mode=each), batch('operation'), 1.1)
        for peer in (FLOWJAX, ZUKO, NFLOWS):
            add(f'compiled, the faster mode: at most the time of {peer}',
                over(compiled(frames['main']), by, dict(name=OURS), name=peer),
                batch('operation'), 1.)
    if 'sweeps' in frames:
        most = results['settings']['samples'][-1]
        add(f'{most} samples for each condition: at least 4 times faster than '
            'concatenating',
            over(frames['sweeps'], ['sweep', 'value', 'mode', 'operation'],
                 dict(sweep='samples', value=most, name=FLOOR), name=OURS),
            mode, 4., least=True)
        first, by = frames['first_call'], ['operation', 'mode']
        few, many = ([*sorted(set(first['value']))[-2:]] * 2)[:2]
        linear = over(first, by, dict(value=many, name=OURS), value=few, name=OURS)
        if few < many:
            add('first call: at most linear in the couplings (1 is linear)',
                linear.assign(ratio=linear['ratio'] * few / many),
                lambda row: f'`{row["operation"]}` {row["mode"]}, from {few} to {many}',
                1.)
        add("first call: at most stock TFP's time",
            over(first, [*by, 'value'], dict(name=OURS), name=STOCK_TFP),
            lambda row: f'`{row["operation"]}` {row["mode"]}, '
                        f'couplings: {row["value"]}', 1.)
    if 'memory' in frames:
        frame = frames['memory'].assign(median=frames['memory']['again'].clip(lower=1))
        add('the memory of these samples: at most that of concatenating',
            over(frame, ['mode'], dict(name=OURS), name=FLOOR), mode, 1.)
    if 'fits' in frames:
        frame = frames['fits']
        frame = frame.assign(ratio=frame['taken'].str[1] / frame['taken'].str[0])
        add('memory after the last fit without XLA: at most 1.05 times that after '
            'the second', matching(frame, mode='graph'), lambda row: row['name'], 1.05)
        add('live `FuncGraph`s after the last fit: none',
            frame.assign(ratio=frame['graphs'].str[1]),
            lambda row: f'{row["name"]}, {row["mode"]}', 0)
    return rows


def _with_ratio(row):
    return f'{ms(row["median"])} ({row["ratio"]:.2f})'


def _bold_or_ratio(row, **reference):
    """A time, in bold where it is the reference, else with its ratio to that."""
    if all(row[field] == value for field, value in reference.items()):
        return f'**{ms(row["median"])}**'
    return _with_ratio(row)


def _texts(frame, show=_with_ratio, **arguments):
    return frame.assign(text=frame.apply(show, axis=1, **arguments))


def _first(frame, **values):
    """Puts the rows of these values before the others."""
    chosen = matching(frame, **values)
    return pd.concat([chosen, frame.drop(chosen.index)])


def summary(records):
    by, frame = ['operation', 'batch'], compiled(records)
    frame = _texts(against(frame, by, name=OURS), _bold_or_ratio, name=OURS)
    frame['operation'] = frame['operation'].map(call)
    return ['## Summary\n\nMedians in ms and, in brackets, how many times that of '
            f'{OURS}. Each compiled, in the faster of its modes, but PyTorch '
            'eager.\n', report.table(report.pivot(_first(frame, name=OURS), by, 'name'))]


def operations(records):
    parts = ['## Operations\n\nMedians in ms; `/floor` and `/ours` are ratios to '
             f'{FLOOR} and to {OURS} in the same mode (FlowJAX: to XLA), '
             'so more than 1 in `/ours` is slower than this package. `first` is the '
             'first call, the median over batch sizes.\n']
    frame = pd.DataFrame(records)
    frame['as'] = frame['mode'].replace(EQUIVALENT)
    by = ['operation', 'batch', 'as']
    # Of a mode that is only equivalent there is no reference.
    for column, name in (('/floor', FLOOR), ('/ours', OURS)):
        frame[column] = against(frame, by, name=name)['ratio'].map('{:.2f}'.format)
    for operation, part in frame.groupby('operation', sort=False):
        part = part.assign(median=part['median'].map(lambda x: f'**{ms(x)}**'))
        flows = part.groupby(['name', 'mode'], sort=False)
        wide, header = [flows['first'].median().map(ms)], ['first']
        for batch, each in part.groupby('batch', sort=False):
            wide.append(each.set_index(['name', 'mode'])[['median', '/floor', '/ours']])
            header += [f'batch {batch}', '/floor', '/ours']
        wide = pd.concat(wide, axis=1).reset_index()
        wide.columns = ['implementation', 'mode', *header]
        parts += [f'### `{operation}`\n', report.table(wide)]
    return parts


def eager(records):
    mine = dict(name=OURS, mode='eager')
    frame = _texts(against(pd.DataFrame(records), ['call', 'batch'], **mine),
                   _bold_or_ratio, **mine)
    calls = [*peers.CALLS, *peers.GIVEN]
    frame = frame.sort_values('call', key=lambda x: x.map(calls.index), kind='stable')
    frame['column'] = frame['name'] + ', ' + frame['mode']
    frame['call'] = frame['call'].map(call)
    return ['## Eager calls\n\nMedians in ms and, in brackets, how many times that of '
            f'{OURS} called eagerly. `graph` is the same call in a held '
            '`tf.function`. What other packages do for `given(c)` is their only way.\n',
            report.table(report.pivot(_first(frame, **mine), ['call', 'batch'],
                                      'column'))]


def hot(records, batch):
    mine = dict(name=OURS, how='`compiled`, XLA')
    frame = _texts(against(pd.DataFrame(records), ['operation'], **mine))
    frame['operation'] = frame['operation'].map(call)
    frame = frame.rename(columns={'name': 'implementation', 'how': 'call'})
    return [f'## Hot loop\n\nOne call at batch {batch}, from NumPy to NumPy. Medians '
            f'in ms and, in brackets, how many times that of {", ".join(mine.values())}. '
            '`frozen`: the weights are constants. Keys of FlowJAX are split by its '
            'compiled function, or before it. The empty function is what a call of '
            'TensorFlow costs in any case.\n', report.table(report.pivot(
                frame, ['implementation', 'call'], 'operation'), '–')]


def _column(frame):
    return '`' + frame['operation'] + '` ' + frame['mode']


def sweeps(records, settings):
    parts = ['## Sweeps\n\nMedians of this package in ms, batch '
             f'{settings["sweep_batch"]}; in brackets the ratio to {FLOOR}.\n']
    frame = against(pd.DataFrame(records), ['sweep', 'value', 'operation', 'mode'],
                    name=FLOOR)
    frame = _texts(matching(frame, name=OURS)).sort_values('value', kind='stable')
    frame['column'] = _column(frame)
    for sweep in dict.fromkeys(r['sweep'] for r in records):
        note = (f' ({settings["samples_batch"]} conditions of width '
                f'{settings["samples_condition_size"]}, `given(c)`; '
                'the floor concatenates the conditions to every sample)'
                if sweep == 'samples' else '')
        part = matching(frame, sweep=sweep).rename(columns={'value': sweep})
        parts += [f'### {SWEEPS[sweep]}{note}\n',
                  report.table(report.pivot(part, [sweep], 'column'))]
    return parts


def first_calls(records):
    frame = pd.DataFrame(records).sort_values('value', kind='stable')
    frame = frame.rename(columns={'value': 'couplings', 'name': 'implementation'})
    frame = frame.assign(column=_column(frame), text=frame['median'].map(ms))
    wide = report.pivot(frame, ['couplings', 'implementation'], 'column')
    built = frame.drop_duplicates(['couplings', 'implementation'])['construction']
    wide.insert(2, 'construction', list(built.map(ms)))
    return ['## Construction and first calls\n\nms.\n', report.table(wide)]


def memory(records, settings):
    mb = '{:.1f}'.format
    return [
        f'## Memory\n\n{settings["samples"][-1]} samples for each of '
        f'{settings["samples_batch"]} conditions of width '
        f'{settings["samples_condition_size"]}: by how much the peak of a '
        'process of its own exceeds what it held before the call. The first '
        'call for this number of samples traces and compiles. MB.\n',
        report.table(pd.DataFrame([
            {'implementation': r['name'], 'mode': r['mode'],
             'first call': mb(r['first'] / 1e6), 'later call': mb(r['again'] / 1e6)}
            for r in records]))]


def fits(records):
    rows = []
    for r in records:
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
            report.table(pd.DataFrame(rows))]


def to_markdown(results):
    """The report of all sections that were run."""
    settings = results['settings']
    parts = [report.heading('Speed', results['environment'])]
    if 'parameters' in results:
        parts.append(
            'Conditional affine Real NVP, D = {event_size}, {condition_size} '
            'conditions, {num_layers} couplings, hidden layers {hidden_layers}, '
            'float32, '.format(**settings['architecture'])
            + f'{set(results["parameters"].values()).pop()} parameters in each of '
            + ', '.join(results['parameters']) + '. Log-densities of the TensorFlow '
            f'implementations agree to {results["agreement"]:.1e} (relative), and '
            'so do gradients and samples. `train` is the loss, the gradients of all '
            "parameters and a step of the framework's own Adam. PyTorch runs under "
            '`no_grad` where nothing is trained.\n')
    for name, reason in results.get('absent', {}).items():
        parts.append(f'Not measured: {name}: {reason}.\n')
    verdicts = pd.DataFrame(targets(results), columns=['target', 'measured', 'met'])
    verdicts['met'] = verdicts['met'].map({True: 'yes', False: 'NO'})
    parts += ['## Targets\n\nThe worst of all cases, with where it was.\n',
              report.table(verdicts)]
    if 'main' in results:
        parts += summary(results['main']) + operations(results['main'])
    if 'eager' in results:
        parts += eager(results['eager'])
    if 'hot' in results:
        parts += hot(results['hot'], settings['hot_batch'])
    if 'sweeps' in results:
        parts += (sweeps(results['sweeps'], settings)
                  + first_calls(results['first_call']))
    if 'imports' in results:
        parts += ['## Import\n\nSeconds of a process that does nothing else.\n',
                  report.table(pd.DataFrame(
                      [(r['name'], f'{r["median"]:.2f}') for r in results['imports']],
                      columns=['package', 's']))]
    if 'memory' in results:
        parts += memory(results['memory'], settings)
    if 'fits' in results:
        parts += fits(results['fits'])
    return '\n'.join(parts)


COLOURS = dict(zip(peers.TENSORFLOW + peers.PEERS, (
    '#000000', '#d62728', '#ff7f0e', '#7f7f7f', '#1f77b4', '#2ca02c', '#9467bd')))
STYLES = {'graph': '--', 'XLA': '-', 'jit': '-', 'eager': ':'}


def draw_main(results, file):
    """One panel for each operation: a row for each implementation and mode."""
    frame = pd.DataFrame(results['main'])
    markers = dict(zip(results['settings']['batches'], 'o^s'))
    rows = list(dict.fromkeys(zip(frame['name'], frame['mode'])))[::-1]
    figure, axes = report.panels(len(peers.OPERATIONS), 2,
                                 (5.5, 1. + 0.25 * len(rows)), sharey=True)
    for ax, operation in zip(axes, peers.OPERATIONS):
        for y, (name, mode) in enumerate(rows):
            part = matching(frame, operation=operation, name=name, mode=mode)
            ax.plot(1e3 * part['median'], [y] * len(part), color=COLOURS[name], lw=1)
            for batch, median in zip(part['batch'], part['median']):
                ax.plot(1e3 * median, y, markers[batch], color=COLOURS[name], ms=6)
        ax.set(title=operation, xscale='log', xlabel='median, ms')
        ax.set_yticks(range(len(rows)), [f'{name}, {mode}' for name, mode in rows])
        for label, (name, _) in zip(ax.get_yticklabels(), rows):
            label.set_color(COLOURS[name])
        report.log_ticks(ax.xaxis)
        ax.grid(axis='x', **report.GRID)
    handles = [report.plt.Line2D([], [], color='#444444', marker=marker, ls='',
                                 label=f'batch {batch}')
               for batch, marker in markers.items()]
    figure.legend(handles=handles, loc='outside upper center', ncols=len(handles),
                  frameon=False)
    report.save(figure, file)


def draw_sweeps(results, file):
    """One panel for each sweep and operation."""
    frame = pd.DataFrame(results['sweeps'] + results['first_call'])
    groups = dict(list(frame.groupby(['sweep', 'operation'])))
    shown = [key for operation in ('log_prob', 'train') for key in (
        (sweep, operation) for sweep in ('event_size', 'num_layers', 'condition_size'))]
    shown += [('samples', 'sample'), ('first_call', 'log_prob'),
              ('first_call', 'train')]
    shown = [key for key in shown if key in groups]
    figure, axes = report.panels(len(shown))
    lines = {}
    for ax, (sweep, operation) in zip(axes, shown):
        for (name, mode), part in groups[sweep, operation].groupby(
                ['name', 'mode'], sort=False):
            if len(part) == 1 and name == STOCK_TFP:
                continue        # It is part of the sweep over the couplings alone.
            part = part.sort_values('value')
            lines[f'{name}, {mode}'], = ax.plot(
                part['value'], 1e3 * part['median'], color=COLOURS[name],
                ls=STYLES[mode], marker='o', ms=4)
        values = sorted(set(groups[sweep, operation]['value']))
        first = 'first call of ' * (sweep == 'first_call')
        ax.set(xscale='log', yscale='log', ylabel='ms', title=first + operation,
               xlabel=SWEEPS[sweep])
        ax.set_xticks(values, values)
        ax.xaxis.set_minor_locator(report.plt.NullLocator())
        report.log_ticks(ax.yaxis)
        ax.grid(**report.GRID)
    figure.legend(lines.values(), lines.keys(), loc='outside upper center', ncols=3,
                  frameon=False)
    report.save(figure, file)


def write(results, out):
    """Writes the report and the raw numbers."""
    out.mkdir(parents=True, exist_ok=True)
    (out / 'speed.json').write_text(json.dumps(results, indent=1), encoding='utf-8')
    (out / 'speed.md').write_text(to_markdown(results), encoding='utf-8')


def draw(results, out):
    """Draws the pictures."""
    if 'main' in results:
        draw_main(results, out / 'speed.png')
    if 'sweeps' in results:
        draw_sweeps(results, out / 'sweeps.png')
