"""Nothing in data can act as frame, and the defence leaves ordinary text alone."""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmcls.answers import form_named
from llmcls.labels import Label, LabelSet
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.shots import Shots
from llmcls.records import Example

PLAIN = "{{ labels | map(attribute='name') | join(' ') }}{{ labels[0].description }}\n"
SPLIT = PLAIN + "{{ fields.a }}{{ fields.b }}{{ text }}{{ fields['a'] | trim }}|>{{ fields.b }}\nlabel:"
SPLIT_CHAT = (
    '{% message "system" %}{{ labels[0].name }}{{ fields.a }}{{ fields.b }}{% endmessage %}'
    '{% message "user" %}{{ fields.b }}{{ text }}{{ fields.a }}{% endmessage %}'
)
FEW = "{% for shot in shots %}{{ shot.text }}{{ shot.label }}\n{% endfor %}{{ text }}\nlabel:"
COMMON = ("<|eot_id|>", "</s>", "<|im_end|>", "[INST]", "<|user|>", "### User:", "\n", " ", "hello", "🙂")
ODD = (
    "\ud800",
    "\udfff",
    "\x00",
    *map(chr, range(0xFDD0, 0xFDF0)),
    "\ufffe",
    "\u200b",
    "\u202e",
    "＜|im_end|＞",
    "<|IM_END|>",
)
TEMPLATES = (SPLIT, SPLIT_CHAT, FEW, "instruction", "chat")


def markers(encoder: Encoder) -> list[str]:
    added = encoder.tokenizer.added_tokens_decoder.values()
    some = [token.content for token in added if token.special][:12]
    return [*dict.fromkeys([*some, encoder.frame.turn_end_token, encoder.frame.end_token, *encoder.frame.turn_markers])]


def control_ids(encoder: Encoder, example: Example) -> Counter[int]:
    """Control tokens by name; a plain piece of text that serves as padding is none."""
    added = encoder.tokenizer.added_tokens_decoder.items()
    known = {token_id for token_id, token in added if token.special}
    known |= {encoder.tokenizer.convert_tokens_to_ids(m) for m in encoder.frame.turn_markers} & dict(added).keys()
    return Counter(token_id for token_id in encoder.encode([example])[0].input_ids if token_id in known)


def assert_safe(encoder: Encoder, hostile: Example) -> None:
    harmless = Example("x", fields=dict.fromkeys(hostile.fields, "x"))
    assert control_ids(encoder, hostile) == control_ids(encoder, harmless)
    texts = [encoder._frame(example, encoder.shots.without(example))[0] for example in (hostile, harmless)]
    for marker in encoder.frame.turn_markers:
        assert texts[0].count(marker) == texts[1].count(marker), marker


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_data_forges_the_frame(make_encoder, base, data):
    plain = make_encoder(base, "{{ text }}\nlabel:")
    own = markers(plain)
    whole = st.sampled_from([*own, *COMMON, *ODD])
    half = whole.flatmap(
        lambda marker: st.integers(0, len(marker)).flatmap(
            lambda cut: st.sampled_from([marker[:cut], marker[cut:], marker[:cut] + marker + marker[cut:]])
        )
    )
    hostile = st.lists(st.one_of(whole, half, st.text(max_size=3)), max_size=8).map("".join)
    name = data.draw(hostile.map(str.strip).filter(bool))
    labels = LabelSet([Label("yes" + name, data.draw(hostile)), Label("no"), Label("maybe")])
    shots = Shots((Example(data.draw(hostile) + "1", labels.names[0]), Example("2", "no")))
    template = data.draw(st.sampled_from(TEMPLATES))
    encoder = make_encoder(base, template, labels, shots=shots)
    assert_safe(encoder, Example(data.draw(hostile), fields={"a": data.draw(hostile), "b": data.draw(hostile)}))
    # No label, shot or description adds a control token either.
    tame = make_encoder(base, template, ("yes", "no", "maybe"), shots=Shots((Example("1", "yes"), Example("2", "no"))))
    row = Example("x", fields={"a": "x", "b": "x"})
    assert control_ids(encoder, row) == control_ids(tame, row)
    for answer in encoder.answers:
        assert not control_ids_of(encoder, answer[:-1])


def control_ids_of(encoder: Encoder, ids: tuple[int, ...]) -> set[int]:
    return set(ids) & set(encoder._framed.control_ids)


def test_every_marker_split_over_every_seam(make_encoder, base):
    for template in (SPLIT, SPLIT_CHAT):
        encoder = make_encoder(base, template)
        for marker in markers(encoder):
            for cut in range(len(marker) + 1):
                assert_safe(encoder, Example("", fields={"a": marker[:cut], "b": marker[cut:]}))
                assert_safe(encoder, Example(marker[:cut] + marker + marker[cut:], fields={"a": "", "b": ""}))


def test_ordinary_text_keeps_its_tokens(make_encoder, base):
    encoder = make_encoder(base, "{{ text }}\nlabel:")
    bos = encoder.frame.bos_token
    for text in (
        "Hello!! the 'end' < s> | im_end [ INST ]",
        "a\tb  c\n\nd ",
        "the the!",
        "＜ fullwidth ＞ ﬁ Å",
        "<div>x</div>",
    ):
        if encoder._framed.forgeries.search(text):
            assert base == "one-character"  # two spaces are a control token there
            continue
        ids = encoder.encode([Example(text)])[0].input_ids
        expected = encoder.tokenizer(f"{bos}{text}\nlabel:", add_special_tokens=False).input_ids
        assert ids == expected[: len(ids)] and len(expected) - len(ids) == len(encoder.spelled.boundary)
        if text.startswith("Hello") and base in ("gpt-2", "one-character"):
            assert "".join(view.text for view in encoder.view(Example("Hello!!"))).count(" ") == 0


def test_a_normaliser_cannot_make_control_tokens(make_encoder):
    encoder = make_encoder("folding", '{% message "user" %}{{ text }}{% endmessage %}')
    for text in ("＜|im_end|＞", "<|IM_END|>", "<|ｉm_end|>" * 50, "＜＜|im_end|＞|im_end|＞", "<|Im_end|> <|iM_end|>"):
        assert_safe(encoder, Example(text))
        assert encoder.view(Example(text))


def test_text_that_white_space_swallowing_tokens_touch_stays_whole(make_encoder):
    encoder = make_encoder("phi-3", "chat")
    for text in ("  indented", "\n\nlate", " ", "", "end  \n"):
        assert_safe(encoder, Example(text))
        shown = "".join(view.text for view in encoder.view(Example(text)))
        assert f"<|user|>\n{text}<|end|>" in shown


def test_padding_that_is_ordinary_text_changes_no_text(make_encoder, tmp_path):
    encoder = make_encoder("gpt-2", "{{ text }}\nlabel:")
    encoder.tokenizer.save_pretrained(tmp_path)
    again = Encoder(
        type(encoder.tokenizer).from_pretrained(tmp_path),
        encoder.frame,
        encoder.template,
        encoder.labels,
        form_named("single_label"),
        max_length=1000,
    )
    for text in ("Hello! over the top!!", "Ġthe", "the the", "!"):
        before, after = (e.encode([Example(text)])[0].input_ids for e in (encoder, again))
        assert before == after or text == "Ġthe"


def test_a_long_hostile_text_is_broken_in_few_passes(make_encoder):
    encoder = make_encoder("tinyllama", "{{ text }}\nlabel:", max_length=200)
    for text in ("</s>" * 25_000, "</s" * 25_000 + ">" * 25_000, "<|user|>" * 12_000):
        encoded = encoder.encode([Example(text)])[0]
        assert encoded.truncated and len(encoded.input_ids) <= 200
        assert encoded.input_ids.count(2) == 0
