"""Where a model's own answers stand in a chat: the templates are short ones in the style of the published ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmcls import train
from llmcls.answers import form_named
from llmcls.classifier import Classifier
from llmcls.default_plugins.base_models import Llama3, TinyLlamaChat
from llmcls.errors import LlmclsError, LlmclsWarning
from llmcls.labels import LabelSet
from llmcls.model.adapter import BaseModelAdapter, render_chat_template
from llmcls.model.opening import Opening, find_opening
from llmcls.prompt.encoding import Encoder
from llmcls.prompt.frame import Message
from llmcls.prompt.template import PromptTemplate
from llmcls.records import Example
from llmcls.runs.framing import frame_of_run
from llmcls.testing import build_tiny_model, build_tiny_tokenizer

AUTO = BaseModelAdapter()
PROMPTED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML = TURNS + PROMPTED


def prompted_with(written: str) -> str:
    """ChatML whose generation prompt goes on with `written`."""
    return CHATML.replace("assistant\n{% endif", "assistant\n{{ " + repr(written) + " }}{% endif")


DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}"
    "<｜Assistant｜>{{ m.content.split('</think>')[-1] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
QWEN3_THINKING = QWEN3.partition("{% if add_")[0] + (
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
GLM = (
    "{% for m in messages %}<|{{ m.role }}|>{{ '\\n<think></think>\\n' if m.role == 'assistant' else '\\n' }}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{{ '\\n<think></think>' if enable_thinking is defined and not enable_thinking }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% else %}"
    "<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{{ messages[0].content + '\n\n' if messages[0].role == 'system' and loop.index0 == 1 }}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
ENDS_WITH_A_USER = (
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('Expected the last turn to be the user') }}{% endif %}"
)
GEMMA_4 = (
    "{{ bos_token }}{% for m in messages %}<|turn>{{ m.role }}\n{{ m.content }}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>assistant\n"
    "{% if not enable_thinking | default(false) %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}"
)
NEMOTRON = (
    "{% for m in messages %}<A>{{ m.role }}\n{{ '<think>\\n\\n' if m.role == 'assistant' and loop.last }}"
    "{{ m.content }}\n<B>\n{% endfor %}{{ '<A>assistant\n<think>\\n\\n' if add_generation_prompt }}"
)
COHERE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ '<|START_RESPONSE|>' if m.role == 'assistant' }}{{ m.content }}<|END|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>WRITTEN{% endif %}{# <|END_THINKING|> #}"
)
TEKKEN = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}[INST]{{ m.content }}"
    "[/INST]{% endif %}{% endfor %}"
)
OPENINGS = {
    "ChatML": (CHATML, ""),
    "no generation prompt": (TURNS, "<|im_start|>assistant\n"),
    "DeepSeek-R1": (DEEPSEEK_R1, "\n</think>\n\n"),
    "QwQ": (prompted_with("<think>\n"), "\n</think>\n\n"),
    "Qwen3": (QWEN3, ""),
    "Qwen3, plain history": (QWEN3.replace("and loop.last", "and false"), ""),
    "Qwen3-Thinking": (QWEN3_THINKING, "\n</think>\n\n"),
    "GLM": (GLM, "\n"),
    "Kimi": (
        CHATML.replace("{{ m.content", "{{ '<think></think>' if m.role == 'assistant' }}{{ m.content"),
        "<think></think>",
    ),
    "Nemotron": (NEMOTRON, "</think>\n\n"),
    "gpt-oss": (HARMONY, "<|channel|>final<|message|>"),
    "Mistral": (MISTRAL, " "),
    "Mistral, ends with a user": (ENDS_WITH_A_USER + MISTRAL, " "),
    "tekken": (TEKKEN, ""),
    "Magistral": (TEKKEN + "{{ '[THINK]' if add_generation_prompt }}", "[/THINK]"),
    "Gemma 4": (GEMMA_4, ""),
    "Cohere": (COHERE.replace("WRITTEN", ""), "<|START_RESPONSE|>"),
    "Cohere, thinks": (COHERE.replace("WRITTEN", "<|START_THINKING|>"), "<|END_THINKING|><|START_RESPONSE|>"),
    "Cohere, has thought": (COHERE.replace("WRITTEN", "<|START_THINKING|><|END_THINKING|>"), "<|START_RESPONSE|>"),
    "one line": (prompted_with("<think>"), "</think>"),
    "no closing tag in use": (prompted_with("<reasoning>\n"), "\n</reasoning>\n\n"),
    "begin and end": (prompted_with("<|begin_of_thought|>") + "{# <|end_of_thought|> #}", "<|end_of_thought|>"),
    "start and end": (prompted_with("<|thinking_start|>") + "{# <|thinking_end|> #}", "<|thinking_end|>"),
    "Seed": (prompted_with("<seed:think>"), "</seed:think>"),
    "Kimi-VL": (prompted_with("◁think▷") + "{# ◁/think▷ #}", "◁/think▷"),
}


def tokenizer(template: str | None, **roles: Any) -> Any:
    made = build_tiny_tokenizer(others=("<|im_start|>", "<|im_end|>", "<|return|>"), **roles)
    made.chat_template = template
    return made


@pytest.mark.parametrize("name", OPENINGS)
def test_the_opening_is_what_stands_before_an_answer(name: str) -> None:
    template, opening = OPENINGS[name]
    frame = AUTO.frame(tokenizer(template))
    assert (frame.opening, frame.notice) == (opening, "")


@pytest.mark.parametrize("name", ["ChatML", "Qwen3", "Qwen3-Thinking", "GLM", "Kimi", "gpt-oss", "Mistral", "Cohere"])
def test_prompt_and_answer_are_the_finished_chat(name: str) -> None:
    """The plain reference: the whole conversation, as the chat template writes it, with the label as the last turn."""
    made = tokenizer(OPENINGS[name][0])
    template = PromptTemplate("t", '{% message "user" %}{{ text }}{% endmessage %}')
    labels = LabelSet.from_names(["billing", "1st", "🙂"])
    encoder = Encoder(made, AUTO.frame(made), template, labels, form_named("single_label"), max_length=1000)
    for text in ("hello", "a </think> b"):
        prompt = encoder.encode([Example(text)])[0].input_ids
        shown = encoder.view(Example(text))
        said = "".join(view.text for view in shown if view.origin == "text")  # with a space in a marker
        for label, answer in zip(labels.names, encoder.answers, strict=True):
            turns = [Message("user", said), Message("assistant", label)]
            whole = made(render_chat_template(made, turns, add_generation_prompt=False), add_special_tokens=False)
            begun = whole.input_ids[: len(prompt) + len(answer) - 1]
            assert made.decode([*prompt, *answer[:-1]]) == made.decode(begun)
            assert [*prompt, *answer[:-1]] == begun


def test_a_template_that_contradicts_itself_is_told(tmp_path: Any) -> None:
    odd = CHATML.replace("assistant\n{% endif", "assistant\nAnswer: {% endif")
    frame = AUTO.frame(tokenizer(odd))
    assert frame.opening == ""
    assert "begins an answer with '<|im_end|>\\n<|im_start|>assistant\\nAnswer: '" in frame.notice
    folder = str(build_tiny_model(tmp_path, tokenizer(odd)))
    with pytest.warns(
        LlmclsWarning, match="where its own answers stand is not certain.*use the template 'instruction'"
    ):
        Classifier.zero_shot(folder, ["a", "b"], template="chat")
    depends = CHATML.replace(PROMPTED, "{{ '<|im_start|>assistant\n' + ('' if messages[0].role == 'user' else '!')}}")
    assert "not certain" in find_opening(renderer(depends), depends).notice
    assert find_opening(renderer(CHATML), CHATML) == Opening("")


def renderer(template: str) -> Any:
    made = tokenizer(template)
    return lambda *arguments: render_chat_template(made, *arguments)


def test_data_cannot_close_a_thought() -> None:
    for name in ("DeepSeek-R1", "Magistral", "Nemotron"):
        frame = AUTO.frame(tokenizer(OPENINGS[name][0]))
        assert frame.opening.strip() in frame.turn_markers


def test_plain_prompts_do_without_a_chat_template_that_fails() -> None:
    frame = AUTO.frame(tokenizer("{{ raise_exception('no chats') }}"))
    assert (frame.bos_token, frame.end_token) == ("<s>", "</s>")
    with pytest.raises(LlmclsError, match="chat template fails: no chats; use the template 'instruction'"):
        frame.chat([Message("user", "x")])


@pytest.mark.parametrize(
    ("adapter", "own"),
    [
        (
            Llama3(),
            "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
            "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
            "{% endif %}",
        ),
        (
            TinyLlamaChat(),
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ),
    ],
)
def test_a_family_s_format_gives_way_to_another_chat_template(adapter: BaseModelAdapter, own: str) -> None:
    family = adapter.frame(tokenizer(None))
    turns = [Message("user", "x")]
    assert adapter.frame(tokenizer(own)).chat(turns) == family.chat(turns)
    assert adapter.turn_end_token(tokenizer(own)) == family.turn_end_token
    other = tokenizer(DEEPSEEK_R1)
    assert adapter.frame(other).chat(turns) == "<s><｜User｜>x<｜Assistant｜><think>\n"
    assert (adapter.turn_end_token(other), adapter.pad_token(other)) == ("</s>", "<pad>")
    assert adapter.former_frame(other).chat(turns) == family.chat(turns)


def test_a_run_keeps_the_opening_it_was_trained_with(tmp_path: Any) -> None:
    folder = str(build_tiny_model(tmp_path / "base", tokenizer(HARMONY)))
    rows = [{"text": f"{n} parcels", "label": "ab"[n % 2]} for n in range(8)]
    short = {"training": {"max_steps": 1, "report_to": []}, "data": {"validation_size": 0}}
    run = train(
        rows,
        base_model=folder,
        template="chat",
        output_dir=tmp_path / "run",
        settings={**short, "model": {"quantization": "none"}},
    )
    assert run.card["base_model"]["opening"] == "<|channel|>final<|message|>"
    prompt = Classifier.load(run).encoder.read_prompts([Example("hello")])[0]
    assert prompt.endswith("hello<|end|><|start|>assistant<|channel|>final<|message|>")

    made, base = tokenizer(HARMONY), SimpleNamespace(adapter=AUTO)
    for card, opening in (({}, ""), ({"opening": ""}, ""), ({"opening": "!"}, "!")):
        held: Any = SimpleNamespace(card={"base_model": card})
        assert frame_of_run(held, base, made).opening == opening  # type: ignore[arg-type]


def test_a_head_reads_no_opening() -> None:
    made = tokenizer(DEEPSEEK_R1)
    template = PromptTemplate("t", '{% message "user" %}{{ text }}{% endmessage %}')
    labels = LabelSet.from_names(["a", "b"])
    form = form_named("single_label")
    encoder = Encoder(made, AUTO.frame(made), template, labels, form, max_length=1000, head=True)
    assert encoder.read_prompts([Example("x")]) == ["<s><｜User｜>x<｜Assistant｜><think>\n"]
