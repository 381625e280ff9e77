"""The train-versus-inference SNR mismatch: how far a sampler's states leave the levels on which a network was trained, why, and what helps.

A run is recorded band by band (``bands``) against the data's ``spectrum``, beside the same read-out of forward samples (``forward``, the
null); ``measures`` say what differs, ``estimators`` which level the states are of, ``cube`` what causes it, ``gain_and_noise`` what the
network adds at one level, ``coverage`` where training looked and sampling asks, ``oracle`` what it is exactly for Gaussian
bands, ``layers`` when each band is resolved, ``readouts`` what papers plot; ``corrections`` are a room of their own.  ``look`` is the short
version.
"""

from score_lab.mismatch.bands import BandRecord, BandRecorder
from score_lab.mismatch.coverage import Coverage, covered, visited
from score_lab.mismatch.cube import Decomposition, decompose
from score_lab.mismatch.forward import forward_run
from score_lab.mismatch.gain_and_noise import LocalError, local_error
from score_lab.mismatch.inversion import VarianceCurve
from score_lab.mismatch.layers import Layers
from score_lab.mismatch.look import FLAGS, Look, Reading, first_look, forward_record, read
from score_lab.mismatch.measures import denoiser_gap, log_ratio, log_ratios, mean_gain, mean_leak, resolved
from score_lab.mismatch.moments import DataMoments
from score_lab.mismatch.oracle import Oracle, exact_moments, variance_ratios
from score_lab.mismatch.record import NormRecord, NormRecorder, Recorders
from score_lab.mismatch.replicates import Curve
from score_lab.mismatch.spectrum import Spectrum

__all__ = [
    "FLAGS", "BandRecord", "BandRecorder", "Coverage", "Curve", "DataMoments", "Decomposition", "Layers", "LocalError", "Look",
    "NormRecord", "NormRecorder", "Oracle", "Reading", "Recorders", "Spectrum", "VarianceCurve", "covered", "decompose", "denoiser_gap",
    "exact_moments", "first_look", "forward_record", "forward_run", "local_error", "log_ratio", "log_ratios", "mean_gain", "mean_leak",
    "read", "resolved", "variance_ratios", "visited",
]  # fmt: skip
