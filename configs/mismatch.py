"""What experiments.snr_mismatch measures.

python -m experiments.snr_mismatch --workdir runs/digits                                  # these solvers on your model
python -m experiments.snr_mismatch --workdir runs/digits --solvers 'DDIM, DDIM(eta=1), Heun(variable=T)' --nfe 5,10,20,50 --n 2048
python -m experiments.snr_mismatch --config configs/mismatch.py:report --workdir runs/digits   # six solvers of five families, NFE 5 to 50
python -m experiments.snr_mismatch --config configs/mismatch.py:mixture                   # exact: no network, the error is the sampler's
python -m experiments.snr_mismatch --config configs/mismatch.py:bimodal                   # where estimators disagree in sign
python -m experiments.snr_mismatch --config configs/mismatch.py:gaussian                  # bands of a 1/f spectrum
"""

import numpy as np
from ml_collections import ConfigDict

from configs.ablate import GRID, MIXTURE
from score_lab.build import refuse

VARIANTS = ("digits", "report", "mixture", "bimodal", "gaussian")
BIMODAL = {"target": "GaussianMixture", "weights": (0.5, 0.5), "means": ((-1.0,), (1.0,)), "variances": (0.01, 0.01)}
"""Two modes at -1 and 1, standard deviation 0.1."""
ESTIMATORS = ("SpectralRegression", "TotalVariance", "DenoiserResidual", "MaximumLikelihood")


def get_config(variant: str = "digits") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/mismatch.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.models = {"digits": {"workdir": "runs/digits"}}
    config.solvers = ("DDIM", "DDIM(eta=1)", "Heun(variable=T)", "DPMSolverPP2M")
    config.grids = (GRID,)
    config.paths = ("own",)
    config.guidance = (1.0,)
    config.vary = {"solver": {}, "grid": {}}
    config.nfe = (10, 20)
    config.seeds = (0,)
    config.n = 1024
    config.chunk = 128
    config.estimators = ESTIMATORS
    config.basis = ""  # dct of images, pca of points
    config.read_outs = ("P1", "P4")
    config.measures = ()
    config.replicates = 200
    config.output = ""
    if variant == "report":  # the solvers that papers on the mismatch correct, and two that need no correction as urgently
        config.solvers = ("Euler(variable=T)", "DDIM", "DDPM", "Heun(variable=T)", "DPMSolverPP2M", "EulerMaruyama")
        config.nfe = (5, 10, 20, 50)
        config.n = 512
    elif variant == "mixture":
        config.models = {"mixture": {"denoiser": MIXTURE, "path": {"target": "VP"}}}
        config.estimators = (*ESTIMATORS, "MixtureLikelihood")
    elif variant == "bimodal":
        config.models = {"bimodal": {"denoiser": BIMODAL, "path": {"target": "EDM", "sigma_max": 20.0}}}
        config.solvers = ("Euler(variable=Kappa)",)
        config.grids = ("Karras(sigma_min=0.02, sigma_max=20)",)
        config.nfe = (11, 21)
        config.n = 4096
        config.chunk = 1024
        config.estimators = ("TotalVariance", "DenoiserResidual", "MixtureLikelihood")
    elif variant == "gaussian":
        std = (np.maximum(np.hypot(*np.mgrid[:8, :8]), 1.0) ** -1.0).reshape(8, 8, 1)
        bands = {"target": "GaussianBands", "mean": np.zeros((8, 8, 1)).tolist(), "std": std.tolist()}
        config.models = {"gaussian": {"denoiser": bands | {"basis": {"target": "DCT", "axes": (1, 2)}}, "path": {"target": "VP"}}}
    if variant not in ("digits", "report"):
        config.output = f"runs/mismatch-{variant}"
    return config
