"""`LLMClassifier`: scikit-learn's own checks, its tools around it, and what a fitted one leaves behind."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

from llmcls import Classifier, LLMClassifier, LlmclsError, LlmclsWarning
from llmcls.estimator import INAPPLICABLE_CHECKS, InvalidInputError

TEXTS = [f"parcel number {n} is late" for n in range(10)] + [f"charged {n} euros twice" for n in range(10)]
LABELS = ["delivery"] * 10 + ["billing"] * 10


def assert_same(found: Any, expected: Any) -> None:
    """The same probabilities, but for float32's rounding: a prefix computed in another call sums in another order."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


class SpeltMatrix(LLMClassifier):
    """Reads the rows of a numeric matrix as texts, so that scikit-learn's checks have something to feed."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SpeltMatrix:  # noqa: N803
        if y is not None:
            validate_data(self, X)  # learns n_features_in_
        super().fit(X, y, sample_weight)
        return self

    def _texts(self, X: Any) -> list[str]:  # noqa: N803
        return [" ".join(f"{value:.3g}" for value in row) for row in validate_data(self, X, reset=False)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, False, True
        tags.classifier_tags.poor_score = True  # one step of training
        return tags


@pytest.fixture
def quick(tiny_model_dir: Path) -> LLMClassifier:
    """A classifier that fits in half a second, and learns a little."""
    return LLMClassifier(str(tiny_model_dir), quantization="none", max_steps=3, learning_rate=0.02, r=2)


@pytest.mark.slow
def test_scikit_learns_own_checks(tiny_model_dir: Path, tmp_path: Path) -> None:
    template = tmp_path / "short.j2"
    template.write_text("{{ text }}\n=", encoding="utf-8")
    estimator = SpeltMatrix(str(tiny_model_dir), template=str(template), quantization="none", max_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LlmclsWarning)  # random rows spell the same text now and then
        results = check_estimator(
            estimator, expected_failed_checks=dict(INAPPLICABLE_CHECKS), on_fail=None, on_skip=None
        )
    assert {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"} == {}
    assert len([r for r in results if r["status"] == "passed"]) > 45
    assert set(INAPPLICABLE_CHECKS) <= {r["check_name"] for r in results}


def test_tags_say_that_it_reads_texts() -> None:
    tags = get_tags(LLMClassifier())
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (True, True, False)
    assert tags.target_tags.required and is_classifier(LLMClassifier())


def test_parameters_are_stored_as_given_and_cloned() -> None:
    settings = {"training": {"class_weights": "balanced"}}
    estimator = LLMClassifier("nano", r=4, settings=settings, random_state=3)
    assert estimator.settings is settings
    cloned = clone(estimator.set_params(lora_alpha=8))
    assert cloned.get_params() == estimator.get_params()
    assert (cloned.base_model, cloned.r, cloned.lora_alpha, cloned.random_state) == ("nano", 4, 8, 3)
    with pytest.raises(ValueError, match="learnig_rate"):
        estimator.set_params(learnig_rate=1)


def test_importing_llmcls_stays_light() -> None:
    code = (
        "import llmcls, sys; assert 'LLMClassifier' in llmcls.__all__; print({'sklearn', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.slow
def test_nano_learns(tmp_path: Path) -> None:
    pytest.importorskip("llmcls_nano")
    estimator = LLMClassifier("nano", quantization="none", max_steps=20, max_length=128, random_state=0)
    assert estimator.fit(TEXTS, LABELS) is estimator
    assert estimator.classes_.tolist() == ["billing", "delivery"]
    unseen = ["the parcel is late again", "you charged me twice"]
    assert estimator.predict(unseen).tolist() == ["delivery", "billing"]
    assert estimator.score(TEXTS, LABELS) == 1.0
    probabilities = estimator.predict_proba(unseen)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    # The run is an ordinary one.
    run = estimator.save_run(tmp_path / "run")
    assert_same(Classifier.load(run).predict_proba(unseen), probabilities)
    with pytest.raises(LlmclsError, match="exists already"):
        estimator.save_run(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "y",
    [
        pytest.param([7, 5] * 10, id="ints"),
        pytest.param(np.array([0, 1, 2, 1] * 5, dtype=np.int8), id="int8"),
        pytest.param(np.array([True, False] * 10), id="booleans"),
        pytest.param(np.array([1.0, 2.0] * 10), id="integral floats"),
        pytest.param(pd.Series(["ü ñ", "🙂"] * 10), id="Series"),
        pytest.param(pd.Series(["b", "a"] * 10, dtype="category"), id="categories"),
        pytest.param(np.array(["b", "a"] * 10, dtype=object), id="objects"),
    ],
)
def test_classes_keep_their_type(quick: LLMClassifier, y: Any) -> None:
    quick.fit(TEXTS, y)
    values = np.asarray(y)
    np.testing.assert_array_equal(quick.classes_, np.unique(values))
    assert quick.classes_.dtype.kind == values.dtype.kind
    predicted = quick.predict(TEXTS)
    assert predicted.dtype == quick.classes_.dtype
    columns = quick.predict_proba(TEXTS).argmax(axis=1)
    np.testing.assert_array_equal(predicted, quick.classes_[columns])


@pytest.mark.slow
def test_every_shape_of_texts_is_the_same_texts(quick: LLMClassifier) -> None:
    quick.fit(pd.DataFrame({"anything": TEXTS}), LABELS)
    expected = quick.predict_proba(TEXTS)
    for texts in (
        tuple(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object)[:, None],
        pd.Series(TEXTS, index=range(100, 120)),
        pd.DataFrame({"anything": TEXTS}),
        [[text] for text in TEXTS],
    ):
        assert_same(quick.predict_proba(texts), expected)
    assert quick.predict([]).shape == (0,)
    assert quick.predict_proba([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        ("one text", ["a"], "not one string"),
        ([["a", "b"]] * 4, ["x", "y"] * 2, "one column"),
        (["a", 3, None, "b"], ["x", "y"] * 2, "row 1 is 3, of type int"),
        (TEXTS, ["same"] * 20, "1 class"),
        (TEXTS, LABELS[:-1], "inconsistent numbers of samples"),
        (TEXTS, None, "requires y"),
        (TEXTS, np.linspace(0, 1, 20), "continuous"),
        (TEXTS, ["a ", "b"] * 10, "white space"),
        (TEXTS, np.array([["a", "b"]] * 20), "1d array"),
    ],
)
def test_bad_input_is_a_value_error(texts: Any, labels: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LLMClassifier().fit(texts, labels)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"settings": {"data": {"source": "x.csv"}, "output_dir": "y"}}, "data.source, output_dir"),
        ({"settings": {"lora": {"rank": 3}}}, "there is no setting 'lora.rank'"),
        ({"settings": "training.max_steps=3"}, "nested mapping"),
        ({"r": 0}, "lora.r"),
        ({"base_model": "nanoo"}, "Unknown base model"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(LlmclsError, match=said):
        LLMClassifier(**arguments).fit(TEXTS, LABELS)


def test_unfitted() -> None:
    for call in (LLMClassifier().predict, LLMClassifier().predict_proba, LLMClassifier().save_run):
        with pytest.raises(NotFittedError):
            call(TEXTS)  # type: ignore[operator]


@pytest.mark.slow
def test_arguments_win_over_settings(quick: LLMClassifier) -> None:
    quick.set_params(
        r=np.int64(3),
        settings={"lora": {"r": 5, "lora_alpha": 7}, "seed": 9, "training": {"class_weights": "balanced"}},
    )
    settings = quick.fit(TEXTS, LABELS).run_.settings
    assert (settings.lora.r, settings.lora.lora_alpha, settings.seed) == (3, 7, 9)
    assert settings.training.class_weights == "balanced"
    assert quick.set_params(random_state=4).fit(TEXTS, LABELS).run_.settings.seed == 4
    drawn = [
        quick.set_params(random_state=np.random.RandomState(0)).fit(TEXTS, LABELS).run_.settings.seed for _ in "ab"
    ]
    assert drawn[0] == drawn[1] != 9


@pytest.mark.slow
def test_fitting_leaves_the_random_numbers_alone(quick: LLMClassifier) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw()
    first_model = quick.fit(TEXTS, LABELS).predict_proba(TEXTS)
    assert [first, draw()] == undisturbed
    assert_same(clone(quick).fit(TEXTS, LABELS).predict_proba(TEXTS), first_model)


@pytest.mark.slow
def test_pickles_carry_the_adapter(quick: LLMClassifier, tmp_path: Path) -> None:
    fitted = clone(quick).fit(TEXTS, LABELS)
    expected = fitted.predict_proba(TEXTS)
    folder = fitted.run_.path
    joblib.dump(fitted, tmp_path / "model.joblib")
    data, copied = pickle.dumps(fitted), copy.deepcopy(fitted)
    del fitted
    gc.collect()
    assert not folder.exists()  # a temporary run goes with its estimator
    for restored in (pickle.loads(data), joblib.load(tmp_path / "model.joblib"), copied):
        assert restored.run_.path.exists()
        assert_same(restored.predict_proba(TEXTS), expected)
        assert_same(pickle.loads(pickle.dumps(restored)).predict_proba(TEXTS), expected)
    unfitted = pickle.loads(pickle.dumps(clone(copied)))
    with pytest.raises(NotFittedError):
        unfitted.predict(TEXTS)
    # Another process has none of this one's state.
    code = "import joblib, sys; print(joblib.load(sys.argv[1]).predict(['parcel']).shape)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.joblib"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "(1,)", done.stderr


@pytest.mark.slow
def test_output_dir_is_replaced_by_its_own_estimator_only(quick: LLMClassifier, tmp_path: Path) -> None:
    quick.set_params(output_dir=tmp_path / "run").fit(TEXTS, LABELS)
    assert quick.run_.path == tmp_path / "run"
    before = quick.predict_proba(TEXTS)
    with pytest.raises(LlmclsError, match="exists already"):
        clone(quick).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="1 class"):
        quick.fit(TEXTS, ["same"] * 20)
    assert_same(quick.predict_proba(TEXTS), before)  # a fit that fails changes nothing
    quick.set_params(learning_rate=0.05).fit(TEXTS, LABELS)
    assert np.abs(quick.predict_proba(TEXTS) - before).max() > 1e-3
    assert_same(Classifier.load(tmp_path / "run").predict_proba(TEXTS), quick.predict_proba(TEXTS))


@pytest.mark.slow
def test_methods_without_all_probabilities_say_so(quick: LLMClassifier) -> None:
    quick.set_params(settings={"prediction": {"method": "generate"}}).fit(TEXTS, LABELS)
    assert set(quick.predict(TEXTS)) <= set(LABELS)
    with pytest.raises(LlmclsError, match="set prediction"):
        quick.predict_proba(TEXTS)


@pytest.mark.slow
def test_pipelines_and_searches(quick: LLMClassifier) -> None:
    table = pd.DataFrame({"subject": TEXTS, "number": range(20)})
    first = ColumnTransformer([("subject", "passthrough", ["subject"])])
    lower = FunctionTransformer(lambda column: np.char.lower(np.asarray(column, dtype=str)))
    pipeline = make_pipeline(first, lower, quick)
    assert pipeline.fit(table, LABELS).predict(table).shape == (20,)
    scores = cross_val_score(quick, TEXTS, LABELS, cv=2, scoring="neg_log_loss", error_score="raise")
    assert scores.shape == (2,) and np.isfinite(scores).all()
    probabilities = cross_val_predict(quick, TEXTS, LABELS, cv=2, method="predict_proba")
    assert probabilities.shape == (20, 2)
    search = GridSearchCV(
        pipeline, {"llmclassifier__r": [1, 2], "llmclassifier__learning_rate": [1e-3]}, cv=2, error_score="raise"
    )
    search.fit(table, LABELS)
    best = search.best_estimator_[-1]
    assert best.run_.settings.lora.r == search.best_params_["llmclassifier__r"]
    assert search.predict(table).shape == (20,)


@pytest.mark.slow
def test_searches_run_in_processes_side_by_side(quick: LLMClassifier) -> None:
    alone = cross_val_score(quick, TEXTS, LABELS, cv=2, scoring="neg_log_loss", error_score="raise")
    beside = cross_val_score(quick, TEXTS, LABELS, cv=2, scoring="neg_log_loss", error_score="raise", n_jobs=2)
    np.testing.assert_allclose(beside, alone, atol=1e-4)


@pytest.mark.slow
def test_silent_unless_verbose(quick: LLMClassifier, capfd: pytest.CaptureFixture[str]) -> None:
    quick.fit(TEXTS, LABELS).predict(TEXTS)
    captured = capfd.readouterr()
    assert captured.out == "" and "%" not in captured.err and "FutureWarning" not in captured.err
    quick.set_params(verbose=True).fit(TEXTS, LABELS)
    assert "2 labels" in capfd.readouterr().err


def test_what_fit_does_not_take_is_said() -> None:
    with pytest.raises(LlmclsError, match="does not take eval_set, groups; what it takes besides X and y is sample_w"):
        LLMClassifier().fit(["a", "b"], ["x", "y"], eval_set=3, groups=[1, 2], callbacks=None)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"it has shape \(1,\), but there are 2 rows"),
        ([[1.0], [2.0]], r"it has shape \(2, 1\), but there are 2 rows"),
        ([1, -0.5], "row 1 has -0.5, but a weight is 0 or more"),
        ([0, 0], "all weights are zero"),
        (0, "all weights are zero"),
        (-1, "row 0 has -1, but a weight is 0 or more"),
        ([1, float("nan")], "give a finite number a row: Input sample_weight contains NaN"),
        ([1, float("inf")], "give a finite number a row: Input sample_weight contains infinity"),
        (["a", "b"], "give a finite number a row: could not convert string"),
        ([None, 1.0], "give a finite number a row: "),
        ({"x": 1}, "give a finite number a row: "),
    ],
)
def test_weights_that_cannot_be_used(weights: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^sample_weight cannot be used.*{message}"):
        LLMClassifier().fit(["a", "b"], ["x", "y"], weights)


@pytest.mark.slow
def test_weights_reach_training_and_equal_ones_change_nothing(quick: LLMClassifier) -> None:
    texts, labels = TEXTS[8:12], LABELS[8:12]
    plain = quick.fit(texts, labels).predict_proba(texts)
    assert quick.run_.settings.data.weight_column is None
    assert (quick.fit(texts, labels, sample_weight=pd.Series([7.5] * 4)).predict_proba(texts) == plain).all()
    assert quick.run_.settings.data.weight_column == "weight"
    skewed = quick.fit(texts, labels, [1, 1, 9, 9]).predict_proba(texts)
    assert (skewed[:, 0] > plain[:, 0] + 1e-3).all() and list(quick.classes_) == ["billing", "delivery"]


def test_fit_keeps_no_row_back_unless_the_settings_say_so() -> None:
    data = LLMClassifier()._resolve(("a", "b"), weighted=False)["data"]
    assert (data["validation_size"], data["test_size"]) == (0, 0)
    data = LLMClassifier(settings={"data": {"test_size": 0.2}})._resolve(("a", "b"), weighted=False)["data"]
    assert (data["validation_size"], data["test_size"]) == (0, 0.2)
    for name, value in (("keep_labels", ["a", "b"]), ("other_labels", "drop")):
        with pytest.raises(LlmclsError, match=f"settings has data.{name}, but X, y"):
            LLMClassifier(settings={"data": {name: value}})._resolve(("a", "b"), weighted=False)
