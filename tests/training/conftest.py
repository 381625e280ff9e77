"""A run of seconds that the tests of this folder share: two moons, a network of a few hundred parameters, four devices.

Of a run that was stopped, killed or refused on its way, ``broken`` is the workdir, and ``straight`` that of the same run that was not.
"""

import copy

import pytest

CONFIG = {
    "seed": 3,
    "data": {"target": "Toy", "num_train": 100, "num_test": 40, "batch_size": 16},
    "path": {"target": "LinearFlow"},
    "target": {"target": "F"},
    "network": {"target": "MLP", "width": 8, "depth": 1, "dropout": 0.2, "num_classes": 2},
    "objective": {"target": "Regression", "time_law": {"target": "UniformTime"}, "label_dropout": 0.3},
    "denoiser": {"sigma_data": "data"},
    "optimizer": {"name": "adam", "learning_rate": 1e-2, "schedule": "cosine", "warmup": 5, "clip": 1.0},
    "training": {
        "steps": 20, "accumulate": 2, "ema": (0.9, 0.99), "log_every": 10, "eval_every": 10, "checkpoint_every": 10,
        "eval_levels": 2, "keep": 2, "update_norm": True,
    },
}  # fmt: skip


def tiny(**changes):
    """CONFIG with ``section__field=value`` changes, or whole sections."""
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        *sections, field = name.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[field] = value
    return config


@pytest.fixture(scope="session")
def config():
    """The function ``tiny``."""
    return tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """``(workdir, Trained)`` of CONFIG; tests read it and change nothing."""
    from score_lab.training import train

    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(tiny(), workdir)
