"""ImageNet at 64 x 64 with labels (TFDS imagenet_resized/64x64, array_record).  Meant for several accelerators.

    python -m experiments.train --config configs/imagenet64.py:adm --workdir runs/adm        # ADM U-Net, EDM's path, row and law
    python -m experiments.train --config configs/imagenet64.py:edm2 --workdir runs/edm2      # EDM2-S (Karras et al. 2024)
    python -m experiments.train --config configs/imagenet64.py:dit --workdir runs/dit        # DiT-B/4, linear flow, logit-normal times
    python -m experiments.train --config configs/imagenet64.py:cosine --workdir runs/cosine  # cosine path, v, sigmoid weighting

Data: `tfds build imagenet_resized/64x64 --file_format=array_record` once, on any machine with TensorFlow.
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("adm", "edm2", "dit", "cosine")


def get_config(variant: str = "adm") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/imagenet64.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.data = {
        "target": "TFDS",
        "name": "imagenet_resized/64x64",
        "train": "train",
        "test": "validation",
        "flip": True,
        "batch_size": 1024,
    }
    config.denoiser = {"sigma_data": 0.5}
    config.optimizer = {"name": "adamw", "learning_rate": 1e-4, "schedule": "constant", "warmup": 10_000, "clip": 1.0}
    config.training = {"steps": 1_000_000, "ema": (0.9999, 0.9995), "log_every": 100, "eval_every": 10_000, "mfu": True}
    config.training.update({"checkpoint_every": 10_000, "deterministic": True})
    config.network = {
        "target": "UNet", "width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention_at": (32, 16, 8), "head_width": 64,
        "dropout": 0.1, "num_classes": 1000, "dtype": "bfloat16",
    }  # fmt: skip
    config.sampling = {"sampler": {"target": "Heun"}, "grid": {"target": "Karras", "num_steps": 40}, "n": 64, "seed": 0}
    if variant == "adm":
        config.path = {"target": "EDM", "sigma_max": 80.0}
        config.target = {"target": "F"}
        config.objective = {
            "target": "Regression",
            "time_law": {"target": "LogNormalSigma", "P_mean": -1.2, "P_std": 1.2},
            "label_dropout": 0.1,
        }
        config.sampling.extrapolate = True  # the grid reaches sigma = 80, far outside the law's 99.9 %
    elif variant == "edm2":
        _edm2(config)
    elif variant == "dit":
        config.network = {"target": "DiT", "patch": 4, "width": 768, "depth": 12, "heads": 12, "num_classes": 1000, "dtype": "bfloat16"}
        config.path = {"target": "LinearFlow"}
        config.target = {"target": "Velocity"}
        config.objective = {"target": "Regression", "time_law": {"target": "LogitNormal"}, "label_dropout": 0.1}
        config.sampling.update(
            {"sampler": {"target": "Euler", "variable": {"target": "T"}}, "grid": {"target": "UniformTime", "num_steps": 50}, "clip": True}
        )
    elif variant == "cosine":
        config.path = {"target": "Cosine", "shift": 0.0}
        config.target = {"target": "V"}
        config.objective = {
            "target": "Regression", "time_law": {"target": "UniformTime"}, "weighting": {"target": "Sigmoid", "bias": 2.0},
            "per_log_snr": True, "label_dropout": 0.1,
        }  # fmt: skip
        config.sampling.update({"sampler": {"target": "DDIM"}, "grid": {"target": "UniformTime", "num_steps": 100}})
    return config


def _edm2(config: ConfigDict) -> None:
    """EDM2-S as released for this data: 2^30 images in batches of 2048, no weight decay, no clipping, label dropout or augmentation.

    The other sizes: width 128, 256, 320, 384 at rates 0.012, 0.009, 0.008, 0.007, from 256 on with dropout 0.1.  For 512 x 512 latents
    P_mean = -0.4, P_std = 1.0, decay_after = 70000 and twice the steps.
    """
    config.data.update({"batch_size": 2048, "flip": False})
    config.path = {"target": "EDM", "sigma_max": 80.0}
    config.target = {"target": "F"}
    config.network = {
        "target": "EDM2", "width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention_at": (16, 8), "head_width": 64,
        "dropout": 0.0, "num_classes": 1000, "dtype": "bfloat16",
    }  # fmt: skip
    law = {"target": "LogNormalSigma", "P_mean": -0.8, "P_std": 1.6}
    config.objective = {"target": "LearnedWeighting", "objective": {"target": "Regression", "time_law": law}}
    config.optimizer = {
        "name": "adam", "learning_rate": 1e-2, "b2": 0.99, "schedule": "inverse_sqrt", "warmup": 10_000_000 // 2048, "decay_after": 35_000,
    }  # fmt: skip
    config.training.update({"steps": 2**30 // 2048, "ema": (), "profiles": (0.05, 0.1), "nonfinite": "skip"})
    config.sampling.grid = {"target": "Karras", "num_steps": 32}
    config.sampling.extrapolate = True  # the grid reaches sigma = 0.002 and 80, just outside the law's 99.8 %
