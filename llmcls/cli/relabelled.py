"""What `llmcls predict` says where the labels are not those of the training (`--run` with `--labels`).

report_labels(classifier, reporter)                 # once, on standard error
row | changed_labels(request.as_json, classifier)   # in each object of --json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcls.console import Reporter
from llmcls.errors import shorten

if TYPE_CHECKING:
    from llmcls.classifier import Classifier


def report_labels(classifier: Classifier, reporter: Reporter) -> None:
    """Say which labels are not those of the training."""
    changes = {"added": classifier.added_labels, "removed": classifier.removed_labels}
    said = "; ".join(f"{what} {shorten(names)}" for what, names in changes.items() if names)
    if classifier.run is None or classifier.classes_ == classifier.run.labels.names:
        return
    taught = " No training row has taught it the added ones." if classifier.added_labels else ""
    order = "these are the labels of the run in another order than in training."
    reporter.warn(f"these are not the labels that the run was trained with: {said}.{taught}" if said else order)


def changed_labels(as_json: bool, classifier: Classifier) -> dict[str, list[str]]:
    """What `--json` says in each object where the labels are not the run's."""
    changed = {"labels_added": classifier.added_labels, "labels_removed": classifier.removed_labels}
    return {name: list(names) for name, names in changed.items()} if as_json and any(changed.values()) else {}
