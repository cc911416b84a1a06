"""A classification head in the engine: the same scores and gradients as transformers' own class, by every path."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from llmcls.answers import form_named
from llmcls.engine import LabelTrie, Objective, PackedScorer, make_scorer, packed_batch, packed_loss, reference_scores
from llmcls.engine.attention import VERIFIED
from llmcls.engine.decoder import evaluating, has_head, vocabulary_size
from llmcls.errors import LlmclsError
from llmcls.labels import LabelSet
from llmcls.model.head import Head, LabelHead, head_class
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.frame import Frame
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example

from ..families import settings_of
from .conftest import VOCABULARY, build
from .test_objectives import assert_same_training

NAMES = ("negative", "neutral", "positive", "🙂")
ANSWERS = [(label,) for label in range(len(NAMES))]
TRIE = LabelTrie(ANSWERS)
LABELS = [2, 0, 1, 3, 1, 2]
WEIGHTS = (1.0, 4.0, 0.5, 2.0)
PROMPTS = [[1, 3, 4, 30, 31], [1, 3, 4, 32], [1, 3, 4, 33, 34, 35, 36], [1, 3, 4, 30, 40], [1, 3, 4, 41], [1, 3, 4, 41]]
WITHOUT_HEAD = {
    *("apertus", "cohere", "cohere2", "cwm", "dots1", "ernie4_5", "ernie4_5_moe", "flex_olmo", "glm4_moe", "granite"),
    *("granitemoe", "granitemoeshared", "minimax_m2", "olmoe"),
}


def build_head(kind: str = "llama", names: tuple[str, ...] = NAMES, **config: Any) -> Any:
    """`build`'s random model with a random head on it, in train mode with its cache switched off."""
    bare = build(kind, **config)
    settings = bare.config.to_dict() | Head(names, 0, 0).config_arguments()
    model = head_class(bare.config)(
        AutoConfig.for_model(kind, **{k: v for k, v in settings.items() if k != "model_type"})
    )
    model.base_model.load_state_dict(bare.base_model.state_dict())
    torch.nn.init.normal_(model.score.weight, std=0.3)
    model.config.use_cache = False
    return model.train()


MODEL = build_head()


def plain_logits(folder: Any, padding_side: str) -> torch.Tensor:
    """What the checkpoint says in transformers' own class, which pools by itself, from a padded batch."""
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert not isinstance(plain, LabelHead) and plain.config.id2label == dict(enumerate(NAMES))
    width = max(map(len, PROMPTS))
    ids, mask = [], []
    for row in PROMPTS:
        padding = width - len(row)
        left = padding_side == "left"
        ids.append([0] * padding + row if left else row + [0] * padding)
        mask.append([0] * padding + [1] * len(row) if left else [1] * len(row) + [0] * padding)
    with torch.no_grad():
        logits: torch.Tensor = plain(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    return logits


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_saved_it_is_the_plain_class_that_pools_by_itself(tmp_path: Any, padding_side: str) -> None:
    MODEL.save_pretrained(tmp_path)
    logits = plain_logits(tmp_path, padding_side)
    scores = PackedScorer(MODEL, ANSWERS, pack_tokens=9).score(PROMPTS, want_global=True)
    torch.testing.assert_close(scores.local, logits.log_softmax(1), atol=1e-5, rtol=0)
    assert scores.global_ is not None and scores.label_mass is not None
    torch.testing.assert_close(scores.global_, scores.local)
    torch.testing.assert_close(scores.label_mass, torch.zeros(len(PROMPTS)), atol=1e-5, rtol=0)
    with evaluating(MODEL), torch.no_grad():
        for goal in (Objective("label"), Objective("label", class_weights=WEIGHTS)):
            loss = packed_loss(MODEL, packed_batch(PROMPTS, LABELS, TRIE, goal))
            weight = None if goal.class_weights is None else torch.tensor(WEIGHTS)
            torch.testing.assert_close(loss, cross_entropy(logits, torch.tensor(LABELS), weight=weight))


@pytest.mark.parametrize("kind", sorted(VERIFIED - WITHOUT_HEAD))
def test_every_verified_architecture_that_has_a_head(kind: str) -> None:
    model = build_head(kind, **settings_of(kind))
    expected = reference_scores(model, PROMPTS, ANSWERS)
    scores = PackedScorer(model, ANSWERS, pack_tokens=9).score(PROMPTS)
    torch.testing.assert_close(scores.local, expected.local, atol=2e-5, rtol=0)
    assert expected.local.std() > 0.1


@pytest.mark.parametrize("kind", [*sorted(WITHOUT_HEAD), "bert"])
def test_an_architecture_without_a_head_says_so(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    if kind == "bert":  # it has one, but under another name and behind a pooler
        config.update({"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8})
    with pytest.raises(LlmclsError, match=f"no classification head for models of type '{kind}'.*'label'"):
        head_class(config)(config)


GOALS = [Objective("label", "example", weights, smoothing) for weights in (None, WEIGHTS) for smoothing in (0.0, 0.1)]


@pytest.mark.parametrize("goal", GOALS, ids=str)
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_packed_training_is_padded_training(tuning: str, goal: Objective) -> None:
    model = MODEL
    if tuning == "lora":
        lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="SEQ_CLS")
        model = get_peft_model(build_head(), lora)
        assert {n for n, p in model.named_parameters() if p.requires_grad and "score" in n} == {
            "base_model.model.score.modules_to_save.default.weight"
        }
    assert_same_training(model, PROMPTS, LABELS, TRIE, goal, tolerance=1e-5)
    assert any("score" in name and p.grad is not None for name, p in model.named_parameters())


@pytest.mark.parametrize(("name", "size"), [("llama-3.2", 128_256), ("tinyllama", 32_000)])
def test_real_vocabularies(shared: Any, name: str, size: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    frame = Frame(tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token, lambda messages: "")
    template, labels = PromptTemplate("text", "{{ text }}"), LabelSet.from_names(NAMES)
    encoder = Encoder(tokenizer, frame, template, labels, form_named("single_label"), max_length=64, head=True)
    texts = ["Good morning", "Good evening 🙂", "", "a very long text " * 40, "Good", "x"]
    prompts = [row.input_ids for row in encoder.encode([Example(text) for text in texts])]
    assert encoder.answers == tuple(ANSWERS) and max(map(len, prompts)) == 64
    model = build_head(vocab_size=size)
    assert_same_training(model, prompts, LABELS, TRIE, GOALS[-1], tolerance=1e-5)
    scores = make_scorer(model, encoder.answers, pad_token_id=0).score(prompts)
    torch.testing.assert_close(scores.local, reference_scores(model, prompts, ANSWERS).local, atol=1e-4, rtol=0)


def test_every_method_finds_the_same_label_and_generate_is_refused() -> None:
    rng = random.Random(1)
    prompts = [[1, *(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(1, 9)))] for _ in range(20)]
    expected = make_scorer(MODEL, ANSWERS, method="reference", pad_token_id=0).score(prompts)
    assert len(set(expected.predicted.tolist())) > 1
    for method in ("exact", "greedy", "best-first"):
        scores = make_scorer(MODEL, ANSWERS, method=method, pad_token_id=0).score(prompts)
        assert torch.equal(scores.predicted, expected.predicted), method
        assert int(scores.fed.sum()) == 0, "a head reads the prompt and nothing else"
    with pytest.raises(LlmclsError, match="'generate' needs a model that writes"):
        make_scorer(MODEL, ANSWERS, method="generate", pad_token_id=0)


def test_greedy_where_the_model_cannot_be_packed() -> None:
    model = build_head(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.warns(match="using 'reference'"):
        scores = make_scorer(model, ANSWERS, method="greedy", pad_token_id=0).score(PROMPTS)
    assert torch.equal(scores.predicted, reference_scores(model, PROMPTS, ANSWERS).predicted)


def test_labels_are_the_vocabulary_however_many() -> None:
    model = build_head(names=tuple(f"label {n}" for n in range(2 * VOCABULARY)))
    assert vocabulary_size(model) == 2 * VOCABULARY and has_head(model) and not has_head(build())
    answers = [(label,) for label in range(2 * VOCABULARY)]
    labels = [0, 2 * VOCABULARY - 1, 5, VOCABULARY, 1, 2]
    assert_same_training(model, PROMPTS, labels, LabelTrie(answers), Objective("label"), tolerance=1e-5)
    with pytest.raises(LlmclsError, match="vocabulary has 194 tokens"):
        PackedScorer(model, [*answers, (2 * VOCABULARY,)])


def test_logits_are_float32_at_the_positions_asked_for() -> None:
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad():
        every = MODEL(ids).logits
        assert every.shape == (1, 7, len(NAMES))
        torch.testing.assert_close(MODEL(ids, logits_to_keep=2).logits, every[:, -2:])
        torch.testing.assert_close(MODEL(ids, logits_to_keep=torch.tensor([3, 0])).logits, every[:, [3, 0]])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            halved = MODEL(ids).logits
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, every, atol=0.1, rtol=0)
    assert not torch.equal(halved, halved.bfloat16().float()), "the head itself is not computed in bfloat16"


def test_label_objective_on_single_tokens_is_softmax_regression_on_the_hidden_states() -> None:
    """Objective `label` and a head differ only in whose rows the output layer has."""
    language = build(tie_word_embeddings=False)
    tokens = [20, 24, 22, 60]
    head = build_head(tie_word_embeddings=False)
    head.base_model.load_state_dict(language.base_model.state_dict())
    head.score.weight.data = language.lm_head.weight.data[tokens].clone()
    trie = LabelTrie([[token] for token in tokens])
    for goal in GOALS:
        by_tokens = packed_loss(language, packed_batch(PROMPTS, LABELS, trie, goal))
        by_head = packed_loss(head, packed_batch(PROMPTS, LABELS, TRIE, goal))
        torch.testing.assert_close(by_tokens, by_head, atol=1e-6, rtol=1e-6)
