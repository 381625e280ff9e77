"""Guidance: a denoiser around a denoiser."""

from score_lab.guidance.cfg import CFG, unconditional
from score_lab.guidance.threshold import ClipX0, DynamicThreshold
from score_lab.guidance.wrapper import Wrapper

__all__ = ["CFG", "ClipX0", "DynamicThreshold", "Wrapper", "unconditional"]
