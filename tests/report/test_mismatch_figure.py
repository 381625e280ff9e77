"""The mismatch figure: the curves are the readings, and there is none where there is no number."""

import matplotlib.figure
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.mismatch import DataMoments, Look, forward_record, read
from score_lab.paths import EDM, VP, LinearFlow
from score_lab.report import save_mismatch

D = 16


@pytest.fixture
def drawn(monkeypatch):
    """Figures are kept as they are saved."""
    kept, plain = [], matplotlib.figure.Figure.savefig
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), plain(self, *a, **k))[1])
    return kept


def look(path, t, s2=1.0, seed=0, scale=1.2):
    m = DataMoments.isotropic(s2, (D,))
    x = np.sqrt(s2) * np.random.default_rng(seed).standard_normal((800, D))
    null = read(forward_record(x, path, t, m, 400, seed=seed), path, m)
    return Look(read(forward_record(scale * x, path, t, m, 400, seed=seed + 1), path, m), null)


def curves(ax):
    return [line.get_xydata() for line in ax.lines if line.get_marker() == "."]


def test_curves_are_the_readings(tmp_path, drawn):
    t = np.array([0.5, 0.1, 0.02, 0.01, 0.0001])
    looks = {"DDIM 5": look(EDM(), t), "Heun 9": look(EDM(), t, seed=3, scale=0.8)}
    file = save_mismatch(tmp_path / "m.png", looks, path="EDM")
    ratio, level, difference = drawn[0].axes
    for k, found in enumerate(looks.values()):
        r, ok = found.sampler, found.sampler.flag == "ok"
        assert 0 < ok.sum() < len(ok)
        np.testing.assert_allclose(curves(ratio)[k], np.stack([r.log_snr, r.ratio], axis=1))
        np.testing.assert_allclose(curves(level)[k], np.stack([r.log_snr[ok], r.effective[ok]], axis=1))
        np.testing.assert_allclose(curves(difference)[k], np.stack([r.log_snr[ok], (r.effective - r.log_snr)[ok]], axis=1))
    assert file.stat().st_size > 10_000
    assert "EDM" in drawn[0].get_suptitle()
    assert [t.get_text() for t in drawn[0].legends[0].get_texts()] == ["noised data (no mismatch)", "DDIM 5", "Heun 9"]
    assert "400 trajectories" in drawn[0].legends[0].get_title().get_text()


def test_a_steps_trial_states_are_circles_off_the_curve(tmp_path, drawn):
    """Heun sees the level of its corrector again as the first call of the next step: the curve runs through the accepted states."""
    t = np.array([0.5, 0.1, 0.1, 0.05])
    found = look(EDM(), t)
    save_mismatch(tmp_path / "m.png", {"Heun": found})
    ax = drawn[0].axes[0]
    np.testing.assert_allclose(curves(ax)[0][:, 1], found.sampler.ratio[[0, 2, 3]])
    circles = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(circles[0], [[found.sampler.log_snr[1], found.sampler.ratio[1]]])
    assert "circles" in drawn[0].legends[0].get_title().get_text()


def test_a_path_that_tells_no_level_says_so(tmp_path, drawn):
    save_mismatch(tmp_path / "m.png", {"DDIM": look(VP(), np.array([0.9, 0.5, 0.1]))})
    ratio, level, difference = drawn[0].axes
    assert len(curves(ratio)) == 1 and not curves(level) and not curves(difference)
    assert "no level" in level.texts[0].get_text() and "no level" in difference.texts[0].get_text()


def test_pure_noise_is_drawn_at_the_edge(tmp_path, drawn):
    found = look(LinearFlow(), np.array([1.0, 0.7, 0.6, 0.2]))
    assert found.sampler.log_snr[0] == -np.inf
    save_mismatch(tmp_path / "m.png", {"Euler": found})
    assert np.isfinite(curves(drawn[0].axes[0])[0]).all() and len(curves(drawn[0].axes[0])[0]) == 4


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="at least one run"):
        save_mismatch(tmp_path / "m.png", {})
