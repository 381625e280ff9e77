"""The toys, trained as their configurations are, draw what cannot be told from their data."""

import subprocess
import sys
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from score_lab.build import build
from score_lab.data import Toy
from score_lab.evaluation import energy_distance
from score_lab.samplers import sample
from score_lab.training import load

ROOT = Path(__file__).resolve().parent.parent
N = 2000


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["mixture", "moons", "vp", "ot"])
def test_a_trained_toy_is_not_told_from_its_data(variant, tmp_path):
    """The energy distance to fresh data is at most what two fresh halves of the data leave open about theirs, which is 0: the width of the
    95 % interval of E(half, half).  A Gaussian of the data's mean and covariance is beyond it with its whole interval.
    """
    command = [sys.executable, "-m", "experiments.train", f"--config=configs/toy.py:{variant}", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=network_guard.environment(XLA_FLAGS=""), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = load(tmp_path)
    how, data = loaded.config["sampling"], loaded.config["data"]
    sampler, grid = (build(how[part], "score_lab.samplers", part) for part in ("sampler", "grid"))
    x = np.asarray(sample(loaded.denoiser, sampler, grid, (N, 2), jax.random.key(0)).x)

    fresh = Toy(name=data["name"], seed=1, num_train=2 * N)("train").arrays["image"]  # training had seed 0
    half, other = fresh[:N], fresh[N:]
    between = energy_distance(other, half)
    bound = between.high - between.low
    gaussian = np.random.default_rng(0).multivariate_normal(half.mean(axis=0), np.cov(half.T), N)
    assert energy_distance(gaussian, half).low > bound
    found = energy_distance(x, half)
    assert found.value <= bound and found.low <= 0 <= found.high, (found, between)
