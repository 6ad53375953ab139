"""A posterior by a conditional flow, and whether it is calibrated.

    pip install '.[calibration]'
    python examples/posterior.py

Two moons: the parameters are standard normal, and the simulator adds to them a point
of a crescent and folds the plane, so that the posterior has two crescents, whose
samples can be drawn exactly. One flow is fitted to many simulations, another far too
long to few. Prints the tests of both, and writes posterior.png, corner.png and
calibration.png. Takes about two minutes on one core.
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
from tfp_conditional import calibration
from tfp_conditional import plot

tfd = tfp.distributions

LABELS = [r'$\theta_1$', r'$\theta_2$']
RADIUS, WIDTH = 0.5, 0.1
TRUTH = np.array([0.3, 0.9])


def crescent(count, rng):
    """Points `[count, 2]` of a half ring."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, size=count)
    radius = RADIUS + WIDTH * rng.normal(size=count)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def simulate(theta, rng):
    """Data `[N, 2]` for parameters `[N, 2]`."""
    folded = np.stack([-np.abs(theta[:, 0] + theta[:, 1]),
                       theta[:, 1] - theta[:, 0]], -1) / 2**0.5
    return folded + crescent(len(theta), rng)


def exact_posterior(data, count, rng):
    """Samples `[count, 2]`: unfolds the data, and accepts by the prior density."""
    accepted = np.empty([0, 2])
    while len(accepted) < count:
        folded = data - crescent(20 * count, rng)
        side = rng.choice([-1., 1.], size=len(folded)) * folded[:, 0]
        theta = np.stack([side - folded[:, 1], side + folded[:, 1]], -1) / 2**0.5
        keep = (folded[:, 0] < 0) & (rng.uniform(size=len(theta))
                                     < np.exp(-np.sum(theta**2, -1) / 2))
        accepted = np.concatenate([accepted, theta[keep]])
    return accepted[:count]


def simulations(count, rng):
    """Parameters and data, `[count, 2]` each, of the joint distribution."""
    theta = rng.normal(size=[count, 2])
    return theta, simulate(theta, rng)


def fitted(theta, data, num_layers, **settings):
    """A flow fitted to simulations, and the history of the fit."""
    flow = tfpc.ConditionalRealNVP(
        event_size=2, condition_size=2, num_coupling_layers=num_layers,
        hidden_layers=(64, 64), transformer='rational_quadratic', seed=0)
    dist = flow(tfd.Independent(tfd.Normal(tf.zeros(2), 1.), 1))
    return dist, tfpc.fit(dist, theta, data, seed=0, **settings)


def check(dist, theta, data, num_samples):
    """Ranks of both parameters and the log-prob, and levels, printed as p-values."""
    arguments = (dist, theta, data, num_samples)
    ranks = calibration.simulation_based_calibration(
        *arguments, log_prob=True, seed=0)
    levels = {'highest density': calibration.expected_coverage(*arguments, seed=1),
              'TARP': calibration.tarp(*arguments, seed=2)}
    p_values = calibration.uniformity_test(ranks, num_samples)[1]
    for name, p_value in zip(['rank of theta_1', 'rank of theta_2',
                              'rank of the log-prob'], p_values):
        print(f'  {name:22} p = {p_value:.2g}')
    for name, part in levels.items():
        print(f'  {name:22} p = {calibration.uniformity_test(part)[1]:.2g}')
    return ranks, levels


def plot_posterior(dist, history, observed):
    """The learning curve, and the density given what was observed."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout='constrained')
    plot.learning_curve(history, ax=axes[0])
    plot.density(dist, observed, truth=TRUTH, labels=LABELS, ax=axes[1])
    axes[1].set(aspect='equal')
    axes[1].legend(frameon=False, fontsize='small', loc='lower right')
    return figure


def plot_calibration(results, num_samples):
    """A row of histograms and coverage curves for each flow."""
    figure, axes = plt.subplots(
        len(results), 4, figsize=(12, 5.8), squeeze=False, layout='constrained',
        width_ratios=[1, 1, 1, 1.2])
    for row, (name, (ranks, levels)) in zip(axes, results.items()):
        plot.rank_histogram(ranks, num_samples, ax=row[:3],
                            labels=[*LABELS, 'log-prob'])
        plot.coverage(levels, ax=row[3])
        row[0].set_ylabel(f'{name}\n\ncount')
    return figure


def main(arguments=None):
    """Fits, checks and draws."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(
        __file__).parents[1] / 'docs', help='directory of the pictures')
    parser.add_argument('--simulations', type=int, default=40_000)
    parser.add_argument('--layers', type=int, default=4)
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--checks', type=int, default=1000,
                        help='simulations to check with')
    parser.add_argument('--samples', type=int, default=199)
    parser.add_argument('--posterior-samples', type=int, default=2000,
                        help='for the comparison with exact ones')
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    few = max(options.simulations // 80, 10)
    good, history = fitted(*simulations(options.simulations, rng), options.layers,
                           validation_split=0.1, epochs=options.epochs,
                           batch_size=200, learning_rate=3e-3)
    bad, _ = fitted(*simulations(few, rng), options.layers,
                    epochs=5 * options.epochs, batch_size=100, learning_rate=2e-3,
                    weight_decay=0.)
    held_out = simulations(options.checks, rng)
    observed = simulate(TRUTH[None], rng)[0]
    exact = exact_posterior(observed, options.posterior_samples, rng)
    results = {}
    for dist, count in [(good, options.simulations), (bad, few)]:
        name = f'{count:,} simulations'
        print(name)
        results[name] = check(dist, *held_out, options.samples)
        samples = dist.given(observed).sample(len(exact), seed=1).numpy()
        accuracy, _ = calibration.classifier_two_sample_test(exact, samples)
        print(f'  {"classifier, one datum":22} accuracy = {accuracy:.3f}')
        if dist is good:
            corner = plot.corner({'exact': exact, 'flow': samples}, truth=TRUTH,
                                 labels=LABELS)
    for name, figure in [
            ('posterior', plot_posterior(good, history, observed)),
            ('corner', corner),
            ('calibration', plot_calibration(results, options.samples))]:
        figure.savefig(options.out / f'{name}.png', dpi=110)
        plt.close(figure)
    print(f'Pictures are in {options.out}.')


if __name__ == '__main__':
    main()
