"""A conditional density with two modes, fitted by Keras, beside a Gaussian.

    pip install matplotlib
    python keras_model.py            # Keras 3
    python keras_model.py tf_keras   # Keras 2

The condition is an angle. Given it, the target lies on one of two moons, turned
by that angle. Prints the losses and writes keras_model.png.
"""

import pathlib
import sys

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

if sys.argv[1:] == ['tf_keras']:
    import tf_keras as keras
    from tfp_conditional.keras import tf_keras as tfpk
else:
    import keras
    from tfp_conditional import keras as tfpk


EPOCHS = 40


def two_moons(angles, rng):
    """Targets `[N, 2]` for angles `[N, 1]`."""
    n = len(angles)
    side = rng.choice([-1., 1.], size=n)
    along = rng.uniform(0., np.pi, size=n)
    x = np.stack([side * (np.cos(along) - .5), side * (np.sin(along) - .25)], 1)
    x += .08 * rng.normal(size=x.shape)
    c, s = np.cos(angles[:, 0]), np.sin(angles[:, 0])
    return np.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]],
                    1).astype('float32')


def features():
    """What both models see of an angle: a preprocessor, trained with them."""
    return keras.Sequential([keras.Input([1]),
                             keras.layers.Dense(32, activation='tanh'),
                             keras.layers.Dense(8)])


def gaussian_loss(targets, parameters):
    """The negative log-likelihood of a normal with any covariance."""
    loc, log_scale, skew = (parameters[:, :2], parameters[:, 2:4],
                            parameters[:, 4])
    z = (targets - loc) * tf.exp(-log_scale)
    z = tf.stack([z[:, 0], z[:, 1] - skew * z[:, 0]], 1)
    return tf.reduce_sum(z**2 / 2 + log_scale + np.log(2 * np.pi) / 2, -1)


def main():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    angles = rng.uniform(-np.pi / 2, np.pi / 2, size=[10000, 1]).astype('float32')
    targets = two_moons(angles, rng)

    flow = tfpk.LearnableConditionalRealNVP(
        event_size=2, condition_size=8, hidden_layers=(64, 64),
        preprocessor=features())
    gaussian = keras.Sequential([features(), keras.layers.Dense(64, 'relu'),
                                 keras.layers.Dense(64, 'relu'),
                                 keras.layers.Dense(5)])
    histories = {}
    for name, model, loss in [('Gaussian', gaussian, gaussian_loss),
                              ('flow', flow, None)]:
        rate = keras.optimizers.schedules.CosineDecay(5e-3, EPOCHS * 32)
        model.compile(keras.optimizers.Adam(rate), loss=loss)
        histories[name] = model.fit(
            angles, targets, validation_split=.2, batch_size=250, epochs=EPOCHS,
            verbose=2).history
    for name, history in histories.items():
        print(f'{name}: {history["val_loss"][-1]:.3f} nats')
    plot(flow, histories, rng)


def plot(flow, histories, rng):
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.6), layout='constrained')
    grid = np.linspace(-1.9, 1.9, 120, dtype='float32')
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    for degrees, (top, bottom) in zip((-60, 0, 60), axes.T):
        angle = np.full([400, 1], np.radians(degrees), 'float32')
        data, samples = two_moons(angle, rng), flow.predict(angle, verbose=0)[0]
        log_probs = flow.log_prob(
            points, conditions=np.full([len(points), 1], angle[0, 0]))
        density = np.exp(log_probs).reshape(120, 120)
        for ax, dots, title in [(top, data, f'data, {degrees}°'),
                                (bottom, samples, f'flow, {degrees}°')]:
            if ax is bottom:
                ax.pcolormesh(grid, grid, density, cmap='Blues')
            ax.plot(*dots.T, '.', color='C1', markersize=3)
            ax.set(title=title, xlim=(-1.9, 1.9), ylim=(-1.9, 1.9),
                   aspect='equal', xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    for ax, key, title in [(axes[0, 3], 'loss', 'training'),
                           (axes[1, 3], 'val_loss', 'validation')]:
        for color, (name, history) in zip(['C2', 'C0'], histories.items()):
            ax.plot(np.arange(1, 1 + len(history[key])), history[key],
                    color=color, label=name)
        ax.set(title=f'{title} loss', xlabel='epoch', ylabel='nats')
        ax.legend()
    figure.savefig(pathlib.Path(__file__).with_suffix('.png'), dpi=80)


if __name__ == '__main__':
    main()
