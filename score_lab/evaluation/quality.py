"""All measures of one set of samples against one data set, and the criteria they have to meet.

``Reference.fit`` computes once what every row of a table needs: the classifier, the feature space with its statistics and floor, and the
distances of held-out examples to the nearest training example.

    agreement   label agreement            within 0.05 of the classifier's accuracy on held-out data
    frechet     FD(train, samples)         reported at the samples' n, no criterion of its own
    fd_ratio    FD over the floor          <= 3, at equal n
    variance    within-class variance      0.7 to 1.3 of the data's
    nearest     nearest training distance  >= 0.9 of that of held-out data
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from score_lab.build import refuse
from score_lab.evaluation.classifier import Classifier
from score_lab.evaluation.diversity import nearest_distances, nearest_ratio, variance_ratio
from score_lab.evaluation.estimate import Estimate, finite_rows
from score_lab.evaluation.features import PCA
from score_lab.evaluation.frechet import Frechet

__all__ = ["Criterion", "Reference"]


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A rule for one column: ``rule`` in words, ``holds`` of the value (an unreadable value never holds)."""

    column: str
    rule: str
    holds: Callable[[float], bool]

    def __call__(self, estimate: Estimate) -> bool:
        """Whether the value meets the rule."""
        return math.isfinite(estimate.value) and not estimate.invalid and bool(self.holds(estimate.value))


@dataclasses.dataclass(frozen=True)
class Reference:
    """A data set to measure samples against; see ``fit``.  ``classifier`` and ``accuracy`` are None for data without labels."""

    train: np.ndarray
    labels: np.ndarray | None
    frechet: Frechet
    test_to_train: np.ndarray
    classifier: Classifier | None
    accuracy: Estimate | None
    seed: int = 0

    @classmethod
    def fit(
        cls, train: np.ndarray, labels: np.ndarray | None, test: np.ndarray, test_labels: np.ndarray | None, *,
        components: int = 32, preprocessing: str = "[-1, 1]", seed: int = 0,
    ) -> Reference:  # fmt: skip
        """From examples (n, *shape) and labels (n,) of the training and the held-out split; ``preprocessing`` in words enters the digest.

        Raises ConfigError for splits of different shapes or with values that are not finite.
        """
        if train.shape[1:] != test.shape[1:]:
            refuse("reference.test", test.shape[1:], f"the shape of the training examples, {train.shape[1:]}")
        for name, x in (("train", train), ("test", test)):
            bad = finite_rows(x, f"reference.{name}")[1]
            if bad:
                refuse(f"reference.{name}", f"row {bad[0]} is not finite", "finite data")
        space = PCA.fit(train, min(components, int(np.prod(train.shape[1:])), len(train) - 1))
        classifier = Classifier.fit(train, labels) if labels is not None else None
        return cls(
            train=np.asarray(train),
            labels=labels,
            frechet=Frechet.fit(train, test, space, test_labels, preprocessing=preprocessing, seed=seed),
            test_to_train=nearest_distances(test, train),
            classifier=classifier,
            accuracy=classifier.agreement(test, test_labels) if classifier else None,
            seed=seed,
        )

    def measure(self, samples: np.ndarray, labels: np.ndarray | None = None) -> dict[str, Estimate]:
        """The columns of the module's table for ``samples`` (n, *shape) that were asked to show ``labels`` (n,)."""
        columns = {}
        conditional = labels is not None and self.classifier is not None
        if conditional:
            columns["agreement"] = self.classifier.agreement(samples, labels)
        columns["frechet"] = self.frechet.distance(samples, labels)
        columns["fd_ratio"] = self.frechet.ratio(samples, labels)
        own, data = (labels, self.labels) if conditional else (None, None)
        columns["variance"] = variance_ratio(samples, own, self.train, data, seed=self.seed)
        columns["nearest"] = nearest_ratio(samples, self.train, self.test_to_train, seed=self.seed)
        return columns

    def criteria(self) -> tuple[Criterion, ...]:
        """The rules of the module, with this data set's held-out accuracy in them."""
        rules = [
            Criterion("fd_ratio", "<= 3 x the floor FD(train, test)", lambda v: v <= 3.0),
            Criterion("variance", "0.7 to 1.3 of the data's within-class variance", lambda v: 0.7 <= v <= 1.3),
            Criterion("nearest", ">= 0.9 of the held-out nearest-training distance", lambda v: v >= 0.9),
        ]
        if self.accuracy is not None:
            accuracy = self.accuracy.value
            text = f"within 0.05 of the classifier's held-out accuracy {self.accuracy}"
            rules.insert(0, Criterion("agreement", text, lambda v: abs(v - accuracy) <= 0.05))
        return tuple(rules)

    def describe(self) -> list[str]:
        """What the numbers stand on, one line each, for a table's foot."""
        lines = [
            f"Frechet distance in {self.frechet.extractor.name}; floor FD(train, test) = {self.frechet.floor}, n = {self.frechet.floor.n}, "
            f"statistics {self.frechet.train.digest}"
        ]
        if self.accuracy is not None:
            lines.insert(0, f"classifier {self.accuracy.note}: held-out accuracy {self.accuracy}, n = {self.accuracy.n}")
        return lines
