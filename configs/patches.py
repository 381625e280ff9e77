"""8x8 grey patches of scikit-learn's two photographs, a spectrum near 1/f: two or three minutes on two CPU cores.

python -m experiments.train --config configs/patches.py:flow   --workdir runs/patches     # linear flow, EDM's F row
python -m experiments.train --config configs/patches.py:vp     --workdir runs/patches-vp  # VP, v-prediction
python -m experiments.train --config configs/patches.py:colour --workdir runs/colour      # 16x16, three channels; some minutes more
python -m experiments.train --config configs/patches.py:flow   --workdir runs/patches-1 --config.seed=1
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("flow", "vp", "colour")


def get_config(variant: str = "flow") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/patches.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.data = {"target": "Patches", "size": 8, "flip": True, "batch_size": 128}
    config.path = {"target": "LinearFlow"}
    config.target = {"target": "F"}
    config.network = {"target": "DiT", "patch": 4, "width": 128, "depth": 4, "heads": 4, "num_classes": 2}
    config.objective = {"target": "Regression", "time_law": {"target": "UniformTime"}, "label_dropout": 0.1}
    config.denoiser = {"sigma_data": "data"}
    config.optimizer = {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine", "warmup": 100, "clip": 1.0}
    config.training = {"steps": 2000, "ema": (0.995,), "log_every": 50, "eval_every": 1000, "checkpoint_every": 500, "deterministic": True}
    config.sampling = {
        "sampler": {"target": "Heun", "variable": {"target": "T"}},
        "grid": {"target": "UniformLogSNR", "num_steps": 25, "end": 8.0},
        "n": 100,
        "seed": 0,
    }
    if variant == "vp":
        config.path = {"target": "VP"}
        config.target = {"target": "V"}
        config.sampling.sampler = {"target": "DPMSolverPP2M"}
    elif variant == "colour":
        config.data.update({"size": 16, "colour": True})
    return config
