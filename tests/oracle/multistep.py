"""Peers' multistep solvers: Adams, PLMS, LMS, DEIS, UniPC, exponential Adams-Bashforth."""

from __future__ import annotations

TRANSLATIONS = {}
