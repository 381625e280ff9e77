"""One's own data: a folder of pictures, or the arrays of an .npz.  The path is not known here and must be given.

python -m experiments.train --config configs/own.py:folder --workdir runs/own --config.data.path=PICTURES      # .png, .jpg, ... below it
python -m experiments.train --config configs/own.py:npz --workdir runs/own --config.data.path=ARRAYS.npz       # images (n, h, w, c) in "x"

Pictures of K classes lie in K subfolders; arrays have labels 0 .. K - 1 in "label".  The network takes them with
--config.network.num_classes=K --config.objective.label_dropout=0.1, and is unconditional without.  A tenth is held out.
Pictures are brought to 32 x 32 (--config.data.size=64, --config.data.channels=1 for grey ones).  Arrays with sides that 2 does not
divide: --config.network.patch=1; points (n, d): --config.network='MLP(width=128,depth=3)'.
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("folder", "npz")


def get_config(variant: str = "folder") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/own.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.path = {"target": "LinearFlow"}
    config.target = {"target": "F"}
    config.objective = {"target": "Regression", "time_law": {"target": "UniformTime"}, "label_dropout": 0.0}
    config.denoiser = {"sigma_data": "data"}
    config.optimizer = {"name": "adam", "learning_rate": 5e-4, "schedule": "cosine", "warmup": 500, "clip": 1.0}
    config.training = {"steps": 20_000, "ema": (0.999,), "log_every": 50, "eval_every": 1000, "checkpoint_every": 1000}
    config.training.deterministic = True
    config.sampling = {
        "sampler": {"target": "Heun", "variable": {"target": "T"}},
        "grid": {"target": "UniformLogSNR", "num_steps": 25, "end": 8.0},
        "n": 64,
        "seed": 0,
    }
    if variant == "folder":
        config.data = {"target": "Folder", "path": "", "size": 32, "channels": 3, "flip": True, "batch_size": 64}
        config.network = {"target": "DiT", "patch": 4, "width": 256, "depth": 6, "heads": 4, "num_classes": 0}
    elif variant == "npz":
        config.data = {"target": "NPZ", "path": "", "flip": False, "batch_size": 64}
        config.network = {"target": "DiT", "patch": 2, "width": 128, "depth": 4, "heads": 4, "num_classes": 0}
    return config
