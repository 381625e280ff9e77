"""What experiments.ablate_samplers compares.

python -m experiments.ablate_samplers --workdir runs/digits                                   # these solvers on your model
python -m experiments.ablate_samplers --workdir runs/digits --solvers 'DDIM, Heun, my_package.my_module:Mine' --nfe 5,10 --seeds 0,1
python -m experiments.ablate_samplers --config configs/ablate.py:digits                       # runs/digits, what `make ablate` runs
python -m experiments.ablate_samplers --config configs/ablate.py:mixture                      # exact: no network, the truth is known
python -m experiments.ablate_samplers --config configs/ablate.py:noise --workdir runs/digits  # how much noise: eta and churn
python -m experiments.ablate_samplers --config configs/ablate.py:guidance --workdir runs/digits
"""

from ml_collections import ConfigDict

from score_lab.build import refuse

VARIANTS = ("digits", "mixture", "noise", "guidance")

SOLVERS = (
    "DDIM", "Heun(variable=T)",  # one-step
    "DPMSolverSinglestep",  # exponential
    "DPMSolverPP2M", "UniPC", "deis", "AdamsBashforth",  # multistep
    "DDIM(eta=1)", "DPMPP2SAncestral", "EulerMaruyama(increment=exact)", "ERSDE", "SASolver",  # stochastic
    "Dopri5",  # adaptive: its tolerance is chosen for the budget, as far down as it has one
)  # fmt: skip
GRID = "UniformLogSNR(end=8)"
"""One grid for all: the same levels, so that solvers differ and nothing else."""
MIXTURE = {
    "target": "GaussianMixture",
    "weights": (0.1, 0.2, 0.1, 0.05, 0.15, 0.2, 0.1, 0.1),
    "means": ((2, 0), (1.4, 1.4), (0, 2), (-1.4, 1.4), (-2, 0), (-1.4, -1.4), (0, -2), (1.4, -1.4)),
    "variances": (0.02, 0.05, 0.02, 0.1, 0.02, 0.05, 0.02, 0.01),
}
"""Eight Gaussians of unequal weight and width around a circle."""


def get_config(variant: str = "digits") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/ablate.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.models = {"digits": {"workdir": "runs/digits"}}
    config.solvers = SOLVERS
    config.grids = (GRID,)
    config.paths = ("own",)
    config.guidance = (1.0,)
    config.vary = {"solver": {}, "grid": {}}
    config.nfe = (5, 10, 20, 35, 50)
    config.seeds = (0, 1, 2)
    config.n = 1000
    config.output = ""
    if variant == "mixture":
        config.models = {"mixture": {"denoiser": MIXTURE, "path": {"target": "VP"}}}
        config.output = "runs/ablate-mixture"
    elif variant == "noise":
        config.solvers = ("DDIM", "EulerMaruyama(increment=exact)", "Heun")
        config.grids = (GRID, "Churn(grid=UniformLogSNR(end=8), s_churn=0)")
        config.vary = {"solver": {"eta": (0.0, 0.25, 0.5, 1.0), "multiplier": (0.5, 1.0)}, "grid": {"s_churn": (5.0, 20.0)}}
        config.nfe = (10, 20, 50)
    elif variant == "guidance":
        config.solvers = ("DDIM", "DPMSolverPP2M", "Heun", "EulerMaruyama(increment=exact)")
        config.guidance = (1.0, 1.5, 3.0)
        config.nfe = (10, 20, 50)
    return config
