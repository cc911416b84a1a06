import copy
import random
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from llmcls.engine import PackedScorer, reference_scores, state, supports_packing
from llmcls.engine.state import TreeState
from llmcls.errors import LlmclsError

from .conftest import VOCABULARY, build

END = 2
ANSWERS = [[5, 7, 2], [5, 8, 2], [5, 8, 9, 2], [9, 2], [11, 12, 13, 2], [11, 12, 14, 2]]
TOLERANCE = 1e-4
MODEL = build()

answer_sets = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=1, max_size=10, unique_by=tuple).map(
    lambda names: [[*name, END] for name in names]
)
prompt_sets = st.tuples(
    st.lists(st.integers(3, 96), max_size=6),
    st.lists(st.lists(st.integers(3, 96), min_size=1, max_size=7), min_size=1, max_size=5),
).map(lambda pair: [pair[0] + own for own in pair[1]])


def prompts_of(count, seed=0, prefix=(1, 3, 4, 5, 6), longest=9, vocabulary=VOCABULARY):
    rng = random.Random(seed)
    return [[*prefix, *(rng.randrange(3, vocabulary) for _ in range(rng.randrange(1, longest)))] for _ in range(count)]


def assert_equal_scores(scores, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(scores.local, expected.local, atol=tolerance, rtol=0)
    if scores.global_ is not None:
        torch.testing.assert_close(scores.global_, expected.global_, atol=tolerance, rtol=0)
        torch.testing.assert_close(scores.label_mass, expected.label_mass, atol=tolerance, rtol=0)


def assert_agrees(model, prompts, answers, tolerance=TOLERANCE, **options):
    expected = reference_scores(model, prompts, answers)
    scorer = PackedScorer(model, answers, **options)
    for want_global in (False, True):
        assert_equal_scores(scorer.score(prompts, want_global), expected, tolerance)
    return expected


def test_reference_is_a_forward_per_row_and_label(llama):
    prompts = prompts_of(3)
    scores = reference_scores(llama, prompts, ANSWERS, batch_size=2)
    with torch.no_grad():
        for row, prompt in enumerate(prompts):
            for label, answer in enumerate(ANSWERS):
                logits = llama.eval()(torch.tensor([prompt + answer])).logits[0]
                local = total = 0.0
                for at, token in enumerate(answer):
                    step = logits[len(prompt) - 1 + at]
                    total += step.softmax(0)[token].log()
                    valid = {a[at] for a in ANSWERS if a[:at] == answer[:at]}
                    local += (step[token].exp() / sum(step[other].exp() for other in valid)).log()
                assert scores.global_[row, label] == pytest.approx(float(total), abs=1e-4)
                assert scores.local[row, label] == pytest.approx(float(local), abs=1e-4)
    llama.train()
    torch.testing.assert_close(scores.local.exp().sum(1), torch.ones(3))
    torch.testing.assert_close(scores.label_mass.exp(), scores.global_.exp().sum(1))


@settings(max_examples=60, deadline=None)
@given(answers=answer_sets, prompts=prompt_sets, pack=st.integers(1, 40), want_global=st.booleans())
def test_packed_equals_reference(answers, prompts, pack, want_global):
    scores = PackedScorer(MODEL, answers, pack_tokens=pack).score(prompts, want_global)
    expected = reference_scores(MODEL, prompts, answers)
    assert_equal_scores(scores, expected)
    torch.testing.assert_close(scores.local.exp().sum(1), torch.ones(len(prompts)), atol=1e-5, rtol=0)
    assert torch.equal(scores.predicted, scores.local.argmax(1))


@pytest.mark.parametrize(
    "config",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ],
    ids=["heads", "multi-query", "tied", "linear", "llama3", "yarn"],
)
def test_llama_variants(config):
    assert_agrees(build(**config), prompts_of(5), ANSWERS, pack_tokens=11)


def test_a_thousand_random_labels():
    rng = random.Random(3)
    names = {tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(1, 5))) for _ in range(1100)}
    answers = [[*name, END] for name in sorted(names)[:1000]]
    rng.shuffle(answers)
    prompts = prompts_of(3)
    expected = reference_scores(MODEL, prompts, answers, batch_size=256)
    scores = PackedScorer(MODEL, answers, pack_tokens=128).score(prompts, want_global=True)
    assert_equal_scores(scores, expected)
    assert torch.equal(scores.predicted, expected.predicted)


def test_rows_do_not_depend_on_neighbours_order_or_pack_size():
    prompts = prompts_of(12, longest=30)
    together = PackedScorer(MODEL, ANSWERS, pack_tokens=64).score(prompts)
    order = random.Random(1).sample(range(12), 12)
    shuffled = PackedScorer(MODEL, ANSWERS, pack_tokens=23).score([prompts[row] for row in order])
    torch.testing.assert_close(shuffled.local, together.local[order], atol=2e-5, rtol=0)
    one_scorer = PackedScorer(MODEL, ANSWERS)
    alone = torch.cat([one_scorer.score([prompt]).local for prompt in prompts])
    torch.testing.assert_close(alone, together.local, atol=2e-5, rtol=0)


@pytest.mark.parametrize("worth_sharing", [1, 32])
def test_one_scorer_serves_many_templates_in_turn(monkeypatch, worth_sharing):
    """Kept prefixes are reused whole, cut short, extended and evicted, and are never polluted."""
    monkeypatch.setattr(state, "WORTH_SHARING", worth_sharing)
    scorer = PackedScorer(MODEL, ANSWERS, pack_tokens=32)
    rng = random.Random(0)
    templates = [[rng.randrange(3, 97) for _ in range(40)] for _ in range(6)]
    templates += [templates[0][:25] + templates[1][:10], templates[2] + templates[3][:30], []]
    for turn in range(24):
        prompts = prompts_of(rng.choice([1, 1, 2, 5]), seed=turn, prefix=rng.choice(templates))
        assert_equal_scores(scorer.score(prompts), reference_scores(MODEL, prompts, ANSWERS))


def test_the_prefix_is_computed_once(monkeypatch):
    scorer = PackedScorer(MODEL, ANSWERS)
    fed = []
    hidden = scorer.decoder.hidden
    monkeypatch.setattr(
        scorer.decoder, "hidden", lambda tokens, *rest: (fed.append(len(tokens)), hidden(tokens, *rest))[1]
    )
    prefix = tuple(range(3, 83))
    own = [prompts_of(3, seed=seed, prefix=()) for seed in range(3)]
    own = [[[90 + at, *row] for at, row in enumerate(rows)] for rows in own]
    branch = len(scorer.plan(full=False).branch.tokens)
    for rows in own:
        scorer.score([[*prefix, *row] for row in rows])
    assert fed == [80, *(sum(map(len, rows)) + 3 * branch for rows in own)]


def test_one_text_at_a_time_shares_what_the_calls_repeat(monkeypatch):
    scorer = PackedScorer(MODEL, ANSWERS)
    fed = []
    hidden = scorer.decoder.hidden
    monkeypatch.setattr(
        scorer.decoder, "hidden", lambda tokens, *rest: (fed.append(len(tokens)), hidden(tokens, *rest))[1]
    )
    branch = len(scorer.plan(full=False).branch.tokens)
    for turn in range(4):
        prompt = [*range(3, 43), 50 + turn, 60, 61]
        scores = scorer.score([prompt])
        assert_equal_scores(scores, reference_scores(MODEL, [prompt], ANSWERS))
    assert fed == [43 + branch, 40, 3 + branch, 3 + branch, 3 + branch]
    fed.clear()
    short = [*range(3, 43), *range(43, 60)]
    for _ in range(3):  # as predict, then predict_proba: no forward more for a few tokens that come again
        assert_equal_scores(scorer.score([short]), reference_scores(MODEL, [short], ANSWERS))
    assert fed == [17 + branch] * 3


@pytest.mark.parametrize("count", [1, 3, 6])
def test_after_warming_up_every_call_is_forgotten(count, monkeypatch):
    """What is fed for a call, and so its last bits, does not depend on the calls before."""
    scorer = PackedScorer(MODEL, ANSWERS)
    scorer.warm_up([[*range(3, 43), 50], [*range(3, 43), 51], [*range(3, 43), 52]])
    fed, hidden = [], scorer.decoder.hidden
    monkeypatch.setattr(
        scorer.decoder, "hidden", lambda tokens, *rest: (fed.append(len(tokens)), hidden(tokens, *rest))[1]
    )
    calls = {}
    for turn in range(12):
        more = (40, 39, 38, 37, 36, 35) if turn % 2 else (40, 39, 38)
        prompts = prompts_of(count, seed=turn % 3, prefix=(*range(3, 43 - turn % 4), *more))
        scores = scorer.score(prompts)
        assert_equal_scores(scores, reference_scores(MODEL, prompts, ANSWERS))
        known = calls.setdefault(str(prompts), (list(fed), scores.local))
        assert known[0] == fed and torch.equal(known[1], scores.local)
        fed.clear()


def test_changed_weights_and_adapters_are_noticed():
    model = get_peft_model(build(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    prompts = prompts_of(3, prefix=range(3, 60))
    scorer = PackedScorer(model, ANSWERS)
    with_adapter = scorer.score(prompts)
    assert_equal_scores(with_adapter, reference_scores(model, prompts, ANSWERS))
    with model.disable_adapter():
        assert_equal_scores(scorer.score(prompts), reference_scores(model, prompts, ANSWERS))
    torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor(prompts[0])[None], labels=torch.tensor(prompts[0])[None]).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    stepped = scorer.score(prompts)
    assert_equal_scores(stepped, reference_scores(model, prompts, ANSWERS))
    assert (stepped.local - with_adapter.local).abs().max() > 1e-2
    model.merge_adapter()
    assert_equal_scores(scorer.score(prompts), stepped)
    model.unmerge_adapter()
    assert_equal_scores(scorer.score(prompts), stepped)


@pytest.mark.parametrize("target", [["lm_head", "q_proj"], ["embed_tokens", "v_proj"]])
def test_lora_on_the_head_or_the_embeddings(target):
    model = get_peft_model(build(), LoraConfig(r=2, target_modules=target, init_lora_weights=False))
    assert_agrees(model, prompts_of(3), ANSWERS)


def test_a_head_that_was_trained_whole():
    model = get_peft_model(build(), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(0.5)
    assert_agrees(model, prompts_of(3), ANSWERS)


def test_the_model_is_left_as_found():
    model = get_peft_model(build(), LoraConfig(r=2, lora_dropout=0.5, init_lora_weights=False))
    model.base_model.model.model.layers[0].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    config, generation = copy.deepcopy(model.config.to_dict()), copy.deepcopy(model.generation_config.to_dict())
    PackedScorer(model, ANSWERS).score(prompts_of(3), want_global=True)
    assert [module.training for module in model.modules()] == modes
    assert model.config.to_dict() == config and model.generation_config.to_dict() == generation
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_the_cache_holds_no_more_than_can_still_be_seen(monkeypatch):
    held = []
    feed = TreeState.feed

    def watched(self, chunk):
        held.append(len(self._enter))
        return feed(self, chunk)

    monkeypatch.setattr(TreeState, "feed", watched)
    prompts = prompts_of(30, prefix=range(3, 43), longest=12)
    PackedScorer(MODEL, ANSWERS, pack_tokens=10).score(prompts, want_global=True)
    assert len(held) > 30
    assert max(held) <= 40 + 11 + max(map(len, ANSWERS))


def test_progress_counts_every_row_once():
    for pack in (1, 10, 1000):
        seen = []
        PackedScorer(MODEL, ANSWERS, pack_tokens=pack).score(prompts_of(9), progress=seen.append)
        assert sum(seen) == 9 and min(seen) > 0


def test_no_prompts_and_one_label():
    assert PackedScorer(MODEL, ANSWERS).score([]).local.shape == (0, 6)
    scores = PackedScorer(MODEL, [[5, 2]]).score([[1, 4], [1, 5]], want_global=True)
    assert scores.local.tolist() == [[0.0], [0.0]] and scores.margin.isinf().all()
    assert_equal_scores(scores, reference_scores(MODEL, [[1, 4], [1, 5]], [[5, 2]]))


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(LlmclsError, match="prompt 1 has no tokens"):
        PackedScorer(MODEL, ANSWERS).score([[1], []])
    with pytest.raises(LlmclsError, match="token 97"):
        PackedScorer(MODEL, [[5, 2], [97, 2]])
    with pytest.raises(LlmclsError, match="pack_tokens is 0"):
        PackedScorer(MODEL, ANSWERS, pack_tokens=0)


@pytest.mark.parametrize(
    ("kind", "config", "reason"),
    [
        ("llama4_text", {}, "model type 'llama4_text'"),
        ("falcon", {"alibi": True}, "alibi"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "see those behind them"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"]}, "layers of type sliding_attention"),
        ("llama", {"attn_implementation": "eager"}, "attention 'eager'"),
        ("mamba", {}, "model type 'mamba'"),
        ("bloom", {}, "model type 'bloom'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "rope scaling 'dynamic'",
        ),
    ],
)
def test_models_that_cannot_take_the_mask_say_why(kind, config, reason):
    model = build(kind, **config)
    assert reason in supports_packing(model)
    with pytest.raises(LlmclsError, match="use method 'reference'"):
        PackedScorer(model, ANSWERS)


def test_virtual_tokens_are_refused():
    model = get_peft_model(build(), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    assert "virtual prompt tokens" in supports_packing(model)


# Real tokenizers and a real checkpoint.


@pytest.mark.parametrize("name", ["llama-3.2", "tinyllama"])
def test_real_vocabularies(shared, name):
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / name)
    labels = ["positive", "positive_mixed", "pos", "négatif 😀", "cs.CL", "cs.CV", "cs.CL cross", "日本語", "日本"]
    answers = [[*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id] for label in labels]
    texts = ["I liked it.", "Ça va? 😀", "the the the", "x"]
    prompts = [tokenizer.encode(f"Classify the text.\nText: {text}\nLabel: ") for text in texts]
    assert_agrees(build(vocab_size=len(tokenizer), hidden_size=16, tie_word_embeddings=True), prompts, answers)


def nano_task(nano_path):
    tokenizer = AutoTokenizer.from_pretrained(nano_path)
    labels = ["science", "science fiction", "weather", "the news", "sport", "sports"]
    answers = [[*tokenizer.encode(label, add_special_tokens=False), tokenizer.eos_token_id] for label in labels]
    texts = ["It will rain tomorrow.", "The match ended in a draw.", "Atoms are small.", "A ship left for Mars.", "Hm"]
    return [tokenizer.encode(f"What is this text about?\nText: {text}\nAnswer: ") for text in texts], answers


def test_nano(nano, nano_path):
    prompts, answers = nano_task(nano_path)
    assert_agrees(nano, prompts, answers, pack_tokens=50)


def assert_close_outside_ties(scores, expected, tolerance):
    """Scores within the tolerance, and the same label wherever the margin exceeds twice that."""
    torch.testing.assert_close(scores.local, expected.local, atol=tolerance, rtol=0)
    clear = expected.margin > 2 * tolerance
    assert clear.any()
    assert torch.equal(scores.predicted[clear], expected.predicted[clear])


def test_nano_in_bfloat16(nano_path):
    """bfloat16 has 8 bits of mantissa: 0.15 nats on sums of a few log-probabilities."""
    model = AutoModelForCausalLM.from_pretrained(nano_path, dtype=torch.bfloat16).train()
    prompts, answers = nano_task(nano_path)
    expected = reference_scores(model, prompts, answers)
    scores = PackedScorer(model, answers, pack_tokens=50).score(prompts)
    assert scores.local.dtype == torch.float32
    assert_close_outside_ties(scores, expected, 0.15)


def test_nano_in_4_bits_with_lora(nano_path):
    """NF4 weights, float32 arithmetic: the packed path sees the same dequantised weights, so 1e-3 suffices."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(nano_path, quantization_config=quantization, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).train()
    prompts, answers = nano_task(nano_path)
    assert supports_packing(model) is None
    weights = {name: tensor.clone() for name, tensor in model.named_parameters()}
    expected = reference_scores(model, prompts, answers)
    scores = PackedScorer(model, answers, pack_tokens=50).score(prompts, want_global=True)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.named_parameters())
    assert_equal_scores(scores, expected, 1e-3)
    assert_close_outside_ties(scores, expected, 1e-3)
