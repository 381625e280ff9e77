"""Patches of the photographs: what they hold is in them, no pixel is in two splits, the spectrum is that of natural images."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from score_lab.build import ConfigError, build
from score_lab.data import Patches, statistics
from score_lab.data.patches import TILE, held_out
from score_lab.data.source import gather

FRACTIONS = ("china.jpg", "flower.jpg")


def everything(source, split):
    return gather(source(split), np.arange(len(source(split))))


def marked(split, size=8):
    """The splits of photographs whose pixels say where they are: (k, y, x) in three channels, and the labels."""
    source = Patches(size, colour=True)
    place = np.stack(np.meshgrid(np.arange(427), np.arange(640), indexing="ij"), axis=-1)
    source.__dict__["_photographs"] = tuple(np.concatenate([np.full((427, 640, 1), k), place], axis=-1) for k in range(2))
    return everything(source, split)


def test_no_pixel_is_in_both_splits_and_every_tile_is_in_one():
    pixels = {}
    for split in ("train", "test"):
        rows = marked(split)
        assert (rows["image"][..., 0] == rows["label"][:, None, None]).all()
        assert (np.ptp(rows["image"], axis=(1, 2)) == (0, 7, 7)).all()  # 8 neighbouring rows and columns
        pixels[split] = np.unique(rows["image"].astype(np.int64) @ [10**6, 10**3, 1])
    assert not np.isin(pixels["train"], pixels["test"]).any()
    total = len(pixels["train"]) + len(pixels["test"])
    assert total == 2 * (427 // TILE * TILE) * 640 and 0.15 < len(pixels["test"]) / total < 0.25
    share = [[np.mean([held_out(k, r, c) for c in range(10)]) for r in range(6)] for k in range(2)]
    assert set(np.ravel(share)) == {0.2}


@pytest.mark.parametrize(("size", "colour", "stride"), [(8, False, None), (16, True, 24)])
def test_the_values_are_those_of_the_photographs(size, colour, stride):
    source = Patches(size, colour=colour, stride=stride)
    rows, places = everything(source, "train"), marked("train", size) if stride is None else None
    x0 = source.preprocess(rows)["x0"]
    assert x0.dtype == np.float32 and x0.shape[1:] == source.spec.shape == (size, size, 3 if colour else 1)
    assert source.spec.num_classes == 2 and x0.min() >= -1 and x0.max() <= 1
    photographs = [np.asarray(load_sample_image(name), np.float64) for name in FRACTIONS]
    first = photographs[0][:size, TILE : TILE + size] if held_out(0, 0, 0) else photographs[0][:size, :size]
    first = first if colour else (first @ [0.299, 0.587, 0.114])[..., None]
    np.testing.assert_allclose(x0[0], first / 127.5 - 1, atol=1e-6)
    if places is not None:
        i = len(x0) - 1  # and somewhere in the second photograph
        k, y, x = places["image"][i, 0, 0]
        there = photographs[k][y : y + size, x : x + size] @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(x0[i, ..., 0], there / 127.5 - 1, atol=1e-6)


def test_the_fingerprint_covers_what_changes_the_patches():
    prints = {Patches(*fields).spec.fingerprint for fields in [(8, False), (16, False), (8, True), (8, False, 8)]}
    assert len(prints) == 4 and Patches().spec.fingerprint in prints
    moved = Patches()
    moved.__dict__["_photographs"] = tuple(v + 1e-3 for v in Patches()._photographs)
    assert moved.spec.fingerprint not in prints


def test_the_spectrum_falls_as_that_of_natural_images():
    """Amplitude near 1/f: the slope of ln variance against ln frequency along each axis of the DCT is between -1.5 and -3."""
    from scipy.fft import dctn

    x0 = Patches().preprocess(everything(Patches(), "train"))["x0"][::7, ..., 0]
    power = dctn(x0, axes=(1, 2), norm="ortho").var(axis=0)
    f = np.arange(1, 8)
    for axis in (power[1:, 0], power[0, 1:]):
        assert -3.0 < np.polyfit(np.log(f), np.log(axis), 1)[0] < -1.5
    whole = Patches().preprocess(everything(Patches(), "train"))["x0"].astype(np.float64)
    assert statistics(Patches()).sigma_data() == pytest.approx(np.sqrt(np.square(whole).mean()), rel=1e-5)


@pytest.mark.parametrize(("field", "value"), [("size", 12), ("stride", 0), ("stride", 60), ("colours", True)])
def test_what_is_not_allowed_is_refused_in_one_line(field, value):
    with pytest.raises(ConfigError, match=field):
        build({"target": "Patches", field: value}, "score_lab.data")
