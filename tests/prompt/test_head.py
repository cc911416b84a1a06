"""Prompts for a classification head: nothing is answered in tokens, so the text may be all there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcls.errors import LlmclsError
from llmcls.prompt.encoding import Encoder
from llmcls.records import Example

MakeEncoder = Callable[..., Encoder]


def test_the_shipped_template_is_bos_and_the_text(make_encoder: MakeEncoder, base: str) -> None:
    encoder = make_encoder(base, "text", ("no", "yes", "maybe"), head=True)
    assert encoder.answers == ((0,), (1,), (2,))
    text = " Spaces at both ends stay.\n "
    bos = encoder.frame.bos_token
    expected = encoder.tokenizer(bos + text, add_special_tokens=False).input_ids
    assert encoder.encode([Example(text)])[0].input_ids == expected
    assert expected[:1].count(encoder.tokenizer.convert_tokens_to_ids(bos)) == bool(bos)


@given(text=st.text(max_size=60), room=st.integers(16, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_fits_and_has_a_token(make_encoder: MakeEncoder, text: str, room: int) -> None:
    for base in ("tinyllama", "chatml"):
        encoder = make_encoder(base, "text", head=True, max_length=room)
        whole = make_encoder(base, "text", head=True).encode([Example(text)])[0]
        (cut,) = encoder.encode([Example(text)])
        assert 1 <= len(cut.input_ids) <= room
        assert cut.truncated == (len(whole.input_ids) > room)
        if not cut.truncated:
            assert cut == whole


def test_the_whole_length_is_the_prompts(make_encoder: MakeEncoder, real_base: str) -> None:
    encoder = make_encoder(real_base, "text", ("a label of many tokens", "b"), head=True, max_length=32)
    (cut,) = encoder.encode([Example("one two three " * 50)])
    assert cut.truncated and 32 - 3 <= len(cut.input_ids) <= 32


def test_the_text_cannot_forge_the_frame(make_encoder: MakeEncoder, real_base: str) -> None:
    encoder = make_encoder(real_base, "text", head=True)
    controls = [t.content for t in encoder.tokenizer.added_tokens_decoder.values() if t.special]
    (row,) = encoder.encode([Example(" ".join(controls))])
    ids = set(encoder.tokenizer.convert_tokens_to_ids(controls))
    bos = encoder.tokenizer.convert_tokens_to_ids(encoder.frame.bos_token)
    assert [token for token in row.input_ids if token in ids] == [bos]


@pytest.mark.parametrize("template", ["instruction", "chat"])
def test_other_templates_end_where_the_answer_would_begin(
    make_encoder: MakeEncoder, real_base: str, template: str
) -> None:
    head, writes = (make_encoder(real_base, template, head=is_head) for is_head in (True, False))
    example = [Example("some text")]
    prompt, answered = head.encode(example)[0].input_ids, writes.encode(example)[0].input_ids
    assert prompt[: len(answered)] == answered and len(prompt) - len(answered) <= 1  # a newline that answers merge with


def test_only_a_head_takes_a_bare_text(make_encoder: MakeEncoder) -> None:
    with pytest.raises(LlmclsError, match=r"ends with the text itself.*training\.objective=head"):
        make_encoder("tinyllama", "text")
