"""The roofline is drawn, with the batch at which a series turns compute-bound, and refused where nothing can be drawn."""

import pytest

from score_lab.build import ConfigError
from score_lab.cost import Measured, Peaks
from score_lab.report import roofline

PEAKS = Peaks(flops=1e12, bandwidth=1e11, dtype="float32", devices=1)


def points(*intensities):
    return [Measured("x", 4**k, 1.0, 1e11, 1e11 / i, PEAKS) for k, i in enumerate(intensities)]


def test_a_picture_and_its_turning_point(tmp_path, monkeypatch):
    """Intensity 5 at batch 1 and 20 at 4 reach the ridge of 10 at a batch of 2."""
    assert roofline._label("sampling", points(5.0, 20.0)) == "sampling: compute-bound from a batch of about 2, 10 to 20 % of the roof"
    assert roofline._label("sampling", points(1.0, 2.0)) == "sampling: 50 to 100 % of the roof"
    assert roofline._label("sampling", points(float("nan"))) == "sampling"
    drawn = []
    monkeypatch.setattr(roofline, "save", lambda fig, file: drawn.append(fig) or file)
    roofline.save_roofline(tmp_path / "x.png", {"sampling": points(5.0, 20.0), "training step": points(30.0)})
    (ax,) = drawn[0].axes
    said = ["sampling: compute-bound from a batch of about 2, 10 to 20 % of the roof", "training step: 10 % of the roof"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == said
    roof = ax.lines[0].get_ydata()
    assert roof.max() == pytest.approx(1000.0) and list(ax.lines[2].get_xdata()) == [5.0, 20.0] and ax.get_xscale() == "log"


@pytest.mark.parametrize("shown", [(5.0, 20.0), (20.0, 30.0, 40.0, 50.0), (0.01, 0.1)])
def test_the_words_of_the_ridge_are_inside_the_axes_above_the_roof(tmp_path, monkeypatch, shown):
    """Below the title and above the highest line, wherever the points lie."""
    drawn = []
    monkeypatch.setattr(roofline, "save", lambda fig, file: drawn.append(fig) or file)
    roofline.save_roofline(tmp_path / "x.png", {"sampling": points(*shown)}, "what bounds it, cpu")
    drawn[0].draw_without_rendering()
    (ax,) = drawn[0].axes
    (words,) = (text for text in ax.texts if text.get_text().startswith("ridge"))
    box, inside = words.get_window_extent(), ax.get_window_extent()
    roof = max(ax.transData.transform((1.0, y))[1] for line in ax.lines[:1] for y in line.get_ydata())
    assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and roof < box.y0 and box.y1 <= inside.y1


def test_a_file_is_written_and_points_of_unknown_intensity_are_left_out(tmp_path):
    file = roofline.save_roofline(tmp_path / "deep" / "x.png", {"sampling": points(5.0, float("nan"))})
    assert file.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="known intensity"):
        roofline.save_roofline(tmp_path / "y.png", {"sampling": points(float("nan"))})
