import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy, pad
from transformers import AutoTokenizer

from llmcls.engine import (
    LabelTrie,
    Objective,
    PackedScorer,
    packed_batch,
    packed_loss,
    padded_batch,
    padded_loss,
)
from llmcls.engine.decoder import evaluating
from llmcls.engine.objectives import packed_logits, padded_logits, rows_right
from llmcls.errors import LlmclsError

from .conftest import build

ANSWERS = [[5, 7, 2], [5, 8, 2], [5, 8, 9, 2], [9, 2], [11, 12, 13, 2], [11, 12, 14, 2]]
TRIE = LabelTrie(ANSWERS)
PROMPTS = [[1, 3, 4, 30, 31], [1, 3, 4, 32], [1, 3, 4, 33, 34, 35, 36], [1, 3, 4, 30, 40], [1, 3, 4, 41], [1, 3, 4, 41]]
LABELS = [2, 3, 0, 1, 5, 2]
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.5, 0.25)
OBJECTIVES = [
    Objective(name, normalization, weights, smoothing)
    for name, normalization in (("sft", "example"), ("sft", "token"), ("label", "example"))
    for weights in (None, WEIGHTS)
    for smoothing in (0.0, 0.1)
]
MODEL = build()
answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=2, max_size=10, unique_by=tuple).map(
    lambda names: [[*name, 2] for name in names]
)
prompt_sets = st.tuples(
    st.lists(st.integers(3, 96), max_size=6),
    st.lists(st.lists(st.integers(3, 96), min_size=1, max_size=7), min_size=1, max_size=4),
).map(lambda pair: [pair[0] + own for own in pair[1]])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_training(model, prompts, labels, trie, objective, tolerance=2e-5, floor=0.0):
    packed = packed_loss(model, packed_batch(prompts, labels, trie, objective))
    padded = padded_loss(model, padded_batch(prompts, labels, trie, objective, pad_token_id=0))
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    fast, slow = gradients(model, packed), gradients(model, padded)
    assert fast.keys() == slow.keys()
    # With `floor`, a gradient that is nothing but rounding (queries with a single key have an exact gradient of zero)
    # is measured against the whole gradient instead of itself.
    whole = torch.cat([gradient.flatten() for gradient in slow.values()]).norm()
    for name, gradient in slow.items():
        assert (fast[name] - gradient).norm() <= tolerance * max(gradient.norm(), floor * whole), name


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_packed_training_is_padded_training(objective):
    assert_same_training(MODEL, PROMPTS, LABELS, TRIE, objective)


@settings(max_examples=40, deadline=None)
@given(answers=answer_sets, prompts=prompt_sets, objective=st.sampled_from(OBJECTIVES), data=st.data())
def test_packed_training_is_padded_training_for_any_batch(answers, prompts, objective, data):
    labels = data.draw(st.lists(st.integers(0, len(answers) - 1), min_size=len(prompts), max_size=len(prompts)))
    weights = None if objective.class_weights is None else tuple(1.0 + label for label in range(len(answers)))
    objective = Objective(objective.name, objective.normalization, weights, objective.label_smoothing)
    assert_same_training(MODEL, prompts, labels, LabelTrie(answers), objective, floor=0.1)


@pytest.mark.parametrize("objective", OBJECTIVES[::3], ids=str)
def test_lora_gradients(objective):
    model = get_peft_model(build(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    assert_same_training(model, PROMPTS, LABELS, TRIE, objective)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma", "gpt2", "granite"])
def test_other_architectures(kind):
    # gpt2 has dropout by default, which the two paths draw differently.
    config = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "granite": {"logits_scaling": 3.0}}
    model = build(kind, **config.get(kind, {}))
    for objective in (OBJECTIVES[0], OBJECTIVES[-1]):
        assert_same_training(model, PROMPTS, LABELS, TRIE, objective, tolerance=3e-5)


def test_gradient_checkpointing():
    model = build()
    model.activation_checkpointing_enable()
    assert_same_training(model, PROMPTS, LABELS, TRIE, OBJECTIVES[0])


LABEL_NAMES = ["positive", "positive_mixed", "pos", "négatif 😀", "cs.CL", "cs.CV", "cs.CL cross", "日本語", "日本"]
TEXTS = ["I liked it.", "Ça va? 😀", "the the the", "x", "a much longer text than all the others " * 3]


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("name", ["llama-3.2", "tinyllama"])
def test_real_vocabularies(shared, name, tuning):
    """Labels that are prefixes of others, emoji, bytes of other scripts, in the vocabularies that they will meet."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
    answers = [[*tokenizer.encode(name, add_special_tokens=False), tokenizer.eos_token_id] for name in LABEL_NAMES]
    prompts = [tokenizer.encode(f"Classify the text.\nText: {text}\nLabel: ") for text in TEXTS]
    labels, weights = [0, 3, 6, 8, 1], tuple(1.0 + label / 4 for label in range(len(answers)))
    model = build(vocab_size=len(tokenizer), hidden_size=16, tie_word_embeddings=True)
    if tuning == "lora":
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    for objective in (Objective("label", class_weights=weights), Objective("sft", class_weights=weights)):
        assert_same_training(model, prompts, labels, LabelTrie(answers), objective)


def naive_rows(objective):
    """Per row: (logits, target, valid tokens) of every scored step, one plain forward a row."""
    for prompt, label in zip(PROMPTS, LABELS, strict=True):
        answer = ANSWERS[label]
        logits = MODEL(torch.tensor([prompt + answer])).logits[0]
        steps = []
        for at, token in enumerate(answer):
            valid = sorted({a[at] for a in ANSWERS if a[:at] == answer[:at]})
            if objective.name == "sft":
                steps.append((logits[len(prompt) - 1 + at], token))
            elif len(valid) > 1:
                steps.append((logits[len(prompt) - 1 + at][valid], valid.index(token)))
        yield steps


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_loss_is_its_formula(objective):
    """Against torch's own cross_entropy (and its label smoothing), row by row."""
    total = divisor = 0.0
    for steps, label in zip(naive_rows(objective), LABELS, strict=True):
        weight = 1.0 if objective.class_weights is None else WEIGHTS[label]
        losses = [
            cross_entropy(logits[None], torch.tensor([target]), label_smoothing=objective.label_smoothing)
            for logits, target in steps
        ]
        by_token = objective.name == "sft" and objective.normalization == "token"
        mean = objective.name == "sft" and not by_token
        total = total + weight * sum(losses) / (len(losses) if mean else 1)
        divisor += weight * (len(losses) if by_token else 1)
    loss = packed_loss(MODEL, packed_batch(PROMPTS, LABELS, TRIE, objective))
    torch.testing.assert_close(loss, total / divisor, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("objective", [Objective("sft"), Objective("label", class_weights=WEIGHTS)], ids=str)
def test_rows_are_right_where_every_step_is(objective):
    """Packed, padded, and by hand from one plain forward a row; labels are chosen so that some rows are right."""
    assert objective.name == "label" or not any(right_by_hand(Objective("sft"), LABELS))
    labels = LABELS if objective.name == "sft" else PackedScorer(MODEL, TRIE).score(PROMPTS).predicted.tolist()[:3]
    labels = [*labels, *LABELS[len(labels) :]]
    trie = TRIE
    if objective.name == "sft":  # an answer of what the model says by itself
        with torch.no_grad(), evaluating(MODEL):
            said = int(MODEL(torch.tensor([PROMPTS[0]])).logits[0, -1].argmax())
        trie, labels = LabelTrie([[said], *ANSWERS]), [0, *(label + 1 for label in LABELS[1:])]
    expected = right_by_hand(objective, labels, trie)
    assert 0 < sum(expected) < len(PROMPTS)
    with torch.no_grad(), evaluating(MODEL):
        packed = packed_batch(PROMPTS, labels, trie, objective)
        padded = padded_batch(PROMPTS, labels, trie, objective, pad_token_id=0)
        for logits, batch in ((packed_logits(MODEL, packed), packed), (padded_logits(MODEL, padded), padded)):
            assert rows_right(logits, batch).tolist() == [sum(expected), len(PROMPTS)]
            assert rows_right(logits, batch | {"counted": batch["counted"] * 0}).tolist() == [0, 0]


def right_by_hand(objective, labels, trie=TRIE):
    found = []
    for prompt, label in zip(PROMPTS, labels, strict=True):
        answer = trie.answers[label]
        with torch.no_grad(), evaluating(MODEL):
            logits = MODEL(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 :]
        right = True
        for step, token in enumerate(answer):
            among = {other[step] for other in trie.answers if other[:step] == answer[:step]}
            best = sorted(among) if objective.name == "label" else list(range(logits.shape[1]))
            right &= best[int(logits[step][best].argmax())] == token
        found.append(right)
    return found


def test_label_objective_is_minus_the_predicted_log_probability():
    """Train what you decode."""
    with evaluating(MODEL), torch.no_grad():
        loss = packed_loss(MODEL, packed_batch(PROMPTS, LABELS, TRIE, Objective("label")))
    local = PackedScorer(MODEL, TRIE).score(PROMPTS).local
    assert float(loss) == pytest.approx(-float(local[torch.arange(len(LABELS)), LABELS].mean()), abs=1e-5)


def test_label_objective_on_single_tokens_is_softmax_regression():
    answers = [[20], [21], [22]]
    trie, labels = LabelTrie(answers), [0, 2, 1, 1, 0, 2]
    logits = torch.stack([MODEL(torch.tensor([p])).logits[0, -1, 20:23] for p in PROMPTS])
    expected = cross_entropy(logits, torch.tensor(labels))
    loss = packed_loss(MODEL, packed_batch(PROMPTS, labels, trie, Objective("label")))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_token_normalization_is_the_hugging_face_loss():
    """What transformers (and TRL, which relies on it) computes from `labels` padded by -100."""
    batch = padded_batch(PROMPTS, LABELS, TRIE, Objective(normalization="token"), pad_token_id=0)
    # An end token is said but not fed, and transformers' labels stand one place behind where they are said.
    ids, mask = (pad(batch[name], (0, 1)) for name in ("input_ids", "attention_mask"))
    labels = torch.full_like(ids, -100)
    for row, (prompt, label) in enumerate(zip(PROMPTS, LABELS, strict=True)):
        labels[row, len(prompt) : len(prompt) + len(ANSWERS[label])] = torch.tensor(ANSWERS[label])
    expected = MODEL(ids, attention_mask=mask, labels=labels).loss
    loss = packed_loss(MODEL, packed_batch(PROMPTS, LABELS, TRIE, Objective(normalization="token")))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "normalization"), [("sft", "example"), ("sft", "token"), ("label", "example")])
def test_a_factor_of_all_class_weights_cancels(name, normalization):
    """As in torch's CrossEntropyLoss(weight=...); only with a normaliser from elsewhere it stays."""
    once, thrice = (Objective(name, normalization, tuple(by * weight for weight in WEIGHTS)) for by in (1, 3))
    batches = [packed_batch(PROMPTS, LABELS, TRIE, objective) for objective in (once, thrice)]
    first, second = (gradients(MODEL, packed_loss(MODEL, batch)) for batch in batches)
    for parameter, gradient in first.items():
        torch.testing.assert_close(second[parameter], gradient, atol=1e-6, rtol=1e-4)
    with torch.no_grad():
        assert float(packed_loss(MODEL, batches[1])) == pytest.approx(float(packed_loss(MODEL, batches[0])), rel=1e-6)
        whole = [float(packed_loss(MODEL, batch, 1.0)) for batch in batches]
    assert whole[1] == pytest.approx(3 * whole[0], rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES[1::4], ids=str)
def test_accumulated_micro_batches_are_one_large_batch(objective):
    whole = gradients(MODEL, packed_loss(MODEL, packed_batch(PROMPTS, LABELS, TRIE, objective)))
    halves = [packed_batch(PROMPTS[at], LABELS[at], TRIE, objective) for at in (slice(0, 2), slice(2, None))]
    normalizer = sum(batch["normalizer"] for batch in halves)
    parts = [gradients(MODEL, packed_loss(MODEL, batch, normalizer)) for batch in halves]
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_the_prefix_is_laid_out_once_and_the_end_token_never():
    batch = packed_batch(PROMPTS, LABELS, TRIE, Objective())
    assert batch["input_ids"].tolist()[0] == [
        *(1, 3, 4),
        *(30, 31, 5, 8, 9),
        *(32, 9),
        *(33, 34, 35, 36, 5, 7),
        *(30, 40, 5, 8),
        *(41, 11, 12, 14),
        *(41, 5, 8, 9),
    ]
    assert all(value.device.type == "cpu" for value in batch.values())


def test_logits_only_at_label_positions(monkeypatch):
    shapes = []
    monkeypatch.setattr(
        MODEL.lm_head,
        "forward",
        lambda hidden: (shapes.append(hidden.shape), type(MODEL.lm_head).forward(MODEL.lm_head, hidden))[1],
    )
    packed_loss(MODEL, packed_batch(PROMPTS, LABELS, TRIE, Objective()))
    assert [shape[:2] for shape in shapes] == [(1, sum(len(ANSWERS[label]) for label in LABELS))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "stf"}, "Did you mean 'sft'"),
        ({"normalization": "row"}, "Unknown normalization 'row'"),
        ({"class_weights": (1.0, 0.0)}, "Class weight 0.0 of label 1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ],
)
def test_objectives_are_checked_at_birth(options, said):
    with pytest.raises(LlmclsError, match=said):
        Objective(**options)


@pytest.mark.parametrize(
    ("prompts", "labels", "trie", "objective", "said"),
    [
        ([], [], TRIE, Objective(), "0 prompts and 0 labels"),
        ([[1]], [0, 1], TRIE, Objective(), "1 prompts and 2 labels"),
        ([[1], []], [0, 1], TRIE, Objective(), "prompt 1 has no tokens"),
        ([[1]], [6], TRIE, Objective(), "Label index 6"),
        ([[1]], [0], TRIE, Objective(class_weights=(1.0,)), "1 class weights for 6 labels"),
        ([[1]], [0], LabelTrie([[5, 2]]), Objective("label"), "only one label"),
    ],
)
def test_batches_are_checked(prompts, labels, trie, objective, said):
    with pytest.raises(LlmclsError, match=said):
        packed_batch(prompts, labels, trie, objective)
    with pytest.raises(LlmclsError, match=said):
        padded_batch(prompts, labels, trie, objective, pad_token_id=0)
