"""CIFAR-10 (TFDS, array_record): after the field's reference systems.  Meant for an accelerator.

    python -m experiments.train --config configs/cifar10.py:ddpm --workdir runs/ddpm      # Ho et al. 2020: DDPM table, eps, simple loss
    python -m experiments.train --config configs/cifar10.py:iddpm --workdir runs/iddpm    # Nichol & Dhariwal 2021: learned variance
    python -m experiments.train --config configs/cifar10.py:vp   --workdir runs/vp        # Song et al. 2021: VP SDE, NCSN++-like U-Net
    python -m experiments.train --config configs/cifar10.py:ve   --workdir runs/ve        # Song et al. 2021: VE SDE, likelihood weighting
    python -m experiments.train --config configs/cifar10.py:edm  --workdir runs/edm       # Karras et al. 2022
    python -m experiments.train --config configs/cifar10.py:flow --workdir runs/flow      # Tong et al. 2024, minibatch OT

Data: `tfds build cifar10 --file_format=array_record` once, on any machine with TensorFlow; `--config.data.data_dir=DIR` says where it is.
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("ddpm", "iddpm", "vp", "ve", "edm", "flow")


def get_config(variant: str = "edm") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/cifar10.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.data = {"target": "TFDS", "name": "cifar10", "flip": True, "batch_size": 256}
    config.network = {
        "target": "UNet", "width": 128, "multipliers": (2, 2, 2), "blocks": 4, "attention_at": (16,), "dropout": 0.13, "dtype": "bfloat16",
    }  # fmt: skip
    config.denoiser = {"sigma_data": 0.5}
    config.optimizer = {"name": "adam", "learning_rate": 2e-4, "schedule": "constant", "warmup": 5000, "clip": 1.0}
    config.training = {
        "steps": 400_000,
        "ema": (0.9999, 0.999),
        "log_every": 100,
        "eval_every": 5000,
        "checkpoint_every": 10_000,
        "deterministic": True,
        "mfu": True,
    }
    config.sampling = {"sampler": {"target": "Heun"}, "grid": {"target": "Karras", "num_steps": 18}, "n": 64, "seed": 0}
    {"ddpm": _ddpm, "iddpm": _iddpm, "vp": _vp, "ve": _ve, "edm": _edm, "flow": _flow}[variant](config)
    return config


def _ddpm(config: ConfigDict) -> None:
    config.path = {"target": "ddpm_table", "betas": "linear", "T": 1000}
    config.target = {"target": "Eps"}
    config.objective = {
        "target": "Regression",
        "time_law": {"target": "DiscreteTable", "num_levels": 1000},
        "weighting": {"target": "Simple"},
    }
    config.network.update({"multipliers": (1, 2, 2, 2), "blocks": 2, "dropout": 0.1, "scale_shift": False, "resample_blocks": False})
    config.sampling.sampler = {"target": "DDPM", "variance": "beta"}
    config.sampling.guidance = {"target": "ClipX0"}
    config.sampling.grid = {"target": "UniformTime", "num_steps": 1000}


def _iddpm(config: ConfigDict) -> None:
    _ddpm(config)
    config.path = {"target": "ddpm_table", "betas": "cosine", "T": 4000}
    config.objective = {"target": "LearnedVariance", "num_levels": 4000, "vlb_weight": 1e-3, "bins": 256, "weighting": {"target": "Simple"}}
    config.network.update({"scale_shift": True, "resample_blocks": True, "learned_variance": True})
    config.sampling.sampler = {"target": "DDPM", "variance": "learned"}


def _vp(config: ConfigDict) -> None:
    config.path = {"target": "VP", "beta_min": 0.1, "beta_max": 20.0}
    config.target = {"target": "Eps"}
    config.objective = {"target": "Regression", "time_law": {"target": "UniformTime"}, "weighting": {"target": "Simple"}}
    config.network.update({"rescale_skip": True, "dropout": 0.1})
    config.sampling.sampler = {"target": "EulerMaruyama"}
    config.sampling.grid = {"target": "UniformTime", "num_steps": 1000}


def _ve(config: ConfigDict) -> None:
    config.path = {"target": "VE", "sigma_min": 0.01, "sigma_max": 50.0}
    config.target = {"target": "Eps"}
    config.objective = {
        "target": "Regression",
        "time_law": {"target": "UniformTime"},
        "weighting": {"target": "Likelihood"},
        "per_log_snr": True,
    }
    config.network.update({"rescale_skip": True, "dropout": 0.1})
    config.sampling.sampler = {"target": "EulerMaruyama", "increment": "exact"}
    config.sampling.grid = {"target": "UniformTime", "num_steps": 1000}


def _edm(config: ConfigDict) -> None:
    config.path = {"target": "EDM", "sigma_max": 80.0}
    config.target = {"target": "F"}
    config.objective = {"target": "Regression", "time_law": {"target": "LogNormalSigma", "P_mean": -1.2, "P_std": 1.2}}
    config.sampling.extrapolate = True  # as published: the grid reaches sigma = 80, far outside the law's 99.9 %


def _flow(config: ConfigDict) -> None:
    config.path = {"target": "LinearFlow"}
    config.target = {"target": "Velocity"}
    config.objective = {"target": "Regression", "time_law": {"target": "UniformTime"}}
    config.coupling = {"target": "MinibatchOT"}
    config.sampling.sampler = {"target": "Euler", "variable": {"target": "T"}}
    config.sampling.grid = {"target": "UniformTime", "num_steps": 100}
