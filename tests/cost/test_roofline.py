"""The roofline's arithmetic on invented peaks, and that the measured ones are of this machine."""

import dataclasses

import jax
import numpy as np
import pytest

from score_lab.cost import Measured, Peaks, measured_peaks, memory_of, turning_point
from score_lab.cost import peaks as peaks_module

PEAKS = Peaks(flops=1e12, bandwidth=1e11, dtype="float32", devices=2)


def point(batch, intensity, rate=1e11):
    return Measured("x", batch, seconds=1.0, flops=rate, moved=rate / intensity, peaks=PEAKS)


def test_below_the_ridge_memory_bounds_above_it_arithmetic():
    assert PEAKS.ridge == 10
    low, high = point(1, 4.0), point(64, 40.0)
    assert (low.bound, high.bound, point(1, 10.0).bound) == ("memory", "compute", "compute")
    assert low.of_roof == pytest.approx(1e11 / 4e11) and high.of_roof == pytest.approx(0.1) and low.utilisation == pytest.approx(0.1)
    assert point(1, float("nan")).bound == "unknown"


def test_the_turning_point_lies_between_two_batches():
    """Intensity b / 4 reaches 10 at a batch of 40; in logarithms it is a straight line, so exactly there."""
    points = [point(b, b / 4) for b in (1, 4, 16, 64, 256)]
    assert turning_point(points) == pytest.approx(40.0)
    assert turning_point(points[:3]) is None and turning_point(points[3:]) is None


def test_peaks_are_measured_once_and_of_all_devices(monkeypatch):
    monkeypatch.setattr(peaks_module, "SIZES", {"cpu": (32, 64)})
    monkeypatch.setattr(peaks_module, "COPIED", {"cpu": 4096})
    peaks_module._measured.cache_clear()
    try:
        found = measured_peaks(jax.devices()[:2], "bfloat16")
        assert found.devices == 2 and found.dtype == "bfloat16" and 0 < found.flops < 1e16 and 0 < found.bandwidth < 1e15
        assert measured_peaks(jax.devices()[:2], "bfloat16") is found and measured_peaks(jax.devices()[:1]).dtype == "float32"
        assert found.line("cpu").startswith("measured on 2 x cpu: ")
    finally:
        peaks_module._measured.cache_clear()


def test_a_peak_is_its_operations_over_the_seconds(monkeypatch):
    """Two devices, three products of 2 n^3 each, in half a second; the copy reads and writes."""
    monkeypatch.setattr(peaks_module, "_best", lambda run: run() and None or 0.5)
    monkeypatch.setattr(peaks_module, "SIZES", {"cpu": (64, 32)})
    monkeypatch.setattr(peaks_module, "CHAIN", {"cpu": 3})
    monkeypatch.setattr(peaks_module, "COPIED", {"cpu": 4096})
    found = peaks_module._measured.__wrapped__(tuple(jax.devices()[:2]), "float32")
    assert found.flops == 2 * 3 * 2 * 64**3 / 0.5 and found.bandwidth == 2 * 2 * 4096 / 0.5


def test_memory_of_a_program_with_and_without_donation():
    """x -> x + 1: the result lies in x's place where x is donated."""
    x = jax.ShapeDtypeStruct((1024,), np.float32)
    plain, donated = (memory_of(jax.jit(lambda x: x + 1, donate_argnums=d).lower(x).compile()) for d in ((), (0,)))
    assert (plain.arguments, plain.results, plain.in_place) == (4096, 4096, 0)
    assert donated.in_place == 4096 and plain.total - donated.total == 4096
    assert dataclasses.replace(plain, temporaries=plain.temporaries + 5).total == plain.total + 5
