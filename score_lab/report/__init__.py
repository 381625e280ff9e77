"""Pictures and the page that holds them; every function writes one file and returns its path."""

from score_lab.report.ablation import save_quality, save_same_noise
from score_lab.report.curves import save_loss, save_scatter
from score_lab.report.film import draw_film, save_film
from score_lab.report.mismatch import (
    Corrected,
    save_as_drawn,
    save_corrections,
    save_coverage,
    save_decomposition,
    save_effective,
    save_layers,
    save_log_ratios,
    save_mismatch,
    save_read_outs,
    save_shares,
)
from score_lab.report.overview import save_overview
from score_lab.report.page import Page, versions
from score_lab.report.roofline import save_roofline
from score_lab.report.samples import draw_samples, save_samples

__all__ = [
    "Corrected", "Page", "draw_film", "draw_samples", "save_as_drawn", "save_corrections", "save_coverage", "save_decomposition",
    "save_effective", "save_film", "save_layers", "save_log_ratios", "save_loss", "save_mismatch", "save_overview", "save_quality",
    "save_read_outs", "save_roofline", "save_same_noise", "save_samples", "save_scatter", "save_shares", "versions",
]  # fmt: skip
