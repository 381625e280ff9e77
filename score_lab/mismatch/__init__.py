"""The train-versus-inference SNR mismatch: a first look at how far a sampler's states leave the levels on which a network was trained."""

from score_lab.mismatch.inversion import VarianceCurve
from score_lab.mismatch.look import FLAGS, Look, Reading, first_look, forward_record, read
from score_lab.mismatch.moments import DataMoments
from score_lab.mismatch.record import NormRecord, NormRecorder, Recorders

__all__ = [
    "FLAGS", "DataMoments", "Look", "NormRecord", "NormRecorder", "Reading", "Recorders", "VarianceCurve",
    "first_look", "forward_record", "read",
]  # fmt: skip
