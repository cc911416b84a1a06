import click
import llmcls_example
import pytest
from click.testing import CliRunner

from llmcls import LlmclsError
from llmcls.testing import build_tiny_tokenizer, check_plugin

pytest_plugins = ["llmcls.testing"]


@pytest.fixture
def reviews(tmp_path):
    for split, label, texts in (
        ("train", "positive", ["Lovely.", "Would buy again."]),
        ("train", "negative", ["Broke within a day."]),
        ("test", "negative", ["Never again."]),
    ):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_text(text)
    return tmp_path


def test_everything_it_registers_keeps_the_contract(reviews):
    pythia = build_tiny_tokenizer(bos="<|endoftext|>", eos="<|endoftext|>", pad="<|padding|>")
    check_plugin(llmcls_example, specs={"texts": f"texts:{reviews}"}, tokenizers={"pythia": pythia})


def test_reads_a_folder_with_and_without_splits(reviews):
    read = llmcls_example.TextFolderReader().read
    assert [list(table.rows)[-1].values for table in read(f"texts:{reviews}").values()] == [
        {"text": "Would buy again.", "label": "positive"},
        {"text": "Never again.", "label": "negative"},
    ]
    assert list(read(f"texts:{reviews / 'train'}")) == ["train"]


def test_says_what_is_wrong(reviews):
    (reviews / "train" / "positive" / "0.txt").write_bytes(b"\xff")
    problems = [row.problem for row in llmcls_example.TextFolderReader().read(f"texts:{reviews}")["train"].rows]
    assert [problem is None for problem in problems] == [True, False, True] and "utf-8" in problems[1]
    with pytest.raises(LlmclsError, match="no text in"):
        llmcls_example.TextFolderReader().read(f"texts:{reviews / 'nowhere'}")


def test_counts_labels(plugin_manager, reviews):
    plugin_manager.register(llmcls_example)
    cli = click.Group()
    plugin_manager.hook.register_commands(cli=cli)
    result = CliRunner().invoke(cli, ["label-counts", f"texts:{reviews}"], catch_exceptions=False)
    assert result.output == "train: positive 2, negative 1\ntest: negative 1\n"


def test_fits_only_pythia():
    adapter = llmcls_example.Pythia()
    assert adapter.fits("EleutherAI/pythia-1b", {"model_type": "gpt_neox"})
    assert not adapter.fits("EleutherAI/gpt-neox-20b", {"model_type": "gpt_neox"})
    assert not adapter.fits("someone/pythia-llama", {"model_type": "llama"})
