"""Only the text is cut, as little as possible, and the frame around it stays token for token."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcls.errors import LlmclsError
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.shots import Shots
from llmcls.prompt.truncation import SLACK
from llmcls.records import Example

PLAIN = "Sort this.\ntext: {{ text }}\nlabel:"
TWO = "Sort.\ntitle: {{ fields.title }}\nbody: {{ fields.body }}\ntext: {{ text }}\nlabel:"
SHOTS = Shots((Example("first", "yes"), Example("second", "no")))
LONG = " ".join(f"word{number} of a text" for number in range(400))


def limit_of(encoder: Encoder) -> int:
    return encoder.max_length - max(map(len, encoder.answers))


def assert_cut_well(encoder: Encoder, example: Example, wide: Encoder, slack: int = SLACK + 2) -> None:
    """Prefix and suffix intact, filled nearly to the limit, and what is left of the text is one end of it."""
    prompt, full = encoder.encode([example])[0], wide.encode([example])[0]
    assert prompt.truncated == (len(full.input_ids) > limit_of(encoder))
    if not prompt.truncated:
        assert prompt == full
        return
    assert limit_of(encoder) - slack <= len(prompt.input_ids) <= limit_of(encoder)
    empty = wide.encode([Example("", fields=dict.fromkeys(example.fields, ""))])[0].input_ids
    # One token at each seam with the text may merge with it.
    head = next(i for i, (a, b) in enumerate(zip(empty, full.input_ids, strict=False)) if a != b) - 1
    assert prompt.input_ids[:head] == full.input_ids[:head]
    assert prompt.input_ids[-2:] == full.input_ids[-2:]
    if not example.fields:
        kept = "".join(view.text for view in encoder.view(example) if view.origin == "text").strip()
        where = example.text.startswith if encoder.truncation_side == "right" else example.text.endswith
        assert where(kept) and "\ufffd" not in kept


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("template", ["instruction", "chat", "few_shot", PLAIN])
def test_only_text_is_cut(make_encoder, base, template, side):
    wide = make_encoder(base, template, shots=SHOTS)
    for limit in (460, 700):
        encoder = make_encoder(base, template, shots=SHOTS, max_length=limit, truncation_side=side)
        for text in (LONG, "🙂 ✓" * 600, "東京" * 500, "a" * 3000, "short"):
            if base == "one-character" and " " in text:
                continue  # two spaces are a control token there, and the template has one before the text
            assert_cut_well(encoder, Example(text), wide)


@pytest.mark.parametrize("base", ["llama-3", "tinyllama", "chatml"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.sampled_from("ab 🙂\n東é👩\u200d.1\t"), max_size=400), extra=st.integers(0, 60))
def test_any_text_any_limit(make_encoder, base, text, extra):
    wide = make_encoder(base, PLAIN)
    shortest = len(wide.encode([Example("")])[0].input_ids) + max(map(len, wide.answers))
    encoder = make_encoder(base, PLAIN, max_length=shortest + extra)
    prompt = encoder.encode([Example(text)])[0]
    assert len(prompt.input_ids) <= limit_of(encoder)
    full = wide.encode([Example(text)])[0]
    assert prompt.truncated == (len(full.input_ids) > limit_of(encoder))
    # A character may be ten tokens (joined emoji), and may not be cut in two.
    assert not prompt.truncated or len(prompt.input_ids) >= min(limit_of(encoder), shortest) - 12


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_fields_share_what_is_left(make_encoder, side):
    wide = make_encoder("llama-3", TWO)
    encoder = make_encoder("llama-3", TWO, max_length=400, truncation_side=side)
    for text, title, body in (
        (LONG, LONG, "short"),
        ("t", LONG[:3000], LONG[:2700]),
        (LONG, LONG, LONG),
        ("", "", LONG),
    ):
        assert_cut_well(encoder, Example(text, fields={"title": title, "body": body}), wide)
    kept = encoder.view(Example(LONG, fields={"title": "A title", "body": "A body"}))
    assert "title: A title\nbody: A body\ntext: " in "".join(view.text for view in kept)


@pytest.mark.parametrize(
    "source", ["{{ fields.title }}: {{ text }}\nlabel:", "{{ fields.title }}: {{ text | trim | upper }}\nlabel:"]
)
def test_a_long_column_that_is_not_shown_costs_nothing(make_encoder, source, monkeypatch):
    example = Example(LONG, fields={"title": "A title", "hidden": "hidden words " * 20_000, "": "unnamed"})
    wide = make_encoder("tinyllama", source)
    length = len(wide.encode([example])[0].input_ids)
    encoder = make_encoder("tinyllama", source, max_length=length)
    renders = []
    render = type(encoder)._frame
    monkeypatch.setattr(type(encoder), "_frame", lambda *args: renders.append(1) or render(*args))
    prompt = encoder.encode([example])[0]
    assert limit_of(encoder) - 20 <= len(prompt.input_ids) <= limit_of(encoder) and prompt.truncated
    assert len(renders) < 40


def test_an_unnamed_column_is_not_taken_for_the_text(make_encoder):
    encoder = make_encoder("tinyllama", "{{ fields.title }}: {{ text }}\nlabel:", max_length=100)
    shown = "".join(v.text for v in encoder.view(Example(LONG, fields={"title": "A title", "": "unnamed"})))
    assert "A title: word0 of a text" in shown


def test_long_text_takes_few_tries_and_rows_stay_in_order(make_encoder, monkeypatch):
    encoder = make_encoder("llama-3", "instruction", max_length=256)
    calls = []
    frame = type(encoder)._frame
    monkeypatch.setattr(type(encoder), "_frame", lambda *args: calls.append(1) or frame(*args))
    rows = [Example("short"), Example(("It was good. " * 8000)[:100_000]), Example(""), Example("x" * 100_000)]
    prompts = encoder.encode(rows)
    assert len(calls) < 40
    assert [prompt.truncated for prompt in prompts] == [False, True, False, True]
    assert all(len(prompt.input_ids) <= limit_of(encoder) for prompt in prompts)


@pytest.mark.parametrize("template", ["instruction", "chat"])
def test_too_short_a_limit_says_how_much_is_needed(make_encoder, real_base, template):
    wide = make_encoder(real_base, template)
    needed = len(wide.encode([Example("")])[0].input_ids) + max(map(len, wide.answers))
    with pytest.raises(LlmclsError, match=f"needs {needed} tokens, but prompt.max_length is {needed - 1};"):
        make_encoder(real_base, template, max_length=needed - 1).encode([Example(LONG)])
    with pytest.raises(LlmclsError, match=f"at least {needed + 32}"):
        make_encoder(real_base, template, max_length=5).encode([Example("")])
    for limit in (5, 9999):  # no setting makes room in a model that has none
        with pytest.raises(LlmclsError, match="but the base model reads 9 at most; take another one"):
            make_encoder(real_base, template, max_length=limit, positions=9).encode([Example("")])
    enough = make_encoder(real_base, template, max_length=needed).encode([Example(LONG), Example("")])
    assert [prompt.truncated for prompt in enough] == [True, False]


def test_a_shot_that_is_cut_is_still_not_shown_to_itself(make_encoder):
    shots = Shots((Example(LONG, "yes"), Example("second", "no")), (Example("spare one", "yes"),))
    encoder = make_encoder("tinyllama", "few_shot", shots=shots, max_length=300)
    shown = "".join(view.text for view in encoder.view(Example(LONG)))
    assert "spare one" in shown and shown.count("word0 of a text") == 1
    prompt = encoder.encode([Example(LONG)])[0]
    assert prompt.input_ids == [view.id for view in encoder.view(Example(LONG))]
