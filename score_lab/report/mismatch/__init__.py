"""Pictures of the train-versus-inference mismatch, each for someone who has not read the papers.

``look`` is the short version; ``effective`` the level that the states are of against the level told; ``log_ratios`` the variance ratio by
band; ``layers`` when each band is resolved; ``read_outs`` what papers plot, with its null; ``decomposition`` the causes; ``coverage`` where
training looked and where sampling goes; ``corrections`` before and after.  ``levels`` is what they share: an axis on which infinite levels
have a place, curves with gaps where there is no number, and what band, tick and circle mean in words.
"""

from score_lab.report.mismatch.corrections import Corrected, save_corrections
from score_lab.report.mismatch.coverage import save_coverage
from score_lab.report.mismatch.decomposition import save_decomposition
from score_lab.report.mismatch.effective import save_effective
from score_lab.report.mismatch.layers import save_layers
from score_lab.report.mismatch.log_ratios import save_log_ratios
from score_lab.report.mismatch.look import save_mismatch
from score_lab.report.mismatch.read_outs import save_read_outs

__all__ = [
    "Corrected", "save_corrections", "save_coverage", "save_decomposition", "save_effective", "save_layers", "save_log_ratios",
    "save_mismatch", "save_read_outs",
]  # fmt: skip
