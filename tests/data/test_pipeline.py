"""The stream of batches: order, shards, exact continuation, one pass with a mask."""

import json
import subprocess
import sys
from pathlib import Path

import grain
import network_guard
import numpy as np
import pytest

from score_lab.build import ConfigError
from score_lab.data import ArrayRecords, DataSpec, Digits, Source, Toy, batches
from score_lab.data.hashing import bits
from score_lab.data.pipeline import BatchSource, stream_order

ROOT = Path(__file__).resolve().parents[2]


class Numbers(Source):
    """Ten images of shape (1, 2, 1): record i holds (i, -i) and the label i."""

    def _open(self, split):
        rows = np.arange(10, dtype=np.float32)
        return ArrayRecords(image=np.stack([rows, -rows], axis=1)[:, None, :, None], label=np.arange(10))

    def _spec(self):
        return DataSpec((1, 2, 1), 10, "numbers")


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def labels(iterator, count):
    return np.concatenate([batch["cond"]["label"] for batch in take(iterator, count)])


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        if isinstance(a[name], dict):
            same(a[name], b[name])
        else:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_every_epoch_is_a_permutation_of_its_own_and_seeds_differ():
    stream = labels(batches(Numbers(), "train", 4, seed=3), 10).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(stream, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in stream}) == 4
    assert not np.array_equal(stream.ravel(), labels(batches(Numbers(), "train", 4, seed=4), 10))
    np.testing.assert_array_equal(labels(batches(Numbers(), "train", 4, shuffle=False), 5), np.tile(np.arange(10), 2))


def test_shuffling_sends_every_record_everywhere_equally():
    """Over 4000 epochs of 10 records the count of (place, record) is binomial(4000, 1/10): within five standard deviations of 400."""
    order = stream_order(np.arange(40_000), 10, seed=7).reshape(-1, 10)
    counts = np.stack([np.bincount(order[:, place], minlength=10) for place in range(10)])
    assert np.abs(counts - 400).max() < 5 * np.sqrt(4000 * 0.1 * 0.9)


def test_the_random_bits_are_those_of_splitmix64():
    """The first outputs of the reference implementation (Vigna, splitmix64.c) from state 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert bits(np.arange(5), 1234567).tolist() == published


@pytest.mark.parametrize("options", [{}, {"num_threads": 3}, {"flip": True}, {"repeat": False}])
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_a_restored_iterator_continues_bit_by_bit(options, stop):
    """Batches of 4 from 10 records: stops at the start, within an epoch, across an epoch's end."""
    whole = batches(Numbers(), "train", 4, seed=5, **options)
    take(whole, min(stop, 2))
    if stop == 3 and options.get("repeat", True):
        take(whole, 4)
    state = json.loads(json.dumps(whole.get_state()))
    assert len(json.dumps(state)) < 200
    expected = list(whole) if options.get("repeat") is False else take(whole, 6)
    other = batches(Numbers(), "train", 4, seed=5, **options)
    take(other, 1)  # wherever it stands
    other.set_state(state)
    for a, b in zip(expected, other, strict=False):
        same(a, b)
    assert expected


def test_orbax_saves_the_position(tmp_path, data_dir):
    import orbax.checkpoint as ocp

    iterator = batches(Digits(8, data_dir), "train", 64, seed=1)
    take(iterator, 30)
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(30, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected, other = take(iterator, 2), batches(Digits(8, data_dir), "train", 64, seed=1)
        manager.restore(30, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(other)))
    for a, b in zip(expected, take(other, 2), strict=True):
        same(a, b)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("repeat", [True, False])
def test_the_shares_of_all_processes_put_together_are_the_global_batch(data_dir, processes, repeat):
    source = Digits(8, data_dir)
    options = {"seed": 2, "repeat": repeat, "flip": repeat}
    whole = take(batches(source, "test", 48, **options), 8)  # 8 x 48 > 360: into the second epoch, or to the mask
    shares = [batches(source, "test", 48, process_index=p, process_count=processes, **options) for p in range(processes)]
    for batch in whole:
        parts = [next(share) for share in shares]
        assert all(len(part["x0"]) == 48 // processes for part in parts)
        for name in ("x0", "index") if repeat else ("x0", "index", "mask"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), batch[name])
        np.testing.assert_array_equal(np.concatenate([part["cond"]["label"] for part in parts]), batch["cond"]["label"])
        if repeat:
            np.testing.assert_array_equal(batch["index"], np.arange(48, dtype=np.int32))


def test_one_process_restores_what_two_saved():
    two = [batches(Numbers(), "train", 4, seed=6, process_index=p, process_count=2) for p in range(2)]
    for iterator in two:
        take(iterator, 3)
    one = batches(Numbers(), "train", 4, seed=6)
    one.set_state(two[0].get_state())
    np.testing.assert_array_equal(next(one)["x0"], np.concatenate([next(iterator)["x0"] for iterator in two]))


def test_each_process_reads_its_own_records_and_no_other():
    class Watched(ArrayRecords):
        def gather(self, indices):
            read.extend(indices.tolist())
            return super().gather(indices)

    source, shares = Numbers(), []
    records = Watched(**source("train").arrays)
    for process in range(2):
        read = []
        numbered = BatchSource(source, records, 10, 99, None, True, process, 2)
        numbered[0]
        shares.append(read)
    assert [len(share) for share in shares] == [5, 5] and sorted(sum(shares, [])) == list(range(10))


def test_flips_are_seeded_by_the_position_in_the_stream_and_fair():
    flipped, plain = (batches(Numbers(), "train", 8, seed=1, flip=flip) for flip in (True, False))
    turned = []
    for a, b in zip(take(flipped, 100), take(plain, 100), strict=True):
        np.testing.assert_array_equal(np.sort(a["x0"], axis=2), np.sort(b["x0"], axis=2))
        turned.append((a["x0"] != b["x0"]).any(axis=(1, 2, 3))[b["cond"]["label"] != 0])
    turned = np.concatenate(turned)
    assert abs(turned.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(turned))
    other = np.concatenate([batch["x0"] for batch in take(batches(Numbers(), "train", 4, seed=1, flip=True), 10)])
    again = np.concatenate([batch["x0"] for batch in take(batches(Numbers(), "train", 8, seed=1, flip=True), 5)])
    np.testing.assert_array_equal(other, again)  # whatever the batch size


def test_one_pass_shows_every_record_once_and_masks_the_rest():
    seen = list(batches(Numbers(), "test", 4, repeat=False))
    assert [batch["mask"].tolist() for batch in seen] == [[True] * 4, [True] * 4, [True, True, False, False]]
    mask = np.concatenate([batch["mask"] for batch in seen])
    np.testing.assert_array_equal(np.concatenate([batch["cond"]["label"] for batch in seen])[mask], np.arange(10))
    np.testing.assert_array_equal(np.concatenate([batch["index"] for batch in seen]), np.arange(12))
    assert all(np.isfinite(batch["x0"]).all() and len(batch["x0"]) == 4 for batch in seen)


def test_points_have_batches_too():
    batch = next(batches(Toy("mixture", num_train=64), "train", 16))
    assert batch["x0"].shape == (16, 2) and batch["x0"].dtype == np.float32 and batch["cond"]["label"].max() < 8


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((Numbers(), "train", 0), {}, "batch_size: 0"),
        ((Numbers(), "train", 6), {"process_count": 4}, "batch_size: 6 .* 4 processes"),
        ((Numbers(), "train", 4), {"process_count": 2, "process_index": 2}, "process_index: 2 .* 0 to 1"),
        ((Numbers(), "tset", 4), {}, "split: 'tset' .*did you mean 'test'"),
        ((Numbers(), "train", 4), {"seed": -1}, "seed: -1"),
        ((Toy(), "train", 4), {"flip": True}, "flip: True"),
    ],
)
def test_what_cannot_be_batched_is_refused_in_one_line(arguments, options, says):
    with pytest.raises(ConfigError, match=says) as caught:
        batches(*arguments, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_resume(data_dir):
    source = Digits(8, data_dir)
    expected = take(batches(source, "train", 64, seed=9), 8)
    workers = batches(source, "train", 64, seed=9, num_workers=2)
    for a, b in zip(expected[:5], take(workers, 5), strict=True):
        same(a, b)
    state = workers.get_state()
    workers.close()
    again = batches(source, "train", 64, seed=9, num_workers=2)
    again.set_state(state)
    for a, b in zip(expected[5:], take(again, 3), strict=True):
        same(a, b)
    again.close()


NEVER_CLOSED = """
from score_lab.data import Toy
from score_lab.data.pipeline import batches
if __name__ == "__main__":
    stream = batches(Toy(num_train=40), "train", 8, seed=0, num_workers=1)
    print(next(stream)["x0"].shape, flush=True)
"""


@pytest.mark.slow
def test_a_process_that_never_closes_its_stream_ends(tmp_path):
    """Who reads ahead for it hears no SIGTERM, by which Python would end it."""
    (tmp_path / "program.py").write_text(NEVER_CLOSED)
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, env=network_guard.environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "(8, 2)\n", done.stderr
