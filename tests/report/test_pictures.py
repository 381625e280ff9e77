"""What is drawn, read back from the figures: the pixels of the grids, the curves of the panels."""

import matplotlib.image
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.paths import EDM, LinearFlow
from score_lab.report import draw_film, draw_samples, save_film, save_loss, save_overview, save_samples, save_scatter
from score_lab.report.samples import tile, to_rgb
from score_lab.report.style import figure
from score_lab.samplers import StateRecord


def images(n, c=1, value=0.0):
    return np.full((n, 8, 8, c), value, np.float32)


def size(file):
    return matplotlib.image.imread(file).shape


def test_values_are_clipped_greyed_and_red_where_broken():
    x = images(3)
    x[0, 0, 0], x[1, 0, 0], x[2, 0, 0] = -7.0, 1.0, np.nan
    rgb = to_rgb(x)
    assert rgb.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(rgb[:, 0, 0], [[0, 0, 0], [1, 1, 1], [0.84, 0.19, 0.15]])
    np.testing.assert_allclose(rgb[0, 1, 1], 0.5)
    with pytest.raises(ConfigError, match="1 or 3"):
        to_rgb(images(2, c=2))


def test_tiles_stand_where_they_should():
    canvas = tile(np.arange(6.0).reshape(2, 3, 1, 1, 1) * np.ones((2, 3, 4, 5, 3)), gap=2)
    assert canvas.shape == (2 * 4 + 2, 3 * 5 + 4, 3)
    assert canvas[0, 0, 0] == 0 and canvas[0, 7, 0] == 1 and canvas[6, 14, 0] == 5
    assert canvas[4, 0, 0] == 1 and canvas[0, 5, 0] == 1  # white gaps


def test_rows_are_classes_with_their_labels_and_blanks_where_there_are_fewer():
    x, labels = images(5), np.array([3, 1, 3, 3, 1])
    x += np.linspace(-0.8, 0.8, 5)[:, None, None, None].astype(np.float32)
    ax = figure(2, 2).subplots()
    draw_samples(ax, x, labels, columns=3)
    shown = np.asarray(ax.images[0].get_array())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "3"]
    want = 0.5 + 0.5 * np.linspace(-0.8, 0.8, 5)
    np.testing.assert_allclose(shown[0, [0, 9, 18], 0], [want[1], want[4], 1.0], atol=1e-6)  # the third of class 1 is blank
    np.testing.assert_allclose(shown[9, [0, 9, 18], 0], want[[0, 2, 3]], atol=1e-6)
    with pytest.raises(ConfigError, match="one label for each"):
        draw_samples(ax, x, labels[:3])


@pytest.mark.parametrize(
    ("n", "labels", "rows", "columns", "names"),
    [(20, np.arange(20) % 10, 5, 4, ["0, 1", "2, 3", "4, 5", "6, 7", "8, 9"]), (64, np.arange(64), 8, 8, ["0 ... 7", "8 ... 15"]),
     (10, np.arange(10), 4, 3, ["0, 1, 2", "3, 4, 5", "6, 7, 8", "9"]), (100, np.arange(100) % 10, 10, 10, list("0123456789")),
     (20, None, 4, 5, []), (64, None, 8, 8, []), (1000, None, 10, 10, []), (3, None, 2, 2, []), (1, None, 1, 1, [])],
)  # fmt: skip
def test_few_samples_fill_a_picture_that_is_nearly_square(n, labels, rows, columns, names):
    """Several classes in a row, in the order of its name; every sample is shown, up to ten by ten."""
    ax = figure(2, 2).subplots()
    x = images(n) + np.linspace(-0.9, 0.9, n)[:, None, None, None].astype(np.float32)
    draw_samples(ax, x, labels)
    shown = np.asarray(ax.images[0].get_array())[..., 0]
    assert shown.shape == (9 * rows - 1, 9 * columns - 1)
    assert [t.get_text() for t in ax.get_yticklabels()][: len(names)] == names or names == []
    values = shown[::9, ::9].ravel()
    order = np.arange(n) if labels is None else np.argsort(labels, kind="stable")
    want = 0.5 + 0.5 * np.linspace(-0.9, 0.9, n)[order][:100]
    np.testing.assert_allclose(values[: len(want)], want, atol=1e-6)
    assert (values[len(want) :] == 1.0).all()


def test_panels_with_and_without_labels(tmp_path):
    file = save_samples(tmp_path / "new" / "a.png", {"LinearFlow": images(20), "data": images(4, c=3)}, title="x")
    other = save_samples(tmp_path / "b.png", {"p": images(4)}, {"p": np.arange(4)})
    assert size(file)[1] > size(other)[1]


def film(path, kappa=(4.0, 1.0, 0.25)):
    """Two trajectories, three calls of which the second was skipped; states of norm 1 and -1 before scaling, predictions 1/2."""
    t = np.asarray(path.time_of_kappa(np.array(kappa, np.float32)))
    norm = np.asarray(path.norm(t))[:, None, None, None, None]
    x_t = norm * np.array([1.0, -1.0])[None, :, None, None, None] * np.ones((3, 2, 4, 4, 1))
    return record_of(t, x_t, 0.5 * np.ones((3, 2, 4, 4, 1)), np.array([True, False, True]))


def record_of(t, x_t, x0, made):
    """Steps of one call."""
    return StateRecord(*(v[:, None] for v in (x_t, x0, t, t, t, made)))


@pytest.mark.parametrize("path", [EDM(), LinearFlow()], ids=["EDM", "LinearFlow"])
def test_film_scales_the_states_and_leaves_skipped_calls_out(path):
    ax = figure(3, 3).subplots()
    draw_film(ax, film(path), path, np.zeros((2, 4, 4, 1)), samples=5)
    shown = np.asarray(ax.images[0].get_array())[..., 0]
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names[-1] == "sample" and len(names) == 3
    np.testing.assert_allclose([float(v.replace("−", "-")) for v in names[:2]], -2 * np.log([4.0, 0.25]), atol=0.06)
    second = 2 * 5 + 2
    rows = shown[[0, 5, second, second + 5]]
    np.testing.assert_allclose(rows[:, [0, 5]], np.array([[1], [0.75], [0], [0.75]]) * np.ones((1, 2)), atol=1e-5)
    assert shown[3, -1] == 0.5  # the finished sample
    assert len(ax.get_yticklabels()) == 4


def test_a_film_needs_images_and_the_overview_holds_one(tmp_path):
    with pytest.raises(ConfigError, match="images"):
        points = np.ones((2, 3, 2))
        save_film(tmp_path / "x.png", record_of(np.ones(2), points, points, np.ones(2, bool)), EDM())
    one = save_film(tmp_path / "film.png", film(EDM()), EDM(), title="noise to data")
    both = save_overview(tmp_path / "o.png", {"a": images(4), "b": images(4)}, np.arange(4), film(EDM()), EDM(), samples=2)
    assert size(both)[0] > size(one)[0]


def test_the_same_picture_is_the_same_bytes(tmp_path):
    a, b = (save_samples(tmp_path / name, {"p": images(3)}).read_bytes() for name in ("a.png", "b.png"))
    assert a == b


def test_loss_needs_a_loss_and_takes_either(tmp_path):
    save_loss(tmp_path / "a.png", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, "eval/loss": 0.7}])
    save_loss(tmp_path / "b.png", [{"step": 1, "eval/loss": 1.0}])
    with pytest.raises(ConfigError, match="positive loss"):
        save_loss(tmp_path / "c.png", [{"step": 1, "loss": float("nan")}])
    assert not (tmp_path / "c.png").exists()


def test_scatter_counts_what_is_not_finite(tmp_path):
    points = np.random.default_rng(0).standard_normal((50, 2))
    points[3] = np.nan
    assert size(save_scatter(tmp_path / "s.png", {"1 step": points, "4 steps": points[4:]}, points[4:], "moons"))[1] > 300
    with pytest.raises(ConfigError, match=r"points \(n, 2\)"):
        save_scatter(tmp_path / "t.png", {"a": np.zeros((4, 3))})
