"""A hundred bad configurations and command lines.

Each is one line on stderr that names the field, shows the value and says what is allowed; exit status 2, no traceback, nothing compiled,
and nothing in a workdir changed.
"""

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import network_guard
import numpy as np
import pytest

from experiments import launcher
from score_lab.training.options import NEEDED
from score_lab.training.parallel import Layout

ROOT = Path(__file__).resolve().parent.parent

EDM = {
    "seed": 0,
    "data": {"target": "Toy", "num_train": 100, "num_test": 40, "batch_size": 16},
    "path": {"target": "EDM", "sigma_max": 80.0},
    "target": {"target": "F"},
    "network": {"target": "MLP", "width": 8, "depth": 1, "num_classes": 2},
    "objective": {"target": "Regression", "time_law": {"target": "LogNormalSigma"}, "label_dropout": 0.1},
    "denoiser": {"sigma_data": 0.8},
    "optimizer": {"name": "adam", "learning_rate": 1e-2, "warmup": 5, "schedule": "cosine"},
    "training": {"steps": 20, "ema": [0.9, 0.99]},
}
"""A run on labelled points, trained on the log-SNRs that EDM's law reaches."""

IMAGES = '''
from ml_collections import ConfigDict

NETWORKS = {
    "dit": {"target": "DiT", "patch": 2, "width": 16, "depth": 1, "heads": 2, "num_classes": 2},
    "unet": {"target": "UNet", "width": 8, "multipliers": (1, 1), "blocks": 1, "attention_at": (8,), "heads": 2},
}

def get_config(variant="dit"):
    return ConfigDict({
        "data": {"target": "NPZ", "path": "PATH", "batch_size": 16},
        "path": {"target": "LinearFlow"}, "target": {"target": "F"}, "network": NETWORKS[variant], "denoiser": {"sigma_data": 1.0},
        "objective": {"target": "Regression"}, "optimizer": {"name": "adam", "learning_rate": 1e-3}, "training": {"steps": 20},
    })
'''
"""A configuration file for images of 8 x 8 with two labels."""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Everything that a command line may point at, by name; made without training anything."""
    home = tmp_path_factory.mktemp("refusals")
    rng = np.random.default_rng(0)
    np.savez(home / "images.npz", x=rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), label=np.arange(40) % 2)
    np.savez(home / "points.npz", x=rng.normal(size=(40, 2)).astype(np.float32))
    np.savez(home / "keyless.npz", weights=np.zeros(3))
    (home / "images.py").write_text(IMAGES.replace("PATH", str(home / "images.npz")))
    (home / "broken.py").write_text("def get_config():\n    return 1 / 0\n")
    numbers = "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict(dict.fromkeys({names}, 3))\n"
    (home / "numbers.py").write_text(numbers.format(names=NEEDED))
    (home / "a_file").write_text("not a directory")
    (home / "pictures").mkdir()
    save_run(home / "run")
    for name, change in (("bare", {"num_classes": 0}), ("wide", {"width": 16})):
        shutil.copytree(home / "run", home / name)
        record = json.loads((home / name / "config.json").read_text())
        record["config"]["network"].update(change)
        if name == "bare":
            record["config"]["objective"]["label_dropout"] = 0.0
        (home / name / "config.json").write_text(json.dumps(record))
    shutil.copytree(home / "run", home / "headless")
    (home / "headless" / "config.json").unlink()
    shutil.copytree(home / "run", home / "torn")
    (home / "torn" / "config.json").write_text("{")
    return home


def save_run(workdir):
    """The workdir of a run of EDM that has saved its state after 20 steps (which it did not take)."""
    from score_lab.data import Toy
    from score_lab.training import build_parts
    from score_lab.training.checkpoint import Checkpoints
    from score_lab.training.options import plain
    from score_lab.training.record import library_versions, write_workdir
    from score_lab.training.state import init_state
    from score_lab.training.workdir import record_of

    parts = build_parts(plain(EDM), Toy(num_train=100, num_test=40).spec, 0.8)
    record = record_of(parts, library_versions())
    write_workdir(workdir, record)
    with Checkpoints(workdir, 2) as checkpoints:
        checkpoints.save(20, init_state(parts, 0), {"step": 20, "position": None, "pending": [], "record": record}, {})


def digest(home):
    """Every file below ``home`` with the hash of its bytes."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(home.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch, tmp_path):
    """A run that gets as far as compiling a step or a sampler fails; the current directory is that of the repository."""

    def compiles(*args, **kwargs):
        raise AssertionError("too late: this is refused before anything is compiled")

    samplers = importlib.import_module("score_lab.samplers.program")  # before: equinox maps something when it is imported
    monkeypatch.setattr(jax, "pmap", compiles)
    monkeypatch.setattr(Layout, "fresh", compiles)
    for program in ("_scanned", "_adaptive"):
        monkeypatch.setattr(samplers, program, compiles)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.chdir(ROOT)


def refused(monkeypatch, capsys, name, words):
    """What ``python -m experiments.NAME WORDS`` writes to stderr; it must exit with 2."""
    monkeypatch.setattr(sys, "argv", [f"experiments.{name}", *words])
    with pytest.raises(SystemExit) as exit_:
        launcher.launch(importlib.import_module(f"experiments.{name}").main)
    error = capsys.readouterr().err
    assert exit_.value.code == 2, error
    return error


def check_line(error, says):
    """One line that says all of ``says``."""
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n"), error
    assert "Traceback" not in error and len(error) < 1500
    missing = [part for part in says if part not in error]
    assert not missing, f"{missing} in {error}"


TOY = "--config=configs/toy.py:moons --config.data.num_train=100 --config.data.num_test=40 --config.data.batch_size=16 --workdir=NEW"
DIT, UNET = (f"--config=HOME/images.py:{v} --workdir=NEW" for v in ("dit", "unet"))
CONFIG = "--config."

TRAIN = [
    # names that do not exist, with the nearest one
    (TOY, "path.target=LinaerFlow", "config.path.target: 'LinaerFlow'", "VP", "did you mean 'LinearFlow'?"),
    (TOY, "target.target=Velocty", "config.target.target: 'Velocty'", "X0", "did you mean 'Velocity'?"),
    (TOY, "network.target=MPL", "config.network.target: 'MPL'", "DiT", "did you mean 'MLP'?"),
    (TOY, "objective.target=Regresion", "config.objective.target: 'Regresion'", "did you mean 'Regression'?"),
    (TOY, "objective.time_law.target=UnifromTime", "config.objective.time_law.target: 'UnifromTime'", "did you mean 'UniformTime'?"),
    (TOY, "objective.weighting.target=MinSRN", "config.objective.weighting.target: 'MinSRN'", "did you mean 'MinSNR'?"),
    (TOY, "optimizer.name=adamm", "config.optimizer.name: 'adamm'", "sgd", "did you mean 'adam"),
    (TOY, "optimizer.schedule=cosin", "config.optimizer.schedule: 'cosin'", "linear", "did you mean 'cosine'?"),
    (TOY, "data.target=Toyy", "config.data.target: 'Toyy'", "TFDS", "did you mean 'Toy'?"),
    (TOY, "data.name=two_moon", "config.data.name: 'two_moon'", "checkerboard", "did you mean 'two_moons'?"),
    (TOY, "coupling.target=MinibachOT", "config.coupling.target: 'MinibachOT'", "did you mean 'MinibatchOT'?"),
    (TOY, "sampling.sampler.target=Huen", "sampling.sampler.target: 'Huen'", "DDIM", "did you mean 'Heun'?"),
    (TOY, "sampling.grid.target=UniformTimes", "sampling.grid.target: 'UniformTimes'", "Karras", "did you mean 'UniformTime'?"),
    (TOY, "path.target=nowhere.at_all:Path", "config.path.target: 'nowhere.at_all:Path'", "a module that can be imported"),
    # keys that nobody reads
    (TOY, "network.widht=3", "config.network.widht: 3", "depth", "did you mean 'width'?"),
    (TOY, "training.step=10", "config.training.step: 10", "accumulate", "did you mean 'steps'?"),
    (TOY, "optimizer.warmpu=3", "config.optimizer.warmpu: 3", "clip", "did you mean 'warmup'?"),
    (TOY, "trainning.steps=3", "config.trainning: {'steps': 3}", "did you mean 'training'?"),
    (TOY, "sampling.sampelr.target=Heun", "config.sampling.sampelr", "did you mean 'sampler'?"),
    (TOY, "denoiser.sigmadata=1.0", "config.denoiser.sigmadata: 1.0", "did you mean 'sigma_data'?"),
    (TOY, "network.width.size=3", "config.network.width.size: '3'", "a field of a section, and width is 128"),
    # values of a wrong type, or out of range
    (TOY, "training.steps=many", "config.training.steps: 'many'", "type"),
    (TOY, "network.width=8.5", "config.network.width: '8.5'", "type"),
    (TOY, "optimizer.learning_rate=fast", "config.optimizer.learning_rate: 'fast'", "type"),
    (TOY, "network=3", "config.network: '3'", "allowed"),
    (TOY, "network=MPL", "config.network.target: 'MPL'", "did you mean 'MLP'?"),
    (TOY, "training.steps=0", "config.training.steps: 0", "at least 1"),
    (TOY, "sampling.grid.num_steps=0", "num_steps: 0", "at least 1"),
    (TOY, "sampling.n=0", "config.sampling.n: 0", "at least 1"),
    (TOY, "data.batch_size=0", "config.data.batch_size: 0", "at least 1"),
    (TOY, "training.ema=(1.5,)", "config.training.ema: (1.5,)", "[0, 1)"),
    (TOY, "optimizer.warmup=1500", "config.optimizer.warmup: 1500", "0 to config.training.steps - 1 = 1499"),
    (TOY, "optimizer.clip=-1.0", "config.optimizer.clip: -1.0", "> 0"),
    (TOY, "optimizer.learning_rate=0.0", "config.optimizer.learning_rate: 0.0", "> 0"),
    (TOY, "training.devices=99", "config.training.devices: 99", "at most 4"),
    (TOY, "training.steps_per_dispatch=7", "config.training.steps_per_dispatch: 7", "a divisor of 100"),
    (TOY, "seed=-1", "config.seed: -1", "at least 0"),
    (TOY, "network.dropout=1.0", "config.network.dropout: 1.0", "[0, 1)"),
    (TOY, "preview.every=0", "config.preview.every: 0", "at least 1"),
    (TOY, "denoiser.sigma_data=-1.0", "config.denoiser.sigma_data: -1.0", "> 0"),
    (TOY, "denoiser.log_snr_min=1e9", "config.denoiser.log_snr_min: 1000000000.0", "below"),
    # impossible combinations
    (TOY, "target.target=Eps --config.denoiser.log_snr_min=-inf", "target: 'Eps'", "zero terminal SNR", "log_snr_min, -10 is usual"),
    (TOY, "data.target=NPZ --config.data.path=HOME/points.npz", "config.data.name: 'two_moons'", "path"),
    (TOY, "network.num_classes=3", "config.network.num_classes: 3", "2, the number of classes of the data"),
    (TOY, "objective.label_dropout=0.1", "config.objective.label_dropout: 0.1", "0: the network is unconditional"),
    (TOY, "objective.label_dropout=1.0", "label_dropout: 1.0", "[0, 1)"),
    (TOY, "data.batch_size=10", "config.data.batch_size: 10", "a multiple of 4, the number of devices", "8 or 12"),
    (TOY, "training.accumulate=3", "config.training.accumulate: 3", "a divisor of 4"),
    (TOY, "path.target=VP --config.path.beta_min=5.0 --config.path.beta_max=1.0", "beta_min, beta_max: (5.0, 1.0)", "beta_min <= beta_max"),
    (TOY, "path.target=VE --config.path.sigma_min=9.0 --config.path.sigma_max=1.0", "(9.0, 1.0)", "sigma_min < sigma_max"),
    (TOY, "objective.weighting.target=Likelihood", "per_log_snr: False", "True"),
    (TOY, "objective.target=LearnedVariance", "config.objective.time_law", "num_levels"),
    (TOY, "coupling.target=MinibatchOT --config.coupling.block=1", "MinibatchOT.block: 1", "at least 2"),
    (TOY, "path.target=linear_betas", "config.path.target: 'linear_betas'", "alpha"),
    (TOY, "path.target=GaussianPath", "config.path.target: 'GaussianPath'", "a class that writes"),
    (TOY, "target.target=Target", "config.target.target: 'Target'", "allowed"),
    (TOY, "sampling.sampler.target=Karras", "sampling.sampler", "Karras is a grid"),
    (TOY, "sampling.guidance.scale=2.0", "sampling.guidance.scale: 2.0", "1 (no guidance)"),
    (TOY, "sampling.sampler.target=DDIM --config.sampling.sampler.eta=2.0", "DDIM.eta: 2.0", "0 <= eta <= 1"),
    (DIT, "network.patch=3", "config.network.patch: 3", "[1, 2, 4, 8]"),
    (DIT, "network.heads=3", "config.network.heads: 3", "a divisor of width 16"),
    (DIT, "network.dtype=float8", "dtype: 'float8'", "bfloat16"),
    (DIT, "data.flip=1", "config.data.flip: 1", "bool"),
    (UNET, "network.multipliers=(1,1,1,1,1)", "multipliers: (1, 1, 1, 1, 1)", "at most 4 levels"),
    (UNET, "network.attention_at=(16,)", "attention_at: (16,)", "[8, 4]"),
    (UNET, "network.heads=3", "heads: 3", "a divisor of the 8 channels"),
    (UNET, "objective.target=LearnedVariance", "config.network.learned_variance: False", "True"),
    # data that are not there
    (DIT, "data.path=HOME/none.npz", "config.data.path: 'HOME/none.npz'", "an .npz file that exists"),
    (DIT, "data.path=HOME/keyless.npz", "config.data.x: None", "a key of HOME/keyless.npz: weights"),
    (DIT, "data.path=HOME/points.npz", "config.network", "shape: (2,)", "(height, width, channels)"),
    (DIT, "data.label=labels", "config.data.label: 'labels'", "did you mean 'label'?"),
    ("--config=configs/cifar10.py:edm --workdir=NEW", "data.data_dir=HOME/pictures", "TFDS data 'cifar10' not found", "tfds build cifar10"),
]  # fmt: skip
"""Command lines of experiments.train: a start, an override of it (after ``--config.``), and what must be said."""

WORDS = [
    ("train", "--config=configs/none.py --workdir=NEW", "--config: 'configs/none.py'", "a configuration file that can be read"),
    ("train", "--config=configs/toy.py:moon --workdir=NEW", "'moon'", "did you mean 'moons'?"),
    ("train", "--config=configs/cifar10.py:edmm --workdir=NEW", "'edmm'", "did you mean 'edm'?"),
    ("train", "--config=HOME/broken.py --workdir=NEW", "ZeroDivisionError", "broken.py, line 2"),
    *[(name, f"--config=HOME/numbers.py --{flag}=NEW", "config.data: 3", "a section")
      for name, flag in (("train", "workdir"), ("digits", "workdir"), ("bounds", "output"))],
    ("train", "--config=configs/toy.py:moons", "--workdir: None", "--workdir=DIRECTORY"),
    ("train", "--config=configs/toy.py:moons --workdir=", "--workdir: ''", "--workdir=DIRECTORY"),
    ("train", "--workdir=NEW", "--config: None", "--config=FILE:VARIANT"),
    ("train", "--config=configs/toi.py:moons --workdir=NEW", "--config: 'configs/toi.py:moons'", "did you mean 'configs/toy.py'?"),
    ("train", "--config=toy --workdir=NEW", "--config: 'toy'", "did you mean 'configs/toy.py'?"),
    ("train", f"{TOY} --config.seed=99999999999999999999", "config.seed: 99999999999999999999", "below 2^32"),
    ("train", f"{TOY} --distributed=host:port,2,0", "--distributed: 'host:port,2,0'", "auto, or HOST:PORT,COUNT,INDEX"),
    ("train", f"{TOY} --distributed=host:1,2,2", "--distributed: 'host:1,2,2'", "auto, or HOST:PORT,COUNT,INDEX"),
    ("train", f"{TOY} --config.path.target=vp", "config.path.target: 'vp'", "did you mean 'VP'?"),
    ("train", f"{TOY} --wrokdir=x", "wrokdir", "workdir"),
    ("train", f"{TOY} now", "command line: 'now'", "--FLAG=VALUE"),
    ("train", f"{TOY} --config.seed", "--config.seed: no value", "--config.seed=VALUE"),
    ("train", f"{TOY} --distributed=here", "--distributed: 'here'", "auto, or HOST:PORT,COUNT,INDEX"),
    ("train", "--config=configs/toy.py:moons --workdir=HOME/a_file", "workdir: 'HOME/a_file'", "a directory"),
    ("train", "--config=configs/toy.py:moons --workdir=HOME/headless", "workdir: 'HOME/headless'", "no config.json"),
    ("train", "--config=configs/toy.py:moons --workdir=HOME/torn", "workdir: 'HOME/torn/config.json'", "cannot be read"),
    ("train", "--config=configs/toy.py:moons --workdir=HOME/run", "config.data", "with which HOME/run was begun, or another workdir"),
    ("sample", "", "--workdir: None", "--workdir=VALUE"),
    ("sample", "--workdir=HOME/pictures", "workdir: 'HOME/pictures'", "a directory that a training run has made"),
    ("sample", "--workdir=HOME/run --clip --shards=HOME/a_file", "folder: 'HOME/a_file'", "a folder that can be made"),
    ("sample", "--workdir=HOME/wide", "checkpoint: 'ema.0.network", "a checkpoint of the configured network"),
    ("sample", "--workdir=HOME/run --sampler=DDIN", "sampling.sampler.target: 'DDIN'", "DPMSolverPP2M", "did you mean 'DDIM'?"),
    ("sample", "--workdir=HOME/run --sampler=DDIM --sampler.eta=2", "DDIM.eta: 2", "0 <= eta <= 1"),
    ("sample", "--workdir=HOME/run --sampler.eta=abc --sampler=DDIM", "sampling.sampler.eta: 'abc'", "float"),
    ("sample", "--workdir=HOME/run --sampler=DDIM --sampler.etta=1", "sampling.sampler.etta: 1", "did you mean 'eta'?"),
    ("sample", "--workdir=HOME/run --sampler=DDIM --sampler.eta.x=1", "sampling.sampler.eta: {'x': 1}", "float"),
    ("sample", "--workdir=HOME/run --sampler=None", "sampling.sampler: None", "the name of a sampler"),
    ("sample", "--workdir=HOME/run --sampler=Karras", "sampling.sampler.", "a sampler, and Karras is a grid: --grid=Karras"),
    ("sample", "--workdir=HOME/run --grid=Karas", "sampling.grid.target: 'Karas'", "UniformTime", "did you mean 'Karras'?"),
    ("sample", "--workdir=HOME/run --grid=Karras", "-8.764", "the network was trained on", "clip=True"),
    ("sample", "--workdir=HOME/run --grid=Churn --grid.grid=Karras --sampler=DPMSolverPP2M --clip", "churn", "DPMSolverPP2M remembers 1"),
    ("sample", "--workdir=HOME/run --clip --grid=Times(values=(0.2,0.5))", "grid step 0", "a repeated or reversed time"),
    ("sample", "--workdir=HOME/run --clip --sampler=UniPC(k=3) --steps=2", "steps"),
    ("sample", "--workdir=HOME/run --clip --sampler=UniPC(k=9)", "UniPC.k: 9"),
    ("sample", "--workdir=HOME/run --clip --sampler=DPMSolverSinglestep(k=4)", "DPMSolverSinglestep.k: 4"),
    ("sample", "--workdir=HOME/run --clip --grid=Churn --grid.grid=Karras --grid.s_churn=-1", "Churn.s_churn", "-1.0", ">= 0"),
    ("sample", "--workdir=HOME/run --clip --sampler=EulerMaruyama(multiplier=-1)", "multiplier: -1"),
    ("sample", "--workdir=HOME/run --clip --sampler=DDIM(eta=-0.5)", "DDIM.eta: -0.5", "0 <= eta <= 1"),
    ("sample", "--workdir=HOME/run --steps=0 --clip", "num_steps: 0", "at least"),
    ("sample", "--workdir=HOME/run --steps=many", "--steps: 'many'", "a whole number"),
    ("sample", "--workdir=HOME/run --grid=Times --steps=3", "--steps: 3", "Times has no num_steps"),
    ("sample", "--workdir=HOME/run --path=VPP", "sampling.path.target: 'VPP'", "LinearFlow", "did you mean 'VP'?"),
    ("sample", "--workdir=HOME/run --path.sigma_mx=3", "sampling.path.sigma_mx: 3", "did you mean 'sigma_max'?"),
    ("sample", "--workdir=HOME/run --path=vp", "sampling.path.target: 'vp'", "LinearFlow", "did you mean 'VP'?"),
    ("sample", "--workdir=HOME/run --sampler=ddim", "sampling.sampler.target: 'ddim'", "did you mean 'DDIM'?"),
    ("sample", "--workdir=HOME/run --sampler=dpm++sde", "sampling.sampler.target: 'dpm++sde'", "did you mean 'DPMPPSDE'?"),
    ("sample", "--workdir=HOME/run --sampler=UniformLogSNR", "'UniformLogSNR'", "UniformLogSNR is a grid: --grid=UniformLogSNR"),
    ("sample", "--workdir=HOME/run --grid=VP", "sampling.grid.target: 'VP'", "a grid, and VP is a path: --path=VP"),
    ("sample", "--workdir=HOME/run --guidance=Heun", "sampling.guidance.target: 'Heun'", "Heun is a sampler: --sampler=Heun"),
    ("sample", "--workdir=HOME/run --sampler=DDIM(eta=2)", "DDIM.eta: 2", "0 <= eta <= 1"),
    ("sample", "--workdir=HOME/run --sampler=DDIM(etta=1)", "sampling.sampler.etta: 1", "did you mean 'eta'?"),
    ("sample", "--workdir=HOME/run --sampler=DDIM(eta=1", "sampling.sampler: 'DDIM(eta=1'", "NAME(field=value, ...)"),
    ("sample", "--workdir=HOME/run --guidance 2,x", "sampling.guidance.target: '2,x'", "CFG"),
    ("sample", "--workdir=HOME/bare --guidance=2", "sampling.guidance.scale: 2", "the network has no labels"),
    ("sample", "--workdir=HOME/bare --guidance.scale=2", "sampling.guidance.scale: 2", "the network has no labels"),
    ("sample", "--workdir=HOME/run --guidance.scle=2", "sampling.guidance.scle: 2", "did you mean 'scale'?"),
    ("sample", "--workdir=HOME/bare --labels=1 --clip", "--labels: '1'", "without labels"),
    ("sample", "--workdir=HOME/run --labels=7 --clip", "--labels: 7", "0 to 1, -1 for no label, or all"),
    ("sample", "--workdir=HOME/run --labels=one --clip", "--labels: 'one'", "0 to 1, -1 for no label, or all"),
    ("sample", "--workdir=HOME/run --n 0", "--n: 0", "at least 1"),
    ("sample", "--workdir=HOME/run --n few", "--n: 'few'", "a whole number"),
    ("sample", "--workdir=HOME/run --chunk=0", "--chunk: 0", "at least 1"),
    ("sample", "--workdir=HOME/run --seed=-1", "--seed: -1", "at least 0"),
    ("sample", "--workdir=HOME/run --clip --seed=99999999999999999999", "seed: 99999999999999999999", "0 to 4294967295"),
    ("sample", "--workdir=HOME/run --clip --steps=99999999999999", "memory: ", "fewer steps (--steps)"),
    ("sample", "--workdir=HOME/run --clip --output=HOME/a_file/x", "--output: 'HOME/a_file/x'", "a directory that can be made"),
    ("sample", "--workdir=HOME/run --ema=0.5", "ema: 0.5", "(0.9, 0.99)"),
    ("sample", "--workdir=HOME/run --step=999", "step: 999", "one of 20, 'best'"),
    ("sample", "--workdir=HOME/run --step=last", "step: 'last'", "one of 20, 'best'"),
    ("sample", "--workdir=HOME/run --step=bst", "step: 'bst'", "did you mean 'best'?"),
    ("sample", "--workdir=HOME/rum", "workdir: 'HOME/rum'", "no such directory", "did you mean 'HOME/run'?"),
    ("sample", "--wrokdir=HOME/run", "command line: '--wrokdir=HOME/run'", "did you mean '--workdir'?"),
    ("sample", "--workdir=HOME/run --sampel=3", "command line: '--sampel=3'", "did you mean '--sampler'?"),
    ("sample", "--workdir=HOME/run --sampler", "--sampler: no value", "--sampler=VALUE"),
    ("sample", "--workdir=HOME/run --n", "--n: no value", "--n=VALUE"),
    ("evaluate", "--workdir=HOME/none", "workdir: 'HOME/none'", "a directory that a training run has made"),
    ("evaluate", "--workdir=HOME/run --n=3 --clip", "--n: 3", "at least 4, two samples of every class"),
    ("evaluate", "--workdir=HOME/run --n=-5", "--n: -5", "at least 1"),
    ("evaluate", "--workdir=HOME/run --grid=Karras", "the network was trained on", "clip=True"),
    ("snr_mismatch", "--workdir=HOME/run --n=5", "--n: 5", "at least 32"),
    ("snr_mismatch", "--workdir=HOME/run --nfe=5,x", "nfe: 'x'", "whole numbers"),
    ("snr_mismatch", "--workdir=HOME/run --config.n=5", "--n: 5", "at least 32"),
    ("snr_mismatch", "--workdir=HOME/run --config.nfe=(0,)", "nfe: 0", "whole numbers"),
    ("compare_corrections", "--workdir=HOME/run --config.nfe=(0,)", "nfe: 0", "whole numbers"),
    ("decompose_mismatch", "--workdir=HOME/run --config.nfe=(0,)", "nfe: [0]", "whole numbers"),
    ("ablate_samplers", "--workdir=HOME/run --config.nfe=(0,)", "nfe: 0", "whole numbers"),
    ("digits", "--n=5 --workdir=NEW", "--n: 5", "at least 100"),
    ("digits", "--config=configs/none.py --workdir=NEW", "--config: 'configs/none.py'", "can be read"),
    ("digits", "--guidance.scale=2 --workdir=NEW", "--guidance.scale", "--help"),
    ("digits", "--config=configs/toy.py:moons --workdir=NEW", "config.data.target: 'Toy'", "labelled images"),
]  # fmt: skip
"""Launcher, its command line, and what must be said."""

CASES = [("train", f"{start} {CONFIG}{override}", *says) for start, override, *says in TRAIN] + WORDS


def test_there_are_more_than_forty_and_all_are_different():
    assert len(set(CASES)) == len(CASES) > 100


@pytest.mark.parametrize("case", CASES, ids=[f"{name} {line.split('--workdir=')[-1]}" for name, line, *_ in CASES])
def test_bad_input_is_one_line(case, places, monkeypatch, capsys, tmp_path):
    name, line, *says = case
    new, before = tmp_path / "new", digest(places)
    words = line.replace("HOME", str(places)).replace("NEW", str(new)).split()
    error = refused(monkeypatch, capsys, name, words)
    check_line(error, [part.replace("HOME", str(places)) for part in says])
    assert digest(places) == before and not new.exists()


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("data", "data")])
def test_a_number_may_stand_where_a_configuration_has_a_word(text, value, monkeypatch):
    from experiments.train import define

    argv = ["train", "--config=configs/toy.py:moons", f"--config.denoiser.sigma_data={text}", "--config.training.steps_per_dispatch=2"]
    config = launcher.parse("", argv, define).config
    assert config.denoiser.sigma_data == value and config.training.steps_per_dispatch == 2


PROCESSES = [
    ("train", "--config=configs/toy.py:moons --workdir=NEW --config.network.widht=3", "config.network.widht: 3", "did you mean 'width'?"),
    ("train", "--config=configs/toy.py:moons --workdir=HOME/run", "config.data", "or another workdir"),
    ("sample", "--workdir=HOME/run --grid=Karras", "the network was trained on", "clip=True"),
    ("evaluate", "--workdir=HOME/pictures", "workdir: 'HOME/pictures'", "a directory that a training run has made"),
    ("snr_mismatch", "--workdir=HOME/run --nfe few", "nfe: 'few'", "whole numbers"),
]


@pytest.mark.parametrize("case", PROCESSES, ids=[f"{name} {line.split('=')[-1]}" for name, line, *_ in PROCESSES])
def test_the_same_from_the_shell(case, places, tmp_path):
    """A process of its own: nothing else on stderr, from whatever library, and its exit status."""
    name, line, *says = case
    words = line.replace("HOME", str(places)).replace("NEW", str(tmp_path / "new")).split()
    before = digest(places)
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *words], env=network_guard.environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    check_line(done.stderr, [part.replace("HOME", str(places)) for part in says])
    assert digest(places) == before and not (tmp_path / "new").exists()


DROPPED = """
import gc, signal, time
from experiments import launcher

def drops(*_):
    gc.callbacks.remove(drops)
    signal.raise_signal(signal.SIGINT)

def main():
    gc.callbacks.append(drops)
    gc.collect()
    time.sleep(300)

launcher.launch(main)
"""


def test_a_ctrl_c_that_comes_while_garbage_is_collected_is_not_lost():
    """Python drops what a callback raises, and JAX has one: the command ends with 130 and one line all the same."""
    ran = subprocess.run([sys.executable, "-c", DROPPED], env=network_guard.environment(), capture_output=True, text=True, timeout=250)
    assert (ran.returncode, ran.stderr) == (130, "interrupted by Ctrl-C\n")
