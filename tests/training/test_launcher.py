"""experiments.train from the command line: a user's error is one line and status 2, found before anything is compiled."""

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import jax
import network_guard
import pytest
from ml_collections import ConfigDict

from experiments import digits, launcher, train
from score_lab.build import ConfigError
from score_lab.training import NonFiniteLoss, load
from score_lab.training.prepare import DETERMINISTIC, prepare

ROOT = Path(__file__).resolve().parents[2]
TOY = f"--config={ROOT / 'configs' / 'toy.py'}"


def run(monkeypatch, capsys, *words, main=train.main):
    """(exit status, stderr) of ``python -m experiments.train`` (or another's ``main``) in this process."""
    monkeypatch.setattr(sys, "argv", ["train", *words])
    with pytest.raises(SystemExit) as caught:
        launcher.launch(main)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--config=configs/nothing.py"], "--config: 'configs/nothing.py' is refused; allowed: a configuration file that can be read"),
        ([f"{TOY}:mons"], "configs/toy.py: 'mons' is refused; allowed: the variants moons, mixture, vp, ot (did you mean 'moons'?)"),
        ([TOY, "--config.training.stepz=3"], "config.training.stepz: 3 is refused"),
        ([TOY, "--config.trainig.steps=3"], "config.trainig: {'steps': 3} is refused"),
        ([TOY, "--config.training.steps=many"], "config.training.steps: 'many' is refused"),
        ([TOY, "--config.training.steps=0"], "config.training.steps: 0 is refused"),
        ([TOY, "--config.training.steps"], "--config.training.steps: no value"),
        ([TOY, "--config.optimizer.name=adamm"], "config.optimizer.name: 'adamm' is refused"),
        ([TOY, "--config.network.widht=8"], "config.network.widht: 8 is refused"),
        ([TOY, "--config.network.num_classes=2", "--config.data.name=mixture"], "config.network.num_classes: 2 is refused; allowed: 8"),
        ([TOY, "--config.data.batch_size=510"], "config.data.batch_size: 510 is refused; allowed: a multiple of 4"),
        ([TOY, "--config.path.target=LinearFlw"], "config.path.target: 'LinearFlw' is refused"),
        ([TOY, "--config.path=LinearFlw"], "config.path.target: 'LinearFlw' is refused"),
        ([TOY, "--config.path=VP(beta max)"], "--config.path: VP(beta max): 'beta max' is refused; allowed: field=value"),
        ([TOY, "--config.coupling.target=MinibatchO"], "config.coupling.target: 'MinibatchO' is refused"),
        ([TOY, "--config.seed.deeper=1"], "--config.seed.deeper"),
        ([TOY, "--wrkdir=x"], "wrkdir"),
        ([TOY, "more"], "command line: 'more' is refused"),
        ([], "--config: None is refused; allowed: --config=FILE:VARIANT"),
    ],
)
def test_refused(monkeypatch, capsys, tmp_path, words, message):
    """Status 2, one line on stderr with the field, the value and what is allowed, and no workdir."""
    status, err = run(monkeypatch, capsys, *words, f"--workdir={tmp_path / 'run'}")
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (tmp_path / "run").exists()


def test_a_workdir_is_needed(monkeypatch, capsys):
    """And asked for."""
    status, err = run(monkeypatch, capsys, TOY)
    assert (status, err) == (2, "error: --workdir: None is refused; allowed: --workdir=DIRECTORY, see --help\n")


def test_overrides(tmp_path):
    """Values of the configuration's type, tuples, fields that the configuration leaves out, sections that are None."""
    words = [TOY, "--config.training.ema=(0.9,0.99)", "--config.optimizer.learning_rate=1", "--config.training.accumulate", "4"]
    words += ["--config.coupling.target=MinibatchOT", "--config.network.dropout=0.1"]
    config = launcher.parse("about", ["train", *words], train.define).config
    assert isinstance(config, ConfigDict) and config.training.ema == (0.9, 0.99) and config.training.accumulate == 4
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.coupling.target == "MinibatchOT" and config.network.dropout == 0.1


def test_a_section_is_a_part_in_one_word():
    """As solvers are on other command lines; a dict is one too."""
    for word, spec in (
        ("VP(beta_max=10.0)", {"target": "VP", "beta_max": 10.0}),
        ("my_package.my_path:Quadratic", {"target": "my_package.my_path:Quadratic"}),
        ("{'target': 'EDM'}", {"target": "EDM"}),
    ):
        config = launcher.parse("about", ["train", TOY, f"--config.path={word}"], train.define).config
        assert {k: v for k, v in config.path.to_dict().items() if v is not None} == spec


def test_help(monkeypatch, capsys):
    """What it does, its flags, and every value of the configuration with the flag that overrides it; status 0."""
    monkeypatch.setattr(sys, "argv", ["train", TOY, "--help"])
    with pytest.raises(SystemExit) as caught:
        launcher.launch(train.main)
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "--workdir: the directory of the run" in out and "--config.training.steps=1500" in out and "python -m experiments.train" in out


def test_status_of_a_loss_that_is_not_finite(capsys):
    """1, and one line; other errors keep their traceback."""

    def nan():
        raise NonFiniteLoss("loss is nan at step 3")

    with pytest.raises(SystemExit) as caught:
        launcher.launch(nan)
    assert caught.value.code == 1 and capsys.readouterr().err == "error: loss is nan at step 3\n"

    def bug():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        launcher.launch(bug)


@pytest.mark.parametrize(("stopped", "status"), [("SIGINT", 130), ("SIGTERM", 143), (None, 0)])
def test_a_signal_is_the_exit_status(monkeypatch, capsys, tmp_path, stopped, status):
    """After Ctrl-C and after SIGTERM, when what was trained is saved; 0 where it ran to its end."""
    monkeypatch.setattr("score_lab.training.train", lambda *_, **__: types.SimpleNamespace(stopped=stopped))
    assert run(monkeypatch, capsys, TOY, f"--workdir={tmp_path}")[0] == status


def test_ctrl_c_saves_and_exits_with_130(monkeypatch, capsys, tmp_path):
    """Typed while it trains: the steps that were made are saved, and the status is that of Ctrl-C."""

    def pressed(config, workdir):
        return ((2, lambda denoiser, step: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None),)

    monkeypatch.setattr(train, "preview", pressed)
    words = ["--config.network.width=8", "--config.network.depth=1", "--config.data.num_train=64", "--config.data.num_test=16"]
    words += ["--config.data.batch_size=16", "--config.training.steps=40", "--config.optimizer.warmup=1", "--config.training.eval_every=0"]
    assert run(monkeypatch, capsys, TOY, *words, f"--workdir={tmp_path / 'run'}")[0] == 130
    assert 2 <= load(tmp_path / "run").step < 40


def test_a_signal_in_the_last_dispatch_of_a_run_that_is_done_is_status_0(monkeypatch, capsys, tmp_path):
    """A scheduler that queues again what was stopped would run it once more for nothing."""

    def pressed(config, workdir):
        return ((4, lambda denoiser, step: os.kill(os.getpid(), signal.SIGTERM)),)

    monkeypatch.setattr(train, "preview", pressed)
    words = ["--config.network.width=8", "--config.network.depth=1", "--config.data.num_train=64", "--config.data.num_test=16"]
    words += ["--config.data.batch_size=16", "--config.training.steps=4", "--config.optimizer.warmup=1", "--config.training.eval_every=0"]
    assert run(monkeypatch, capsys, TOY, *words, f"--workdir={tmp_path / 'run'}") == (0, "")
    assert load(tmp_path / "run").step == 4


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupt_of_one_of_several_processes_ends_it_at_once(monkeypatch, capsys, count):
    """What JAX does at the end of a process would wait for the others, for minutes; of one process nothing does, and it ends as ever."""

    def end(status):
        raise Ended(status)

    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(train.os, "_exit", end)
    with pytest.raises((KeyboardInterrupt, Ended)) as caught, train.one_ends_all():
        raise KeyboardInterrupt
    said = "error: interrupted by Ctrl-C: the same commands go on from the newest checkpoint\n"
    ended = (caught.type, caught.value.args, capsys.readouterr().err)
    assert ended == ((KeyboardInterrupt, (), "") if count == 1 else (Ended, (130,), said))


@pytest.mark.parametrize("error", [ValueError("coordinator_address should be defined."), jax.errors.JaxRuntimeError("UNAVAILABLE: x\ny")])
def test_processes_that_do_not_find_each_other_are_one_line(monkeypatch, capsys, tmp_path, error):
    """What JAX raises where it finds no cluster, or cannot listen: the form with three numbers is named; nothing is written."""

    def initialize(*_, **__):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    status, err = run(monkeypatch, capsys, TOY, "--distributed=auto", f"--workdir={tmp_path / 'run'}")
    assert status == 2 and err.count("\n") == 1 and not (tmp_path / "run").exists()
    assert err.startswith("error: --distributed: 'auto' is refused; allowed: HOST:PORT,COUNT,INDEX (of process 0, of all, of this one)")
    assert str(error).splitlines()[0] in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"), [("auto", "or auto where JAX finds a cluster"), ("localhost:9,2,1", "within 2 seconds: they did not")]
)
def test_a_process_that_finds_no_others_ends_by_itself(tmp_path, words, said):
    """In a process of its own, no cluster and a coordinator that does not answer: one line, status 2, nothing written."""
    program = "from experiments import launcher, train; train.PATIENCE = 2; launcher.launch(train.main)"
    command = [sys.executable, "-c", program, TOY, f"--workdir={tmp_path / 'run'}", f"--distributed={words}"]
    environment = network_guard.environment(no_proxy="localhost,127.0.0.1")
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 2 and said in ran.stderr and "HOST:PORT,COUNT,INDEX" in ran.stderr, ran.stderr
    ours = [line for line in ran.stderr.splitlines() if not line.startswith("WARNING:jax")]  # of proxies, which the environment names
    assert len(ours) == 1 and ours[0].startswith("error: --distributed: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", [train, digits])
@pytest.mark.parametrize("asked", [True, False])
def test_deterministic_operations_are_asked_of_xla_by_name(monkeypatch, capsys, tmp_path, module, asked):
    """Before anything is trained, beside what XLA_FLAGS said already; not where the configuration does not want them."""
    seen = []
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_mine=1")
    stopped = types.SimpleNamespace(stopped="SIGINT")
    monkeypatch.setattr("score_lab.training.train", lambda *_, **__: seen.append(os.environ["XLA_FLAGS"]) or stopped)
    (tmp_path / "config.py").write_text(
        "from configs import digits\ndef get_config(variant=''):\n    config = digits.get_config('tiny')\n"
        f"    config.training.deterministic = {asked}\n    return config\n"
    )
    assert run(monkeypatch, capsys, f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", main=module.main)[0] == 130
    assert seen == ["--xla_of_mine=1 --xla_gpu_deterministic_ops=true" if asked else "--xla_of_mine=1"]


def test_on_a_gpu_a_run_that_would_not_be_deterministic_is_refused(monkeypatch, tmp_path, config):
    """One line that says what to set; with it, and where it is not asked for, the run may begin."""
    monkeypatch.setattr("score_lab.training.prepare.jax.default_backend", lambda: "gpu")
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(ConfigError, match=f"^config.training.deterministic: True is refused; allowed: .*{DETERMINISTIC}") as caught:
        prepare(config(training__deterministic=True), tmp_path)
    assert "\n" not in str(caught.value)
    prepare(config(training__deterministic=False), tmp_path)
    monkeypatch.setenv("XLA_FLAGS", f"--xla_of_mine=1 {DETERMINISTIC}")
    prepare(config(training__deterministic=True), tmp_path)


@pytest.mark.slow
def test_the_commands_themselves(tmp_path):
    """In processes of their own: a refusal without a traceback, then a run of a few steps that loads."""
    command = [sys.executable, "-m", "experiments.train", "--config=configs/toy.py", f"--workdir={tmp_path / 'run'}"]
    environment = network_guard.environment()
    refused = subprocess.run([*command, "--config.network.width=0"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "Traceback" not in refused.stderr
    small = ["--config.network.width=8", "--config.training.steps=4", "--config.optimizer.warmup=1", "--config.training.deterministic=True"]
    done = subprocess.run([*command, *small, "--config.training.log_every=2"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stdout and "0:00 left" in done.stdout
    assert load(tmp_path / "run").step == 4
