"""What experiments.decompose_mismatch takes apart.

python -m experiments.decompose_mismatch --workdir runs/digits                             # a trained network
python -m experiments.decompose_mismatch --config configs/decompose.py:gaussian            # bands of a 1/f spectrum, known error
python -m experiments.decompose_mismatch --config configs/decompose.py:mixture             # eight Gaussians, known error
"""

import numpy as np
from ml_collections import ConfigDict

from configs.ablate import MIXTURE
from score_lab.build import refuse

VARIANTS = ("digits", "gaussian", "mixture")


def get_config(variant: str = "digits") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/decompose.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.model = {"workdir": "runs/digits"}
    config.solvers = ("DDIM", "Heun")
    config.grid = "own"  # a workdir's own grid, or UniformLogSNR(end=8)
    config.path = "own"
    config.guidance = 1.0
    config.nfe = (10,)
    config.n = 512
    config.most = 128  # steps of the finest run, from which the limit of many steps is extrapolated
    config.seed = 0
    config.chunk = 128
    config.basis = ""  # dct of images, pca of points
    config.replicates = 200
    config.output = ""
    if variant == "gaussian":
        std = (np.maximum(np.hypot(*np.mgrid[:8, :8]), 1.0) ** -1.0).reshape(8, 8, 1)
        bands = {"target": "GaussianBands", "mean": np.zeros((8, 8, 1)).tolist(), "std": std.tolist()}
        config.model = {"denoiser": bands | {"basis": {"target": "DCT", "axes": (1, 2)}}, "path": {"target": "VP"}}
    elif variant == "mixture":
        config.model = {"denoiser": MIXTURE, "path": {"target": "VP"}}
    if variant != "digits":
        config.model.wrong = {"eta": 0.05, "tau": 0.1}  # gain 1.05 about the mean, noise of deviation 0.1
        config.grid = "UniformLogSNR(end=6)"
        config.output = f"runs/decompose-{variant}"
    return config
