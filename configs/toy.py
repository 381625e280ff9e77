"""Points in the plane, a small MLP, seconds on one CPU core: for trying an idea, and for the tests.

python -m experiments.train --config configs/toy.py:moons   --workdir runs/moons      # two moons, linear flow, EDM's F row
python -m experiments.train --config configs/toy.py:mixture --workdir runs/mixture    # eight Gaussians on a ring, the density known
python -m experiments.train --config configs/toy.py:vp      --workdir runs/moons_vp   # two moons, VP, v-prediction
python -m experiments.train --config configs/toy.py:ot      --workdir runs/moons_ot   # two moons, pairs by minibatch optimal transport
python -m experiments.train --config configs/toy.py:moons --workdir runs/averages --config.training.ema='(0.99,0.999)'
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("moons", "mixture", "vp", "ot")


def get_config(variant: str = "moons") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/toy.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.data = {"target": "Toy", "name": "mixture" if variant == "mixture" else "two_moons", "batch_size": 512}
    config.path = {"target": "VP"} if variant == "vp" else {"target": "LinearFlow"}
    config.target = {"target": "V"} if variant == "vp" else {"target": "F"}
    config.network = {"target": "MLP", "width": 128, "depth": 3}
    config.objective = {"target": "Regression", "time_law": {"target": "UniformTime"}}
    config.denoiser = {"sigma_data": "data"}
    config.coupling = {"target": "MinibatchOT", "block": 128} if variant == "ot" else None
    config.optimizer = {"name": "adam", "learning_rate": 2e-3, "schedule": "cosine", "warmup": 50, "clip": 1.0}
    config.training = {"steps": 1500, "ema": (0.995,), "log_every": 100, "eval_every": 500, "checkpoint_every": 500, "deterministic": True}
    config.sampling = {"sampler": {"target": "Heun"}, "grid": {"target": "UniformTime", "num_steps": 25}, "n": 1000, "seed": 0}
    return config
