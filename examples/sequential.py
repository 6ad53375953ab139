"""One observation, few simulations: a second round where the first found the posterior.

    pip install '.[calibration]'
    python examples/sequential.py

Two parameters, uniform on a square, and data by a simulator whose posterior has up to four
narrow parts. A flow is fitted to simulations from the prior. Then, by truncated proposals
(Deistler et al. 2022), the prior is cut to the region of highest density for what was
observed, and another flow is fitted to simulations from there. As long as the cut loses
nothing of the posterior, it is that of the whole prior, so no weights are needed. Prints
how far the flows are from the exact posterior, beside one with as many simulations, all
from the prior, and writes sequential.png. Takes about a minute on two cores.
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

TRUTH, NOISE = np.array([1.2, -0.7]), 0.1


def mean(theta):
    """Where data are for parameters `[N, 2]`, as many as four of which agree."""
    return np.stack([theta[:, 0]**2 + theta[:, 1], theta[:, 1]**2 - theta[:, 0]], -1)


def simulate(theta, rng):
    """Data `[N, 2]` for parameters `[N, 2]`."""
    return mean(theta) + NOISE * rng.normal(size=theta.shape)


def exact_samples(observed, count, rng):
    """Parameters `[count, 2]` of the exact posterior, by rejection from the prior."""
    accepted = np.empty([0, 2])
    while len(accepted) < count:
        theta = rng.uniform(-3, 3, size=[1_000_000, 2])
        squares = np.sum((mean(theta) - observed)**2, -1) / NOISE**2
        keep = np.log(rng.uniform(size=len(theta))) < -squares / 2
        accepted = np.concatenate([accepted, theta[keep]])
    return accepted[:count]


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
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(
        __file__).with_suffix('.png'), help='the picture')
    parser.add_argument('--simulations', type=int, default=1500, help='of a round')
    parser.add_argument('--epochs', type=int, default=80)
    options = parser.parse_args(arguments)
    count, rng = options.simulations, np.random.default_rng(0)
    observed = mean(TRUTH[np.newaxis])[0]
    theta = rng.uniform(-3, 3, size=[2 * count, 2])
    data = simulate(theta, rng)
    flows = {'one round': fitted(theta[:count], data[:count], options.epochs)}
    region = posterior.highest_density_regions(
        flows['one round'], observed, levels=[0.999], seed=0)
    cut, kept = np.empty([0, 2]), 0.
    while len(cut) < count:
        proposals = rng.uniform(-3, 3, size=[100_000, 2])
        inside = region.contains(proposals)[:, 0]
        cut, kept = np.concatenate([cut, proposals[inside]]), inside.mean()
    print(f'The second round is from {100 * kept:.2g} % of the prior.')
    flows['two rounds'] = fitted(cut[:count], simulate(cut[:count], rng), options.epochs)
    flows['one round, as many simulations'] = fitted(theta, data, options.epochs)

    exact, gaps = exact_samples(observed, 5000, rng), {}
    _, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout='constrained')
    for (name, dist), ax in zip(flows.items(), axes):
        # Up to the entropy of the exact posterior, the Kullback-Leibler divergence.
        gaps[name] = -float(np.mean(dist.given(observed).log_prob(exact)))
        print(f'{name:32} mean -log q of exact samples: {gaps[name]:.2f} nats')
        plot.density(dist, observed, limits=(-3, 3), ax=ax)
        ax.plot(*exact[:300].T, '.', color=plot.VERMILION, markersize=1.5)
        ax.set(title=name, aspect='equal')
    axes[0].figure.savefig(options.out, dpi=110)
    print(f'The picture is {options.out}.')
    return gaps


if __name__ == '__main__':
    main()
