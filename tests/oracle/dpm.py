"""Peers' DPM-Solvers: multistep and singlestep, deterministic and SDE."""

from __future__ import annotations

TRANSLATIONS = {}
