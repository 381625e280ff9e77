"""Data: sources with one contract, and the Grain pipeline that makes batches of them.  Nothing of diffusion is known here.

    source = build({"target": "Digits", "size": 8}, room="score_lab.data")
    for batch in batches(source, "train", batch_size=128, seed=0): ...

``TFDS``, ``Digits``, ``Patches``, ``Folder``, ``NPZ`` and ``Toy`` are what a configuration names; one's own is a frozen dataclass that
derives from ``Source`` and writes ``_open(split)`` and ``_spec()``.
"""

from score_lab.data.folder import Folder
from score_lab.data.npz import NPZ
from score_lab.data.patches import Patches
from score_lab.data.pipeline import batches, numbered
from score_lab.data.source import ArrayRecords, DataSpec, Records, Source
from score_lab.data.statistics import Statistics, statistics
from score_lab.data.tfds_images import TFDS, Digits
from score_lab.data.toy import Toy

__all__ = [
    "NPZ", "TFDS", "ArrayRecords", "DataSpec", "Digits", "Folder", "Patches", "Records", "Source", "Statistics", "Toy", "batches",
    "numbered", "statistics",
]  # fmt: skip
