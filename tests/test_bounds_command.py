"""experiments.bounds: what it prints and writes on two moons, and what it refuses."""

import json
from pathlib import Path

import pytest

from experiments import bounds, launcher
from score_lab.build import ConfigError
from score_lab.cost import Measured, Peaks

ROOT = Path(__file__).resolve().parent.parent
TOY = f"--config={ROOT / 'configs' / 'toy.py'}:moons"
SMALL = """--config.data.num_train=100 --config.data.num_test=64 --config.data.batch_size=16 --config.network.width=16
    --config.network.depth=1 --config.sampling.grid.num_steps=3 --config.training.steps=60"""
PEAKS = Peaks(flops=1e9, bandwidth=1e9, dtype="float32", devices=1)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["bounds", *words])
    with pytest.raises(SystemExit) as caught:
        launcher.launch(bounds.main)
    return caught.value.code


def test_table_picture_and_figures(monkeypatch, capsys, tmp_path):
    """The intensity of one evaluation grows with the batch: the weights are read once for all; its operations are in proportion."""
    monkeypatch.setattr("score_lab.training.speed.measured_peaks", lambda *_: PEAKS)
    monkeypatch.setattr("score_lab.cost.measured_peaks", lambda *_: PEAKS)
    assert run(monkeypatch, TOY, *SMALL.split(), f"--output={tmp_path}", "--batches=1,16", "--rounds=1") == 0
    out = capsys.readouterr().out
    assert "training step" in out and out.count("sampling, one evaluation") == 2 and "of peak" in out
    assert "sampling turns from" in out or "sampling is memory-bound" in out or "sampling is compute-bound" in out
    step, one, sixteen = json.loads((tmp_path / "bounds.json").read_text())
    assert (step["batch"], one["batch"], sixteen["batch"]) == (4, 1, 16)  # of the step: on each of four devices
    assert sixteen["flops"] == 16 * one["flops"] and sixteen["intensity"] > one["intensity"] and one["seconds"] > 0
    assert (tmp_path / "roofline.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "words, message",
    [
        ([TOY], "--output: None is refused"),
        ([], "--workdir: None is refused"),
        ([TOY, "--workdir=x"], "--workdir: 'x' is refused"),
        ([TOY, "--output=x", "--batches=1,few"], "--batches: '1,few' is refused"),
        ([TOY, "--output=x", "--batches=0"], "--batches: '0' is refused"),
        ([TOY, "--output=x", "--rounds=0"], "--rounds: 0 is refused"),
        (["--workdir=nowhere"], "workdir: 'nowhere' is refused"),
    ],
)
def test_refused(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err and not list(tmp_path.iterdir())


def of_share(batch, intensity, share):
    """A point that reaches ``share`` of the roof, PEAKS' ridge being 1."""
    return Measured("s", batch, 1.0, share * 1e9 * min(intensity, 1.0), share * 1e9 * min(intensity, 1.0) / intensity, PEAKS)


def test_where_sampling_turns_in_words():
    """The intensity says which bound is nearer; far below the roof it is neither, at the batches that are said."""
    points = [of_share(1, 0.25, 0.8), of_share(16, 4.0, 0.5), of_share(64, 8.0, 0.4)]
    assert bounds.turning(points) == "sampling turns from memory- to compute-bound at a batch of about 4; it reaches 40 to 80 % of the roof"
    assert bounds.turning(points[1:]) == "sampling is compute-bound at every batch from 16 to 64; it reaches 40 to 50 % of the roof"
    else_ = "something else bounds it{} (overhead of dispatch, small products, or a busy machine)"
    far = [of_share(1, 2.0, 0.07), of_share(16, 4.0, 0.12)]
    every = "sampling is compute-bound at every batch from 1 to 16; it reaches"
    assert bounds.turning(far) == f"{every} 7 to 12 % of the roof: {else_.format('')}"
    assert bounds.turning([far[0], points[1]]) == f"{every} 7 to 50 % of the roof: {else_.format(' at batch 1')}"
    unknown = Measured("s", 4, 1.0, 1e8, float("nan"), PEAKS)
    assert bounds.turning([unknown]) == "sampling is unknown-bound at every batch from 4 to 4"


def test_batches_in_ascending_order():
    assert bounds.batches_of("16,1,1") == [1, 16]
    with pytest.raises(ConfigError):
        bounds.batches_of("1.5")
