"""A scikit-learn classifier: fine-tuning as `fit`, so that pipelines, cross-validation and grid search work on texts.

    from llmcls import LLMClassifier

    model = LLMClassifier("nano", num_train_epochs=2, random_state=0).fit(texts, labels)
    model.predict(["Where is my parcel?"]), model.predict_proba(["Where is my parcel?"]), model.score(texts, labels)
    GridSearchCV(LLMClassifier("nano"), {"r": [4, 16], "learning_rate": [1e-4, 1e-3]}).fit(texts, labels)

`fit` is `llmcls.train`, prediction is `llmcls.Classifier`; the run directory is theirs, too (`model.run_`).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from llmcls.classifier import Classifier
from llmcls.console import Reporter
from llmcls.data.arrays import InvalidInputError, as_texts, as_weights, class_names, has_several_labels
from llmcls.errors import LlmclsError
from llmcls.model.loading import LOADING
from llmcls.runs.run import Run
from llmcls.runs.writing import check_free
from llmcls.settings import Settings, make_settings
from llmcls.training.train import train

INAPPLICABLE_CHECKS: Mapping[str, str] = {
    "check_methods_sample_order_invariance": "wants 1e-7; rows are read together, in float32, whose sums depend on "
    "their order: probabilities differ by about 1e-7",
    "check_methods_subset_invariance": "as check_methods_sample_order_invariance",
    "check_sample_weight_equivalence_on_dense_data": "wants a row of weight 2 to give the model of the row given "
    "twice, to the last digits; other rows are then in the same step of gradient descent",
}
"""scikit-learn's estimator checks that cannot apply to this estimator, each with the reason; all others pass.

scikit-learn feeds its checks numeric matrices, and leaves all of them out for an estimator whose tags say that it reads
texts. The tests run them nevertheless, on a subclass that spells the rows of a matrix as texts.
"""


@dataclass(frozen=True)
class _Trained:
    """What one `fit` left behind; the model is loaded when it is first asked, and the folder goes with this object."""

    run: Run
    folder: TemporaryDirectory[str] | None
    trust_remote_code: bool

    @cached_property
    def classifier(self) -> Classifier:
        with LOADING:  # by one thread, for all that ask at once
            if "classifier" not in self.__dict__:
                with _own_random_numbers():  # PEFT draws weights before it loads the trained ones
                    self.__dict__["classifier"] = Classifier.load(self.run, trust_remote_code=self.trust_remote_code)
            return self.__dict__["classifier"]  # type: ignore[no-any-return]


class LLMClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A base model, fine-tuned to answer with one of `y`'s classes.

    An argument that is None stays as `settings` has it, or else at llmcls's default or the base model's suggestion; one
    that is given wins over `settings`. `llmcls config init` prints all settings with their meaning and default.

    Args:
        base_model: a name from `llmcls models list`, a Hub id, or a folder; `nano` by default.
        template: a template's name, or the path of a `.j2` file.
        quantization: `none`, `8bit` or `4bit`.
        objective: `sft`, `label` or `head`.
        learning_rate: peak learning rate.
        num_train_epochs: passes over the data.
        max_steps: stop after this many optimizer steps.
        per_device_train_batch_size: rows per forward pass in training.
        r: LoRA rank; where it is given, LoRA weights are trained, also of `nano`.
        lora_alpha: LoRA scale.
        lora_dropout: LoRA dropout.
        max_length: tokens of prompt and answer together; longer texts are cut.
        trust_remote_code: run code that the base model brings.
        settings: all else, as nested mapping, `{"training": {"class_weights": "balanced"}}`, or as `Settings`.
        output_dir: the run directory that `fit` writes; a temporary one that lives as long as the estimator when None.
            An existing run is replaced only by the estimator that wrote it, so leave it out where the estimator is
            cloned (searches, cross-validation) and use `save_run` on the best one.
        random_state: seed of everything random in `fit`; None for the seed of the settings, so that fitting twice
            gives the same model either way. The process's own random numbers are left as they were.
        verbose: say what is going on, on standard error.

    Attributes:
        classes_: (classes,) the distinct values of `y`, sorted, in their own type.
        run_: the run directory with adapter, settings and log; pickling takes its content along.

    `fit` learns from every row; `settings={"data": {"validation_size": 0.1}}` cuts validation rows off them.
    Several fits may run in processes side by side (`n_jobs`), but not in threads of one process.
    """

    classes_: npt.NDArray[Any]
    run_: Run
    _trained: _Trained

    def __init__(
        self,
        base_model: str | None = None,
        *,
        template: str | None = None,
        quantization: str | None = None,
        objective: str | None = None,
        learning_rate: float | None = None,
        num_train_epochs: float | None = None,
        max_steps: int | None = None,
        per_device_train_batch_size: int | None = None,
        r: int | None = None,
        lora_alpha: float | None = None,
        lora_dropout: float | None = None,
        max_length: int | None = None,
        trust_remote_code: bool | None = None,
        settings: Settings | Mapping[str, Any] | None = None,
        output_dir: str | Path | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        # scikit-learn's rule: store as given, check in `fit`.
        self.base_model = base_model
        self.template = template
        self.quantization = quantization
        self.objective = objective
        self.learning_rate = learning_rate
        self.num_train_epochs = num_train_epochs
        self.max_steps = max_steps
        self.per_device_train_batch_size = per_device_train_batch_size
        self.r = r
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.max_length = max_length
        self.trust_remote_code = trust_remote_code
        self.settings = settings
        self.output_dir = output_dir
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: Any,
        sample_weight: Any = None,
        **unsupported: Any,
    ) -> LLMClassifier:
        """Fine-tune on texts and their classes.

        Args:
            X: (rows,) texts: a list, an array, a pandas Series, or a matrix or DataFrame with a single column.
            y: (rows,) classes: text, integers or booleans.
            sample_weight: (rows,) how much each row counts, 0 or more, or one number for all; its loss is multiplied by
                it, as by the weight of its class (`training.class_weights`, whose `balanced` counts rows whatever their
                weight). None: all alike.
            unsupported: refused.

        Raises:
            InvalidInputError: for what is not text, several columns, fewer than two classes, or weights that are
                negative, not finite, all 0 or not one a row; a ValueError as well.
            LlmclsError: for impossible settings, a model that cannot be loaded, or an `output_dir` in use.
        """
        if given := [name for name, value in unsupported.items() if value is not None]:
            raise InvalidInputError(
                f"LLMClassifier.fit does not take {', '.join(given)}; what it takes besides X and y is sample_weight."
            )
        if y is None:
            raise InvalidInputError("LLMClassifier requires y to be passed, but the target y is None.")
        texts = self._texts(X)
        if has_several_labels(y):
            raise InvalidInputError(
                "y has several labels a row, but LLMClassifier learns one; use llmcls.train(data, settings={'task': "
                "'multi_label'}) and llmcls.Classifier."
            )
        y = column_or_1d(y, warn=True)
        check_consistent_length(texts, y)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        names = class_names(classes)
        rows: list[dict[str, Any]] = [{"text": text, "label": names[at]} for text, at in zip(texts, codes, strict=True)]
        if sample_weight is not None:
            for row, weight in zip(rows, as_weights(sample_weight, len(rows)), strict=True):
                row["weight"] = weight
        folder = TemporaryDirectory(prefix="llmcls-") if self.output_dir is None else None
        path = Path(folder.name, "run") if folder else Path(str(self.output_dir))
        with _own_random_numbers():
            run = train(
                rows,
                text_columns=("text",),
                label_column="label",
                output_dir=path,
                settings=self._resolve(names, weighted=sample_weight is not None),
                overwrite=hasattr(self, "run_") and self.run_.path == path,
                reporter=Reporter(quiet=not self.verbose),
            )
        # Only now: a `fit` that fails leaves the estimator as it was.
        self.classes_, self.run_, self._trained = classes, run, _Trained(run, folder, _trusted(run))
        return self

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """(rows,) the most probable class of each text, in the type of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            InvalidInputError: for what is not text.
        """
        check_is_fitted(self, "run_")
        texts = self._texts(X)
        classifier = self._classifier()
        codes = [classifier.labels.position(name) for name in classifier.predict(texts)]
        return self.classes_[np.asarray(codes, dtype=np.int64)]

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:  # noqa: N803
        """(rows, classes) probabilities: rows sum to 1, columns in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            InvalidInputError: for what is not text.
            LlmclsError: when `settings` chose a prediction method that does not compute all of them.
        """
        check_is_fitted(self, "run_")
        probabilities = self._classifier().predict_proba(self._texts(X))
        if np.isnan(probabilities).any():
            method = self.run_.settings.prediction.method
            raise LlmclsError(
                f"Method '{method}' does not compute all probabilities; set prediction.method to 'exact'."
            )
        return probabilities

    def save_run(self, path: str | Path) -> Run:
        """Copy the run directory to `path`, where `llmcls predict --run` and `Classifier.load` find it.

        Raises:
            NotFittedError: before `fit`.
            LlmclsError: when `path` exists.
        """
        check_is_fitted(self, "run_")
        check_free(path, overwrite=False)
        shutil.copytree(self.run_.path, path, dirs_exist_ok=True)
        return Run.open(path)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_trained", None)
        if run := state.pop("run_", None):
            files = [file for file in sorted(run.path.rglob("*")) if file.is_file()]
            state["_files"] = {file.relative_to(run.path).as_posix(): file.read_bytes() for file in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is None:
            return
        folder = TemporaryDirectory(prefix="llmcls-")
        path = Path(folder.name, "run")
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        self.run_ = Run.open(path)
        self._trained = _Trained(self.run_, folder, _trusted(self.run_))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def _texts(self, X: Any) -> list[str]:  # noqa: N803
        """The texts of `X`, checked."""
        return as_texts(X)

    def _classifier(self) -> Classifier:
        return self._trained.classifier

    def _resolve(self, names: tuple[str, ...], *, weighted: bool) -> dict[str, Any]:
        """The settings of one `fit`: what `settings` says, then the arguments that were given."""
        given = self.settings if self.settings is not None else {}
        if isinstance(given, Settings):
            given = given.model_dump(exclude_unset=True)
        if not isinstance(given, Mapping):
            raise LlmclsError(f"settings is a {type(given).__name__}; give a nested mapping or Settings.")
        merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in given.items()}
        own = {
            ("model", "base_model"): self.base_model,
            ("model", "quantization"): self.quantization,
            ("model", "trust_remote_code"): self.trust_remote_code,
            ("prompt", "template"): self.template,
            ("prompt", "max_length"): self.max_length,
            ("training", "objective"): self.objective,
            ("training", "learning_rate"): self.learning_rate,
            ("training", "num_train_epochs"): self.num_train_epochs,
            ("training", "max_steps"): self.max_steps,
            ("training", "per_device_train_batch_size"): self.per_device_train_batch_size,
            ("lora", "r"): self.r,
            ("lora", "lora_alpha"): self.lora_alpha,
            ("lora", "lora_dropout"): self.lora_dropout,
        }
        for (section, key), value in own.items():
            if value is not None:
                merged.setdefault(section, {})[key] = _plain(value)
        data = merged.setdefault("data", {})
        data.setdefault("validation_size", 0)  # scikit-learn's `fit` learns from every row
        data.setdefault("test_size", 0)
        columns = ("text_columns", "label_column", "weight_column")
        deciding = ("source", *columns, "labels", "keep_labels", "other_labels")
        decided = [f"data.{key}" for key in deciding if data.get(key)]
        decided += ["output_dir"] if merged.get("output_dir") else []
        decided += ["task"] if merged.get("task", "single_label") != "single_label" else []
        if decided:
            raise LlmclsError(
                f"settings has {', '.join(decided)}, but X, y, sample_weight and the argument output_dir decide these; "
                "leave them out."
            )
        if make_settings(merged).prediction.may_abstain:
            raise LlmclsError(
                "settings has prediction.min_probability or prediction.min_label_mass, but a scikit-learn classifier "
                "answers every row with a class; take them out, and compare predict_proba with a threshold."
            )
        data["labels"] = names
        if weighted:
            data["weight_column"] = "weight"
        if self.random_state is not None:
            merged["seed"] = _seed(self.random_state)
        return merged


def _trusted(run: Run) -> bool:
    """The caller's own word: `fit` wrote the run, and whoever loads a pickle has trusted that with more."""
    return run.settings.model.trust_remote_code


def _plain(value: Any) -> Any:
    """A numpy scalar, as a parameter search draws them, as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


def _seed(random_state: Any) -> int:
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Training seeds every generator of the process, loading draws from them; afterwards they go on as before."""
    from llmcls.model.hardware import forked_random

    python, numpy = random.getstate(), np.random.get_state()
    with forked_random():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
