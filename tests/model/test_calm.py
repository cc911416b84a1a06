"""Whoever calls llmcls from Python hears llmcls alone, and finds the libraries as they were."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging as transformers_logging

from llmcls import Classifier, LLMClassifier, train
from llmcls.console import Reporter
from llmcls.errors import LlmclsWarning
from llmcls.model.calm import LOGGERS, calm_libraries

ROWS = [{"text": f"{word} {n}", "label": word} for n in range(4) for word in ("late", "paid")]
SHORT = {"training": {"max_steps": 1}, "data": {"validation_size": 0}}


@pytest.fixture(autouse=True)
def _as_imported() -> Iterator[None]:
    """Bars and levels as a user's process has them, whatever tests of the command line have done before."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    bars, downloads = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    transformers_logging.enable_progress_bar()
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    if not bars:
        transformers_logging.disable_progress_bar()
    if downloads:
        enable_progress_bars()


def state() -> Any:
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    bars = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    return levels, bars, list(warnings.filters)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_training_and_loading_say_nothing_of_the_libraries(
    tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], tuning: str
) -> None:
    settings = {**SHORT, "training": {**SHORT["training"], "tuning": tuning}, "model": {"quantization": "none"}}
    before = state()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)
        run = train(
            ROWS,
            base_model=str(tiny_model_dir),
            settings=settings,
            output_dir=tmp_path / "run",
            reporter=Reporter(quiet=True),
        )
        Classifier.load(run).predict(["late"])
        Classifier.zero_shot(str(tiny_model_dir), ["a", "b"]).predict(["late"])
    assert capfd.readouterr() == ("", "")
    assert [str(one.message) for one in heard if not issubclass(one.category, DeprecationWarning)] == []
    assert state() == before


def test_the_estimator_as_well(tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = state()
    estimator = LLMClassifier(str(tiny_model_dir), max_steps=1).fit(["late", "paid"] * 3, ["a", "b"] * 3)
    estimator.predict(["late"])
    assert capfd.readouterr() == ("", "") and state() == before


def test_bars_and_notices_are_there_without_it(tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Else the tests above would prove nothing."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert "Loading weights" in capfd.readouterr().err


def notices() -> list[str]:
    """What is heard of warnings that libraries and llmcls give."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with calm_libraries():
            for module in ("transformers.trainer", "peft.tuners.lora", "torch.cuda", "mine"):
                warnings.warn_explicit(module, UserWarning, "file.py", 1, module=module)
            warnings.warn_explicit("future", FutureWarning, "file.py", 1, module="torch.nn")
            warnings.warn_explicit("llmcls", LlmclsWarning, "file.py", 1, module="llmcls.training.train")
    return [str(one.message) for one in heard]


def test_other_warnings_pass() -> None:
    assert notices() == ["torch.cuda", "mine", "llmcls"]


def test_who_asked_a_library_to_say_more_hears_more() -> None:
    logging.getLogger("trl").setLevel(logging.INFO)
    deepspeed = logging.getLogger("DeepSpeed")
    before = list(deepspeed.filters)
    with calm_libraries():
        assert logging.getLogger("trl").level == logging.INFO
        assert logging.getLogger("peft").level == logging.ERROR
        assert not deepspeed.filter(logging.makeLogRecord({"levelno": logging.WARNING}))
    assert deepspeed.filters == before
    assert logging.getLogger("trl").level == logging.INFO


def test_downloads_keep_their_bar_and_bars_that_were_off_stay_off() -> None:
    with calm_libraries():
        assert not transformers_logging.is_progress_bar_enabled() and not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    with calm_libraries():
        assert are_progress_bars_disabled()
    assert not transformers_logging.is_progress_bar_enabled() and are_progress_bars_disabled()


def test_everything_is_as_before_after_errors_and_threads() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), calm_libraries(), calm_libraries():
        raise ZeroDivisionError
    assert state() == before
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with calm_libraries():
            inside.set()
            leave.wait(10)

    with calm_libraries():
        other = threading.Thread(target=work)
        other.start()
        assert inside.wait(10)
    assert logging.getLogger("peft").level == logging.ERROR, "the other thread is still at work"
    leave.set()
    other.join(10)
    assert state() == before
