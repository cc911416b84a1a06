import dataclasses
import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from llmcls.errors import LlmclsError
from llmcls.evaluation.files import LATER
from llmcls.evaluation.metrics import compute_report
from llmcls.evaluation.tables import class_table, comparison_table, confusion_table, summary_table
from llmcls.labels import LabelSet

HOSTILE = [
    "[red]math[/red]",
    "非常に長い日本語のラベル名前テスト非常に長い日本語のラベル",
    "🙂 praise",
    ":smile: [/]",
    "x" * 90,
    "evil\x1b[31m\nname",
    "a label of several plain words that is rather long for a table",
]


def render(renderable, width=80, color=False):
    console = Console(width=width, file=io.StringIO(), force_terminal=color, color_system="standard" if color else None)
    console.print(renderable)
    return console.file.getvalue()


def make_report(names, rows=200, wrong_every=3, probabilities=False, absent=0):
    """Row i has label i (mod); every `wrong_every`-th is taken for the next label."""
    labels = LabelSet.from_names(names)
    present = labels.names[: len(labels) - absent]
    true = [present[i % len(present)] for i in range(rows)]
    predicted = [
        present[(i + (i // len(present) % wrong_every == 0)) % len(present)]
        if wrong_every
        else present[i % len(present)]
        for i in range(rows)
    ]
    p = [[0.9 if name == chosen else 0.1 / (len(names) - 1) for name in names] for chosen in predicted]
    return compute_report(true, predicted, labels, probabilities=p if probabilities else None, truncated=3)


def line_with(text, part):
    (line,) = [line for line in text.splitlines() if part in line]
    return line.split()


def test_summary_shows_every_figure():
    text = render(summary_table(make_report(["a", "b", "c"], probabilities=True), title="[b]my run"))
    assert "[b]my run" in text
    for name in ("accuracy", "macro F1", "log loss", "Brier", "ECE", "mean confidence", "macro ROC-AUC"):
        assert name in text
    assert line_with(text, "truncated")[-1] == "3"
    assert "never occur" not in text


def test_summary_leaves_out_what_is_not_known_and_names_absent_labels():
    text = render(summary_table(make_report([f"[red]label{i}" for i in range(30)], absent=12)))
    assert "log loss" not in text
    assert line_with(text, "labels that never occur")[-1] == "12"
    assert "[red]label18" in text and "and 2 more" in text


def test_class_table():
    report = compute_report(["a", "a", "b"], ["a", "b", "b"], LabelSet.from_names(["a", "b", "gone"]))
    text = render(class_table(report))
    assert line_with(text, " a ") == ["a", "1.000", "0.500", "0.667", "2"]
    assert line_with(text, "gone") == ["gone", "–", "–", "–", "0"]
    assert line_with(text, "macro average") == ["macro", "average", "0.750", "0.750", "0.667", "3"]
    assert line_with(text, "weighted average") == ["weighted", "average", "0.833", "0.667", "0.667", "3"]
    older = dataclasses.replace(report, **dict.fromkeys(LATER))
    assert "average" not in render(class_table(older)) and "macro precision" not in render(summary_table(older))
    assert line_with(render(comparison_table(older, report)), "macro precision")[2::2] == ["–", "–"]


def test_class_table_of_very_many_labels_shows_the_worst():
    names = [f"label-{i:03}" for i in range(120)]
    true = names[:110] * 2
    predicted = [*names[:110], *names[:100], *["label-000"] * 10]
    text = render(class_table(compute_report(true, predicted, LabelSet.from_names(names)), shown=11))
    assert all(f"label-{i:03}" in text for i in [0, *range(100, 110)])
    assert "label-115" not in text  # nothing is known of it, which is not bad
    assert "the 11 of 120 labels" in text


def test_matrix_of_few_labels():
    report = compute_report(["a", "a", "b"], ["a", "b", "b"], LabelSet.from_names(["a", "b"]))
    text = render(confusion_table(report))
    assert line_with(text, "true label  ") == ["true", "label", "1", "2"]
    assert line_with(text, " a ") == ["1", "a", "1", "1"]
    assert line_with(text, " b ") == ["2", "b", "·", "1"]


@pytest.mark.parametrize(("labels", "rows", "matrix"), [(12, 11_000, True), (12, 40_000, True), (12, 200_000, False)])
def test_matrix_is_shown_only_where_every_count_fits(labels, rows, matrix):
    report = make_report([f"a rather long label name {i}" for i in range(labels)], rows)
    text = render(confusion_table(report))
    assert ("Confusion matrix" in text) == matrix
    assert "…" not in text
    shown = {part.replace(",", "") for part in text.split()}
    assert all(str(count) in shown for row in report.confusion for count in row if count) or not matrix


def test_most_confused_pairs_of_many_labels():
    names = [f"intent_{i:02}" for i in range(77)]
    true = ["intent_05"] * 10 + ["intent_07"] * 4 + names
    predicted = ["intent_05"] * 4 + ["[b]odd"] * 6 + ["intent_08"] * 3 + ["intent_07"] + names
    text = render(confusion_table(compute_report(true, predicted, LabelSet.from_names([*names, "[b]odd"]))))
    rows = [line.split() for line in text.splitlines() if "intent" in line]
    assert rows == [["intent_05", "[b]odd", "6", "55%"], ["intent_07", "intent_08", "3", "60%"]]
    assert "9 of the 9 rows that are wrong" in text


def test_pairs_when_nothing_is_wrong():
    text = render(confusion_table(make_report([f"intent {i}" for i in range(77)], wrong_every=0)))
    assert "no row is wrong" in text


def test_comparison_of_before_and_after():
    labels = LabelSet.from_names(["a", "b"])
    true = ["a", "a", "b", "b"]
    before = compute_report(true, ["a", "b", "a", "b"], labels, probabilities=[[0.5, 0.5]] * 4)
    after = compute_report(true, true, labels, probabilities=[[1, 0]] * 2 + [[0, 1]] * 2)
    text = render(comparison_table(before, after))
    assert line_with(text, "balanced accuracy")[2:] == ["0.5000", "1.0000", "+0.5000"]
    assert "micro F1" not in text, "it would repeat the accuracy"
    assert line_with(text, "log loss")[-3:] == ["0.6931", "0.0000", "-0.6931"]
    assert line_with(text, " a ") == ["a", "0.5000", "1.0000", "+0.5000"]
    assert line_with(render(comparison_table(after, after)), "Brier")[-1] == "="


def test_comparison_colours_better_green_also_where_less_is_better():
    labels = LabelSet.from_names(["a", "b"])
    before = compute_report(["a", "b"], ["b", "b"], labels, probabilities=[[0.4, 0.6]] * 2)
    after = compute_report(["a", "b"], ["a", "b"], labels, probabilities=[[0.9, 0.1], [0.1, 0.9]])
    green, red = "\x1b[32m", "\x1b[31m"
    lines = render(comparison_table(before, after), color=True).splitlines()
    for name in ("accuracy", "macro F1", "log loss", "Brier"):
        assert all(green in line for line in lines if f" {name}" in line)
    worse = render(comparison_table(after, before), color=True).splitlines()
    assert all(red in line for line in worse if "log loss" in line or " accuracy" in line)
    assert not any(green in line or red in line for line in lines if "mean confidence" in line)


def test_comparison_shows_a_gap_where_one_report_has_no_probabilities():
    before, after = make_report(["a", "b"]), make_report(["a", "b"], probabilities=True)
    assert line_with(render(comparison_table(before, after)), "log loss")[-3::2] == ["–", "–"]


def test_comparison_of_many_labels_shows_those_that_changed_most():
    names = [f"intent-{i:02}" for i in range(77)]
    labels = LabelSet.from_names([*names, "gone"])
    after = [*names[:5], "intent-00", *names[6:]]
    text = render(comparison_table(compute_report(names, names, labels), compute_report(names, after, labels)))
    assert line_with(text, "intent-05")[-1] == "-1.0000"
    assert line_with(text, "intent-00")[-1] == "-0.3333"
    assert "intent-40" not in text and "gone" not in text


def test_reports_on_different_rows_are_not_compared():
    report = make_report(["a", "b"])
    with pytest.raises(LlmclsError, match="'before' and 'after' differ in their rows of each label"):
        comparison_table(report, make_report(["a", "b"], rows=100))
    with pytest.raises(LlmclsError, match="'base' and 'tuned' differ in their labels"):
        comparison_table(report, make_report(["a", "c"]), ("base", "tuned"))


@pytest.mark.parametrize("names", [HOSTILE, HOSTILE + [f"label number {i}" for i in range(70)]], ids=["few", "many"])
def test_hostile_label_names_are_literal_and_stay_within_80_columns(names):
    one = make_report(names, 300, 2, probabilities=True, absent=1)
    two = make_report(names, 300, 3, probabilities=True, absent=1)
    for table in (summary_table(one), class_table(one), confusion_table(one), comparison_table(one, two)):
        text = render(table)
        assert all(cell_len(line) <= 80 for line in text.splitlines())
        assert "\x1b" not in text and "…" not in text
    text = render(class_table(one))
    for name in ("[red]math[/red]", "🙂 praise", ":smile: [/]", r"evil\x1b[31m\nname", "非常に長い"):
        assert name in text
    assert "".join(text.split()).count("x") >= 90  # all of the long name is there
