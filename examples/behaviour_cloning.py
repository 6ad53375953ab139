"""Cloning a demonstrator who passes an obstacle on either side.

    python examples/behaviour_cloning.py

Maximum likelihood of a flow keeps both ways; the mean of both, which least squares
learns, is the obstacle.
"""

import argparse
import functools
import pathlib

import matplotlib.figure
import matplotlib.patches
import numpy as np
import tensorflow as tf
import tfp_conditional as tfpc
from tfp_conditional import rl

NOISE = 0.05
RADIUS = 0.35    # Of the obstacle, in the middle.


def ways(states):
    """Both right actions `[2, n, 2]` for states `[n, S]`, whose first number is the heading."""
    angle = np.pi / 4. * states[:, 0]
    way = 0.6 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.stack([way, -way])


def take(both, rng):
    """One of both right actions at random, `[n, 2]`, with noise."""
    taken = both[rng.integers(2, size=both.shape[1]), np.arange(both.shape[1])]
    return taken + NOISE * rng.normal(size=taken.shape)


def demonstrate(n, rng):
    """States `[n, 1]` and the actions `[n, 2]` that were taken there."""
    states = rng.uniform(-1., 1., [n, 1])
    return states, take(ways(states), rng)


def clone(flow, states, actions, epochs, seed, **arguments):
    """A policy of these actions by maximum likelihood."""
    policy = rl.LatentSpacePolicy(states.shape[1], ([-1., -1.], [1., 1.]), flow=flow, seed=seed)
    policy.observe(states)
    tfpc.fit(policy.distribution, actions, states, epochs=epochs, validation_split=0.1,
             seed=seed, **arguments)
    return policy


def least_squares(states, actions, epochs):
    """A network trained by the mean squared error; a function of states."""
    network = tf.keras.Sequential([tf.keras.layers.Dense(64, 'relu'),
                                   tf.keras.layers.Dense(64, 'relu'),
                                   tf.keras.layers.Dense(2)])
    network.compile('adam', 'mse')
    network.fit(states, actions, epochs=epochs, verbose=0)
    return lambda s: network.predict(s, verbose=0)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    add = parser.add_argument
    add('--rows', type=int, default=3000)
    add('--epochs', type=int, default=60)
    add('--out', type=pathlib.Path, default=pathlib.Path('behaviour_cloning.png'))
    args = parser.parse_args(arguments)

    tf.keras.utils.set_random_seed(0)
    states, actions = demonstrate(args.rows, np.random.default_rng(0))
    # Splines part two ways more sharply than affine couplings, a policy's default.
    flow = functools.partial(tfpc.ConditionalRealNVP, num_coupling_layers=4,
                             transformer='rational_quadratic', seed=0)
    policy = clone(flow, states, actions, args.epochs, seed=0)

    new, demonstrated = demonstrate(500, np.random.default_rng(1))
    ways_of_acting = {
        'demonstrator': demonstrated,
        'flow, at random': policy.act(new, seed=0),
        'flow, densest of 32': policy.act(new, 'densest', seed=0),
        'flow, latents 0': policy.act(new, 'zero'),
        'least squares': least_squares(states, actions, args.epochs)(new)}
    picture = matplotlib.figure.Figure(figsize=(15., 3.4), layout='constrained')
    panels = picture.subplots(1, len(ways_of_acting), sharex=True, sharey=True)
    shares = {}
    for axes, (label, taken) in zip(panels, ways_of_acting.items()):
        shares[label] = np.mean(np.linalg.norm(taken, axis=1) < RADIUS)
        print(f'{label:<20} into the obstacle: {100 * shares[label]:.1f} %')
        axes.add_patch(matplotlib.patches.Circle((0., 0.), RADIUS, color='tab:red',
                                                 alpha=0.3))
        axes.scatter(*taken.T, c=new[:, 0], s=4)
        axes.set(title=f'{label}\n{100 * shares[label]:.1f} % into the obstacle',
                 aspect='equal', xlim=(-1., 1.), ylim=(-1., 1.))
    picture.savefig(args.out, dpi=100)
    return shares


if __name__ == '__main__':
    main()
