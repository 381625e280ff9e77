"""Eight Gaussians on a ring: MeanFlow in one step, a flow of equal size and budget, and a path and a sampler of one's own.

    python -m experiments.train --config my_package/config.py:meanflow --workdir runs/meanflow    # with this folder's parent in PYTHONPATH
    python -m experiments.sample --workdir runs/meanflow
"""

from ml_collections import ConfigDict


def get_config(variant="meanflow"):
    own = variant == "parabola"
    config = ConfigDict()
    config.seed = 0
    config.data = {"target": "Toy", "name": "mixture", "batch_size": 256}
    config.path = {"target": "my_package.parabola:Parabola", "power": 2.0} if own else {"target": "LinearFlow"}
    config.target = {"target": "Velocity"}
    config.network = {"target": "MLP", "width": 64, "depth": 3, "max_frequency": 4.0}
    config.objective = {"target": "my_package.meanflow:MeanFlow" if variant == "meanflow" else "Regression"}
    config.denoiser = {"sigma_data": "data"}
    config.optimizer = {"name": "adam", "learning_rate": 2e-3, "schedule": "cosine", "warmup": 50, "clip": 1.0}
    config.training = {"steps": 400, "ema": (0.99,), "log_every": 100, "eval_every": 0, "checkpoint_every": 0}
    sampler = {"target": "my_package.adams:AdamsBashforth2"} if own else {"target": "Euler"}
    config.sampling = {"sampler": sampler, "grid": {"target": "UniformTime", "num_steps": 20 if own else 1}, "n": 1000, "seed": 0}
    return config
