"""Do conditional samples show what they were asked for?  The share on which a classifier, fitted on training data, agrees with the label.

    agreement = mean_i [c(x_i) = y_i],   beside the accuracy of c on held-out data: what real examples would read.

A sample that is not finite counts as wrong, and is named.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation.estimate import Estimate, finite_rows, proportion
from score_lab.evaluation.features import digest

__all__ = ["Classifier"]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted scikit-learn ``model`` on flattened examples; ``digest`` of its training data and parameters."""

    model: Any
    digest: str

    @classmethod
    def fit(cls, x: np.ndarray, labels: np.ndarray, model: Any = None) -> Classifier:
        """Fits ``model`` on (n, *shape) and (n,); by default an RBF support vector classifier, C = 10, gamma = 1 / (d var): 0.99 on the
        digits.

        Raises ConfigError for data that are not finite, or labels that are not one int per example of at least two classes.
        """
        from sklearn.svm import SVC

        rows, bad = finite_rows(x, "classifier.x")
        labels = np.asarray(labels)
        if bad:
            refuse("classifier.x", f"row {bad[0]} is not finite", "finite training examples")
        if labels.shape != (len(rows),) or len(np.unique(labels)) < 2:
            refuse("classifier.labels", labels.shape, f"one label for each of {len(rows)} examples, of at least 2 classes")
        model = SVC(C=10.0, gamma="scale") if model is None else model
        return cls(model.fit(rows, labels), digest(rows, labels, repr(model)))

    def agreement(self, x: np.ndarray, labels: np.ndarray) -> Estimate:
        """The share of ``x`` (n, *shape) classified as ``labels`` (n,), with Wilson's interval: the accuracy if ``x`` are held-out data."""
        rows, bad = finite_rows(x)
        if np.shape(labels) != (len(rows),):
            refuse("agreement.labels", np.shape(labels), f"one label for each of {len(rows)} samples")
        correct = np.zeros(len(rows), bool)
        fine = np.setdiff1d(np.arange(len(rows)), bad)
        if len(fine):
            correct[fine] = self.model.predict(rows[fine]) == np.asarray(labels)[fine]
        return proportion(correct, bad, f"{type(self.model).__name__} {self.digest}")
