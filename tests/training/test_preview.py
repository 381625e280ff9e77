"""Pictures on the way: drawn at their steps through a callback, shared out among processes and devices, in TensorBoard and as a film; and
refused by name where they cannot be.
"""

import io
import shutil

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from training import processes
from training.test_watching import events_in

from experiments import preview as previews
from experiments import stills
from experiments.preview import preview, samples_of
from experiments.sampling import build_sampling, section_of
from experiments.stills import film, save_still
from score_lab.build import ConfigError
from score_lab.data import DataSpec
from score_lab.samplers import sample
from score_lab.training import load, train
from score_lab.training.options import plain
from score_lab.training.parts import build_parts
from score_lab.training.state import init_state

SAMPLING = {"sampler": {"target": "EulerMaruyama"}, "grid": {"target": "UniformLogSNR", "start": -6.0, "end": 6.0, "num_steps": 3}}


def pixels(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"), np.int16)


@pytest.fixture
def parts(config):
    return build_parts(plain(config(sampling=SAMPLING)), DataSpec((2,), 2, "none"), 0.7)


def test_any_number_of_processes_and_devices_makes_the_same_samples(parts, monkeypatch):
    """Of seven samples two processes of four devices (one of them padded), one process of four and of one device: those of ``sample``."""
    denoiser, section = parts.denoiser(init_state(parts, 0).params), section_of(parts.config)
    label = np.array([0, 1, 0, 1, 0, 1, 0], np.int32)
    direct = sample(*build_sampling(section, denoiser), (7, 2), jax.random.key(0), cond={"label": label}).x
    assert np.ptp(direct, axis=0).min() > 0.1
    for devices in (None, 1):
        x, labels = samples_of(denoiser, section, (2,), 7, devices)
        np.testing.assert_allclose(x, direct, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(labels, label)
    shares = {}

    def gathered(own):
        shares[process] = own
        return np.stack([shares[0] if 0 in shares else np.full_like(own, np.nan), shares[1]])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    process = 1
    assert samples_of(denoiser, section, (2,), 7) == (None, None) and shares[1].shape == (4, 2)
    process = 0
    np.testing.assert_allclose(samples_of(denoiser, section, (2,), 7)[0], direct, rtol=1e-5, atol=1e-6)


def test_samples_of_one_common_step_size_are_made_by_every_process(parts, monkeypatch):
    """On one device and in one piece, whatever ``sampling.chunk`` says: one more or less of them would change the others."""
    own = {"sampling": {**SAMPLING, "sampler": {"target": "DPMAdaptive", "together": True}, "chunk": 4}}
    denoiser, section = parts.denoiser(init_state(parts, 0).params), section_of(own)
    label = np.array([0, 1, 0, 1, 0, 1, 0], np.int32)
    direct = sample(*build_sampling(section, denoiser), (7, 2), jax.random.key(0), cond={"label": label})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    np.testing.assert_array_equal(samples_of(denoiser, section, (2,), 7)[0], direct.x)


def test_a_film_goes_on_where_what_changed_draws_no_sample(config, tmp_path, monkeypatch):
    """The chunk and the n of ``sampling``: its pictures are of the same samples; another seed, grid or n of the preview begins anew."""

    def made_by(shown=4, **changes):
        told = []
        own = plain(config(preview={"every": 5, "n": shown}, sampling=SAMPLING | changes))
        monkeypatch.setattr(previews, "samples_of", lambda *args: (np.zeros((shown, 2)), None))
        monkeypatch.setattr(previews, "save_still", lambda file, step, x, label, made_by: told.append(made_by) or file.write_bytes(b""))
        ((_, function),) = preview(own, tmp_path)
        (tmp_path / "previews").mkdir(exist_ok=True)
        function(None, 5)
        return told[0]

    assert made_by() == made_by(chunk=3) == made_by(chunk="1GiB", n=9)
    others = [made_by(shown=5), made_by(seed=1), made_by(clip=True), made_by(grid={"target": "UniformLogSNR", "num_steps": 4})]
    assert len({made_by(), *others}) == 5


@pytest.mark.slow
def test_a_run_that_was_killed_has_the_pictures_and_the_film_of_one_that_was_not(config, tmp_path):
    """A picture every five steps, killed behind the third and before its checkpoint: the same bytes; TensorBoard has these pictures."""
    pytest.importorskip("matplotlib")
    own = plain(config(preview={"every": 5, "n": 4}, sampling=SAMPLING, training__eval_every=0))

    def kill(denoiser, step):
        if step == 15:
            raise KeyboardInterrupt

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(own, straight, preview(own, straight))
    with pytest.raises(KeyboardInterrupt):
        train(own, broken, [*preview(own, broken), (5, kill)])
    assert (broken / "previews" / "step_00000015.png").exists() and not (broken / "checkpoints" / "15").exists()
    train(own, broken, [*preview(own, broken), (5, lambda denoiser, step: None)])
    stills = [f"step_{step:08d}.png" for step in (5, 10, 15, 20)]
    for home in (straight, broken):
        files = {file.name: file.read_bytes() for file in (home / "previews").iterdir()}
        assert sorted(files) == ["film.gif", *stills]
        shown = {e.step: v.image for e in events_in(home / "events") for v in e.summary.value if v.tag == "preview"}
        assert [shown[step].encoded_image_string for step in (5, 10, 15, 20)] == [files[name] for name in stills]
        with Image.open(io.BytesIO(shown[20].encoded_image_string)) as image:
            assert (shown[20].width, shown[20].height, shown[20].colorspace) == (*image.size, len(image.getbands()))
        for name, data in files.items():
            assert data == (straight / "previews" / name).read_bytes(), name
    assert len({(straight / "previews" / name).read_bytes() for name in stills}) == 4
    with Image.open(straight / "previews" / "film.gif") as images:
        assert images.n_frames == 4
        for k, name in enumerate(stills):
            images.seek(k)
            assert np.abs(np.asarray(images.convert("RGB"), np.int16) - pixels(straight / "previews" / name)).mean() < 2


def still(file, grey, made_by="these"):
    text = PngInfo()
    text.add_text("made_by", made_by)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(file, pnginfo=text)


def test_a_film_is_of_the_same_samples_up_to_its_step_and_does_not_grow_without_end(tmp_path, monkeypatch):
    """Those of another preview, those that a killed run has made beyond the step, and what is no whole picture stay out; the first and the
    last are in it."""
    monkeypatch.setattr(stills, "FRAMES", 5)
    for step in range(1, 13):
        still(tmp_path / f"step_{step:08d}.png", 20 * step)
    still(tmp_path / "step_00000007.png", 255, "others")
    (tmp_path / "step_00000002b.png").write_bytes((tmp_path / "step_00000002.png").read_bytes())
    (tmp_path / "step_00000008.png").write_bytes((tmp_path / "step_00000008.png").read_bytes()[:70])
    (tmp_path / "step_00000009.png").write_bytes(b"")
    assert film(tmp_path, 1, "these") is None and film(tmp_path, 12, "others") is None and not (tmp_path / "film.gif").exists()
    for step, shown in ((3, [1, 2, 3]), (8, [1, 3, 4, 5]), (12, [1, 3, 5, 10, 12])):
        with Image.open(film(tmp_path, step, "these")) as images:
            greys = []
            for k in range(images.n_frames):
                images.seek(k)
                greys.append(images.convert("RGB").getpixel((4, 4))[0])
        assert greys == [20 * k for k in shown]


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    """Where writing it fails; and it says what made it."""
    pytest.importorskip("matplotlib")
    x = np.zeros((2, 2), np.float32)
    save_still(tmp_path / "step_00000001.png", 1, x, None, "a")
    with Image.open(tmp_path / "step_00000001.png") as image:
        assert image.info["made_by"] == "a"
    monkeypatch.setattr("experiments.sample.save_picture", lambda file, *_: file.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_still(tmp_path / "step_00000002.png", 2, x, None, "a")
    assert [file.name for file in tmp_path.iterdir()] == ["step_00000001.png"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(), ("fsdp=4", "min_size=8")], ids=" ".join)
def test_two_processes_draw_the_picture_of_one(tmp_path, mesh):
    """Each makes its half with its own two devices, also where the parameters are shared out across them: the picture is the one that a
    single process draws with what was saved at that step.
    """
    pytest.importorskip("matplotlib")
    words = [f"--config.training.{word}" for word in ("steps=40", "log_every=20", "checkpoint_every=20", "eval_every=0")]
    words += ["--config.preview.every=20", "--config.preview.n=37", *(f"--config.parallel.{word}" for word in mesh)]
    processes.run(tmp_path / "two", *words)
    loaded = load(tmp_path / "two")
    ((_, draw),) = preview(loaded.config, tmp_path / "one")
    (tmp_path / "one").mkdir()
    assert loaded.step == 40
    draw(loaded.denoiser, 40)
    one, two = (pixels(tmp_path / name / "previews" / "step_00000040.png") for name in ("one", "two"))
    assert np.abs(one - two).max() <= 8 and two.std() > 10
    assert (tmp_path / "two" / "previews" / "film.gif").exists()
    shutil.rmtree(tmp_path / "two")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"preview": {"evry": 10}}, r"config.preview.evry: 10.*did you mean 'every'"),
        ({"preview": {"n": 3}}, r"config.preview.every: None"),
        ({"preview": {"every": 10, "n": 0}}, r"config.preview.n: 0"),
        ({"preview": {"every": 10}, "sampling": {"samplr": "Euler"}}, r"config.sampling.samplr: 'Euler'.*did you mean 'sampler'"),
    ],
)
def test_refused(config, tmp_path, changes, message):
    """Before training begins."""
    with pytest.raises(ConfigError, match=message):
        preview(plain(config(**changes)), tmp_path)


def test_what_no_picture_shows_is_refused(config, tmp_path):
    np.savez(tmp_path / "points.npz", x=np.zeros((4, 3), np.float32))
    own = config(preview={"every": 10}, data={"target": "NPZ", "path": str(tmp_path / "points.npz"), "batch_size": 16})
    with pytest.raises(ConfigError, match=r"config.preview: .*'every': 10.* is refused; allowed: None: examples of shape \(3,\)"):
        preview(plain(own), tmp_path)


def test_none_is_asked_for(config, tmp_path):
    """No callback."""
    assert preview(plain(config()), tmp_path) == []
