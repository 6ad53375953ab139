"""What the pictures show is what the numbers say."""

import importlib.util
import pathlib

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf

import tfp_conditional as tfpc
from tests import flows
from tfp_conditional import calibration
from tfp_conditional import plot

RNG = np.random.default_rng(0)


class Shift(tfpc.ConditionalBijector):
    """y = 2 x + c: a normal of standard deviation 2 around c."""

    def __init__(self, size, name='shift'):
        super().__init__(size, size, dtype=tf.float64, name=name)

    def _forward_and_log_det(self, x, conditions):
        return 2 * x + conditions, self.event_size * tf.math.log(
            tf.constant(2., x.dtype))

    def _inverse_and_log_det(self, y, conditions):
        return (y - conditions) / 2, -self.event_size * tf.math.log(
            tf.constant(2., y.dtype))


def normal(size):
    return flows.dist(Shift(size), size)


def normal_density(y, mean):
    z = (y - mean) / 2
    return np.exp(-z**2 / 2) / np.sqrt(8 * np.pi)


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(monkeypatch):
    before = matplotlib.rcParams.copy()
    monkeypatch.setattr(plt, 'show', lambda *_, **__: pytest.fail('called show'))
    yield
    plt.close('all')
    assert matplotlib.rcParams == before


@pytest.fixture
def ax():
    return plt.subplots()[1]


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_density_in_one_dimension(ax):
    drawn = plot.density(normal(1), [3.], truth=[4.5], labels=['torque'], ax=ax,
                         color='C1', label='p')
    assert drawn is ax
    curve, truth = ax.lines
    x, y = curve.get_data()
    np.testing.assert_allclose(y, normal_density(x, 3.))
    assert curve.get_color() == 'C1' and curve.get_label() == 'p'
    assert x[0] < 3 - 4 and x[-1] > 3 + 4
    assert truth.get_xdata() == [4.5, 4.5] and truth.get_label() == 'truth'
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('torque', 'density')
    assert ax.get_ylim()[0] == 0


def test_densities_share_axes_without_being_cut_off(ax):
    narrow = flows.dist(tfpc.ConditionalElementwise(
        1, 1, hidden_layers=(4,), dtype=tf.float64), 1)   # The base itself.
    plot.density(normal(1), [0.], ax=ax)
    plot.density(narrow, [0.], ax=ax)
    assert ax.get_ylim()[1] > 1 / np.sqrt(2 * np.pi)


def test_density_in_two_dimensions(ax):
    plot.density(normal(2), [1., -2.], truth=[0., 30.], num_points=80, ax=ax)
    mesh, (truth,) = ax.collections[0], [
        line for line in ax.lines if line.get_label() == 'truth']
    x = np.linspace(*ax.get_xlim(), 80)
    y = np.linspace(*ax.get_ylim(), 80)
    expected = normal_density(x, 1.)[None] * normal_density(y, -2.)[:, None]
    np.testing.assert_allclose(mesh.get_array().reshape(80, 80), expected)
    assert truth.get_xydata().tolist() == [[0., 30.]]
    assert ax.get_ylim()[1] > 30                # The truth is in the picture.
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('$y_{1}$', '$y_{2}$')


def test_borders_of_regions_hold_what_they_say(ax):
    plot.density(normal(2), [0., 0.], limits=(-10., 10.), ax=ax)
    # A circle of radius r holds 1 - exp(-r^2 / 8) of a normal of deviation 2.
    radii = [np.linalg.norm(contour.get_paths()[0].vertices, axis=-1)
             for contour in ax.collections[1:]]
    for radius, part in zip(radii, (0.5, 0.95)):
        np.testing.assert_allclose(radius, np.sqrt(-8 * np.log(1 - part)), rtol=0.02)
    assert len(radii) == 2
    ax.legend()
    assert labels_of(ax) == ['50 % region', '95 % region']


def test_highest_density_levels_by_hand():
    assert plot.highest_density_levels([[1., 4.], [3., 2.]], (0.4, 0.7, 0.95)) == [
        4., 3., 1.]


@pytest.mark.filterwarnings('error::UserWarning')
def test_density_takes_limits_and_a_dict_of_conditions():
    dist = flows.dist(flows.flow(2, {'a': 2, 'b': 1}))
    ax = plot.density(dist, {'a': [0., 1.], 'b': [2.]}, num_points=10,
                      limits=[(-1., 2.), (0., 3.)])
    assert ax.get_xlim() == (-1., 2.) and ax.get_ylim() == (0., 3.)
    # Far from the density there are no regions to draw.
    plot.density(normal(2), [0., 0.], limits=(1e4, 2e4), num_points=5)


def test_corner_shows_both_sets_and_the_truth():
    first = RNG.normal(size=[500, 3]) * [1., 2., 3.]
    second = first[:300] + 1.
    figure = plot.corner({'flow': first, 'MCMC': second}, truth=[0.5, 0., -20.],
                         labels=['a', 'b', 'c'], num_bins=12)
    positions = [ax.get_subplotspec() for ax in figure.axes]
    assert [(p.rowspan.start, p.colspan.start) for p in positions] == [
        (0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    axes = dict(zip(['aa', 'ab', 'bb', 'ac', 'bc', 'cc'], figure.axes))
    for i, name in enumerate(['aa', 'bb', 'cc']):
        steps = [patch for patch in axes[name].patches if patch.get_label()
                 in ('flow', 'MCMC')]
        edges = np.linspace(*axes[name].get_xlim(), 13)
        for patch, part in zip(steps, (first, second)):
            heights = np.histogram(part[:, i], edges, density=True)[0]
            np.testing.assert_allclose(patch.get_xy()[1:-1:2, 1][:12], heights)
            np.testing.assert_allclose(patch.get_xy()[2:-1:2, 1][:12], heights)
        assert len(steps) == 2
        assert axes[name].lines[0].get_xdata() == [[0.5, 0., -20.][i]] * 2
    assert axes['bc'].lines[0].get_xydata().tolist() == [[0., -20.]]
    assert axes['bc'].get_xlim() == axes['bb'].get_xlim() == axes['ab'].get_ylim()
    assert axes['cc'].get_xlim()[0] < -20
    assert [axes[name].get_xlabel() for name in ('ac', 'bc', 'cc')] == list('abc')
    assert [axes[name].get_ylabel() for name in ('ab', 'ac')] == list('bc')
    assert not axes['ab'].get_xlabel() and not axes['bc'].get_ylabel()
    legend, = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        'flow', 'MCMC', 'truth']


def test_corner_contours_are_where_the_samples_are():
    samples = RNG.normal(size=[20_000, 2]) + [3., -4.]
    contours = plot.corner(samples).axes[1].collections[-1]
    for path, part in zip(contours.get_paths(), (0.95, 0.5)):
        radius = np.linalg.norm(path.vertices - [3., -4.], axis=-1)
        expected = np.sqrt(-2 * np.log(1 - part))
        assert abs(radius.mean() - expected) < 0.15 * expected


def test_corner_knows_x_from_y():
    x = RNG.uniform(-1, 1, size=20_000)
    y = 4 * x**2 + 0.1 * RNG.normal(size=x.size)
    contours = plot.corner(np.stack([x, y], -1)).axes[1].collections[-1]
    vertices = contours.get_paths()[0].vertices
    assert np.max(np.abs(vertices[:, 1] - 4 * vertices[:, 0]**2)) < 1.


def test_corner_of_one_dimension_needs_no_legend():
    figure = plot.corner(RNG.normal(size=[100, 1]))
    assert len(figure.axes) == 1 and not figure.legends
    assert figure.axes[0].get_xlabel() == '$y$'


def stairs_of(ax):
    return {patch.get_label(): patch.get_data() for patch in ax.patches}


def test_rank_histogram_counts_ranks_over_the_band(ax):
    ranks = RNG.integers(0, 100, size=400)
    drawn = plot.rank_histogram(ranks, 99, num_bins=10, ax=ax)
    assert drawn is ax
    counts = stairs_of(ax)['ranks']
    np.testing.assert_array_equal(counts.values, np.bincount(ranks // 10))
    np.testing.assert_array_equal(counts.edges, np.arange(0, 101, 10))
    _, lower, upper = calibration.histogram_band(400, 99, 10)
    vertices = ax.collections[0].get_paths()[0].vertices
    assert vertices[:, 1].min() == lower[0] and vertices[:, 1].max() == upper[0]
    expected, = [part for name, part in stairs_of(ax).items() if name != 'ranks']
    assert expected.values.tolist() == [40.] * 10
    assert ax.get_xlabel() == 'rank among 99 samples'
    assert ax.get_ylabel() == 'count' and ax.get_title() == ''
    ax.legend()
    assert labels_of(ax) == ['95 % if calibrated', 'ranks']


def test_rank_histograms_of_columns_have_one_scale():
    ranks = RNG.integers(0, 100, size=[400, 3])
    ranks[:, 1] = 3
    axes = plot.rank_histogram(ranks, 99, labels=['a', 'b', 'c'])
    assert [ax.get_title() for ax in axes] == ['a', 'b', 'c']
    assert len({ax.get_ylim() for ax in axes}) == 1
    assert axes[0].get_ylim()[0] == 0 and axes[0].get_ylim()[1] > 400
    assert stairs_of(axes[1])['ranks'].values.tolist() == [400] + [0] * 19
    assert [ax.get_ylabel() for ax in axes] == ['count', '', '']


@pytest.mark.parametrize('num_rows, num_ranks, expected', [
    (1000, 100, 20), (1000, 1000, 20), (1000, 200, 20), (100, 100, 5),
    (1000, 128, 16), (1000, 10, 10), (10, 100, 1), (1000, 101, 20)])
def test_bins_divide_the_ranks_where_they_can(num_rows, num_ranks, expected, ax):
    plot.rank_histogram(np.zeros(num_rows, int), num_ranks - 1, ax=ax)
    assert len(stairs_of(ax)['ranks'].values) == expected


def test_coverage_curves_over_the_band():
    levels = {'HPD': RNG.uniform(size=200), 'TARP': RNG.beta(2, 1, size=200)}
    ax = plot.coverage(levels, band_probability=0.9)
    diagonal, *curves = ax.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    for line, part in zip(curves, levels.values()):
        alphas, coverage = line.get_data()
        np.testing.assert_allclose(
            coverage, np.mean(part[:, None] <= alphas, axis=0))
    assert len({line.get_color() for line in curves}) == 2
    assert len({line.get_linestyle() for line in curves}) == 2
    vertices = ax.collections[0].get_paths()[0].vertices
    alphas, lower, upper = calibration.coverage_band(200, 0.9)
    for edge in (lower, upper):
        points = np.stack([alphas, edge], -1)
        assert all(np.any(np.all(np.isclose(vertices, p), axis=1)) for p in points)
    assert labels_of(ax) == ['90 % if calibrated', 'HPD', 'TARP']
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('credibility', 'expected coverage')


def test_learning_curve_marks_the_best_epoch(ax):
    history = {'epoch': [1, 2, 3], 'loss': [3., 2., 1.],
               'val_loss': [float('nan'), 2., 2.5]}
    plot.learning_curve(history, ax=ax)
    training, validation, best = ax.lines
    np.testing.assert_array_equal(training.get_xydata(), [[1, 3], [2, 2], [3, 1]])
    np.testing.assert_array_equal(validation.get_ydata(), history['val_loss'])
    assert best.get_xydata().tolist() == [[2, 2.]]
    assert labels_of(ax) == ['training', 'validation', 'best, epoch 2']
    assert ax.get_xlabel() == 'epoch' and ax.get_ylabel() == 'loss (nats per event)'


def test_learning_curve_without_validation():
    ax = plot.learning_curve({'epoch': [1], 'loss': [3.]})
    assert labels_of(ax) == ['training']
    assert ax.lines[0].get_marker() == '.'      # A line of one point shows nothing.


def test_colours_differ_in_lightness_or_dashes():
    assert len(set(plot.COLORS)) == len(set(map(str, plot.DASHES))) == 4


SAMPLES = np.zeros([20, 2])
REFUSALS = {
    'size': (lambda: plot.density(normal(3), [0.] * 3),
             'size 1 or 2; got 3.*corner'),
    'conditions': (lambda: plot.density(normal(2), [[0., 0.]]),
                   r'must be one, \[S\]; got shape \[1, 2\]'),
    'truth': (lambda: plot.density(normal(2), [0., 0.], truth=[0.]),
              '`truth` must be 2 finite numbers'),
    'limits': (lambda: plot.density(normal(2), [0., 0.], limits=(1., 0.)),
               r'`limits` must be 2 pairs \(low, high\)'),
    'points': (lambda: plot.density(normal(2), [0., 0.], num_points=1),
               '`num_points` must be at least 2'),
    'labels': (lambda: plot.density(normal(2), [0., 0.], labels='ab'),
               "`labels` must be 2 strings; got 'ab'"),
    'samples': (lambda: plot.corner(np.zeros(3)), r'shape \[n, D\].*got \[3\]'),
    'sets': (lambda: plot.corner({'a': SAMPLES, 'b': SAMPLES[:, :1]}),
             r"one D; got \[20, 1\] for 'b'"),
    'no set': (lambda: plot.corner({}), '1 to 4 sets; got 0'),
    'samples NaN': (lambda: plot.corner(SAMPLES * np.nan), 'must be finite'),
    'outside': (lambda: plot.corner(SAMPLES, limits=(1., 2.)), 'must hold samples'),
    'ranks': (lambda: plot.rank_histogram([10], 9), 'from 0 to `num_samples`, 9'),
    'axes': (lambda: plot.rank_histogram(np.ones([20, 2], int), 9,
                                         ax=plt.figure().add_subplot()),
             'one axes for each of 2 columns of `ranks`; got 1'),
    'rows': (lambda: plot.coverage({'a': [0.5], 'b': [0.5, 0.6]}),
             r'one number of rows.*got \[1, 2\]'),
    'levels': (lambda: plot.coverage([2.]), r'in \[0, 1\]'),
    'history': (lambda: plot.learning_curve({'epoch': []}), "'epoch' and 'loss'"),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_misuse_is_refused(case):
    call, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_distribution_without_conditions_is_refused():
    with pytest.raises(TypeError, match='over a ConditionalBijector; got'):
        plot.density(flows.base(), [0.])


@pytest.fixture(scope='module')
def example():
    """examples/posterior.py as a module."""
    path = pathlib.Path(__file__).parents[1] / 'examples' / 'posterior.py'
    spec = importlib.util.spec_from_file_location('posterior', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_exact_posterior_of_the_example_is_calibrated(example):
    rng = np.random.default_rng(0)
    theta, data = example.simulations(300, rng)
    ranks = [np.sum(example.exact_posterior(x, 49, rng) < y, axis=0)
             for y, x in zip(theta, data)]
    assert np.all(calibration.uniformity_test(ranks, 49)[1] > 0.01)


def test_the_example_prints_and_draws(example, tmp_path, capsys, monkeypatch):
    # The slowest part, which has tests of its own.
    monkeypatch.setattr(calibration, 'classifier_two_sample_test',
                        lambda x, y: (float(x.shape == y.shape), None))
    example.main(['--out', str(tmp_path), '--simulations', '800', '--epochs', '1',
                  '--layers', '1', '--checks', '20', '--samples', '9',
                  '--posterior-samples', '50'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '800 simulations' and lines[7] == '10 simulations'
    accuracies = [line.split()[-1] for line in lines if 'one datum' in line]
    assert accuracies == ['1.000'] * 2
    for line in [*lines[1:6], *lines[8:13]]:
        assert 0 <= float(line.rpartition('p = ')[2]) <= 1
    for name in ('posterior', 'corner', 'calibration'):
        pixels = plt.imread(tmp_path / f'{name}.png')
        assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 100
