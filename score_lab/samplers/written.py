"""Samples written as they are drawn, chunk by chunk, into a folder that says what made them; stopped anywhere, resumed to the same bytes.

    manifest.json                 the request, one entry for each thing that decides a sample, and the chunk size; written first
    shard-00000512.npz            samples 512, 513, ...: x, index, the condition, nfe (and num_steps of an adaptive solver)
    samples.zarr, shard-*.done    in place of these, with format="zarr" (pip install zarr)
    png/000/00000512.png          images with 1 or 3 channels in [-1, 1], one file a sample, a thousand in a folder

A shard appears whole, by renaming, after its pictures: what is there is finished.  A run with the same request draws what is missing; a
shard that cannot be read is drawn again.  Another request is refused by the name of what differs, also another chunk size, number of
devices, or version of jax: these may change a sample's last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import struct
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from score_lab.build import ConfigError, refuse
from score_lab.denoiser import Denoiser
from score_lab.samplers.base import Integrator, Sampler
from score_lab.samplers.chunks import Chunks
from score_lab.types import Array, PyTree

__all__ = ["Written", "fingerprint", "open_written", "sample_written"]

FORMATS = ("npz", "zarr")


@dataclasses.dataclass(frozen=True)
class Written:
    """A finished folder: ``n`` samples in ``format``, shards of ``chunk``; ``bad`` are the indices of samples that are not finite."""

    folder: Path
    n: int
    chunk: int
    format: str
    bad: tuple[int, ...] = ()

    def shards(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of one shard after the other: ``x`` (a state of several arrays: ``x['name']``), ``index``, the condition, ``nfe``."""
        for first in range(0, self.n, self.chunk):
            yield _STORES[self.format](self.folder).read(first, min(self.chunk, self.n - first))

    def load(self) -> dict[str, np.ndarray]:
        """All shards in one."""
        parts = list(self.shards())
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def open_written(folder: str | Path) -> Written:
    """A folder of ``sample_written``; ConfigError where there is none, or one that has not been finished."""
    folder = Path(folder)
    manifest = _manifest(folder)
    if manifest is None:
        refuse("folder", str(folder), "one that sample_written made (it has no manifest.json)")
    n, chunk, format = manifest["request"]["n"], manifest["chunk"], manifest["request"]["format"]
    bad = []
    for first in range(0, n, chunk):
        shard = _STORES[format](folder).read(first, min(chunk, n - first))
        if shard is None:
            refuse("folder", str(folder), f"a finished run: samples from {first} on are missing (run the same request again)")
        bad += _bad(shard)
    return Written(folder, n, chunk, format, tuple(bad))


def sample_written(
    folder: str | Path,
    denoiser: Denoiser,
    sampler: Sampler | Integrator,
    grid: Any,
    shape: Any = None,
    key: Array | None = None,
    *,
    chunk: int | str,
    x_T: PyTree | None = None,
    index: Any = None,
    cond: Any = None,
    devices: Sequence[jax.Device] | None = None,
    progress: Callable[[int, int], None] | None = None,
    format: str = "npz",
    png: bool = True,
) -> Written:
    """``sample_chunked`` into ``folder``, which is begun or resumed (see the module); no more than one chunk is in memory.

    ``format``: "npz" or "zarr".  ``png``: pictures too, where the samples are images.  ``progress(done, n)`` after each chunk.

    Raises ConfigError for a folder that holds something else or another request (naming the first key that differs), an unknown format,
    zarr where it is not installed, and what ``sample_chunked`` raises.
    """
    if format not in FORMATS:
        refuse("sample.format", format, " or ".join(FORMATS), FORMATS)
    if format == "zarr" and importlib.util.find_spec("zarr") is None:
        refuse("sample.format", format, "npz, or zarr once it is installed: pip install zarr")
    folder, grid = Path(folder), grid.steps(denoiser.path) if hasattr(grid, "steps") else grid
    before = _manifest(folder)
    key = jax.random.key(0) if key is None else key
    arguments = {"x_T": x_T, "index": index, "cond": cond}
    request = _request(denoiser, sampler, grid, shape, key, arguments, chunk, devices, format, png)
    if before is not None:
        _compare(folder, before["request"], request)
        chunk = before["chunk"]
    run = Chunks.of(denoiser, sampler, grid, shape, key, chunk=chunk, devices=devices, **arguments)
    request["n"] = run.n
    if before is None:
        _begin(folder, {"request": request, "chunk": run.chunk})
    store, bad = _STORES[format](folder), []
    for part in folder.glob(".*.part"):
        part.unlink()
    for first in run.starts():
        wanted = min(run.chunk, run.n - first)
        shard = store.read(first, wanted)
        if shard is None:
            shard = _shard(run, first, wanted)
            if png and "x" in shard and shard["x"].ndim == 4 and shard["x"].shape[-1] in (1, 3):
                _pictures(folder, first, shard["x"])
            store.write(first, shard, run.n, run.chunk)
        bad += _bad(shard)
        if progress is not None:
            progress(first + wanted, run.n)
    return Written(folder, run.n, run.chunk, format, tuple(bad))


def _shard(run: Chunks, first: int, wanted: int) -> dict[str, np.ndarray]:
    """The arrays of one chunk by name."""
    done, rows = run.run(first), slice(first, first + wanted)
    arrays = {"x" + jax.tree_util.keystr(place): a for place, a in jax.tree_util.tree_leaves_with_path(done.x)}
    arrays |= {"index": run.batch["index"][rows], "nfe": np.broadcast_to(done.nfe, (wanted,)).astype(np.int32)}
    if done.num_steps is not None:
        arrays["num_steps"] = done.num_steps
    cond = {name: np.asarray(a)[rows] for name, a in (run.batch["cond"] or {}).items()}
    return arrays | {name if name not in arrays else f"cond_{name}": a for name, a in cond.items()}


def _bad(shard: Mapping[str, np.ndarray]) -> list[int]:
    """The indices of the samples with a value that is not finite."""
    states = [a.reshape(len(a), -1) for name, a in shard.items() if name.startswith("x")]
    finite = np.all([np.isfinite(a).all(axis=1) for a in states], axis=0)
    return [int(i) for i in shard["index"][~finite]]


class _Npz:
    """One file a shard."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, first: int, wanted: int) -> dict[str, np.ndarray] | None:
        """The shard, or None where it is not there or cannot be read (every array has a checksum)."""
        try:
            with np.load(self.folder / f"shard-{first:08d}.npz", allow_pickle=False) as f:
                shard = {name: f[name] for name in f.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        return shard if len(shard.get("index", ())) == wanted else None

    def write(self, first: int, shard: Mapping[str, np.ndarray], n: int, chunk: int) -> None:
        """The shard, whole or not at all."""
        _whole(self.folder / f"shard-{first:08d}.npz", lambda file: np.savez(file, **shard))


class _Zarr(_Npz):
    """One array each, a chunk of it for each shard, and an empty file that says that all of them are there."""

    def read(self, first: int, wanted: int) -> dict[str, np.ndarray] | None:
        """The shard, or None where it is not marked as done."""
        import zarr

        if not (self.folder / f"shard-{first:08d}.done").exists():
            return None
        return {name: np.asarray(a[first : first + wanted]) for name, a in zarr.open_group(self.folder / "samples.zarr", mode="r").arrays()}

    def write(self, first: int, shard: Mapping[str, np.ndarray], n: int, chunk: int) -> None:
        """The shard, then its mark."""
        import zarr

        group = zarr.open_group(self.folder / "samples.zarr", mode="a")
        for name, a in shard.items():
            if name not in group:
                group.create_array(name, shape=(n, *a.shape[1:]), chunks=(chunk, *a.shape[1:]), dtype=a.dtype)
            group[name][first : first + len(a)] = a
        _whole(self.folder / f"shard-{first:08d}.done", lambda file: None)


_STORES = {"npz": _Npz, "zarr": _Zarr}


def _whole(file: Path, write: Callable[[Any], None]) -> None:
    """``file`` appears with all of its content: written beside it, flushed to the disk, renamed."""
    part = file.with_name(f".{file.name}.part")
    with open(part, "wb") as f:
        write(f)
        f.flush()
        os.fsync(f.fileno())
    part.replace(file)


def _begin(folder: Path, manifest: dict) -> None:
    """The folder with its manifest; ConfigError where there is something else in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse("folder", str(folder), f"a folder that can be made ({error.strerror})")
    if any(not p.name.endswith(".part") for p in folder.iterdir()):
        refuse("folder", str(folder), "a new or empty folder, or one with the manifest.json of an earlier run")
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    _whole(folder / "manifest.json", lambda file: file.write(text.encode()))


def _manifest(folder: Path) -> dict | None:
    file = folder / "manifest.json"
    if not file.exists():
        return None
    try:
        manifest = json.loads(file.read_text())
        manifest["request"]["n"], manifest["chunk"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{file}: not a manifest of sample_written; allowed: a new or empty folder") from None
    return manifest


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses the first key that differs, by name."""
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            allowed = f"{before.get(name)!r}, with which this folder was begun, or another folder"
            refuse(f"{folder / 'manifest.json'}: {name}", now.get(name), allowed)


def _request(denoiser, sampler, grid, shape, key, arguments, chunk, devices, format, png) -> dict[str, Any]:
    """Everything that decides a sample's bits and the files' layout, each in a few readable words with the hash of its content."""
    named = lambda part: f"{type(part).__name__} {fingerprint(part)}"  # noqa: E731
    given = {name: None if value is None else fingerprint(value) for name, value in arguments.items()}
    device = (devices or jax.local_devices())[0]
    states = arguments["x_T"] if shape is None else shape
    n = int(np.shape(jax.tree.leaves(states)[0])[0]) if shape is None else int(jax.tree.leaves(shape)[0])
    return given | {
        "n": n, "shape": repr(shape), "key": fingerprint(key), "chunk": chunk if isinstance(chunk, str) else int(chunk),
        "denoiser": named(denoiser), "path": named(denoiser.path), "sampler": named(sampler),
        "grid": f"{len(grid.t)} steps {fingerprint(grid)}",
        "devices": f"{len(devices) if devices is not None else 1} {device.platform}", "x64": bool(jax.config.jax_enable_x64),
        "jax": jax.__version__, "format": format, "png": bool(png),
    }  # fmt: skip


def fingerprint(value: Any) -> str:
    """Sixteen hex digits of the content of any part: arrays by their bytes, data classes by their fields, functions by their code;
    the same in every process.  ConfigError for what has no content that can be named."""
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()[:16]


def _feed(put: Callable[[bytes], None], v: Any) -> None:
    say = lambda *words: put(("\0".join(map(str, words)) + "\1").encode())  # noqa: E731
    if isinstance(v, jax.Array) and jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key):
        say("key", jax.random.key_impl(v))
        v = jax.random.key_data(v)
    if isinstance(v, jax.Array | np.ndarray | np.generic):
        a = np.asarray(v)
        say("array", a.dtype, a.shape)
        put(np.ascontiguousarray(a).tobytes())
    elif v is None or isinstance(v, bool | int | float | complex | str | bytes | np.dtype):
        say(type(v).__name__, repr(v))
    elif isinstance(v, Mapping):
        say("mapping", len(v))
        for name in sorted(v, key=str):
            say(name)
            _feed(put, v[name])
    elif isinstance(v, tuple | list | set | frozenset):
        say("sequence", len(v))
        for item in v if isinstance(v, tuple | list) else sorted(v, key=str):
            _feed(put, item)
    elif isinstance(v, type | types.BuiltinFunctionType | np.ufunc):
        say("name", getattr(v, "__module__", ""), getattr(v, "__qualname__", v.__name__))
    elif isinstance(v, types.FunctionType):
        code = v.__code__
        say("function", v.__module__, v.__qualname__, code.co_names)
        put(code.co_code)
        _feed(put, [c for c in code.co_consts if not isinstance(c, types.CodeType)])
        _feed(put, [v.__defaults__, v.__kwdefaults__, [c.cell_contents for c in v.__closure__ or ()]])
    else:
        say("part", type(v).__module__, type(v).__qualname__)
        if dataclasses.is_dataclass(v):
            fields = {f.name: getattr(v, f.name) for f in dataclasses.fields(v)}
        elif not jax.tree_util.all_leaves([v]):
            fields = dict(enumerate(jax.tree.leaves(v)))
        elif hasattr(v, "__dict__"):
            fields = vars(v)
        elif hasattr(v, "__wrapped__"):
            fields = {"wrapped": v.__wrapped__}
        else:
            refuse("sample_written", type(v).__name__, "parts whose content can be hashed: data classes, arrays, functions")
        _feed(put, fields)


def _pictures(folder: Path, first: int, x: np.ndarray) -> None:
    """One PNG for each image in [-1, 1], (n, height, width, 1 or 3)."""
    for i, image in enumerate(np.clip(np.nan_to_num(x) * 127.5 + 127.5, 0, 255).round().astype(np.uint8), first):
        file = folder / "png" / f"{i // 1000:03d}" / f"{i:08d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_png(image))


def _png(image: np.ndarray) -> bytes:
    """A PNG file of a (height, width, 1 or 3) uint8 image (PNG specification, sections 5 and 11: IHDR, IDAT with filter 0, IEND)."""
    height, width, channels = image.shape

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + block(b"IDAT", zlib.compress(rows.tobytes())) + block(b"IEND", b"")
