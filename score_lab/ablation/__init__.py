"""Which sampler, at how many network evaluations: systems compared on common noise, with intervals, and an answer in words."""

from score_lab.ablation.corrections import Comparison, Outcome, comparison
from score_lab.ablation.corrections_page import answer, write_corrections
from score_lab.ablation.keys import model_digest
from score_lab.ablation.page import write
from score_lab.ablation.plan import Plan, Run, planned, runs_of
from score_lab.ablation.results import Results, collected
from score_lab.ablation.running import run_cells
from score_lab.ablation.store import Cell, Store
from score_lab.ablation.study import Model, Study, System
from score_lab.ablation.tables import full_table
from score_lab.ablation.truth import Images, Points

__all__ = [
    "Cell", "Comparison", "Images", "Model", "Outcome", "Plan", "Points", "Results", "Run", "Store", "Study", "System", "answer",
    "collected", "comparison", "full_table", "model_digest", "planned", "run_cells", "runs_of", "write", "write_corrections",
]  # fmt: skip
