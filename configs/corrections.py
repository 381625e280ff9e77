"""What experiments.compare_corrections compares.

python -m experiments.compare_corrections --workdir runs/digits                                  # all corrections from the spectrum alone
python -m experiments.compare_corrections --workdir runs/digits,runs/digits-1,runs/digits-2      # training seeds of one method: pooled
python -m experiments.compare_corrections --workdir runs/digits --calibrate measured --corrections 'angle step, forward; DCW; pkg.mod:Mine'
python -m experiments.compare_corrections --config configs/corrections.py:mixture                # exact: no network, the truth is known
python -m experiments.compare_corrections --config configs/corrections.py:bands                  # Gaussian bands: a check, trivial
"""

from ml_collections import ConfigDict

from configs.ablate import GRID, MIXTURE
from score_lab.build import refuse

VARIANTS = ("digits", "mixture", "bands")


def get_config(variant: str = "digits") -> ConfigDict:
    """The configuration of one of VARIANTS."""
    if variant not in VARIANTS:
        refuse("configs/corrections.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = ConfigDict()
    config.models = {"digits": {"workdir": "runs/digits"}}
    config.solvers = ("DDIM", "DDIM(eta=1)", "EulerMaruyama")
    config.grids = (GRID,)
    config.corrections = ("all",)
    config.calibrate = "gaussian"
    config.probe = {"low": -6.0, "high": 6.0, "members": 3, "steps": 1500, "batch": 256}  # of noise level correction
    config.nfe = (5, 10, 20)
    config.seeds = (0, 1, 2, 3, 4)
    config.n = 1000
    config.chunk = 250
    config.reference_steps = 96
    config.output = ""
    if variant == "mixture":
        config.models = {"mixture": {"denoiser": MIXTURE, "path": {"target": "VP"}}}
        config.output = "runs/corrections-mixture"
    elif variant == "bands":
        bands = {"target": "GaussianBands", "mean": (0.5, 0.0, 0.0, 0.0), "std": (2.0, 1.0, 0.4, 0.1)}
        config.models = {"bands": {"denoiser": bands, "path": {"target": "VP"}}}
        config.output = "runs/corrections-bands"
    return config
