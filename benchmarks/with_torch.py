"""PyTorch's packages."""

import inspect

import numpy as np
import torch

import peers

# The first optimizer imports a compiler, for seconds, which are no part of a fit.
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


class Torch(peers.Package):
    """What they share; builders set `self.flow`."""

    modes = ('eager',)
    mode = 'eager'
    reseed = staticmethod(torch.manual_seed)

    @property
    def num_parameters(self):
        return sum(p.numel() for p in self.flow.parameters() if p.requires_grad)

    @staticmethod
    def tensor(array):
        return torch.as_tensor(array, dtype=torch.float32)

    def operation(self, name, mode):
        if name == 'train':
            self._optimizer = torch.optim.Adam(self.flow.parameters(),
                                               self.learning_rate)
            return self.train
        return torch.no_grad()(getattr(self, name))

    def sampler(self, n, mode):
        return torch.no_grad()(lambda c: self.many(c, n))

    def hot(self, operation, batch):
        run = self.operation(operation, 'eager')
        return {'eager': lambda y, c: peers.to_numpy(
            run(torch.from_numpy(y), torch.from_numpy(c)))}

    def train(self, y, c):
        self._optimizer.zero_grad()
        loss = -self.log_prob(y, c).mean()
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

    def real_nvp(self, architecture):
        import zuko
        self.flow = zuko.flows.RealNVP(
            architecture.event_size, architecture.condition_size,
            transforms=architecture.num_layers,
            hidden_features=architecture.hidden_layers)

    def density(self, event_size, condition_size, **settings):
        import zuko
        self.flow = zuko.flows.NSF(event_size, condition_size, **settings)

    def log_prob(self, y, c):
        return self.flow(c).log_prob(y)

    def sample(self, y, c):
        return self.flow(c).sample()

    def sample_and_log_prob(self, y, c):
        return self.flow(c).rsample_and_log_prob()

    def many(self, c, n):
        return self.flow(c).sample((n,))

    def forward(self, x, c):
        return self.flow(c).transform.inv(x)

    def inverse(self, y, c):
        return self.flow(c).transform(y)


class _Perceptron(torch.nn.Module):
    """An MLP that concatenates; those of nflows take no context or are residual."""

    def __init__(self, *sizes):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(m, n) for m, n in zip(sizes, sizes[1:]))

    def forward(self, units, context):
        hidden = torch.cat([units, context], dim=-1)
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.layers[-1](hidden)


class NFlows(Torch):
    """`AffineCouplingTransform`s; spline couplings, each before a linear map."""

    requires = ('nflows.flows', 'nflows.nn.nets')

    def _set(self, parts, event_size):
        from nflows import distributions, flows, transforms
        self._transform = transforms.CompositeTransform(parts)
        self.flow = flows.Flow(self._transform,
                               distributions.StandardNormal([event_size]))

    def real_nvp(self, architecture):
        from nflows import transforms
        parity = np.arange(architecture.event_size) % 2
        self._set([transforms.AffineCouplingTransform(
            (parity + i) % 2, lambda m, n: _Perceptron(
                m + architecture.condition_size, *architecture.hidden_layers, n))
                   for i in range(architecture.num_layers)], architecture.event_size)

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

    def log_prob(self, y, c):
        return self.flow.log_prob(y, context=c)

    def sample(self, y, c):
        return self.flow.sample(1, context=c)

    def sample_and_log_prob(self, y, c):
        return self.flow.sample_and_log_prob(1, context=c)

    def many(self, c, n):
        return self.flow.sample(n, context=c).transpose(0, 1)

    def forward(self, x, c):
        return self._transform.inverse(x, context=c)[0]

    def inverse(self, y, c):
        return self.flow.transform_to_noise(y, context=c)


class NormFlows(Torch):
    """Autoregressive neural splines with a linear map between."""

    requires = ('normflows',)

    def real_nvp(self, architecture):
        import normflows
        if 'context' in inspect.signature(
                normflows.flows.AffineCouplingBlock.forward).parameters:
            raise NotImplementedError('its affine couplings now take a context: '
                                      'write this implementation')
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

    def log_prob(self, y, c):
        return self.flow.log_prob(y, context=c)

    def many(self, c, n):
        samples, _ = self.flow.sample(n * len(c), context=c.repeat(n, 1))
        return samples.reshape(n, len(c), -1)
