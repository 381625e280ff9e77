"""The digits' flow trained with each correction that is made in training, and without: one network, data and budget; VARIANTS by name.

python -m experiments.train --config configs/corrected.py:plain        --workdir runs/plain-0         # what they are compared with
python -m experiments.train --config configs/corrected.py:perturbed    --workdir runs/perturbed-0     # input perturbation, gamma = 0.1
python -m experiments.train --config configs/corrected.py:velocity     --workdir runs/velocity-0      # plain, of MixFlow's target
python -m experiments.train --config configs/corrected.py:mixflow      --workdir runs/mixflow-0       # slowed interpolation
python -m experiments.train --config configs/corrected.py:self_forced  --workdir runs/self_forced-0   # rho: the metric target_gain
python -m experiments.train --config configs/corrected.py:blind        --workdir runs/blind-0         # noise labels dropped
python -m experiments.train --config configs/corrected.py:plain --workdir runs/plain-1 --config.seed=1 --config.training.steps=600
python -m experiments.compare_corrections --workdir runs/plain-0 --trained 'input perturbation=runs/perturbed-0; MixFlow=runs/mixflow-0'
"""

from ml_collections import ConfigDict

from configs import digits
from score_lab.build import refuse

VARIANTS = ("plain", "perturbed", "velocity", "mixflow", "self_forced", "blind")
"""``velocity`` is no correction: MixFlow is defined for the target Velocity alone, and is to be held against the same target without."""


def get_config(variant: str = "plain") -> ConfigDict:
    """``configs/digits.py:flow`` with the objective of one of VARIANTS, every other field as it is there."""
    if variant not in VARIANTS:
        refuse("configs/corrected.py", variant, f"the variants {', '.join(VARIANTS)}", VARIANTS)
    config = digits.get_config("flow")
    plain = config.objective.to_dict()
    if variant == "perturbed":
        config.objective = plain | {"target": "InputPerturbation", "gamma": 0.1}
    elif variant == "self_forced":
        config.objective = plain | {"target": "SelfForcing", "rate": 0.5, "length": 0.05}
    elif variant == "blind":
        config.objective = {"target": "NoiseLabelDropout", "rate": 0.1, "objective": plain}
    elif variant in ("velocity", "mixflow"):
        config.target = {"target": "Velocity"}
    if variant == "mixflow":
        law = {"target": "BetaTime", "a": 2.0}
        config.objective = plain | {"target": "MixFlow", "slowing": 0.8, "time_law": law}
    return config
