"""The pictures of an ablation, read back: what is drawn, what is left out, that the same noise stands in one column."""

import matplotlib.image
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.evaluation import Estimate
from score_lab.report import save_quality, save_same_noise


def line(*values):
    return [(n, Estimate(v, 0.9 * v, 1.1 * v, 50)) for n, v in zip((5, 10, 20), values, strict=True)]


def test_quality_draws_every_column_and_survives_solvers_far_off(tmp_path):
    """NaN is left out, 1e6 does not stretch the axis, a column around 0 has an axis, as many lines as there are solvers."""
    solvers = {f"solver {k}": line(1.0 + k, 0.5, 0.3) for k in range(12)} | {"far": line(1e6, 1e3, 0.4), "lost": line(np.nan, np.nan, 1.0)}
    panels = {"Frechet distance": solvers, "KID": {"a": line(0.01, -0.002, 0.0), "b": line(0.0, 0.0, 0.0)}}
    panels["agreement"] = {"a": line(0.2, 0.5, 1.0)}
    file = save_quality(
        tmp_path / "q.png", panels, {"Frechet distance": {"floor": 0.2}}, log_y=["Frechet distance", "KID"], ticks=(5, 10, 20), title="t"
    )
    picture = matplotlib.image.imread(file)
    assert picture.shape[1] > 1000 and picture.shape[0] > 900 and (picture[..., :3].min(axis=2) < 0.9).mean() > 0.01
    alone = save_quality(tmp_path / "one.png", {"agreement": {"a": line(0.2, 0.5, 1.0)}})
    assert matplotlib.image.imread(alone).shape[1] < picture.shape[1]
    with pytest.raises(ConfigError, match="at least one column"):
        save_quality(tmp_path / "none.png", {})


def test_what_diverged_is_a_cross_that_the_axis_does_not_follow(tmp_path):
    """The same panel with and without a diverged solver: the lines stand where they stood."""
    panels = {"Frechet distance": {"a": line(1.0, 0.5, 0.3), "b": line(2.0, 0.7, 0.35)}}
    off = {"Frechet distance": [("EulerMaruyama(increment=exact)", 5)]}
    axes = []
    for k, crosses in enumerate(({}, off)):
        drawn = save_quality(tmp_path / f"{k}.png", panels, log_y=["Frechet distance"], off=crosses)
        axes.append(matplotlib.image.imread(drawn)[..., :3])
    violet = [(np.abs(picture - [0x6F / 255, 0x4F / 255, 0xA0 / 255]).max(axis=2) < 0.1).sum() for picture in axes]
    green = [(np.abs(picture - [0, 0x9E / 255, 0x73 / 255]).max(axis=2) < 0.1) for picture in axes]
    assert violet == [0, 0] and not green[0].any() and green[1][: len(green[1]) // 8].any()  # the third colour, at the upper edge
    blue = [np.flatnonzero((np.abs(p - [0, 0x72 / 255, 0xB2 / 255]).max(axis=2) < 0.1).any(axis=1)) for p in axes]
    assert abs(blue[0].min() - blue[1].min()) < 25


def test_a_line_has_its_band(tmp_path):
    """Pale pixels of the line's own colour around it, from the intervals' low ends to the high ones: wider intervals, more of them."""
    counts = []
    for width in (0.0, 0.1, 0.3):
        values = [(n, Estimate(v, (1 - width) * v, (1 + width) * v, 50)) for n, v in zip((5, 10, 20), (1.0, 0.8, 0.6), strict=True)]
        picture = matplotlib.image.imread(save_quality(tmp_path / f"{width}.png", {"agreement": {"a": values}}))[..., :3]
        pale = 0.15 * np.array([0, 0x72, 0xB2]) / 255 + 0.85  # the first colour at a share of 0.15 on white
        counts.append((np.abs(picture - pale).max(axis=2) < 0.03).mean())
    assert counts[0] < 0.01 < 0.05 < counts[1] and 1.2 * counts[1] < counts[2], counts


def test_no_name_is_cut(tmp_path):
    """A name of 60 letters beside pictures: paper on the left of it."""
    shades = np.zeros((3, 8, 8, 1))
    picture = matplotlib.image.imread(save_same_noise(tmp_path / "n.png", {"M" * 60: shades, "b": shades}))[..., 0]
    dark = np.flatnonzero((picture < 0.4).any(axis=0))
    assert dark.min() >= 8 and len(dark) > 400


def test_the_same_noise_stands_in_one_column(tmp_path):
    """Two rows of 3 pictures: black, grey, white in this order in both."""
    shades = np.array([-1.0, 0.0, 1.0])[:, None, None, None] * np.ones((3, 8, 8, 1))
    file = save_same_noise(tmp_path / "n.png", {"first": shades, "second": shades}, columns=8)
    picture = matplotlib.image.imread(file)[..., 0]
    dark = np.flatnonzero((picture < 0.05).mean(axis=0) > 0.7)  # columns of the black pictures
    grey = np.flatnonzero((abs(picture - 0.5) < 0.05).mean(axis=0) > 0.7)
    assert len(dark) and len(grey) and dark.max() < grey.min()
    with pytest.raises(ConfigError, match="at least one row"):
        save_same_noise(tmp_path / "none.png", {})
