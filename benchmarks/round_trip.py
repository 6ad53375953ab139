"""How well flows invert themselves at extreme conditions, package by package.

    python benchmarks/round_trip.py --out DIR

writes `DIR/round_trip.md`: the largest errors of `forward(inverse(y))` and of
`inverse(forward(x))` over 4096 draws, for conditions 20 N(0, 1), before and after
2000 steps of maximum likelihood in float32. Accuracy, unlike speed, does not depend
on what else the machine does.
"""

import os
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=wrong-import-position
import argparse
import pathlib

import numpy as np
import pandas as pd
import tqdm

import peers
import report

GAIN = 20.
ARCHITECTURE = peers.Architecture()
FLOWS = (peers.OURS,) + peers.PEERS


def draw(rng, batch):
    """Conditions, and events whose mean and width depend on them: `y, c`."""
    sizes = ARCHITECTURE.event_size, ARCHITECTURE.condition_size
    weights = np.random.default_rng(0).normal(size=sizes)
    c = GAIN * rng.normal(size=[batch, sizes[1]])
    noise = rng.normal(size=[batch, sizes[0]])
    y = np.tanh(c @ weights.T / GAIN) + 0.3 * noise * (1. + (c[:, :1] > 0.))
    return y.astype(np.float32), c.astype(np.float32)


def errors(flow, count):
    """Errors of both round trips, the largest latent, the mean log-density."""
    rng = np.random.default_rng(1)
    y, c = draw(rng, count)
    x = rng.normal(size=y.shape).astype(np.float32)
    native_x, native_y, native_c = map(flow.tensor, (x, y, c))
    forward, inverse, log_prob = (
        flow.operation(name, flow.modes[0])
        for name in ('forward', 'inverse', 'log_prob'))
    latents = inverse(native_y, native_c)
    there_y = forward(latents, native_c)
    there_x = inverse(forward(native_x, native_c), native_c)
    log_prob = log_prob(native_y, native_c)
    return (_largest(np.asarray(there_y) - y), _largest(np.asarray(there_x) - x),
            _largest(np.asarray(latents)), f'{np.mean(np.asarray(log_prob)):.4g}')


def _largest(difference):
    """The largest absolute value, and in how many rows there is none."""
    finite = np.isfinite(difference).all(axis=-1)
    text = f'{np.abs(difference[finite]).max(initial=0.):.1e}'
    return text if finite.all() else f'{text}, and {(~finite).sum()} not finite'


def fit(flow, steps, batch, bar):
    """Maximum likelihood on fresh draws, the same ones for every package."""
    train = flow.operation('train', flow.mode)
    rng = np.random.default_rng(2)
    for _ in range(steps):
        train(*map(flow.tensor, draw(rng, batch)))
        bar.update()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('speed'),
                        help='directory to write to')
    parser.add_argument('--steps', type=int, default=2000)
    parser.add_argument('--batch-size', type=int, default=256)
    parser.add_argument('--draws', type=int, default=4096)
    arguments = parser.parse_args()
    rows, count = [], arguments.draws
    built, absent = peers.available(ARCHITECTURE, FLOWS, learning_rate=1e-3)
    for name, flow in built.items():
        rows.append([f'{name}, untrained', *errors(flow, count)])
        if name == peers.OURS:
            # Untrained it is the identity, which is no test.
            perturbed = peers.available(ARCHITECTURE, [name])[0][name].perturb(0.05)
            rows.append([f'{name}, untrained, every variable moved by N(0, 0.05²)',
                         *errors(perturbed, count)])
        with tqdm.tqdm(total=arguments.steps, desc=name) as bar:
            fit(flow, arguments.steps, arguments.batch_size, bar)
        rows.append([f'{name}, trained', *errors(flow, count)])
    text = '\n'.join([
        report.heading('Round trip at extreme conditions', report.environment()),
        f'Conditions {GAIN:g} N(0, 1) of width {ARCHITECTURE.condition_size}, '
        f'D = {ARCHITECTURE.event_size}, {ARCHITECTURE.num_layers} couplings, '
        f'hidden layers {ARCHITECTURE.hidden_layers}, float32, each package\'s own '
        f'initialisation; {arguments.steps} steps of Adam (1e-3, batch '
        f'{arguments.batch_size}); largest error of {count} draws and '
        'all units, y from the data and x from N(0, 1).\n',
        report.table(pd.DataFrame(rows, columns=[
            'flow', 'forward(inverse(y)) − y', 'inverse(forward(x)) − x',
            'largest inverse(y)', 'mean log p(y)'])),
        *(f'Not measured: {name}: {why}.\n' for name, why in absent.items())])
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / 'round_trip.md').write_text(text, encoding='utf-8')
    print(text)


if __name__ == '__main__':
    main()
