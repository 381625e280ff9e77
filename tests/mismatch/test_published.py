"""A11: the figures P1, P3 and P4 of the two papers by one command, with an exact denoiser, whose network makes no error at all.

Two modes, +-1 with standard deviation 0.1, Euler in sigma.  The shapes are known: below the scale between the modes the sampling curve lies
above the training curve and comes down to it with the number of steps (an independent program's ratios: 2.124, 1.405 at 11, 21 steps, see
test_estimators_mixture.py); above that scale it lies below; under one label the norm rises with the noise of the states.
"""

import csv

import numpy as np
import pytest
from test_launchers import run

RATIO = {"11": 2.124, "21": 1.405}
"""E ||eps||^2 in sampling over that of forward states, at the node nearest sigma = 0.15."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """calls.csv and the folder of the one command."""
    import score_lab.report.mismatch.page as page

    folder = tmp_path_factory.mktemp("published") / "out"
    words = ("--config=configs/mismatch.py:bimodal", "--read_outs=P1,P3,P4", "--estimators=")
    words = (*words, "--n=16384", "--chunk=4096", "--replicates=60", f"--output={folder}")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("save_found", "save_effective", "save_log_ratios", "save_layers", "save_read_outs"):  # as_drawn is drawn
            patch.setattr(page, name, lambda file, *_: (file.write_bytes(b"\x89PNG"), file)[1])
        assert run("snr_mismatch", *words) == 0
    with open(folder / "calls.csv", newline="") as file:
        return list(csv.DictReader(file)), folder


def column(rows, quantity, steps, *names):
    mine = [r for r in rows if r["quantity"].startswith(quantity) and r["run"].endswith(f"{steps} NFE")]
    found = [np.array([float(r[n] or "nan") for r in mine]) for n in ("log_snr", *names)]
    keep = np.isfinite(found[0])
    return [v[keep] for v in found]


def test_a11_p4_and_p1_are_larger_in_sampling_below_the_scale_between_the_modes_and_smaller_above(drawn):
    rows, _ = drawn
    excesses = []
    for steps, ratio in RATIO.items():
        level, value, low, high, null, excess, below, above = column(
            rows, "P4: squared norm of the predicted noise", steps, "value", "low", "high", "null", "excess", "excess_low", "excess_high"
        )
        sigma = np.exp(-0.5 * level)
        k = int(np.argmin(np.abs(np.log(sigma / 0.15))))
        assert low[k] / null[k] < ratio * 1.05 and ratio * 0.95 < high[k] / null[k]  # the null is of 16384 forward samples
        assert below[k] > 0 and excess[k] == pytest.approx(value[k] - null[k])
        excesses.append(excess[k])
        high_noise = (sigma > 1.2) & (sigma < 5)
        assert high_noise.any() and (value[high_noise] < null[high_noise]).all()
        assert steps != "11" or (above[high_noise] < 0).any()  # at 21 steps the deficit is below what 16384 tell
        norm, p1, p1_null, p1_low = column(rows, "P1", steps, "value", "null", "excess_low")
        np.testing.assert_allclose(norm, level)
        assert p1_low[k] > 0 and p1[k] > p1_null[k]
        assert (p1**2 < value).all()  # the mean of norms is below the root of the mean square
    assert 0 < excesses[1] < 0.5 * excesses[0]  # what more steps take away: discretisation, as the denoiser is exact
    level, image, null = column(rows, "P4: squared norm of the predicted image", "11", "value", "null")
    assert (np.diff(null[np.argsort(level)]) > 0).all() and null.max() == pytest.approx(1.01, abs=0.03)
    assert (image < null + 0.03).all()  # Euler's states have lost variance, and so has what is predicted of them


def test_a11_p3_rises_with_the_noise_of_the_states_and_its_null_is_the_value_at_the_label(drawn):
    rows, _ = drawn
    for steps in RATIO:
        for label in (-2.0, 2.0):
            which = f"P3: squared norm of the predicted noise under the label of log-SNR {label:g}"
            level, value, low, high, null = column(rows, which, steps, "value", "low", "high", "null")
            assert len(set(null)) == 1 and null[0] > 0.1  # one number, and not 0
            order = np.argsort(level)
            rise = np.diff(value[order])
            assert (rise[level[order][1:] < label] < 0).all() and (rise < 1e-3 * value.min()).all()  # noisier states, larger norm
            less, more = level > label, level < label
            assert (high[less][-3:] < null[0]).all() and (low[more][:3] > null[0]).all()  # less its null the read-out changes sign
            noisier, cleaner = value[more][np.argmax(level[more])], value[less][np.argmin(level[less])]
            assert 0.98 * cleaner < null[0] < 1.02 * noisier  # between the calls around the label


def test_a11_the_page_has_the_figures(drawn):
    _, folder = drawn
    assert (folder / "as_drawn.png").read_bytes()[:4] == b"\x89PNG" and (folder / "as_drawn.png").stat().st_size > 30_000
    text = (folder / "report.html").read_text()
    assert "the same as the papers draw it, against time" in text and "--read_outs=P1,P3,P4" in text
