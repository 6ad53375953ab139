"""One observation, few simulations: a second round where the first found the posterior.

    pip install '.[calibration]'
    python examples/sequential.py

Two parameters, uniform on a square, and a simulator whose posterior is a narrow part of it.
A flow is fitted to simulations from the prior. Then, by truncated proposals (Deistler et
al. 2022) the prior is cut to the region of highest density for what was observed, and
another flow is fitted to simulations from there. As long as the cut loses nothing of the
posterior, it is that of the whole prior: no weights are needed. Prints how far the flows
are from the exact posterior, beside one with as many simulations, all from the prior, and
writes sequential.png. Takes about a minute on two cores.
"""

import argparse
import pathlib

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tfp_conditional as tfpc
from tfp_conditional import plot
from tfp_conditional import posterior

tfd = tfp.distributions

OBSERVED, NOISE = np.array([0.74, -0.71]), 0.1


def mean(theta):
    """Of the data for parameters `[N, 2]`: a map that folds at what is observed."""
    return np.stack([theta[:, 0]**2 + theta[:, 1], theta[:, 1]**2 - theta[:, 0]], -1)


def exact_samples(rng):
    """Parameters of the exact posterior, a thousand or so, by rejection from the prior."""
    theta = rng.uniform(-3, 3, size=[3_000_000, 2])
    squares = np.sum((mean(theta) - OBSERVED)**2, -1) / NOISE**2
    return theta[np.log(rng.uniform(size=len(theta))) < -squares / 2]


def fitted(theta, data, epochs):
    """A spline flow, fitted to the simulations."""
    flow = tfpc.ConditionalRealNVP(2, 2, num_coupling_layers=4, hidden_layers=(64, 64),
                                   transformer='rational_quadratic', seed=0)
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    tfpc.fit(dist, theta, data, validation_split=0.1, epochs=epochs, batch_size=100,
             learning_rate=3e-3, seed=0)
    return dist


def main(arguments=None):
    """Fits, cuts, fits again and draws; returns the gaps in nats."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path,
                        default=pathlib.Path(__file__).with_suffix('.png'))
    parser.add_argument('--simulations', type=int, default=1000, help='of a round')
    parser.add_argument('--epochs', type=int, default=80)
    options = parser.parse_args(arguments)
    count, rng = options.simulations, np.random.default_rng(0)
    theta = rng.uniform(-3, 3, size=[2 * count, 2])
    data = mean(theta) + (noise := NOISE * rng.normal(size=theta.shape))
    flows = {'one round': fitted(theta[:count], data[:count], options.epochs)}
    region = posterior.highest_density_regions(
        flows['one round'], OBSERVED, [0.999], seed=0)
    proposals = rng.uniform(-3, 3, size=[200 * count, 2])
    inside = region.contains(proposals)[:, 0]
    print(f'The second round is from {100 * inside.mean():.2g} % of the prior.')
    cut = proposals[inside][:count]
    flows['two rounds'] = fitted(cut, mean(cut) + noise[:len(cut)], options.epochs)
    flows['one round, as many rows'] = fitted(theta, data, options.epochs)

    exact, gaps = exact_samples(rng), {}
    _, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout='constrained')
    for (name, dist), ax in zip(flows.items(), axes):
        # Up to the entropy of the exact posterior, the Kullback-Leibler divergence.
        gaps[name] = -float(np.mean(dist.given(OBSERVED).log_prob(exact)))
        print(f'{name:24} mean -log q of exact samples: {gaps[name]:.2f} nats')
        plot.density(dist, OBSERVED, limits=[(-0.8, 1.8), (-1.3, 0.9)], ax=ax)
        ax.plot(*exact[:300].T, '.', color=plot.VERMILION, markersize=1)
        ax.set(title=name, aspect='equal')
    plt.savefig(options.out, dpi=110)
    return gaps


if __name__ == '__main__':
    main()
