"""PyTorch's packages."""

import numpy as np
import torch

import peers

# The first optimizer imports a compiler, for seconds, which are no part of a fit.
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


class Torch(peers.Package):
    """What they share; builders set `self.flow`.

    `calls` are functions of `(flow, y, c)`; in `'many'` n comes for y.
    """

    modes = ('eager',)
    mode = 'eager'
    reseed = staticmethod(torch.manual_seed)

    @property
    def num_parameters(self):
        return sum(p.numel() for p in self.flow.parameters() if p.requires_grad)

    @staticmethod
    def tensor(array):
        return torch.as_tensor(array, dtype=torch.float32)

    def operation(self, name, mode, n=None):
        if name == 'train':
            self._optimizer = torch.optim.Adam(self.flow.parameters(), self.learning_rate)
            return self.train
        call = self.calls[name]
        return torch.no_grad()(lambda y, c: call(self.flow, y if n is None else n, c))

    def hot(self, operation):
        run = self.operation(operation, 'eager')

        def call(y, c):
            result = run(torch.from_numpy(y), torch.from_numpy(c))
            return (tuple(x.numpy() for x in result) if isinstance(result, tuple)
                    else result.numpy())
        return {'eager': call}

    def train(self, y, c):
        self._optimizer.zero_grad()
        loss = -self.calls['log_prob'](self.flow, y, c).mean()
        loss.backward()
        self._optimizer.step()
        return loss

    def prepare(self, steps):
        parameters = list(self.flow.parameters())
        self._optimizer = torch.optim.AdamW(
            parameters, self.training['learning_rate'],
            weight_decay=self.training['weight_decay'])
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

        def clip(*_):
            torch.nn.utils.clip_grad_norm_(parameters, self.training['clip_norm'])

        self._optimizer.register_step_pre_hook(clip)
        self._optimizer.register_step_post_hook(lambda *_: schedule.step())

    def step(self, y, c):
        return self.train(y, c).item()

    def loss(self, y, c):
        self.flow.eval()
        loss = super().loss(y, c)
        self.flow.train()
        return loss

    def weights(self):
        return {key: value.clone() for key, value in self.flow.state_dict().items()}

    def restore(self, weights):
        self.flow.load_state_dict(weights)
        self.flow.eval()


class Zuko(Torch):
    """`zuko.flows.RealNVP`, and `NSF`."""

    requires = ('zuko',)
    calls = {
        'log_prob': lambda flow, y, c: flow(c).log_prob(y),
        'sample': lambda flow, y, c: flow(c).sample(),
        'sample_and_log_prob': lambda flow, y, c: flow(c).rsample_and_log_prob(),
        'many': lambda flow, n, c: flow(c).sample((n,)),
        'forward': lambda flow, x, c: flow(c).transform.inv(x),
        'inverse': lambda flow, y, c: flow(c).transform(y)}

    def real_nvp(self, event_size, condition_size, num_layers, hidden_layers):
        import zuko
        self.flow = zuko.flows.RealNVP(event_size, condition_size,
                                       transforms=num_layers,
                                       hidden_features=hidden_layers)

    def density(self, event_size, condition_size, **settings):
        import zuko
        self.flow = zuko.flows.NSF(event_size, condition_size, **settings)


class _Perceptron(torch.nn.Sequential):
    """An MLP that concatenates; those of nflows take no context or are residual."""

    def __init__(self, *sizes):
        super().__init__(*[part for m, n in zip(sizes, sizes[1:]) for part in (
            torch.nn.ReLU(), torch.nn.Linear(m, n))][1:])

    def forward(self, units, context):
        return super().forward(torch.cat([units, context], dim=-1))


class NFlows(Torch):
    """`AffineCouplingTransform`s; spline couplings, each before a linear map."""

    requires = ('nflows.flows', 'nflows.nn.nets')
    calls = {
        'log_prob': lambda flow, y, c: flow.log_prob(y, context=c),
        'sample': lambda flow, y, c: flow.sample(1, context=c),
        'sample_and_log_prob': lambda flow, y, c: flow.sample_and_log_prob(
            1, context=c),
        'many': lambda flow, n, c: flow.sample(n, context=c).transpose(0, 1),
        'forward': lambda flow, x, c: flow._transform.inverse(x, context=c)[0],
        'inverse': lambda flow, y, c: flow.transform_to_noise(y, context=c)}

    def _set(self, parts, event_size):
        from nflows import distributions, flows, transforms
        self.flow = flows.Flow(transforms.CompositeTransform(parts),
                               distributions.StandardNormal([event_size]))

    def real_nvp(self, event_size, condition_size, num_layers, hidden_layers):
        from nflows import transforms
        self._set([transforms.AffineCouplingTransform(
            (np.arange(event_size) % 2 + i) % 2,
            lambda m, n: _Perceptron(m + condition_size, *hidden_layers, n))
                   for i in range(num_layers)], event_size)

    def density(self, event_size, condition_size, layers, hidden_features, blocks,
                bins, tail_bound, dropout):
        from nflows import transforms
        from nflows.nn.nets import ResidualNet

        def network(in_features, out_features):
            return ResidualNet(
                in_features, out_features, hidden_features, condition_size,
                num_blocks=blocks, dropout_probability=dropout)

        parts = []
        for i in range(layers):
            # A mask marks what is transformed, which a single unit always is.
            mask = (np.arange(event_size) + i) % 2 if event_size > 1 else np.ones(1)
            parts.append(transforms.PiecewiseRationalQuadraticCouplingTransform(
                mask, network, num_bins=bins, tails='linear', tail_bound=tail_bound))
            if event_size > 1:
                parts += [transforms.RandomPermutation(event_size),
                          transforms.LULinear(event_size, identity_init=True)]
        self._set(parts, event_size)


class NormFlows(Torch):
    """Autoregressive neural splines with a linear map between."""

    requires = ('normflows',)
    calls = {
        'log_prob': lambda flow, y, c: flow.log_prob(y, context=c),
        'many': lambda flow, n, c: flow.sample(
            n * len(c), context=c.repeat(n, 1))[0].reshape(n, len(c), -1)}

    def real_nvp(self, **architecture):
        raise NotImplementedError(
            'its `AffineCouplingBlock.forward` takes no context; of its flows '
            'only autoregressive and spline ones do')

    def density(self, event_size, condition_size, layers, hidden_features, blocks,
                bins, tail_bound, dropout):
        import normflows
        parts = []
        for _ in range(layers):
            parts.append(normflows.flows.AutoregressiveRationalQuadraticSpline(
                event_size, blocks, hidden_features,
                num_context_channels=condition_size, num_bins=bins,
                tail_bound=tail_bound, dropout_probability=dropout))
            if event_size > 1:
                parts.append(normflows.flows.LULinearPermute(event_size))
        self.flow = normflows.ConditionalNormalizingFlow(
            normflows.distributions.DiagGaussian(event_size, trainable=False), parts)


class SBI(Torch):
    """Neural posterior estimation of sbi: its network, its optimizer, its stop."""

    requires = ('sbi.inference',)
    calls = {'log_prob': lambda estimator, y, c: estimator.log_prob(y[None], c)[0]}

    def density(self, event_size, condition_size, **settings):
        self._settings = settings

    def fit(self, train, validation):
        from sbi import inference
        y, c = (self.tensor(np.concatenate(pair)) for pair in zip(train, validation))
        trainer = inference.NPE(show_progress_bars=False, **self._settings)
        # A tenth of the rows, of its own choice, is for validation.
        self.flow = trainer.append_simulations(y, c).train()
        return trainer.summary['epochs_trained'][-1]

    def draw(self, c, n):
        self.reseed(0)
        with torch.no_grad():
            return self.flow.sample((n,), self.tensor(c[None]))[:, 0].numpy()
