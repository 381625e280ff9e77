"""The train-versus-inference SNR mismatch: how far a sampler's states leave the levels on which a network was trained, why, and what helps.

A run is recorded band by band (``bands``) against the data's ``spectrum``, beside the same read-out of forward samples (``forward``, the
null); ``measures`` say what differs, ``estimators`` which level the states are of, ``decompose`` what causes it, ``oracle`` what it is
exactly for Gaussian bands, ``layers`` when each band is resolved, ``readouts`` what papers plot; ``corrections`` are a room of their own.
``look`` is the short version.
"""

from score_lab.mismatch.bands import BandRecord, BandRecorder
from score_lab.mismatch.decompose import Decomposition, LocalError, decompose, local_error
from score_lab.mismatch.forward import forward
from score_lab.mismatch.inversion import VarianceCurve
from score_lab.mismatch.layers import Layers
from score_lab.mismatch.look import FLAGS, Look, Reading, first_look, forward_record, read
from score_lab.mismatch.measures import denoiser_gap, log_ratio, log_ratios, mean_gain, mean_leak, resolved
from score_lab.mismatch.moments import DataMoments
from score_lab.mismatch.oracle import Oracle, TwoSpectra, oracle, variance_ratios
from score_lab.mismatch.record import NormRecord, NormRecorder, Recorders
from score_lab.mismatch.replicates import Curve
from score_lab.mismatch.spectrum import Spectrum

__all__ = [
    "FLAGS", "BandRecord", "BandRecorder", "Curve", "DataMoments", "Decomposition", "Layers", "LocalError", "Look", "NormRecord",
    "NormRecorder", "Oracle", "Reading", "Recorders", "Spectrum", "TwoSpectra", "VarianceCurve", "decompose", "denoiser_gap",
    "first_look", "forward", "forward_record", "local_error", "log_ratio", "log_ratios", "mean_gain", "mean_leak", "oracle", "read",
    "resolved", "variance_ratios",
]  # fmt: skip
