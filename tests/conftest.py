"""Settings of every test run."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import hypothesis
import pytest

from tests import fast

# The same examples in every run, few of them, since each may trace a function.
hypothesis.settings.register_profile(
    'ci', derandomize=True, deadline=None, max_examples=10, database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))

# TensorFlow takes seconds to import, of use in a worker and not in what starts workers.
if 'PYTEST_XDIST_WORKER' in os.environ:   # Workers share the cores.
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if fast.is_fast(item):
            item.add_marker(pytest.mark.fast)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs made from here on."""
    from tensorflow.python.framework import func_graph
    made, init = [], func_graph.FuncGraph.__init__

    def counting(self, name, *args, **kwargs):
        made.append(name)
        init(self, name, *args, **kwargs)

    monkeypatch.setattr(func_graph.FuncGraph, '__init__', counting)
    return made
