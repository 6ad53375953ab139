"""`train`: a learner and an environment, until so many steps were made."""

from collections.abc import Callable, Mapping
import csv
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_conditional.core import conditions as conditions_lib
from tfp_conditional.core import seeds
from tfp_conditional.core.progress import progress
from tfp_conditional.core.types import Path
from tfp_conditional.rl import environments
from tfp_conditional.rl import replay

_SNAPSHOT = 100   # Updates after which weights that are still finite are noted.


def train(env: Any, learner: Any, steps: int, buffer: replay.ReplayBuffer | None = None,
          evaluation_env: Any = None, seed: int | None = None, warm_up: int = 1000,
          batch_size: int = 256, updates: int = 1, evaluate_every: int = 1000,
          episodes: int = 10, checkpoint: Path | None = None,
          checkpoint_every: int = 10_000, log: Path | None = None,
          callback: Callable[[dict[str, list]], Any] | None = None,
          verbose: bool = True) -> dict[str, list]:
    """Trains a policy by `learner` in an environment.

    At each step the policy acts at random, what follows is stored, and the learner
    updates from a batch of all that is stored. Where episodes were cut off the last
    state keeps its value; where they ended it has none.

    ```python
    import gymnasium
    from tfp_conditional import rl

    env = gymnasium.make('Pendulum-v1')
    policy = rl.LatentSpacePolicy(env.observation_space, env.action_space, seed=0)
    learner = rl.SoftActorCritic(policy, hidden_layers=(16,), seed=0)
    history = rl.train(env, learner, steps=20, warm_up=10, batch_size=8, seed=0,
                       verbose=False)
    ```

    Args:
      env: `gymnasium.Env`, `gymnasium.vector.VectorEnv`, or a function that makes one.
      learner: `SoftActorCritic`, or another object with `policy` and
        `update(batch)` -> `dict` of floats.
      steps: `int`, in all environments together.
      buffer: `ReplayBuffer`; default one of `steps` transitions.
      evaluation_env: `gymnasium.Env`, or a function that makes one, for evaluations;
        default what `env` makes, if it is a function, or else none are made.
      seed: `int`.
      warm_up: `int`, steps before the first update.
      batch_size: `int`.
      updates: `int`, for each step of all environments.
      evaluate_every: `int`, steps.
      episodes: `int`, of each evaluation, with latents 0.
      checkpoint: path of a directory. What is there is gone on with, and ends as if it
        had never been interrupted, bit for bit: at each checkpoint environments are
        reset, from a seed of that step.
      checkpoint_every: `int`, steps.
      log: path of a CSV file, a row for each evaluation.
      callback: called as `callback(history)` after each evaluation.
      verbose: `bool`, whether to show a progress bar where tqdm is installed.

    Returns:
      `dict` of lists: `'steps'` of each evaluation, `'returns'` (a list each, empty
      without an `evaluation_env`), and what `update` returned, averaged between. The
      policy has the weights of the best evaluation, or the last.

    Raises:
      FloatingPointError: an observation, a reward or a loss was not finite. The policy
        has the last weights that were, which are also in `checkpoint`, as
        `last_good.npz`.
    """
    for label, value in [('steps', steps), ('batch_size', batch_size),
                         ('updates', updates), ('evaluate_every', evaluate_every),
                         ('episodes', episodes),
                         ('checkpoint_every', checkpoint_every)]:
        conditions_lib.positive_int(value, label)
    if evaluation_env is None and callable(env):
        evaluation_env = env
    policy = learner.policy
    run = _Run(
        learner, environments.Environments(_made(env), policy.action_shape),
        replay.ReplayBuffer(policy, steps, seed) if buffer is None else buffer,
        None if evaluation_env is None else _made(evaluation_env), seed)
    directory = None if checkpoint is None else pathlib.Path(checkpoint)
    if directory is None or not run.restore(directory):
        run.begin()
        run.evaluate(episodes, log, None)
    try:
        with progress(steps, 'train', 'step', verbose, run.step) as bar:
            while run.step < steps:
                before = run.step
                run.advance(warm_up, batch_size, updates)
                if _passed(before, run.step, evaluate_every) or run.step >= steps:
                    run.evaluate(episodes, log, bar)
                    if callback is not None:
                        callback(run.history)
                if directory is not None and _passed(before, run.step,
                                                     checkpoint_every):
                    run.save(directory)
                    run.begin()
                if bar is not None:
                    bar.update(run.step - before)
    except FloatingPointError:
        policy.set_weights(run.good)
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            np.savez(directory / 'last_good.npz', *run.good)
        raise
    if run.best is not None:
        policy.set_weights(run.best)
    return run.history


class _Run:
    """The state of a training, and what changes it."""

    def __init__(self, learner, env, buffer, evaluation_env, seed):
        self.learner, self.env, self.buffer = learner, env, buffer
        self.policy, self._evaluation_env = learner.policy, evaluation_env
        self.entropy = seeds.resolve_seed(seed)
        self.step, self._watched = 0, []
        self.rows = []
        self.best, self._best_return = None, -np.inf
        self.good = self.policy.get_weights()

    @property
    def history(self):
        """A `dict` of lists from the rows, which lack metrics before the first update."""
        history = {'steps': [], 'returns': []}
        for row in self.rows:
            for name, value in row.items():
                history.setdefault(name, []).append(value)
        return history

    def begin(self):
        """Resets environments and noise, from a seed of this step."""
        seed, noise = np.random.default_rng((*self.entropy, self.step)).integers(
            2**31, size=2)
        self.env.reset(seed)
        self.policy.reseed(int(noise))

    def advance(self, warm_up, batch_size, updates):
        """One step of each environment, and what is learnt after it."""
        observations = self.env.observations
        self.policy.observe(observations)
        made = self.env.step(self.policy.act(observations))
        self.buffer.add(made.observations, made.actions, made.rewards,
                        made.next_observations, made.terminals, made.masks)
        self.step += self.env.count
        if self.step <= warm_up:
            return
        for _ in range(updates):
            metrics = self.learner.update(self.buffer.sample(batch_size))
            bad = [name for name, value in metrics.items() if not np.isfinite(value)]
            if bad:
                raise FloatingPointError(
                    f'{bad[0]} is {metrics[bad[0]]} after step {self.step}. Lower '
                    '`learning_rate`, or scale the rewards down.')
            self._watched.append(metrics)
        if len(self._watched) % _SNAPSHOT == 0:
            weights = self.policy.get_weights()
            # A loss may be finite and the step after it too far.
            if all(np.all(np.isfinite(weight)) for weight in weights):
                self.good = weights

    def evaluate(self, episodes, log, bar):
        """Adds a row to the history, and writes it to the file `log`."""
        returns = []
        if self._evaluation_env is not None:
            returns = environments.evaluate(
                self.policy, self._evaluation_env, episodes, seed=10_000).tolist()
            if np.mean(returns) > self._best_return:
                self._best_return = float(np.mean(returns))
                self.best = self.policy.get_weights()
        row = {name: float(np.mean([metrics[name] for metrics in self._watched]))
               for name in (self._watched or [{}])[0]}
        self._watched = []
        self.rows.append(dict(steps=self.step, returns=returns, **row))
        if bar is not None and returns:
            bar.set_postfix_str(f'mean return {np.mean(returns):.0f}')
        if log is not None:   # Whole: a run that goes on has rows after its checkpoint.
            rows = [dict(step=row['steps'],
                         mean_return=np.mean(row['returns']) if row['returns'] else '',
                         **{name: row[name] for name in list(row)[2:]})
                    for row in self.rows]
            with open(log, 'w', newline='', encoding='utf-8') as file:
                writer = csv.DictWriter(file, max(rows, key=len))
                writer.writeheader()
                writer.writerows(rows)

    # Checkpoints: a directory each, and a file that names the last whole one.

    def save(self, directory):
        """Writes all that `restore` needs."""
        name = f'step_{self.step}'
        place = directory / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        tf.train.Checkpoint(learner=self.learner).write(str(place / 'learner'))
        self.buffer.save(str(place / 'buffer.npz'))
        if self.best is not None:
            np.savez(place / 'best.npz', *self.best)
        (place / 'state.json').write_text(json.dumps(dict(
            step=self.step, entropy=self.entropy, rows=self.rows,
            watched=self._watched, best_return=self._best_return)))
        part = directory / 'latest.part'
        part.write_text(name)
        part.replace(directory / 'latest')
        for other in directory.glob('step_*'):
            if other.name != name:
                shutil.rmtree(other)

    def restore(self, directory):
        """Goes back to the last checkpoint; returns whether there was one."""
        if not (directory / 'latest').exists():
            return False
        place = directory / (directory / 'latest').read_text()
        state = json.loads((place / 'state.json').read_text())
        tf.train.Checkpoint(learner=self.learner).read(
            str(place / 'learner')).assert_consumed()
        self.buffer.load(str(place / 'buffer.npz'))
        self.step, self.entropy = state['step'], tuple(state['entropy'])
        self.rows, self._watched = state['rows'], state['watched']
        self._best_return = state['best_return']
        if (place / 'best.npz').exists():
            with np.load(place / 'best.npz') as file:
                self.best = [file[key] for key in file.files]
        self.good = self.policy.get_weights()
        self.begin()
        return True


def _made(env):
    return env() if callable(env) else env


def _passed(before, after, every):
    return before // every < after // every



def draw_learning_curve(history: Mapping[str, Any], path: Path,
                        target: float | None = None, title: str = 'Learning') -> None:
    """Saves a picture of the returns of each evaluation (needs matplotlib).

    Args:
      history: as from `train`.
      path: of the file.
      target: `float`, a return to draw a line at.
      title: `str`.
    """
    from matplotlib import figure
    picture = figure.Figure(figsize=(6., 4.), layout='constrained')
    axes = picture.subplots()
    steps, returns = np.array(history['steps']), np.array(history['returns'])
    axes.plot(steps, returns.mean(1), marker='o', markersize=4,
              label=f'mean of {returns.shape[1]} episodes')
    axes.fill_between(steps, returns.min(1), returns.max(1), alpha=0.2, linewidth=0,
                      label='worst to best of them')
    if target is not None:
        axes.axhline(target, color='gray', linestyle='--', linewidth=1,
                     label=f'target, {target:g}')
    axes.set(title=title, xlabel='steps in the environment',
             ylabel='return of an episode with latents 0')
    axes.legend(loc='lower right', frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
    picture.savefig(path, dpi=110)
