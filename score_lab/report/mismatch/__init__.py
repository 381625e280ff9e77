"""Pictures of the train-versus-inference mismatch, each for someone who has not read the papers, and the pages of its commands.

``look`` is the short version; ``found`` all runs of a study at a glance; ``effective`` the level that the states are of against the level
told; ``log_ratios`` the variance ratio by band; ``layers`` when each band is resolved; ``read_outs`` what papers plot, with its null,
``as_drawn`` the same on the papers' own axes; ``decomposition`` the causes; ``coverage`` where training looked and where sampling goes;
``corrections`` before and after, ``shares`` of the way from N to 2N steps.  ``levels`` is what they share: an axis on which infinite
levels have a place, curves with gaps where there is no number, and what band, tick and circle mean in words.  ``page`` and
``decomposition_page`` hold them.
"""

from score_lab.report.mismatch.as_drawn import save_as_drawn
from score_lab.report.mismatch.corrections import Corrected, save_corrections
from score_lab.report.mismatch.coverage import save_coverage
from score_lab.report.mismatch.decomposition import save_decomposition
from score_lab.report.mismatch.effective import save_effective
from score_lab.report.mismatch.layers import save_layers
from score_lab.report.mismatch.log_ratios import save_log_ratios
from score_lab.report.mismatch.look import save_mismatch
from score_lab.report.mismatch.read_outs import save_read_outs
from score_lab.report.mismatch.shares import save_shares

__all__ = [
    "Corrected", "save_as_drawn", "save_corrections", "save_coverage", "save_decomposition", "save_effective", "save_layers",
    "save_log_ratios", "save_mismatch", "save_read_outs", "save_shares",
]  # fmt: skip
