"""What a study's runs say together, in sentences, and what cannot be concluded from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from score_lab.mismatch.study.measuring import Measured
from score_lab.mismatch.study.words import disagreements, ratio_words, sign_of

__all__ = ["cannot", "compared", "several_models"]


def compared(runs: Sequence[Measured]) -> list[str]:
    """Where estimators disagree, first; then which runs lose variance and which have too much at their last call, all together."""
    groups: dict[int, list[str]] = {-1: [], 1: [], 0: [], 2: []}
    for m in runs:
        ok = m.total.excess.flag[m.last] == "ok"
        name = m.subject.name + (f" ({ratio_words(float(np.exp(m.total.run.value[m.last])))})" if ok else "")
        groups[int(sign_of(m.total.excess)[m.last]) if ok else 2].append(name)
    words = {-1: "Lose variance", 1: "Have too much variance", 0: "Cannot be told from no mismatch in total", 2: "Cannot be read"}
    lines = [f"{words[s]} (R at the last call): {', '.join(names)}." for s, names in groups.items() if names]
    apart = [m.subject.name for m in runs if disagreements(m)]
    if apart:
        lines.insert(0, f"Estimators disagree in sign, so that no one effective level stands for the states: {', '.join(apart)}.")
    return lines


def cannot(runs: Sequence[Measured], trained: int) -> list[str]:
    """What cannot be concluded; ``trained`` the number of trained networks (0: exact denoisers)."""
    lines = []
    if trained == 1:
        lines.append(
            "One network was trained, with one seed: this is what its samplers do with this checkpoint. It says nothing of the method that "
            "trained it; for that, repeat it on several training seeds."
        )
    elif trained:
        lines.append(f"{trained} trained networks: their spread, run by run, is what a claim about how they were trained has to exceed.")
    else:
        lines.append("The denoiser is exact: whatever differs is the sampler's, its start's and its steps', and none of it a network's.")
    if all(len(m.seeds) < 2 for m in runs):
        lines.append("One seed of noise: intervals are over trajectories; --seeds 0,1,2 shows how far seeds differ.")
    if any(m.effective for m in runs):
        lines.append(
            "An effective level is a reading under an assumption: that the states are forward states of some other level. Where the share "
            "on the curve is small, or estimators disagree in sign, that assumption fails, and R by band is what was measured."
        )
    if any("denoiser residual" in m.effective for m in runs):
        lines.append(
            "The denoiser-residual level is in the network's own coordinates: it may have the sign that papers report for the norm of the "
            "predicted noise while the states hold less noise. It is no signal-to-noise ratio of the states."
        )
    lines.append("Ratios, levels and shares are of second moments (but for an exact mixture's likelihood): equal R is not equal quality.")
    if any(m.recorded.cycled for m in runs):
        lines.append(
            "There are fewer examples than trajectories: forward samples use examples again with other noise, so the null's interval "
            "leaves out some of what another data set of this size would change."
        )
    lines.append("Which cause (prior, steps, network, guidance) is not told here: experiments.decompose_mismatch takes them apart.")
    return lines


def several_models(runs: Sequence[Measured]) -> list[str]:
    """For runs of the same system on several trained networks: R at the last call of each."""
    groups: dict[str, list[Measured]] = {}
    for m in runs:
        groups.setdefault(", ".join(str(v) for name, v in m.subject.axes.items() if name != "model"), []).append(m)
    return [
        f"{name}: R at the last call is {', '.join(f'{np.exp(m.total.run.value[m.last]):.3f}' for m in same)} on the {len(same)} networks."
        for name, same in groups.items() if len(same) > 1
    ]  # fmt: skip
