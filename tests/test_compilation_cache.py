"""``--compilation_cache``: a second process compiles nothing, and what it computes is the same to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from experiments import compiled, launcher
from score_lab import load
from score_lab.build import ConfigError

ROOT = Path(__file__).resolve().parent.parent
TOY = """--config=configs/toy.py:moons --config.data.num_train=100 --config.data.num_test=64 --config.data.batch_size=16
    --config.network.width=8 --config.network.depth=1 --config.optimizer.warmup=1 --config.training.steps=4 --config.training.log_every=2
    --config.training.eval_every=0 --config.preview.every=4 --config.preview.n=4 --config.training.checkpoint_every=2"""
COUNTED = """
import atexit, collections, json, sys
import jax
found = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: found.update([name.rpartition("/")[2]]))
atexit.register(lambda: print("COUNTED", json.dumps(found)))
sys.argv = ["experiments.train", *sys.argv[1:]]
from experiments.launcher import launch
from experiments.train import main
launch(main)
"""


def train(workdir, *words):
    """``(hits, misses)`` of the cache in a run of four steps in a process of its own."""
    command = [sys.executable, "-c", COUNTED, *TOY.split(), f"--workdir={workdir}", *words]
    done = subprocess.run(command, cwd=ROOT, env=network_guard.environment(), capture_output=True, text=True, check=True, timeout=300)
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("COUNTED")).partition(" ")[2])
    return said.get("cache_hits", 0), said.get("cache_misses", 0)


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_trains_the_same(tmp_path):
    """By JAX's own count of the programs that it asks for and finds; without the flag nothing is looked for."""
    kept = f"--compilation_cache={tmp_path / 'programs'}"
    hits, misses = train(tmp_path / "first", kept)
    assert misses > 5
    again = train(tmp_path / "second", kept)
    assert again == (hits + misses, 0)
    assert train(tmp_path / "without") == (0, 0)
    runs = [jax.tree.leaves(load(tmp_path / name, ema=None).params) for name in ("first", "second", "without")]
    for leaves in zip(*runs, strict=True):
        assert len({np.asarray(x).tobytes() for x in leaves}) == 1
    assert [folder.name for folder in (tmp_path / "programs").iterdir()] == [compiled.machine()]


@pytest.fixture
def settings(monkeypatch):
    """What the flag sets, put back afterwards."""
    monkeypatch.setattr(compiled, "_asked", [])
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name in names:
        monkeypatch.setenv(name.upper(), "before")
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_it_is_set_before_the_launcher_reads_its_words(monkeypatch, settings, tmp_path):
    """For this process and those that it starts; the launcher never sees the flag."""
    seen = []
    monkeypatch.setattr(sys, "argv", ["x", "--n=3", "--compilation_cache", str(tmp_path / "a"), "--m"])
    with pytest.raises(SystemExit) as ended:
        launcher.launch(lambda: seen.append((sys.argv[1:], jax.config.jax_compilation_cache_dir)))
    folder = str(tmp_path / "a" / compiled.machine())
    assert ended.value.code == 0 and seen == [(["--n=3", "--m"], folder)] and os.environ["JAX_COMPILATION_CACHE_DIR"] == folder
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_a_directory_that_cannot_be_written_is_refused(monkeypatch, settings, tmp_path, capsys):
    """One line, status 2, and the launcher is not begun; so is a flag without a directory."""
    (tmp_path / "file").write_text("")
    for words in ([f"--compilation_cache={tmp_path / 'file' / 'under'}"], ["--compilation_cache"], ["--compilation_cache", "--n=3"]):
        monkeypatch.setattr(sys, "argv", ["x", *words])
        with pytest.raises(SystemExit) as ended:
            launcher.launch(lambda: pytest.fail("begun"))
        assert ended.value.code == 2 and capsys.readouterr().err.startswith("error: --compilation_cache: ")
    with pytest.raises(ConfigError, match="allowed: --compilation_cache=DIRECTORY"):
        compiled.taken(["--compilation_cache="])


def test_without_the_flag_nothing_is_kept(monkeypatch):
    """And the words are handed on as they are."""
    monkeypatch.setattr(launcher, "keep_programs", lambda directory: pytest.fail("kept"))
    monkeypatch.setattr(sys, "argv", ["x", "--n=3"])
    with pytest.raises(SystemExit) as ended:
        launcher.launch(lambda: 0 if sys.argv == ["x", "--n=3"] else 1)
    assert ended.value.code == 0


def test_machines_of_other_processors_have_other_folders(monkeypatch):
    """A program of one may stop on an instruction that the other lacks."""
    here = compiled.machine()
    assert here == compiled.machine() and "/" not in here
    monkeypatch.setattr(Path, "read_text", lambda self: "flags : sse2\nmodel name : other\n")
    assert compiled.machine() != here
