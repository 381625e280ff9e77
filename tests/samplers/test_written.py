"""Samples written as they are drawn: the same as in memory, resumed to the same bytes, refused by the key that differs."""

import json
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from samplers.exact import Gaussian
from samplers.fake import small

from score_lab.build import ConfigError
from score_lab.paths import VP, LinearFlow
from score_lab.samplers import DDIM, EulerMaruyama, Heun, UniformTime, open_written, sample_chunked, sample_written, written
from score_lab.samplers.written import fingerprint
from score_lab.targets import F

KEY = jax.random.key(4)
LABELS = {"label": np.arange(11) % 3}
IMAGES = (11, 4, 6, 3)


def into(folder, sampler=None, shape=IMAGES, key=KEY, chunk=4, steps=3, **rest):
    return sample_written(folder, Gaussian(VP()), sampler or EulerMaruyama(), UniformTime(steps), shape, key, chunk=chunk, **rest)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def unpacked(png):
    """The pixels of a PNG with filter 0, by hand."""
    height, width = int.from_bytes(png[20:24]), int.from_bytes(png[16:20])
    size = int.from_bytes(png[33:37])
    rows = np.frombuffer(zlib.decompress(png[41 : 41 + size]), np.uint8).reshape(height, -1)
    return rows[:, 1:].reshape(height, width, -1)


def test_the_folder_holds_what_sample_chunked_returns(tmp_path):
    seen = []
    done = into(tmp_path / "a", cond=LABELS, progress=lambda k, n: seen.append((k, n)))
    whole = sample_chunked(Gaussian(VP()), EulerMaruyama(), UniformTime(3), IMAGES, KEY, chunk=4, cond=LABELS)
    stored = open_written(tmp_path / "a").load()
    np.testing.assert_array_equal(stored["x"], whole.x)
    np.testing.assert_array_equal(stored["label"], LABELS["label"])
    np.testing.assert_array_equal(stored["index"], np.arange(11))
    assert seen == [(4, 11), (8, 11), (11, 11)] and (stored["nfe"] == 3).all() and done.bad == ()
    for i in (0, 10):
        pixels = unpacked((tmp_path / "a" / "png" / "000" / f"{i:08d}.png").read_bytes())
        assert np.abs(pixels / 127.5 - 1 - np.clip(whole.x[i], -1, 1)).max() <= 0.5 / 127.5 + 1e-6


def test_stopped_and_resumed_is_the_same_folder(tmp_path, monkeypatch):
    """Stopped between a shard's pictures and the shard, with one shard cut short as by a full disk: finished shards are left alone."""
    into(tmp_path / "whole")
    drawn, finished = [], written._Npz.write

    def stop(self, first, *rest):
        if first == 8:
            raise KeyboardInterrupt
        finished(self, first, *rest)

    monkeypatch.setattr(written._Npz, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        into(tmp_path / "cut")
    with pytest.raises(ConfigError, match="samples from 8 on are missing"):
        open_written(tmp_path / "cut")
    monkeypatch.setattr(written._Npz, "write", lambda self, first, *rest: (drawn.append(first), finished(self, first, *rest)))
    shard = tmp_path / "cut" / "shard-00000004.npz"
    shard.write_bytes(shard.read_bytes()[:-40])
    (tmp_path / "cut" / ".shard-00000008.npz.part").write_bytes(b"half")
    into(tmp_path / "cut")
    assert drawn == [4, 8] and tree(tmp_path / "cut") == tree(tmp_path / "whole")
    into(tmp_path / "cut")
    assert drawn == [4, 8]


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("key", {"key": jax.random.key(5)}), ("n", {"shape": (12, 4, 6, 3)}), ("grid", {"steps": 4}), ("chunk", {"chunk": 5}),
        ("sampler", {"sampler": DDIM()}), ("cond", {"cond": LABELS}), ("png", {"png": False}), ("index", {"index": np.arange(11) + 1}),
        ("devices", {"devices": jax.local_devices()}),
    ],
)  # fmt: skip
def test_another_request_is_refused_by_what_differs(tmp_path, key, change):
    into(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=rf"manifest.json: {key}: .* is refused; allowed: .*with which this folder was begun"):
        into(tmp_path, **change)
    assert tree(tmp_path) == before


def test_folders_and_formats_that_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder, rest, message in (
        (tmp_path, {}, "folder: .* a new or empty folder"),
        (tmp_path / "a", {"format": "tar"}, "sample.format: 'tar' is refused; allowed: npz or zarr"),
        (tmp_path / "a", {"chunk": "2 potatoes"}, "sample.chunk: '2 potatoes' is refused; allowed: a number of samples, or memory"),
        (tmp_path / "a", {"chunk": "1B"}, "sample.chunk: '1 bytes' is refused; allowed: at least"),
    ):
        with pytest.raises(ConfigError, match=message):
            into(folder, **rest)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="no manifest.json"):
        open_written(tmp_path)


def test_samples_that_are_not_finite_are_named(tmp_path):
    x_T = np.ones((5, 2), np.float32)
    x_T[3, 1] = np.inf
    done = sample_written(tmp_path, Gaussian(VP()), DDIM(), UniformTime(3), x_T=x_T, index=np.arange(5) + 10, chunk=2)
    assert done.bad == (13,) == open_written(tmp_path).bad


def test_states_of_several_arrays(tmp_path):
    shape = {"a": (5, 2), "b": (5, 1, 3)}
    stored = into(tmp_path, shape=shape, chunk=2).load()
    whole = sample_chunked(Gaussian(VP()), EulerMaruyama(), UniformTime(3), shape, KEY, chunk=2)
    np.testing.assert_array_equal(stored["x['a']"], whole.x["a"])
    np.testing.assert_array_equal(stored["x['b']"], whole.x["b"])


def test_a_fingerprint_is_of_content(tmp_path):
    """Equal for equal content in another object, another for another value anywhere inside."""
    net = lambda **rest: small(VP(), F(0.7), **rest)  # noqa: E731
    other = net()
    other.params["b"] = other.params["b"] + 1e-3
    parts = [net(), other, net(sigma_data=0.8), net(clip=True), small(LinearFlow(), F(0.7)), DDIM(), DDIM(0.5), Heun(), KEY,
             jax.random.key(5), np.zeros(3), np.zeros(3, np.float32), np.zeros((3, 1)), lambda x: x + 1, lambda x: x + 2, {"a": 1},
             {"a": 1.0}]  # fmt: skip
    assert len({fingerprint(p) for p in parts}) == len(parts)
    assert fingerprint(net()) == fingerprint(net()) and fingerprint(DDIM(0.5)) == fingerprint(DDIM(0.5))
    with pytest.raises(ConfigError, match="parts whose content can be hashed"):
        fingerprint(object())


SCRIPT = """
import os, signal, sys
from pathlib import Path
import jax
from samplers.exact import Gaussian
from score_lab.paths import VP
from score_lab.samplers import EulerMaruyama, UniformTime, sample_written, written

def run(folder):
    return sample_written(folder, Gaussian(VP()), EulerMaruyama(), UniformTime(3), (11, 4, 6, 3), jax.random.key(4), chunk=4)

folder = Path(sys.argv[1])
if sys.argv[2] == "kill":
    rename = Path.replace
    def killed(self, target):
        if "00000004" in self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.replace = killed
run(folder)
run(folder.with_name("whole"))
"""


def test_killed_half_way_and_resumed(tmp_path):
    """SIGKILL while the second of three shards is flushed and not yet renamed; then the same command: the bytes of a run left alone."""
    here = Path(__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}", "JAX_PLATFORMS": "cpu"}

    def start(how):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cut"), how]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

    assert start("kill").returncode == -signal.SIGKILL
    there = {p.name for p in (tmp_path / "cut").iterdir()}
    assert {"manifest.json", "shard-00000000.npz", ".shard-00000004.npz.part"} <= there and "shard-00000004.npz" not in there
    kept = (tmp_path / "cut" / "shard-00000000.npz").stat().st_mtime_ns
    again = start("resume")
    assert again.returncode == 0, again.stderr
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole") and len(tree(tmp_path / "cut")) == 1 + 3 + 11
    assert (tmp_path / "cut" / "shard-00000000.npz").stat().st_mtime_ns == kept


def test_zarr(tmp_path):
    """The same arrays, where zarr is installed; one line that names it where it is not."""
    try:
        import zarr  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install zarr"):
            into(tmp_path, format="zarr")
        return
    done = into(tmp_path / "z", format="zarr", cond=LABELS)
    plain = into(tmp_path / "n", cond=LABELS).load()
    for name, a in done.load().items():
        np.testing.assert_array_equal(a, plain[name])
    (tmp_path / "z" / "shard-00000004.done").unlink()
    again = into(tmp_path / "z", format="zarr", cond=LABELS).load()
    np.testing.assert_array_equal(again["x"], plain["x"])


def test_the_manifest_can_be_read(tmp_path):
    into(tmp_path, chunk="1GiB")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["chunk"] == 11 and manifest["request"]["chunk"] == "1GiB" and manifest["request"]["n"] == 11
    assert manifest["request"]["sampler"].startswith("EulerMaruyama ") and manifest["request"]["grid"].startswith("3 steps ")
