"""Tools on posteriors, against posteriors that are known exactly."""

import functools

import numpy as np
import pytest
from scipy import stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_conditional as tfpc
from tests import flows
from tests.flows import CHOL, GAIN, LinearGaussian
from tfp_conditional import posterior
from tfp_conditional.posterior import conditioned

tfd, tfb = tfp.distributions, tfp.bijectors

C = np.random.default_rng(0).normal(size=[2, 3, 2])
MEAN, COVARIANCE = C @ GAIN.T, CHOL @ CHOL.T
QUIET = dict(seed=0, verbose=False)


@functools.cache                # Traced once for all.
def linear_gaussian():
    """The distribution N(GAIN c, CHOL CHOL^T) of events given c, exactly."""
    return LinearGaussian()(flows.base())


def gaussian_log_density(shift=(0., 0.), scale=1., log_factor=0.):
    """`log_density` of N(GAIN c + shift, (scale CHOL)(...)^T), times a factor."""
    def log_density(y, c):
        return log_factor + tfd.MultivariateNormalTriL(
            tf.constant(shift, tf.float64) + tf.linalg.matvec(GAIN, c),
            tf.constant(scale * CHOL)).log_prob(y)
    return log_density


# Modes.


def test_mode_is_of_the_density_of_events_not_of_latents():
    flow = tfpc.ConditionalChain([tfb.Exp(), LinearGaussian()])
    found = posterior.mode(flow(flows.base()), C, num_samples=20, **QUIET)
    # Of a lognormal with mean m and covariance S of the logarithms: exp(m - S 1).
    logs = MEAN - COVARIANCE.sum(1)
    np.testing.assert_allclose(found.events, np.exp(logs), rtol=1e-6)
    peak = stats.multivariate_normal([0, 0], COVARIANCE).logpdf(logs - MEAN) - logs.sum(-1)
    np.testing.assert_allclose(found.log_prob, peak, atol=1e-10)
    assert found.converged.shape == (2, 3) and found.converged.all()


def test_mode_is_the_higher_of_two():
    base = tfd.MixtureSameFamily(
        tfd.Categorical(probs=tf.constant([0.3, 0.7], tf.float64)), tfd.Independent(tfd.Normal(
            tf.constant([[-6., -6.], [6., 6.]], tf.float64), tf.ones([], tf.float64)), 1))
    found = posterior.mode(LinearGaussian()(base), C, num_samples=50, **QUIET)
    np.testing.assert_allclose(found.events, MEAN + CHOL @ [6., 6.], atol=1e-4)


def test_a_density_that_grows_up_to_its_bound_has_no_mode():
    base = tfd.Independent(tfd.StudentT(tf.constant(3., tf.float64), [0., 0.], 1.), 1)
    flow = tfpc.ConditionalChain([tfb.Sigmoid(), LinearGaussian(chol=9. * CHOL)])
    found = posterior.mode(flow(base), C, num_samples=20, **QUIET)
    assert not found.converged.any()


def test_mode_of_a_flow_is_not_below_its_samples_and_stationary():
    flow = flows.flow(2, {'a': 2, 'b': 1}, dtype=tf.float32, scale=2.)
    dist = flow(flows.base(dtype=tf.float32))
    c = {'a': tf.ones([4, 2]), 'b': flows.normal([4, 1], dtype=tf.float32)}
    found = posterior.mode(dist, c, **QUIET)
    given = dist.given(c)
    assert found.events.dtype == np.float32 and found.converged.all()
    np.testing.assert_allclose(found.log_prob, given.log_prob(found.events), atol=1e-4)
    assert np.all(found.log_prob >= given.log_prob(given.sample(2000, seed=1)))


# Regions.


def test_thresholds_and_volumes_of_a_gaussian(monkeypatch):
    monkeypatch.setattr(conditioned, 'EVENTS', 40_000)     # Two conditions at a time.
    levels = np.array([0.5, 0.9])
    regions = posterior.highest_density_regions(
        linear_gaussian(), C, levels, num_samples=20_000, **QUIET)
    squares = stats.chi2(2).ppf(levels)
    peak = stats.multivariate_normal([0, 0], COVARIANCE).logpdf([0, 0])
    # Quantiles of n draws: their error is that of the level by the density there.
    error = np.sqrt(levels * (1 - levels) / 20_000) / (1 - levels)
    assert regions.thresholds.shape == (2, 3, 2)
    assert np.all(np.abs(regions.thresholds - (peak - squares / 2)) < 4 * error)
    log_volumes = np.log(np.pi * squares * np.linalg.det(CHOL))
    assert np.all(np.abs(regions.log_volumes - log_volumes) < 0.08)
    assert np.all(regions.log_volume_errors < 0.02)


def test_regions_hold_what_they_say_and_their_own_conditions_events():
    dist = linear_gaussian()
    regions = posterior.highest_density_regions(dist.given(C), levels=[0.3, 0.8],
                                                **QUIET)
    inside = regions.contains(dist.given(C).sample(5000, seed=9))
    assert inside.shape == (5000, 2, 3, 2) and inside.dtype == bool
    np.testing.assert_allclose(inside.mean(0), np.tile([0.3, 0.8], [2, 3, 1]), atol=0.03)
    assert np.all(regions.contains(MEAN)) and not np.any(regions.contains(MEAN + 9.))
    # One event under all conditions.
    one = regions.contains(MEAN[1, 2])
    assert one.shape == (2, 3, 2) and one[1, 2].all() and not one.all()


# Truncation.


def _upper(y):
    return y[..., 0] > 0


def test_truncated_gaussian():
    half = posterior.truncated(linear_gaussian(), _upper, C, min_acceptance=1e-3, **QUIET)
    exact = stats.norm(MEAN[..., 0], CHOL[0, 0]).sf(0)
    error = np.sqrt(exact * (1 - exact) / 10_000)
    assert half.acceptance.shape == (2, 3)
    assert np.all(np.abs(half.acceptance - exact) < 4 * error)
    np.testing.assert_allclose(half.log_normalizer_error, error / exact, rtol=0.5)

    y = np.stack([MEAN, MEAN - [99., 0.]])
    full = stats.multivariate_normal([0, 0], COVARIANCE).logpdf(y - MEAN)
    found = half.log_prob(y)
    assert found.shape == (2, 2, 3)
    assert np.all(found[1] == -np.inf)
    inside = MEAN[..., 0] > 0
    assert np.all(np.abs((found[0] - full[0] + np.log(exact))[inside])
                  < 4 * (error / exact)[inside])
    assert np.all(found[0][~inside] == -np.inf)

    samples = half.sample(300, **QUIET)
    assert samples.shape == (300, 2, 3, 2)
    for i in np.ndindex(2, 3):
        edge = -MEAN[(*i, 0)] / CHOL[0, 0]
        law = stats.truncnorm(edge, np.inf, MEAN[(*i, 0)], CHOL[0, 0])
        assert stats.kstest(samples[(slice(None), *i, 0)], law.cdf).pvalue > 1e-3
    assert np.array_equal(samples, half.sample(300, **QUIET))


def test_truncation_to_the_support_of_a_prior():
    prior = tfd.Independent(tfd.Uniform([-1., -1.], [0.5, 1.]), 1)      # float32
    cut = posterior.truncated(linear_gaussian().given(C[0]), prior, **QUIET)
    samples = cut.sample(100, **QUIET)
    assert np.all((samples > -1) & (samples < [0.5, 1.]))
    assert np.all(np.isfinite(cut.log_prob(samples)))


def test_too_much_truncation_is_refused_by_name():
    c = np.zeros([20, 2])
    c[[7, 11]] = [-9., 0.]
    with pytest.raises(ValueError, match='hold at least 0.01 of the samples.*the least is '
                       '0 of 10000.*2 of 20 conditions, the first of them row 7'):
        posterior.truncated(linear_gaussian(), _upper, c, **QUIET)


# Weights.


def test_resampling_corrects_to_another_gaussian():
    shift, scale = np.array([0.3, 0.1]), 0.8
    found = posterior.importance_resampling(
        linear_gaussian(), gaussian_log_density(shift, scale, np.log(7.)), C,
        num_samples=2000, num_proposals=20_000, **QUIET)
    assert found.samples.shape == (2000, 2, 3, 2)
    np.testing.assert_allclose(found.samples.mean(0), MEAN + shift, atol=0.05)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(np.cov(found.samples[(slice(None), *i)].T),
                                   scale**2 * COVARIANCE, atol=0.02)
    np.testing.assert_allclose(found.log_normalizer, np.full([2, 3], np.log(7.)),
                               atol=0.05)
    assert np.all(found.pareto_k < 0.7)
    assert np.all((found.effective_sample_size > 3000)
                  & (found.effective_sample_size < 19_000))


def test_weights_of_the_flow_itself_are_equal():
    found = posterior.importance_resampling(
        linear_gaussian(), gaussian_log_density(), C[0, 0], 500, 500, **QUIET)
    assert found.effective_sample_size == pytest.approx(500)
    assert found.log_normalizer == pytest.approx(0., abs=1e-9)
    assert len(np.unique(found.samples[:, 0])) == 500      # Each once.


def test_pareto_k_tells_a_proposal_too_narrow():
    dist = LinearGaussian(chol=0.5 * CHOL)(flows.base())
    # Weights exp(3 x^2 / 2) of normal x, in each latent: their tail has k = 0.75.
    found = posterior.importance_resampling(dist, gaussian_log_density(), C, **QUIET)
    assert np.all(found.pareto_k > 0.5) and found.pareto_k.mean() > 0.65
    assert np.all(found.effective_sample_size < 2000)


# As of `arviz.psislw(x, normalize=False)`, ArviZ 0.23: k, the greatest and the sum.
PSIS = {
    'exponential': (lambda i: -0.8 * np.log1p(-i / 2000), 0.769033442241731,
                    6.510725485420192, 1598.2665175466943),
    'bounded': (lambda i: 3 * np.sin(7.3 * i) + np.cos(i**1.5), -0.6399548270762867,
                3.996984214098585, -39.70015323940015),
    'few above the rest': (lambda i: 2 * np.tan(1.5 * i / 2000), 4.874264382334902,
                           28.053740794840483, 7002.218323952915),
    'large': (lambda i: 1000 + 40 * np.sin(7.3 * i), -1.3892021573797027,
              1039.9999774415205, 1999940.2098823618),
}


def test_smoothed_weights_are_those_of_arviz():
    columns = np.stack([f(np.arange(2000) + 0.5) for f, *_ in PSIS.values()], -1)
    before = columns.copy()
    smooth, k = posterior.pareto_smooth(columns)
    found = np.stack([k, smooth.max(0), smooth.sum(0)], -1)
    np.testing.assert_allclose(found, [values for _, *values in PSIS.values()], rtol=1e-9)
    assert np.array_equal(columns, before)


def test_smoothing_where_there_is_no_tail():
    same, k = posterior.pareto_smooth(np.zeros(100))
    assert np.array_equal(same, np.zeros(100)) and k == -np.inf
    few, k = posterior.pareto_smooth(np.r_[np.full(97, -np.inf), 0., 1., 2.])
    assert k == np.inf and few[-3:].tolist() == [0., 1., 2.]


# Chains.


def test_chains_in_latents_find_a_banana():
    # y1 ~ N(c1, 1), y2 | y1 ~ N(y1^2, 1/4), where f is 0 for y1 < c1.
    def log_density(y, c):
        inside = y[..., 0] > c[..., 0]
        value = -0.5 * (y[..., 0] - c[..., 0])**2 - 2 * (y[..., 1] - y[..., 0]**2)**2
        return tf.where(inside, value, tf.constant(-np.inf, tf.float64))

    chains = posterior.latent_mcmc(
        LinearGaussian(gain=np.eye(2), chol=np.diag([1., 2.]))(flows.base()),
        log_density, [[[0., 1.], [0.5, 1.]]], num_samples=400, num_burnin_steps=200,
        num_chains=8, **QUIET)
    y = chains.samples
    assert y.shape == (400, 8, 1, 2, 2) and chains.r_hat.shape == (1, 2, 2)
    assert np.all(y[..., 0] > [[0., 0.5]])
    assert np.all(chains.r_hat < 1.15) and np.all(chains.effective_sample_size > 150)
    # A half normal h = |N(0, 1)|: E[h] = sqrt(2 / pi), E[h^2] = 1.
    half = np.sqrt(2 / np.pi)
    mean = np.stack([[half, 1.], [half + 0.5, 1 + half + 0.25]])
    error = y.std((0, 1)) / np.sqrt(chains.effective_sample_size)
    assert np.all(np.abs(y.mean((0, 1)) - mean) < 4 * error)
    assert np.all((chains.acceptance > 0.5) & (chains.acceptance <= 1))
    assert chains.divergences.shape == (1, 2)


def test_chains_with_one_unable_to_start_are_refused_by_name():
    def log_density(y, c):
        return tf.where(c[..., 0] > 0, y[..., 0], -np.inf)
    with pytest.raises(FloatingPointError, match='start where `log_density` is above -inf'
                       '; broken by 1 of 3 conditions, the first of them row 1'):
        posterior.latent_mcmc(linear_gaussian(), log_density,
                              [[1., 0.], [-1., 0.], [2., 0.]], **QUIET)


# All of them.


@pytest.mark.parametrize('wrap', [
    lambda dist: (dist.given(C), None),
    lambda dist: (tfd.TransformedDistribution(dist.distribution, dist.bijector), C),
    lambda dist: (tfd.TransformedDistribution(
        dist.distribution, dist.bijector.condition(C)), None)],
    ids=['given', 'stock', 'stock, conditioned'])
def test_whichever_way_the_conditions_come(wrap):
    results = [posterior.highest_density_regions(*pair, [0.5], 100, **QUIET).thresholds
               for pair in [wrap(linear_gaussian()), (linear_gaussian(), C)]]
    assert np.array_equal(*results)


def test_seeds_repeat_and_differ():
    def draws(seed):
        found = posterior.importance_resampling(
            linear_gaussian(), gaussian_log_density(), np.tile(C[0, 0], [4, 1]), 20, 20,
            seed=seed, verbose=False)
        return np.sort(found.samples, 0)
    assert np.array_equal(draws(0), draws(0))
    assert not np.any(draws(0) == draws(1))
    assert not np.any(draws(0)[:, 0] == draws(0)[:, 1])    # Rows with one condition.


def test_progress_bars_count_rows(monkeypatch):
    tqdm = pytest.importorskip('tqdm')
    bars = []

    class Bar(tqdm.tqdm):
        def close(self):
            bars.append((self.desc, self.total, self.n))
            super().close()

    monkeypatch.setattr(tqdm, 'tqdm', Bar)
    monkeypatch.setattr(conditioned, 'EVENTS', 400)
    posterior.highest_density_regions(linear_gaussian(), C, [0.5], 100, seed=0)
    assert bars[0] == ('regions', 6, 6)


def _sir(log_density, c=C, dist=None, **kwargs):
    return posterior.importance_resampling(dist or linear_gaussian(), log_density, c,
                                           **{**dict(num_samples=10, num_proposals=20),
                                              **QUIET, **kwargs})


REFUSALS = {
    'no flow': (lambda: posterior.mode(flows.base(), C), TypeError,
                'over a ConditionalBijector; got'),
    'no conditions': (lambda: posterior.mode(linear_gaussian()), TypeError,
                      '`conditions` are required'),
    'conditions twice': (lambda: posterior.mode(linear_gaussian().given(C), C), TypeError,
                         'has its conditions already'),
    'batch': (lambda: posterior.mode(flows.dist(LinearGaussian(), batch_shape=[3]), C),
              ValueError, r'batch shape \[\], that of its base; got \(3,\)'),
    'no rows': (lambda: posterior.mode(linear_gaussian(), C[:0]), ValueError,
                'at least one row'),
    'width': (lambda: posterior.mode(linear_gaussian(), C[..., :1]), ValueError,
              'last dimension 2'),
    'iterations': (lambda: posterior.mode(linear_gaussian(), C, max_iterations=0),
                   ValueError, '`max_iterations`'),
    'tolerance': (lambda: posterior.mode(linear_gaussian(), C, tolerance=0.), ValueError,
                  '`tolerance` must be positive'),
    'levels': (lambda: posterior.highest_density_regions(linear_gaussian(), C, 95.),
               ValueError, r'`levels` must be numbers in \(0, 1\); got \[95.0\]'),
    'few samples': (lambda: posterior.highest_density_regions(
        linear_gaussian(), C, [0.5, 0.99], 999), ValueError,
        'at least 1000, ten beyond a level of 0.99; got 999'),
    'events': (lambda: posterior.highest_density_regions(
        linear_gaussian(), C, **QUIET).contains(np.zeros([4, 2])), ValueError,
        r'broadcasts, right-aligned, with that of the conditions, \[2, 3\]; got'),
    'support': (lambda: posterior.truncated(linear_gaussian(), [0., 1.], C), TypeError,
                '`support` must be a tfd.Distribution or a function'),
    'membership': (lambda: posterior.truncated(linear_gaussian(), lambda y: y > 0, C,
                                               **QUIET), ValueError,
                   r'a bool for each event, \[10000, 3\]; got bool \[10000, 3, 2\]'),
    'acceptance': (lambda: posterior.truncated(linear_gaussian(), _upper, C,
                                               min_acceptance=0), ValueError,
                   r'`min_acceptance` must be in \(0, 1\)'),
    'more than proposals': (lambda: _sir(gaussian_log_density(), num_samples=21),
                            ValueError, '`num_proposals` must be at least 21'),
    'density of wrong shape': (lambda: _sir(lambda y, c: y), ValueError,
                               r'one number for each event, \[20, 6\]; got .*6, 2\]'),
    'density NaN': (lambda: _sir(lambda y, c: np.nan * y[..., 0]), FloatingPointError,
                    'finite or -inf; broken by 6 of 6'),
    'density 0': (lambda: _sir(lambda y, c: np.where(c[:, 0] > 0, 0., -np.inf)
                               + 0. * y[..., 0]), FloatingPointError,
                  'not all be -inf.*No sample of `dist` is where the density is'),
    'samples': (lambda: _sir(gaussian_log_density(), c=np.array([[0., 0.], [1e5, 0.]]),
                             dist=LinearGaussian(gain=1e305 * np.eye(2))(flows.base())),
                FloatingPointError, 'must be finite.*1 of 2 conditions.* row 1'),
    'chains': (lambda: posterior.latent_mcmc(linear_gaussian(), gaussian_log_density(), C,
                                             num_chains=1), ValueError, '`num_chains`'),
    'weights NaN': (lambda: posterior.pareto_smooth([0., np.nan]), ValueError,
                    'must be finite or -inf'),
    'weights 3-D': (lambda: posterior.pareto_smooth(np.zeros([9, 1, 1])), ValueError,
                    r'\[L\] or \[L, N\]; got \[9, 1, 1\]'),
}


@pytest.mark.parametrize('case', REFUSALS)
def test_misuse_is_refused(case):
    call, error, message = REFUSALS[case]
    with pytest.raises(error, match=message):
        call()
