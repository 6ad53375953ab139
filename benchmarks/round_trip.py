"""How well flows invert themselves at extreme conditions, package by package.

    python benchmarks/round_trip.py --out DIR

writes `DIR/round_trip.md`: the largest errors of `forward(inverse(y))` and of
`inverse(forward(x))` over 4096 draws, for conditions 20 N(0, 1), before and after
2000 steps of maximum likelihood in float32. Accuracy, unlike speed, does not depend
on what else the machine does.
"""

import processes

import functools

import numpy as np
import tqdm

import peers
import report

GAIN, ARCHITECTURE = 20., peers.Architecture()


def draw(rng, batch):
    """Conditions, and events whose mean and width depend on them: `y, c`."""
    sizes = ARCHITECTURE.event_size, ARCHITECTURE.condition_size
    weights = np.random.default_rng(0).normal(size=sizes)
    c = GAIN * rng.normal(size=[batch, sizes[1]])
    noise = rng.normal(size=[batch, sizes[0]])
    y = np.tanh(c @ weights.T / GAIN) + 0.3 * noise * (1. + (c[:, :1] > 0.))
    return y.astype(np.float32), c.astype(np.float32)


def errors(label, flow, count):
    """A row: errors of both round trips, the largest latent, the mean log-density."""
    rng = np.random.default_rng(1)
    y, c = draw(rng, count)
    x = rng.normal(size=y.shape).astype(np.float32)
    forward, inverse, log_prob = (
        functools.partial(lambda run, value: np.asarray(run(
            flow.tensor(value), flow.tensor(c))), flow.operation(name, flow.modes[0]))
        for name in ('forward', 'inverse', 'log_prob'))
    latents = inverse(y)
    return {'flow': label, 'forward(inverse(y)) − y': _largest(forward(latents) - y),
            'inverse(forward(x)) − x': _largest(inverse(forward(x)) - x),
            'largest inverse(y)': _largest(latents),
            'mean log p(y)': f'{np.mean(log_prob(y)):.4g}'}


def _largest(difference):
    """The largest absolute value, and in how many rows there is none."""
    finite = np.isfinite(difference).all(axis=-1)
    text = f'{np.abs(difference[finite]).max(initial=0.):.1e}'
    return text if finite.all() else f'{text}, and {(~finite).sum()} not finite'


def main():
    arguments = processes.options(__doc__, out=processes.OUT, steps=2000, batch_size=256,
                                  draws=4096)
    rows, environment = [], report.environment()
    built, failed = peers.available(ARCHITECTURE, (peers.OURS, *peers.PEERS),
                                    learning_rate=1e-3)
    for name, flow in built.items():
        rows.append(errors(f'{name}, untrained', flow, arguments.draws))
        if name == peers.OURS:
            # Untrained it is the identity, which is no test.
            rows.append(errors(
                f'{name}, untrained, every variable moved by N(0, 0.05²)',
                peers.construct(name, ARCHITECTURE).perturb(), arguments.draws))
        # Maximum likelihood on fresh draws, the same ones for every package.
        train, rng = flow.operation('train', flow.mode), np.random.default_rng(2)
        for _ in tqdm.trange(arguments.steps, desc=name):
            train(*map(flow.tensor, draw(rng, arguments.batch_size)))
        rows.append(errors(f'{name}, trained', flow, arguments.draws))
    print(report.write(
        arguments.out / 'round_trip.md', 'Round trip at extreme conditions',
        f'Conditions {GAIN:g} N(0, 1) of width {ARCHITECTURE.condition_size}, '
        f'D = {ARCHITECTURE.event_size}, {ARCHITECTURE.num_layers} couplings, '
        f'hidden layers {ARCHITECTURE.hidden_layers}, float32, each package\'s own '
        f'initialisation; {arguments.steps} steps of Adam (1e-3, batch '
        f'{arguments.batch_size}); largest error of {arguments.draws} draws and '
        'all units, y from the data and x from N(0, 1).\n', report.table(rows),
        *report.not_measured(failed, 'name'), environment=environment))


if __name__ == '__main__':
    main()
