"""A measure and an estimator as somebody would write them in a folder of their own."""

import dataclasses

import numpy as np

from score_lab.mismatch.estimators import Effective, Levels
from score_lab.mismatch.replicates import curve


def mean_square(record, spectrum, path):
    """Mean square of the states.

    As it is, about nothing.
    """
    return curve(record.means("x_square") / spectrum.d)


def too_short(record, spectrum, path):
    """One call too few."""
    return curve(record.means("x_square")[1:])


@dataclasses.dataclass(frozen=True)
class Half:
    """Says that every level is off by a given number of nats, with the spread of the states' mean square."""

    nats: float = 0.5

    def read(self, record, spectrum, path):
        """One level for every call."""
        levels = Levels.of(path, record.t)
        spread = record.means("x_square") / record.means("x_square")[:, :1] - 1
        flag = np.where(levels.finite, "ok", "unidentifiable").astype(object)
        delta = np.where(levels.finite[:, None], self.nats + 0.01 * spread, np.nan)
        nominal = np.where(levels.finite, levels.log_snr, 0.0)[:, None]
        words = np.where(flag == "ok", "", "infinite").astype(object)
        return Effective("half", curve(nominal + delta, flag=flag), curve(delta, flag=flag), words)


class Blind:
    """No estimator."""
