"""scikit-learn's 1797 handwritten digits: minutes on two CPU cores.

python -m experiments.train --config configs/digits.py:flow --workdir runs/flow       # linear flow, EDM's F row: what `make digits` runs
python -m experiments.train --config configs/digits.py:vp   --workdir runs/vp         # VP, v-prediction
python -m experiments.train --config configs/digits.py:edm  --workdir runs/edm        # EDM's path, row and noise law
python -m experiments.train --config configs/digits.py:edm2 --workdir runs/edm2       # the same by EDM2: magnitude-preserving U-Net
python -m experiments.train --config configs/digits.py:tiny --workdir runs/tiny       # seconds, for trying things; rough digits
python -m experiments.train --config configs/digits.py:flow --workdir runs/wide --config.network.width=192 --config.training.steps=4000
python -m experiments.sample --workdir runs/flow --path=VP --sampler=DPMSolverPP2M --grid=UniformLogSNR --steps 20
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("flow", "vp", "edm", "edm2", "tiny")


def get_config(variant: str = "flow") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/digits.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.data = {"target": "Digits", "size": 8, "batch_size": 64}
    config.path = {"target": "LinearFlow"}
    config.target = {"target": "F"}
    config.network = {"target": "DiT", "patch": 2, "width": 128, "depth": 4, "heads": 4, "num_classes": 10}
    config.objective = {"target": "Regression", "time_law": {"target": "UniformTime"}, "label_dropout": 0.1}
    config.denoiser = {"sigma_data": 0.85}  # root mean square in [-1, 1] about zero: the mean is not removed
    config.optimizer = {"name": "adam", "learning_rate": 2e-3, "schedule": "cosine", "warmup": 100, "clip": 1.0}
    config.training = {"steps": 1800, "ema": (0.995,), "log_every": 50, "eval_every": 600, "checkpoint_every": 600, "deterministic": True}
    config.sampling = {
        "sampler": {"target": "Heun", "variable": {"target": "T"}},
        "grid": {"target": "UniformTime", "num_steps": 25},
        "n": 100,
        "seed": 0,
    }
    if variant == "vp":
        config.path = {"target": "VP"}
        config.target = {"target": "V"}
        config.sampling.sampler = {"target": "DPMSolverPP2M"}
        config.sampling.grid = {"target": "UniformLogSNR", "num_steps": 20}
    elif variant in ("edm", "edm2"):
        config.path = {"target": "EDM", "sigma_max": 80.0}
        config.objective = {
            "target": "Regression",
            "time_law": {"target": "LogNormalSigma", "P_mean": -0.8, "P_std": 1.6},
            "label_dropout": 0.1,
        }
        config.sampling.sampler = {"target": "Heun"}
        config.sampling.grid = {"target": "Karras", "num_steps": 18}
        config.sampling.extrapolate = True  # the grid reaches sigma = 0.002 and 80, just outside the law's 99.8 %
        if variant == "edm2":
            _edm2(config)
    elif variant == "tiny":
        config.network.update({"width": 96, "depth": 3})
        config.training.update({"steps": 600, "eval_every": 200, "checkpoint_every": 200, "ema": (0.99,)})
    return config


def _edm2(config: ConfigDict) -> None:
    """EDM's path and law with config G of Karras et al. 2024: its network, weighting, rate and averages."""
    config.network = {
        "target": "EDM2", "width": 32, "multipliers": (1, 2), "blocks": 1, "attention_at": (4,), "head_width": 32, "num_classes": 10,
    }  # fmt: skip
    config.objective = {"target": "LearnedWeighting", "objective": config.objective}
    config.optimizer = {"name": "adam", "learning_rate": 1e-2, "b2": 0.99, "schedule": "inverse_sqrt", "warmup": 50, "decay_after": 300}
    config.training.update({"steps": 900, "eval_every": 300, "checkpoint_every": 300, "profiles": (0.05, 0.1)})
