"""Peers' stochastic solvers: the ancestral family, DPM++ SDE, stochastic Euler."""

from __future__ import annotations

TRANSLATIONS = {}
