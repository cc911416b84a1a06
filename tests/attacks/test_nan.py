"""NaN is not an answer: bad weights are refused when they are loaded, and a row without finite scores has no label."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from llmcls import Classifier, LlmclsError
from llmcls.answers.form import form_of
from llmcls.cli.predictions import Tally
from llmcls.console import Reporter
from llmcls.engine.rereading import HOPELESS, reread
from llmcls.engine.scores import LabelScores, unusable
from llmcls.model.soundness import find_unsound
from llmcls.records import Example
from llmcls.settings import make_settings

from ..cli.conftest import call

LABELS = ("billing", "delivery", "bill", "deliver it")
TEXTS = [f"parcel {n}" for n in range(11)]
BAD = {3: "parcel \u00ff", 7: "\u00ff again"}
MIXED = [BAD.get(n, text) for n, text in enumerate(TEXTS)]
SINGLE = ("exact", "best-first", "greedy", "generate", "reference", "auto")
SEVERAL = ("exact", "reference", "list")


def made(folder: Path, method: str = "exact", task: str = "single_label") -> Classifier:
    settings = make_settings({"task": task, "prediction": {"method": method}, "model": {"quantization": "none"}})
    return Classifier.zero_shot(str(folder), LABELS, settings=settings)


@contextmanager
def overflowing(classifier: Classifier) -> Iterator[None]:
    """Texts that hold the character of `BAD` become NaN; the others have nothing to do with it."""
    weight = classifier._model.get_input_embeddings().weight
    token = classifier.encoder.tokenizer("\u00ff", add_special_tokens=False).input_ids[-1]
    before = weight.detach()[token].clone()
    weight.data[token] = math.nan
    try:
        yield
    finally:
        weight.data[token] = before


def spoil(folder: Path, place: Path, name: str, value: float = math.nan) -> Path:
    """A copy of a checkpoint with one bad value."""
    shutil.copytree(folder, place)
    file = next(place.rglob("*.safetensors"))
    tensors = load_file(file)
    (found,) = [key for key in tensors if name in key]
    tensors[found].view(-1)[-1] = value
    save_file(tensors, file, metadata={"format": "pt"})
    return place


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["embed_tokens", "layers.1.mlp.down_proj", "model.norm"])
def test_a_bad_base_weight_is_refused(tiny_model_dir: Path, tmp_path: Path, name: str, value: float) -> None:
    bad = spoil(tiny_model_dir, tmp_path / "bad", name, value)
    with pytest.raises(LlmclsError, match=rf"bad' holds NaN or infinite weights, in '.*{name}.*'; download"):
        made(bad)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_bad_quantised_weight_is_refused(tiny_model_dir: Path, tmp_path: Path, bits: str) -> None:
    bad = spoil(tiny_model_dir, tmp_path / "bad", "layers.1.mlp.down_proj")
    settings = make_settings({"model": {"quantization": bits}})
    with pytest.raises(LlmclsError, match=r"NaN or infinite weights, in 'model\.layers\.1\.mlp\.down_proj\.weight'"):
        Classifier.zero_shot(str(bad), LABELS, settings=settings)
    assert Classifier.zero_shot(str(tiny_model_dir), LABELS, settings=settings).predict(["fine"])


def test_what_is_looked_at(tiny_model_dir: Path) -> None:
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.tensor([[1.0, 65504.0]], dtype=torch.float16))
    model.b = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [math.inf, 0.0]], dtype=torch.bfloat16).t())
    model.c = torch.nn.Parameter(torch.empty(0))
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    model.register_buffer("scales", torch.tensor([0.0, math.nan]))
    model.register_buffer("numbers", torch.tensor([1, 2]))
    model.register_buffer("eight", torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn))
    assert find_unsound(model) == ["b", "scales", "eight"]
    assert find_unsound(model, lambda name: name != "b") == ["scales", "eight"]
    with torch.device("meta"):
        assert find_unsound(torch.nn.Linear(2, 2)) == []
    # A 4-bit weight that is stored as bfloat16 is not a number: its bits may well look like NaN.
    stored = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_storage=torch.bfloat16)
    quantised = AutoModelForCausalLM.from_pretrained(tiny_model_dir, quantization_config=stored)
    weight = quantised.model.layers[0].mlp.down_proj.weight
    weight.data.view(torch.int16).fill_(0x7FC0)
    assert weight.isnan().all() and find_unsound(quantised) == []


@pytest.mark.parametrize("method", SINGLE)
def test_only_the_bad_rows_have_no_label(tiny_model_dir: Path, method: str) -> None:
    classifier = made(tiny_model_dir, method)
    expected = classifier.classify([Example(text) for text in MIXED])
    with overflowing(classifier):
        marked = list(classifier.stream([Example(text) for text in MIXED], mark_failures=True))
        assert [at for at, one in enumerate(marked) if one.failed] == list(BAD)
        assert all(marked[at].label == "" and math.isnan(marked[at].probability) for at in BAD)
        for at, (now, before) in enumerate(zip(marked, expected, strict=True)):
            if at not in BAD:
                assert now.label == before.label
                assert now.probability == pytest.approx(before.probability, abs=1e-5, nan_ok=True)
        with pytest.raises(LlmclsError, match=r"^The model's scores are NaN or infinite for 2 rows \(b, f\), so they"):
            classifier.classify([Example(text, source="abcdefghijk"[n - 2]) for n, text in enumerate(MIXED)])
        with pytest.raises(LlmclsError, match=r"for text 0, so it has no label; .*model\.dtype"):
            classifier.predict([BAD[3]])


@pytest.mark.parametrize("method", SEVERAL)
def test_nor_several(tiny_model_dir: Path, method: str) -> None:
    classifier = made(tiny_model_dir, method, "multi_label")
    expected = classifier.predict(TEXTS)
    with overflowing(classifier):
        marked = list(classifier.stream([Example(text) for text in MIXED], mark_failures=True))
        assert [at for at, one in enumerate(marked) if one.failed] == list(BAD)
        assert [one.labels for at, one in enumerate(marked) if at not in BAD] == [
            labels for at, labels in enumerate(expected) if at not in BAD
        ]
        with pytest.raises(LlmclsError, match=r"for 2 rows \(text 3, text 7\), so they have no label"):
            classifier.predict(MIXED)


def test_behind_a_kept_prefix_and_with_label_mass(tiny_model_dir: Path) -> None:
    classifier = made(tiny_model_dir)
    classifier.warm_up()
    with overflowing(classifier):
        marked = list(classifier.stream([Example(text) for text in MIXED], mark_failures=True))
        assert [at for at, one in enumerate(marked) if one.failed] == list(BAD)
    # One token that no label holds: its logit is in the full softmax only.
    head = classifier._model.get_output_embeddings().weight
    unused = max(set(range(len(head))) - {token for answer in classifier.encoder.answers for token in answer})
    head.data[unused] = math.inf
    assert classifier.predict(["fine"])
    with pytest.raises(LlmclsError, match=r"for 2 rows \(row 1, row 2\), so they have no label"):
        classifier.classify([Example("a"), Example("b")], label_mass=True)


def test_a_label_that_cannot_be_is_no_failure() -> None:
    scores = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf], [math.nan, 0.0], [math.inf, 0.0], [-1.0, -2.0]])
    assert unusable(scores).tolist() == [False, True, True, True, False]


def test_a_model_that_fails_everywhere_is_given_up_soon() -> None:
    calls: list[int] = []

    def score(prompts: Any) -> LabelScores:
        calls.append(len(prompts))
        nothing = torch.full((len(prompts), 2), math.nan)
        rows = torch.zeros(len(prompts))
        return LabelScores(nothing, rows.long(), rows, rows, failed=rows == 0)

    prompts = [[1]] * 64
    parts, places = reread(score, prompts, score(prompts), lambda part: part.failing)
    assert LabelScores.concatenate(parts).take(places).failing.all()
    assert calls.count(1) == HOPELESS and sum(calls) < 3 * 64


def test_validation_and_thresholds_refuse_nan(tiny_model_dir: Path) -> None:
    for task, method in (("single_label", "exact"), ("multi_label", "exact"), ("multi_label", "list")):
        classifier = made(tiny_model_dir, method, task)
        form, encoder = form_of(classifier.assembly.settings), classifier.encoder
        ids = [prompt.input_ids for prompt in encoder.encode([Example(text) for text in MIXED])]
        from llmcls.engine.objectives import Objective

        layout = form.lay_out(encoder, Objective("sft" if method == "list" else "label"))
        with overflowing(classifier):
            with pytest.raises(LlmclsError, match=r"NaN or infinite for \d+ of 11 validation rows"):
                layout.predict(classifier._model, ids, pad_token_id=0, batch_size=4)
            if form.rules.name == "yes_no":
                rows = [{"input_ids": row, "label": [0] * len(LABELS)} for row in ids]
                with pytest.raises(LlmclsError, match="validation rows"):
                    form.decide(classifier._model, encoder, rows, Reporter(quiet=True))


def test_free_answers_refuse_nan(tiny_model_dir: Path) -> None:
    classifier = made(tiny_model_dir)
    # The output layer shares the embeddings, and here every token may come out.
    with overflowing(classifier), pytest.raises(LlmclsError, match="NaN or infinite for 11 of 11 free answers"):
        classifier.answer_freely([Example(text) for text in MIXED])


def test_when_a_prediction_ends() -> None:
    Tally(rows=5, bad=5).check()  # rows without text say nothing about the model
    Tally(rows=128, bad=12, failed=12).check()
    with pytest.raises(LlmclsError, match=r"for all 3 rows so far, .*model\.dtype"):
        Tally(rows=5, bad=5, failed=3).check()
    with pytest.raises(LlmclsError, match="for 13 of the first 128 rows, so they have no label"):
        Tally(rows=128, bad=13, failed=13).check()
    Tally(rows=99, bad=50, failed=50).check()


def test_the_command_lists_bad_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.csv"
    source.write_text("text\n" + "".join(f"{text}\n" for text in MIXED), encoding="utf-8")
    load, kept = Classifier.load, ExitStack()

    def spoiled(*arguments: Any, **options: Any) -> Classifier:
        classifier = load(*arguments, **options)
        kept.enter_context(overflowing(classifier))
        return classifier

    monkeypatch.setattr(Classifier, "load", spoiled)
    output = tmp_path / "out.csv"
    done = call("predict", "--run", run, "--input", source, "--output", output, "--min-probability", "0.0")
    assert done.code == 0 and "2 rows have no prediction" in done.err
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [text for at, text in enumerate(MIXED) if at not in BAD]
    assert all(float(row["probability"]) > 0 for row in rows)
    with (tmp_path / "out.csv.errors.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["problem"] for row in listed] == ["the model's scores are NaN or infinite"] * 2
    for command in (("predict", BAD[3]), ("predict", "--json", BAD[3])):
        failed = call(command[0], "--run", run, *command[1:])
        assert failed.code == 1 and len(failed.out.splitlines()) <= 1, "a header at most"
        *before, error = failed.err.splitlines()
        assert error.startswith("Error: ") and "NaN or infinite" in error, failed
        assert all(line.startswith("Predicting with") for line in before), failed
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("text,label\n" + "".join(f"{text},billing\n" for text in MIXED), encoding="utf-8")
    failed = call("evaluate", "--run", run, "--data", labelled, "--output-dir", tmp_path / "evaluation")
    assert failed.code == 1 and "for 2 rows (labelled.csv:5, labelled.csv:9), so" in failed.err
    assert not (tmp_path / "evaluation" / "metrics.json").exists()


def test_a_bad_adapter_is_refused(run: Path, tmp_path: Path) -> None:
    from llmcls.runs.card import card_digest

    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, file, metadata={"format": "pt"})
    card = json.loads((run / "run.json").read_text(encoding="utf-8"))
    from llmcls.files import sha256_of

    card["seal"]["adapter/adapter_model.safetensors"] = sha256_of(file)
    card["seal"]["run.json"] = card_digest(card)
    (run / "run.json").write_text(json.dumps(card), encoding="utf-8")
    failed = call("predict", "--run", run, "text")
    assert failed.code == 1 and "adapter' holds NaN or infinite weights, in 'base_model." in failed.err
    going_on = ("--output-dir", tmp_path / "next", "--set", "training.max_steps=1")
    data = tmp_path / "in.csv"
    data.write_text("text,label\n" + "one,billing\ntwo,delivery\n" * 8, encoding="utf-8")
    failed = call("train", "--base-model", run, "--data", data, *going_on)
    assert failed.code == 1 and "adapter' holds NaN or infinite weights" in failed.err
