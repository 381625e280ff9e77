"""The pictures of the mismatch hold the numbers they are given: lines where there are numbers, gaps and ticks where there are none."""

import types
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from score_lab.build import ConfigError
from score_lab.evaluation import Estimate
from score_lab.mismatch import Decomposition, Layers
from score_lab.mismatch.cube import PARTS, Cube
from score_lab.mismatch.estimators import Effective
from score_lab.mismatch.readouts import ReadOut
from score_lab.mismatch.replicates import curve
from score_lab.mismatch.study import Measured
from score_lab.report import (
    Corrected,
    save_as_drawn,
    save_corrections,
    save_coverage,
    save_decomposition,
    save_effective,
    save_layers,
    save_log_ratios,
    save_read_outs,
)
from score_lab.report.mismatch.levels import Levels, far, groups
from score_lab.report.mismatch.page import together
from score_lab.report.style import COLOURS, GREY, INK

LEVEL = np.array([-np.inf, -2.0, 0.0, 0.0, 1.0, 3.0])
"""Of six calls: pure noise first, one level seen twice (a corrector's trial state, then the accepted one)."""
ONCE = [0, 1, 3, 4, 5]


@pytest.fixture
def drawn(monkeypatch):
    """Figures are kept and not rendered: what is drawn is looked at, not its pixels."""
    kept = []

    def keep(self, file, **options):
        kept.append(self)
        Path(file).write_bytes(b"")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return kept


def some(values, spread=0.02, flag=None, seed=0):
    values = np.asarray(values, float)
    draws = values[:, None] + spread * np.random.default_rng(seed).standard_normal((len(values), 60))
    return curve(np.concatenate([values[:, None], draws], axis=1), flag=flag)


def effective(delta, blind=()):
    flag = np.full(len(LEVEL), "ok", object)
    flag[[0, *blind]] = "unidentifiable"
    nominal = np.where(np.isfinite(LEVEL), LEVEL, 0.0)
    words = np.where(flag == "ok", "", "too few trajectories")
    return Effective("spectral regression", some(nominal + delta, flag=flag), some(np.full(len(LEVEL), delta), flag=flag), words)


def lines(ax, colour, marker="."):
    """The points of the lines of one colour and marker."""
    return [np.asarray(ln.get_xydata()) for ln in ax.lines if to_hex(ln.get_color()) == to_hex(colour) and ln.get_marker() == marker]


def text_of(fig):
    return fig.legends[0].get_title().get_text().replace("\n", " ")


def test_levels_have_a_place_for_infinity_and_runs_do_not_crowd():
    levels = Levels.of([LEVEL])
    assert (levels.low, levels.high, levels.noise, levels.data) == (-2.0, 3.0, True, False)
    assert levels.x(LEVEL)[0] == -2.5 and (levels.x(LEVEL)[1:] == LEVEL[1:]).all()
    assert [len(g) for g in groups(list("abcdefghi"))] == [5, 4] and groups(["a", "b"]) == [["a", "b"]]


def test_effective_has_gaps_ticks_circles_and_its_null(tmp_path, drawn):
    run, null = effective(-0.3, blind=[4]), effective(0.01)
    save_effective(tmp_path / "e.png", {"DDIM": (LEVEL, run, null), "Heun": (LEVEL, effective(0.2), null)})
    left, right = drawn[0].axes
    for ax, c in ((left, run.log_snr), (right, run.delta)):
        found = lines(ax, COLOURS[0])[0]
        np.testing.assert_allclose(found[:, 0], [-2.5, -2.0, 0.0, 1.0, 3.0])
        np.testing.assert_allclose(found[:, 1], np.where(c.flag == "ok", c.value, np.nan)[ONCE])
        np.testing.assert_allclose(lines(ax, COLOURS[0], "o"), [[[0.0, c.value[2]]]])
        np.testing.assert_allclose(lines(ax, COLOURS[0], "|")[0][:, 0], [-2.5, 1.0])  # the calls without a number
        assert len(lines(ax, COLOURS[1], "|")[0]) == 1
    np.testing.assert_allclose(lines(right, GREY, "")[0][1:, 1], null.delta.value[ONCE[1:]])
    np.testing.assert_allclose(lines(left, GREY, "None")[0], [[-2, -2], [3, 3]])  # the diagonal
    assert "−∞" in [t.get_text() for t in right.get_xticklabels()]
    words = text_of(drawn[0])
    assert all(w in words for w in ("unidentifiable", "circles", "for all levels at once", "pure noise", "grey"))


def test_more_than_eight_runs_are_drawn_in_further_panels(tmp_path, drawn):
    save_effective(tmp_path / "e.png", {f"run {k}": (LEVEL, effective(0.1 * k), effective(0.0)) for k in range(9)})
    assert len(drawn[0].axes) == 4 and len(drawn[0].legends[0].get_texts()) == 9
    assert [len([ln for ln in ax.lines if ln.get_label().startswith("run")]) for ax in drawn[0].axes] == [5, 5, 4, 4]


def test_log_ratios_by_band_beside_all_bands_and_the_null(tmp_path, drawn):
    bands = [some(-0.1 * b * np.arange(6), seed=b) for b in range(3)]
    total, null = some(-0.05 * np.arange(6)), [some(np.zeros(6), seed=9 + b) for b in range(3)]
    save_log_ratios(tmp_path / "r.png", {"DDIM": (LEVEL, bands, total, null, null[0]), "Heun": (LEVEL, null, null[0], null, null[0])})
    ax, other = drawn[0].axes[:2]
    assert [ax.get_title(loc="left"), other.get_title(loc="left")] == ["DDIM", "Heun"] and ax.get_ylim() == other.get_ylim()
    np.testing.assert_allclose(lines(ax, INK)[0][:, 1], total.value[ONCE])
    by_band = [ln.get_ydata() for ln in ax.lines if str(ln.get_label()).startswith("band ")]
    np.testing.assert_allclose(by_band, [c.value[ONCE] for c in bands])
    reach = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert reach.min() == min(c.low.min() for c in null) and reach.max() == max(c.high.max() for c in null)


def layers(never=True):
    fraction = [some(np.linspace(0.1, 0.9, 6)), some(np.linspace(0.0, 0.4, 6), seed=1)]
    flag = np.array(["ok", "never half resolved" if never else "ok"], object)
    half, predicted = np.array([0.5, 2.0]), np.array([0.0, 2.5])
    gaussian = np.stack([np.linspace(0, 1, 6), np.linspace(0, 0.5, 6)], axis=1)
    shift = some(half - predicted, flag=flag)
    return Layers(LEVEL, fraction, gaussian, np.exp(-predicted), predicted, some(half, flag=flag), shift)


def test_layers_measured_over_predicted(tmp_path, drawn):
    found = layers()
    save_layers(tmp_path / "l.png", {"forward samples": found})
    left, right = drawn[0].axes[:2]
    solid = [ln.get_ydata() for ln in left.lines if ln.get_marker() == "."]
    np.testing.assert_allclose(solid, [c.value[ONCE] for c in found.fraction])
    dashed = [ln.get_ydata() for ln in left.lines if ln.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed, found.gaussian.T)
    points = [ln.get_xydata()[0] for ln in right.lines if ln.get_marker() == "o"]
    np.testing.assert_allclose(points, [[0.0, 0.5]])
    bars = [ln.get_xydata() for ln in right.lines if ln.get_linestyle() == "-" and list(ln.get_xdata()) == [0.0, 0.0]]
    np.testing.assert_allclose(bars[0][:, 1], [found.half.low[0], found.half.high[0]])
    ticks = [ln.get_xydata()[0] for ln in right.lines if ln.get_marker() == "|"]
    np.testing.assert_allclose(ticks, [[2.5, 0.985]])  # at the upper edge: later than any level seen
    assert "never half resolved" in text_of(drawn[0])


def read(name, what, value, paper=None, told=LEVEL):
    value, null = some(value), some(np.full(6, 5.0), seed=3)
    return ReadOut(name, what, value, null, value - null, paper, told)


def test_read_outs_have_their_null_and_what_the_paper_holds_them_against(tmp_path, drawn):
    one = read("P1", "norm of the predicted noise", np.linspace(4, 6, 6), np.full(6, 7.0))
    two = read("P4", "squared norm", np.linspace(1, 60, 6), told=None)
    save_read_outs(tmp_path / "p.png", {"DDIM": [one, two], "Heun": [one]})
    above, square, below, less = drawn[0].axes[:4]
    np.testing.assert_allclose(lines(above, COLOURS[0])[0][:, 1], one.value.value[ONCE])
    np.testing.assert_allclose(lines(below, COLOURS[1])[0][:, 1], one.excess.value[ONCE])
    np.testing.assert_allclose(lines(above, GREY, "")[0][:, 1], one.null.value[ONCE])
    dashed = [ln for ln in above.lines if ln.get_linestyle() == "--"]
    assert len(dashed) == 2 and (dashed[0].get_ydata() == 7.0).all() and not [ln for ln in square.lines if ln.get_linestyle() == "--"]
    assert square.get_yscale() == "log" and above.get_yscale() == "linear"
    assert less.get_xlabel() == "network call" and "told" in below.get_xlabel()
    assert "P1: norm of the predicted noise" in above.get_title(loc="left")


def timed(name, what, value, seed=0, **fields):
    value, null = some(value, seed=seed), some(np.full(6, 5.0), seed=3)
    return ReadOut(name, what, value, null, value - null, log_snr=LEVEL, t=TIME, **fields)


TIME = np.array([1.0, 0.8, 0.6, 0.6, 0.4, 0.1])


def test_as_drawn_is_against_time_with_the_training_curve_and_one_panel_for_both_labels(tmp_path, drawn):
    norm = timed("P1", "norm of the predicted noise", np.linspace(4, 6, 6))
    image = timed("P4", "squared norm of the predicted image", np.linspace(4, 6, 6), paper=np.full(6, 7.0))
    labels = [timed("P3", "one label", np.linspace(1, 9, 6) + k, label=0.4, gaussian=np.linspace(2, 8, 6)) for k in range(2)]
    save_as_drawn(tmp_path / "a.png", {"DDIM": [norm, image, *labels], "Heun": [norm]})
    first, second, third = drawn[0].axes[:3]
    order = [5, 4, 3, 1, 0]  # by time; of a time that comes twice its last call
    assert first.get_title(loc="left").startswith("P1") and "time t" in first.get_xlabel() and "‖ε‖" in first.get_ylabel()
    for colour in COLOURS[:2]:
        np.testing.assert_allclose(lines(first, colour)[0], np.stack([TIME, norm.value.value], axis=1)[order])
    np.testing.assert_allclose(lines(first, GREY, "")[0][:, 1], norm.null.value[order])
    dashed = [ln for ln in second.lines if ln.get_linestyle() == "--"]
    assert len(dashed) == 1 and set(dashed[0].get_ydata()) == {7.0} and "‖x0‖²" in second.get_ylabel()
    assert "P3" in third.get_title(loc="left") and len(lines(third, COLOURS[0])) == len(lines(third, COLOURS[1])) == 1
    levels = [ln.get_ydata()[0] for ln in third.lines if ln.get_linestyle() == "--" and len(ln.get_ydata())]
    np.testing.assert_allclose(levels, [5.0, 5.0])
    assert "told from no mismatch" in text_of(drawn[0]) and "told the one time" in text_of(drawn[0])
    with pytest.raises(ConfigError, match="save_as_drawn.runs"):
        save_as_drawn(tmp_path / "b.png", {"DDIM": [read("P5", "energy", np.ones(6))]})


def test_a_run_far_beyond_the_others_is_cut_off_and_named_and_they_fill_the_panel(tmp_path, drawn):
    usual = {f"run {k}": [timed("P1", "norm", np.linspace(5, 6 + 0.1 * k, 6), seed=k)] for k in range(3)}
    broken = timed("P1", "norm", np.linspace(5, 900, 6))
    save_as_drawn(tmp_path / "a.png", usual | {"EM": [broken]})
    ax = drawn[0].axes[0]
    assert ax.get_ylim()[1] < 8 and [t.get_text() for t in ax.texts] == [f"EM: beyond the axis, to {broken.value.value.max():.3g}"]
    save_as_drawn(tmp_path / "b.png", usual)
    assert not drawn[1].axes[0].texts
    save_read_outs(tmp_path / "c.png", usual | {"EM": [broken]})
    above, below = drawn[2].axes[:2]
    assert above.texts and below.texts and below.get_ylim()[1] < 4
    flat = some(np.zeros(6))
    runs = {f"run {k}": (LEVEL, [some(0.1 * k * np.arange(6))], flat, [flat], flat) for k in range(3)}
    save_log_ratios(tmp_path / "d.png", runs | {"EM": (LEVEL, [some(3.0 * np.arange(6))], flat, [flat], flat)})
    *panels, own = drawn[3].axes[:4]
    assert len({ax.get_ylim() for ax in panels}) == 1 and panels[0].get_ylim()[1] < 5 < own.get_ylim()[1]
    assert own.get_title(loc="left") == "EM (an axis of its own)"
    assert far({"a": 1.0, "b": 1.2, "c": 9.0}) == ["c"] and far({"a": 1.0, "c": 9.0}) == [] and far({"a": 0.0, "b": 0.0, "c": 0.0}) == []


def test_runs_of_one_budget_stay_in_one_picture():
    def runs(solvers, budgets):
        axes = [{"solver": s, "NFE": n, "steps": n} for n in budgets for s in range(solvers)]
        found = [object.__new__(Measured) for _ in axes]  # nothing but its axes is looked at
        for m, a in zip(found, axes, strict=True):
            object.__setattr__(m, "subject", types.SimpleNamespace(axes=a))
        return found

    sizes = lambda *words: [len(part) for part in together(runs(*words))]  # noqa: E731
    assert sizes(6, "abcd") == [6, 6, 6, 6] and sizes(2, "abcdef") == [8, 4] and sizes(3, "ab") == [6] and sizes(10, "a") == [8, 2]
    assert sizes(10, "ab") == [8, 8, 4]


def decomposition(exact=False):
    values = {"prior": -0.02, "discretisation": -0.2, "model": 0.08, "guidance": 0.0, "draws": 0.0, "interaction": 0.001}
    parts = {name: some(np.full(4, v), 0.01 * (v != 0), seed=k) for k, (name, v) in enumerate(values.items())}
    flag = np.array(["ok", "no variance", "ok", "ok"], object)
    parts["model"] = some(np.full(4, 0.08), flag=flag)
    return Decomposition(some(np.full(4, -0.139)), parts, Cube({}, (8, 16, 32), 1.0, 300), 8, exact)


def test_parts_are_bars_pale_where_they_cannot_be_told_from_nothing(tmp_path, drawn):
    d = decomposition()
    save_decomposition(tmp_path / "d.png", {"DDIM": d})
    total, *by_band = drawn[0].axes
    names = [t.get_text() for t in total.get_yticklabels()]
    assert names == ["whole", "prior", "discretisation", "model", "interaction"]  # guidance and draws are 0 by construction
    widths = {name: bar.get_width() for name, bar in zip(names, total.patches, strict=True)}
    assert widths == pytest.approx({"whole": -0.139} | {n: d.parts[n].value[-1] for n in names[1:]})
    pale = {name for name, bar in zip(names, total.patches, strict=True) if bar.get_alpha() < 0.5}
    assert pale == {n for n in names[1:] if d.parts[n].low[-1] <= 0 <= d.parts[n].high[-1]} and "interaction" in pale
    shown = {ax.get_title(loc="left"): ax for ax in by_band}
    assert [b.get_height() for b in shown["prior"].patches] == pytest.approx([-0.02] * 3)
    assert len(shown["model"].patches) == 2 and [ln.get_xdata()[0] for ln in shown["model"].lines if ln.get_marker() == "x"] == [1]
    assert "300 trajectories" in text_of(drawn[0]) and "no exact denoiser" in text_of(drawn[0]) and set(names[1:]) < set(PARTS)


def test_coverage_marks_calls_where_training_did_not_look(tmp_path, drawn):
    grid = np.linspace(-25, 25, 2001)
    p = 0.5 / (2 + 2 * np.cosh(grid / 2))  # t uniform on the linear flow: log-SNR is logistic of scale 2
    end = 2 * np.log(999)
    told = np.array([-np.inf, -end - 0.1, -end + 0.1, 0.0, end - 0.1])
    save_coverage(tmp_path / "c.png", {"Euler": told, "Karras": np.array([0.0])}, (grid, p))
    above, below = drawn[0].axes
    band = above.patches[0].get_extents().transformed(above.transData.inverted())
    np.testing.assert_allclose([band.x0, band.x1], [-end, end], atol=0.05)
    np.testing.assert_allclose(lines(below, COLOURS[0], "x")[0], [[-30.0, 0], [-end - 0.1, 0]])
    assert len(lines(below, COLOURS[0], "|")[0]) == 3
    assert [t.get_text() for t in below.get_yticklabels()] == ["Euler  (2/5 outside)", "Karras  (0/1 outside)"]


def at(value, half=0.05):
    return Estimate(value, value - half, value + half, 100)


def test_corrections_are_marked_where_the_change_is_real(tmp_path, drawn):
    rows = [
        Corrected("better", (at(-0.3), at(0.1), at(0.4)), (at(1.0), at(0.7), at(-0.3))),
        Corrected("worse", (at(-0.3), at(-0.5), at(-0.2)), (at(1.0), at(1.4), at(0.4))),
        Corrected("nothing", (at(-0.3), at(-0.31), at(-0.01)), (at(1.0), at(1.01), at(0.01))),
        Corrected("untested", (at(-0.3), at(-0.2), None), (at(1.0), Estimate.missing(0), None)),
    ]
    save_corrections(tmp_path / "k.png", rows, floors=(at(0.0, 0.01), None))
    left, right = drawn[0].axes
    expected = (COLOURS[0], COLOURS[1], GREY, INK)
    for ax, which in ((left, "mismatch"), (right, "quality")):
        for k, (row, colour) in enumerate(zip(rows, expected, strict=True)):
            ends = [e.value for e in getattr(row, which)[:2]]
            bells = [ln for ln in ax.lines if ln.get_ydata()[0] == ln.get_ydata()[-1] == k and len(ln.get_xdata()) == 2]
            if np.isfinite(ends).all():
                assert list(bells[0].get_xdata()) == ends and to_rgb(bells[0].get_color()) == to_rgb(colour)
            else:
                assert not bells and [ln for ln in ax.lines if ln.get_marker() == "x"]
    assert "after, difference not tested" in [t.get_text() for t in drawn[0].legends[0].get_texts()]
    assert [t.get_text() for t in left.get_yticklabels()] == [row.name for row in rows]


def test_pictures_are_pictures(tmp_path):
    """Rendered once, as files that can be read."""
    first = save_effective(tmp_path / "a" / "e.png", {"DDIM": (LEVEL, effective(-0.3, blind=[4]), effective(0.0))})
    assert [f.read_bytes()[:4] for f in (first, save_decomposition(tmp_path / "d.png", {"DDIM": decomposition()}))] == [b"\x89PNG"] * 2


def test_nothing_to_draw_is_refused(tmp_path):
    for save in (save_effective, save_log_ratios, save_layers, save_read_outs, save_decomposition):
        with pytest.raises(ConfigError, match="at least one"):
            save(tmp_path / "n.png", {})
    with pytest.raises(ConfigError, match="at least one"):
        save_corrections(tmp_path / "n.png", [])
    with pytest.raises(ConfigError, match="ascending"):
        save_coverage(tmp_path / "n.png", {"DDIM": LEVEL}, (np.array([1.0, 0.0]), np.ones(2)))
