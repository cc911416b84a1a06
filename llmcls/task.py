"""What the setting `task` means for the other settings: defaults that go with it, and what does not go together.

fill_by_task({"task": "multi_label"})      # ... with the template and the objective that suit several labels
check_task(settings)                       # problems, one sentence each
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llmcls.settings import Settings

AnswerForm = Literal["label", "yes_no", "list"]
"""What a model answers: one label, yes or no about every label, or a comma-separated list of labels."""

# What has another default where a text may have several labels, by the form of the answer.
DEFAULTS: Mapping[AnswerForm, Mapping[str, Mapping[str, str]]] = {
    "label": {},
    "yes_no": {"prompt": {"template": "multi_label"}, "training": {"objective": "label"}},
    "list": {"prompt": {"template": "multi_label"}, "training": {"objective": "sft"}},
}

DEPENDENT = {"prompt": ("template",), "training": ("objective",)}
"""The settings of `DEFAULTS`."""


def answer_form(task: str, method: str) -> AnswerForm:
    """What the model answers in a task, by the method of prediction."""
    if task == "single_label":
        return "label"
    return "list" if method == "list" else "yes_no"


def fill_by_task(values: Any) -> Any:
    """Settings as given, with the defaults of their task where such a setting is left out or null."""
    if not isinstance(values, Mapping):
        return values
    prediction = values.get("prediction")
    method = prediction.get("method") if isinstance(prediction, Mapping) else getattr(prediction, "method", None)
    filled = dict(values)
    own = DEFAULTS[answer_form(str(values.get("task", "single_label")), str(method))]
    for section, keys in DEPENDENT.items():
        if isinstance(given := filled.get(section, {}), Mapping) and (section in filled or section in own):
            chosen = {key: value for key, value in given.items() if key not in keys or value is not None}
            filled[section] = {**own.get(section, {}), **chosen}
    return filled


def check_task(settings: Settings) -> list[str]:
    """What of the settings does not go with their task, one sentence each."""
    method, objective = settings.prediction.method, settings.training.objective
    metric = settings.training.metric_for_best_model
    problems = []
    if settings.task == "single_label":
        if method == "list":
            problems.append("prediction.method 'list' is for task multi_label")
        if metric == "micro_f1":  # of single labels it is the accuracy
            problems.append("training.metric_for_best_model 'micro_f1' is for task multi_label; choose 'accuracy'")
        return problems
    if method not in ("auto", "exact", "reference", "list"):
        problems.append(
            "task multi_label looks at every label, so prediction.method must be 'auto', 'exact', 'reference' or "
            f"'list', not {method!r}"
        )
    elif (method == "list") != (objective == "sft"):
        problems.append(
            f"task multi_label with prediction.method {method!r} does not go with training.objective {objective!r}: "
            "yes or no about every label is learnt by 'label' or 'head' and predicted by 'exact', an answer that lists "
            "the labels is learnt by 'sft' and predicted by 'list'"
        )
    if method == "list" and settings.training.class_weights != "none":
        problems.append("training.class_weights weigh yes against no; with prediction.method 'list' leave them out")
    if metric == "balanced_accuracy":
        problems.append(
            f"training.metric_for_best_model '{metric}' is for single labels; choose 'macro_f1' or 'micro_f1'"
        )
    if settings.data.max_per_class:
        problems.append("data.max_per_class needs rows of one class each, but with task multi_label they have many")
    if settings.prompt.verbalizer == "code":
        problems.append("prompt.verbalizer 'code' answers with one label; with task multi_label set it to 'name'")
    if settings.prediction.may_abstain:
        problems.append(
            "prediction.min_probability and min_label_mass are for single labels: a text with several may have none"
        )
    return problems
