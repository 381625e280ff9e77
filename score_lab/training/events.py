"""TensorBoard's event files, written at once by whoever writes (a ``SummaryWriter`` writes in a thread, which a full disk ends in silence).

    record = length (8 bytes), its masked CRC-32C, an ``Event`` of tensorboardX, its masked CRC-32C          (the TFRecord format)
"""

from __future__ import annotations

import platform
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from score_lab.training.appended import Appended

__all__ = ["Events"]

Histogram = tuple[Sequence[float], Sequence[float]]
"""The upper edge of every bin, ascending, and what is in it."""


CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Of a PNG, by its colour type: grey, RGB, a palette of RGB, grey and alpha, RGB and alpha."""


class Events:
    """A new event file in ``directory``; of earlier ones TensorBoard hides what came after ``step`` (0: nothing is hidden).

    Raises OSError where there is no space; the record is then written with the next.
    """

    def __init__(self, directory: Path, step: int = 0):
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory.mkdir(parents=True, exist_ok=True)
        self._file = Appended(directory / f"events.out.tfevents.{time.time_ns() // 10**9}.{platform.node()}.{time.time_ns() % 10**9}")
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            self._add(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(
        self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Histogram], images: Mapping[str, bytes] | None = None
    ) -> None:
        """One event with a point of every curve, and ``images``, each a PNG."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        for name, (limits, counts) in histograms.items():
            first, second = _moments(limits, counts)
            bins = {"min": limits[0], "max": limits[-1], "bucket_limit": limits, "bucket": counts}
            values.append(Summary.Value(tag=name, histo={**bins, "num": sum(counts), "sum": first, "sum_squares": second}))
        for name, png in (images or {}).items():
            width, height = struct.unpack(">II", png[16:24])  # of its first chunk, IHDR
            picture = Summary.Image(height=height, width=width, colorspace=CHANNELS[png[25]], encoded_image_string=png)
            values.append(Summary.Value(tag=name, image=picture))
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _add(self, event: Any) -> None:
        from tensorboardX.record_writer import masked_crc32c

        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        self._file.write(length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data)))

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)


def _moments(limits: Sequence[float], counts: Sequence[float]) -> tuple[float, float]:
    """The sum and the sum of squares of a histogram, each bin taken to lie at its upper edge: TensorBoard shows no more of them."""
    first, second = (sum(n * limit**k for n, limit in zip(counts, limits, strict=True)) for k in (1, 2))
    return first, second
