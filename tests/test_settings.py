import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmcls import LlmclsError
from llmcls.cli.config import starter_file
from llmcls.settings import Section, Settings, fields, load_settings, make_settings, unknown_setting


def test_defaults():
    assert load_settings() == Settings() == make_settings({})


def test_later_sources_win_and_sections_merge(tmp_path):
    (tmp_path / "a.yaml").write_text("lora: {r: 4, lora_alpha: 8}\ntraining: {max_steps: 7}\n")
    (tmp_path / "b.yaml").write_text("lora: {r: 5}\n")
    settings = load_settings([tmp_path / "a.yaml", tmp_path / "b.yaml"], ["lora.r=6", "lora.r=9", "seed=1"])
    assert (settings.lora.r, settings.lora.lora_alpha, settings.training.max_steps, settings.seed) == (9, 8, 7, 1)
    assert load_settings([tmp_path / "a.yaml", tmp_path / "b.yaml"]).lora.r == 5
    assert settings.lora.lora_dropout == Settings().lora.lora_dropout


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("training.learning_rate=2e-4", 2e-4),
        ("training.learning_rate = 0.001", 1e-3),
        ("training.learning_rate=null", None),
        ("training.packing=false", False),
        ("training.class_weights={spam: 2, ham: 1}", {"spam": 2.0, "ham": 1.0}),
        ("training.class_weights.spam=3", {"spam": 3.0}),
        ("data.text_columns=body", ("body",)),
        ("data.text_columns=[title, abstract]", ("title", "abstract")),
        ("data.label_column=a=b", "a=b"),
        ("model.base_model=me/model-1e", "me/model-1e"),
        ("lora.target_modules=[q_proj, v_proj]", ("q_proj", "v_proj")),
        ("lora.target_modules=all-linear", "all-linear"),
        ("data.max_per_class.train=2000", {"train": 2000}),
        ("output_dir=C:\\runs\\1", "C:\\runs\\1"),
    ],
)
def test_assignments(assignment, value):
    found = load_settings([], [assignment])
    for part in assignment.partition("=")[0].strip().removesuffix(".spam").removesuffix(".train").split("."):
        found = getattr(found, part)
    assert found == value and type(found) is type(value)


def test_an_assignment_replaces_what_is_no_section(tmp_path):
    (tmp_path / "a.yaml").write_text("training: {class_weights: balanced}\n")
    assert load_settings([tmp_path / "a.yaml"], ["training.class_weights.spam=2"]).training.class_weights == {"spam": 2}


@pytest.mark.parametrize("text", ["lora.r", "=3", " =3", ""])
def test_no_assignment(text):
    with pytest.raises(LlmclsError, match=r"is no assignment; write it as training\.max_steps=100"):
        load_settings([], [text])


def test_all_problems_at_once_with_suggestions():
    with pytest.raises(LlmclsError) as caught:
        make_settings(
            {
                "lora": {"rank": 4, "r": 0, "lora_dropuot": 0.1},
                "training": {"max_step": 3, "num_train_epochs": "many"},
                "model": {"quantization": "5bit"},
                "trainning": {},
                "max_steps": 4,
            }
        )
    message = str(caught.value)
    assert "8 problems" in message
    for part in (
        "no setting 'lora.rank'",
        "lora.r = 0: ",
        "'lora.lora_dropuot'; did you mean 'lora.lora_dropout'?",
        "'training.max_step'; did you mean 'training.max_steps'?",
        "training.num_train_epochs = 'many': ",
        "model.quantization = '5bit': input should be 'none', '8bit' or '4bit'",
        "'trainning'; did you mean 'training'?",
        "'max_steps'; did you mean 'training.max_steps'?",
    ):
        assert part in message


BEST_STEPS = {
    "load_best_model_at_end": True,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 3,
}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"training": {"load_best_model_at_end": True}}, "needs save_strategy"),
        (
            {"training": {"load_best_model_at_end": True, "save_strategy": "no", "eval_strategy": "no"}},
            "needs eval_strategy",
        ),
        ({"training": {"eval_strategy": "steps"}}, "needs eval_steps"),
        (
            {"training": BEST_STEPS | {"save_steps": 6}},
            "needs a checkpoint of every evaluation, but save_steps is 6.0 and eval_steps 3.0; leave save_steps out",
        ),
        ({"training": {"logging_steps": 1.5, "save_steps": 2.5}}, "logging_steps is 1.5; .*save_steps is 2.5; "),
        ({"data": {"labels": [True, False]}}, "True is a bool, not a name; write the name as text"),
        ({"training": {"max_steps": 0}}, "max_steps is 0"),
        ({"training": {"max_steps": -2}}, "max_steps is -2"),
        ({"training": {"objective": "label", "loss_normalization": "token"}}, "'token' is for objective 'sft'"),
        ({"training": {"class_weights": {"spam": -1, "ham": 0}}}, "'spam' has weight -1.*'ham' has weight 0"),
        ({"lora": {"use_dora": True}, "model": {"quantization": "8bit"}}, "use_dora does not work"),
    ],
)
def test_impossible_combinations(values, says):
    with pytest.raises(LlmclsError, match=says):
        make_settings(values)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", 2**32, "seed = 4294967296: input should be less than or equal to 4294967295"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 1.5, "valid integer"),
        ("seed", True, "seed: True, but must be a number"),
        ("training.warmup_steps", 1.5, "warmup_steps is 1.5; give whole steps, or below 1 a share of all steps"),
        ("training.eval_steps", 2.5, "eval_steps is 2.5; give whole steps"),
        ("training.learning_rate", float("nan"), "finite number"),
        ("training.learning_rate", float("inf"), "finite number"),
        ("training.learning_rate", "nan", "finite number"),
        ("training.learning_rate", True, "True, but must be a number"),
        ("training.num_train_epochs", float("inf"), "finite number"),
        ("training.max_steps", float("inf"), "finite number"),
        ("training.max_steps", True, "True, but must be a number"),
        ("training.gradient_accumulation_steps", 1.5, "valid integer"),
        ("training.max_grad_norm", float("nan"), "finite number"),
        ("training.weight_decay", float("inf"), "finite number"),
        ("training.save_minutes", float("nan"), "finite number"),
        ("training.early_stopping_threshold", float("nan"), "finite number"),
        ("training.class_weights", {"a": float("nan")}, "finite number"),
        ("training.class_weights", {"a": float("inf")}, "finite number"),
        ("training.class_weights", {"a": True, "b": 2}, "'a' is True, but must be a number"),
        ("training.lr_scheduler_kwargs", {"min_lr": float("nan")}, "lr_scheduler_kwargs.min_lr is nan; give a finite"),
        ("training.lr_scheduler_kwargs", {"a": [1, {"b": float("inf")}]}, r"kwargs\.a\[1\]\.b is inf; give a finite"),
        ("training.max_steps", np.bool_(True), "True, but must be a number"),
        ("data.validation_size", float("nan"), "finite number"),
        ("data.max_per_class", {"train": True}, "'train' is True, but must be a number"),
        ("lora.lora_alpha", float("inf"), "finite number"),
        ("lora.r", True, "True, but must be a number"),
        ("prediction.threshold", float("nan"), "finite number"),
        ("prediction.min_probability", float("nan"), "finite number"),
    ],
)
def test_numbers_that_would_break_later(name, value, says):
    values = value
    for part in reversed(name.split(".")):
        values = {part: values}
    with pytest.raises(LlmclsError, match=says):
        make_settings(values)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 2**32 - 1},
        {"seed": 0},
        {"training": {"warmup_steps": 1}},
        {"training": {"warmup_steps": 0.5}},
        {"training": {"warmup_steps": 20.0}},
        {"training": {"max_steps": 100.0}},
        {"training": {"packing": 1}},
        {"training": {"num_train_epochs": 0.5}},
    ],
)
def test_numbers_that_work(values):
    make_settings(values)


def test_labels_may_be_numbers_and_a_name_a_list():
    weighed = make_settings(
        {
            "data": {"labels": [0, 1], "label_descriptions": {0: "no"}, "label_aliases": {1: 2}},
            "training": {"class_weights": {0: 1.0, 1: 3.0}},
            "lora": {"target_modules": "q_proj"},
        }
    )
    assert weighed.data.labels == ("0", "1") and weighed.data.label_descriptions == {"0": "no"}
    assert weighed.data.label_aliases == {"1": ("2",)} and weighed.training.class_weights == {"0": 1.0, "1": 3.0}
    assert weighed.lora.target_modules == ("q_proj",)
    assert make_settings({"lora": {"target_modules": "all-linear"}}).lora.target_modules == "all-linear"


def test_a_starter_file_leaves_open_what_depends_on_the_task(tmp_path):
    (tmp_path / "start.yaml").write_text(starter_file(), encoding="utf-8")
    several = load_settings([tmp_path / "start.yaml"], ["task=multi_label"])
    assert several == make_settings({"task": "multi_label"}) and several.prompt.template == "multi_label"
    listed = load_settings([tmp_path / "start.yaml"], ["task=multi_label", "prediction.method=list"])
    assert listed.training.objective == "sft"


def test_unknown_settings():
    assert unknown_setting("learning_rate") == (
        "there is no setting 'learning_rate'; did you mean 'training.learning_rate'?"
    )
    with pytest.raises(LlmclsError, match=r"write it as \{'lora': \{'r': \.\.\.\}\}"):
        make_settings({"lora.r": 8})
    assert unknown_setting("lora.zzzzzz").endswith("`llmcls config init` prints all.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "no valid YAML"),
        (b"- 1\n- 2\n", "must hold sections"),
        (b"lora: 3\n", "lora = 3: "),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"1: 2\n", "1"),
    ],
)
def test_bad_files(tmp_path, content, says):
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(LlmclsError, match=says):
        load_settings([tmp_path / "bad.yaml"])


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(LlmclsError, match=r"nowhere\.yaml' cannot be read"):
        load_settings([tmp_path / "nowhere.yaml"])
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert load_settings([tmp_path / "empty.yaml"]) == Settings()


def test_the_starter_file_is_the_defaults(tmp_path):
    text = starter_file()
    (tmp_path / "start.yaml").write_text(text, encoding="utf-8")
    assert load_settings([tmp_path / "start.yaml"]) == Settings()
    lines = text.splitlines()
    for name, info in fields():
        section, _, key = name.rpartition(".")
        start = lines.index(f"{section}:") if section else 0
        position = next(i for i, line in enumerate(lines) if i >= start and line.strip().startswith(f"{key}:"))
        assert lines[position - 1].strip().startswith(f"# {info.description}")
        assert not lines[position].strip().startswith("#")


def test_every_setting_has_one_line_of_description():
    for name, info in fields():
        assert info.description and info.description == info.description.strip() and "\n" not in info.description, name
        assert info.description.endswith((".", "}")), name
    for name, info in Settings.model_fields.items():
        assert info.description, name


def test_settings_are_final():
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.seed = 1
    with pytest.raises(ValidationError):
        settings.lora.r = 1


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**32 - 1),
            "output_dir": st.none() | st.text(st.characters(exclude_characters="\0")),  # which no file's name has
            "lora": st.fixed_dictionaries({}, optional={"r": st.integers(1, 512), "lora_dropout": st.floats(0, 0.9)}),
            "data": st.fixed_dictionaries(
                {},
                optional={
                    "labels": st.lists(st.text(min_size=1), max_size=5),
                    "label_descriptions": st.dictionaries(st.text(), st.text(), max_size=3),
                },
            ),
        },
    )
)
def test_what_a_run_saves_can_be_loaded(values):
    settings = make_settings(values)
    assert make_settings(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))) == settings
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


def test_sections_document_themselves():
    def sections(of):
        for info in of.model_fields.values():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
                yield info.annotation

    assert all(section.__doc__ and section.__doc__ != Section.__doc__ for section in sections(Settings))
