"""The names that transformers and its trackers answer to, so that a wrong one is found before they are imported.

check_training_names(settings.training)       # at once
check_trackers(settings.training)             # when transformers is there

The lists are those of the transformers version that `pyproject.toml` allows; a test compares them with it.
"""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from llmcls.errors import LlmclsError, several, unknown
from llmcls.settings import TrainingSettings

CANNOT_START = "Training cannot start"

OPTIMIZERS = (
    *("adamw_torch", "adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused", "adafactor"),
    *("adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "ademamix", "sgd", "adagrad", "adamw_bnb_8bit"),
    *("adamw_8bit", "ademamix_8bit", "lion_8bit", "lion_32bit", "paged_adamw_32bit", "paged_adamw_8bit"),
    *("paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb"),
    *("rmsprop_bnb_8bit", "rmsprop_bnb_32bit", "galore_adamw", "galore_adamw_8bit", "galore_adafactor"),
    *("galore_adamw_layerwise", "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "lomo", "adalomo"),
    *("grokadamw", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd", "apollo_adamw"),
    *("apollo_adamw_layerwise", "stable_adamw"),
)
"""Values of `training.optim`, in transformers' order."""

SCHEDULERS = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"),
    *("reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy"),
)
"""Values of `training.lr_scheduler_type`, in transformers' order."""

TRACKERS = {
    "azure_ml": ("azureml",),
    "comet_ml": ("comet_ml",),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "tensorboard": (),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "codecarbon": ("codecarbon",),
    "clearml": ("clearml",),
    "dagshub": ("dagshub", "mlflow"),
    "flyte": (),
    "dvclive": ("dvclive",),
    "swanlab": ("swanlab",),
    "kubeflow": (),
}
"""Values of `training.report_to`, and the packages without which transformers has no such tracker."""


UNLOOKED = ("flyte", "all", "none")
"""Values of `training.report_to` that transformers takes without looking for a package."""

LOCAL_TRACKER = "tensorboard"
"""The tracker whose figures are all in a run's `log.jsonl`, so that a training without it has lost nothing."""


def check_training_names(training: TrainingSettings) -> None:
    """Refuse an optimizer, a schedule or a tracker that there is not, importing none of them.

    Raises:
        LlmclsError: with all of them.
    """
    problems = []
    for key, value, known in (
        ("optim", training.optim, OPTIMIZERS),
        ("lr_scheduler_type", training.lr_scheduler_type, SCHEDULERS),
    ):
        if value not in known:
            problems.append(f"training.{key}: {unknown('name', value, known)}")
    problems += missing_trackers(training, [name for name, needed in TRACKERS.items() if all(map(find_spec, needed))])
    if problems:
        raise LlmclsError(several(problems, CANNOT_START))


def check_trackers(training: TrainingSettings) -> None:
    """Refuse a tracker that transformers itself finds unusable, such as one that is switched off; imports transformers.

    Raises:
        LlmclsError: with all of them.
    """
    if problems := missing_trackers(training, _installed()):
        raise LlmclsError(several(problems, CANNOT_START))


def missing_trackers(training: TrainingSettings, installed: Collection[str]) -> list[str]:
    """Which trackers of `training.report_to` there are not, one sentence each."""
    problems = []
    for tracker in training.report_to:
        if tracker not in TRACKERS and tracker not in UNLOOKED:
            problems.append(f"training.report_to: {unknown('tracker', tracker, TRACKERS)}")
        elif tracker not in (*installed, *UNLOOKED, LOCAL_TRACKER):
            problems.append(
                f"training.report_to: '{tracker}' is not installed; install it (pip install {tracker}), or train with "
                "--set training.report_to=[]"
            )
    return problems


def usable_trackers(training: TrainingSettings) -> list[str]:
    """The trackers of `training.report_to` but for TensorBoard where it is not installed."""
    if LOCAL_TRACKER not in training.report_to:
        return list(training.report_to)
    installed = _installed()
    return [name for name in training.report_to if name != LOCAL_TRACKER or name in installed]


def _installed() -> list[str]:
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    found: list[str] = get_available_reporting_integrations()
    return found
