"""Training: one pure step under ``jax.pmap``, checkpoints from which a run goes on bit by bit, and ``load`` to get the denoiser back."""

from score_lab.training.loop import Trained, train
from score_lab.training.parts import Parts, build_parts
from score_lab.training.restore import Loaded, load
from score_lab.training.step import make_step
from score_lab.training.stops import DiskFull, NonFiniteLoss, NotWritten, PipelineFailed, RunStopped, Unreadable

__all__ = [
    "DiskFull", "Loaded", "NonFiniteLoss", "NotWritten", "Parts", "PipelineFailed", "RunStopped", "Trained", "Unreadable", "build_parts",
    "load", "make_step", "train",
]  # fmt: skip
