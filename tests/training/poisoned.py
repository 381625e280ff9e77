"""Data with a record that is not a number, data whose worker dies, and data that are slow: for runs that have to survive them."""

import dataclasses
import os
import time

import numpy as np

from score_lab.data import Toy
from score_lab.data.source import ArrayRecords


@dataclasses.dataclass(frozen=True)
class Poisoned(Toy):
    """Two moons of which the training example ``record`` is NaN (None: of which all are sound)."""

    record: int | None = None

    def _open(self, split):
        records = super()._open(split)
        if split == "train" and self.record is not None:
            records.arrays["image"][self.record] = np.nan
        return records


class Deadly(ArrayRecords):
    """Records of which one ends the process that reads it: ``how`` is "exit" (status 0), "kill" (-9) or "raise"."""

    def __init__(self, how, record, parent, **arrays):
        super().__init__(**arrays)
        self.how, self.record, self.parent = how, record, parent

    def gather(self, indices):
        if self.record in indices and (self.how == "raise" or os.getpid() != self.parent):
            if self.how == "raise":
                raise ValueError(f"record {self.record}\ncannot be decoded")
            if self.how == "kill":
                os.kill(os.getpid(), 9)
            os._exit(0)
        return super().gather(indices)


@dataclasses.dataclass(frozen=True)
class Dying(Toy):
    """Two moons, whose record 5 of the training split is the end of who reads it."""

    how: str = "raise"
    parent: int = 0

    def _open(self, split):
        records = super()._open(split)
        return Deadly(self.how, 5, self.parent, **records.arrays) if split == "train" else records


class Late(ArrayRecords):
    """Records of which every batch takes ``seconds``."""

    def __init__(self, seconds, **arrays):
        super().__init__(**arrays)
        self.seconds = seconds

    def gather(self, indices):
        time.sleep(self.seconds)
        return super().gather(indices)


@dataclasses.dataclass(frozen=True)
class Slow(Toy):
    """Two moons, for every training batch of which one waits ``seconds``."""

    seconds: float = 0.5

    def _open(self, split):
        records = super()._open(split)
        return Late(self.seconds, **records.arrays) if split == "train" else records
