"""What `llmcls evaluate` finds out besides a report: of a few rows, or of other ways to ask.

for finding in look_closer(Evaluated(classifier, examples, predictions), reporter, free=200):
    finding.write(folder / finding.file)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.errors import LlmclsError, several
from llmcls.evaluation.samples import choose_rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmcls.classifier import Classifier
    from llmcls.console import Reporter
    from llmcls.records import Example, Prediction
    from llmcls.runs.run import Run


@dataclass(frozen=True)
class Evaluated:
    """What is known when the report is made.

    Attributes:
        classifier: the run's.
        examples: all rows evaluated.
        predictions: what the classifier says of them.
        untrained: what the base model says of them, where it was asked about all.
        base_model: where the base model is now, if not where it was.
        escape_formulas: how the files are written, see `llmcls.evaluation.files.write_rows`.
    """

    classifier: Classifier
    examples: Sequence[Example]
    predictions: Sequence[Prediction]
    untrained: Sequence[Prediction] | None = None
    base_model: str | None = None
    escape_formulas: bool = False

    def draw(self, count: int) -> tuple[list[int], list[Example], list[Prediction]]:
        """The places of some rows, drawn by the run's seed; the rows, and what the classifier says of them."""
        places = choose_rows(len(self.examples), count, self.classifier.assembly.settings.seed)
        return places, [self.examples[place] for place in places], [self.predictions[place] for place in places]


@dataclass(frozen=True)
class Finding:
    """One thing that was found out.

    Attributes:
        key: what it is called in JSON.
        content: what is said of it in JSON.
        table: what is shown of it.
        file: the name of its file.
        write: writes the file.
        measures: whether the content is figures, which metrics.json has as well.
    """

    key: str
    content: Any
    table: RenderableType
    file: str
    write: Callable[[Path], None]
    measures: bool = True


def look_closer(
    evaluated: Evaluated,
    reporter: Reporter,
    *,
    free: int | None = None,
    samples: int | None = None,
    templates: Sequence[str] = (),
) -> list[Finding]:
    """Find out what is asked for; every process must call it.

    Args:
        evaluated: what is known already.
        reporter: where messages and progress go.
        free: how many rows to answer freely; None: no row.
        samples: how many rows to show before and after training; None: no row.
        templates: other templates to ask all rows with; `check_templates` has found them to suit.
    """
    findings = []
    if free is not None:
        findings.append(_answer_freely(evaluated, free, reporter))
    if samples is not None:
        findings.append(_show_samples(evaluated, samples, reporter))
    if templates:
        findings.append(_ask_otherwise(evaluated, templates, reporter))
    return findings


def check_template_names(run: Run, names: Sequence[str]) -> None:
    """Find before a tokenizer is loaded that there is none of these templates for this run.

    Raises:
        LlmclsError: where all are wrong, as `check_templates`, which says it of some.
    """
    wrong = {name: _wrong_name(run, name) for name in names}
    if all(wrong[name] or names.count(name) > 1 for name in names):
        _refuse(names, wrong)


def check_templates(
    run: Run,
    names: Sequence[str],
    base_model: str | None,
    examples: Sequence[Example],
    trust_remote_code: bool = False,
) -> None:
    """Find what is wrong with other templates before a model is loaded; arguments as of `assemble_run`.

    Raises:
        LlmclsError: with all that is wrong: unknown ones, those of another task, those that do not suit the run or the
            rows, and those given twice.
    """
    from llmcls.runs.assembly import assemble_run, find_template

    assembly = assemble_run(run, base_model=base_model, verify=False, trust_remote_code=trust_remote_code)
    wrong: dict[str, str | None] = {}
    for name in dict.fromkeys(names):
        wrong[name] = _wrong_name(run, name)
        if wrong[name] is None:
            try:
                assembly.with_template(find_template(name)).encoder.encode(examples)
            except LlmclsError as error:
                wrong[name] = str(error)
    _refuse(names, wrong)


def _wrong_name(run: Run, name: str) -> str | None:
    """Why there is no such template for the run's task, or None where there is one."""
    from llmcls.runs.assembly import check_shots, find_template
    from llmcls.settings.task import tasks

    # The templates of a task bear its name.
    others = [task for task in tasks() if task != run.settings.task and f"{name}_".startswith(f"{task}_")]
    try:
        check_shots(find_template(name), run.shots)
    except LlmclsError as error:
        return str(error)
    if others and not name.endswith(".j2"):
        return (
            f"Template '{name}' is for the task {others[0]}, but this run was trained for the task "
            f"{run.settings.task}; choose another template."
        )
    return None


def _refuse(names: Sequence[str], wrong: Mapping[str, str | None]) -> None:
    problems = [f"'{name}' is given {count} times; keep one." for name, count in Counter(names).items() if count > 1]
    problems += [problem for problem in wrong.values() if problem]
    if problems:
        raise LlmclsError(several(problems, "--templates"))


def classify_untrained(
    classifier: Classifier, base_model: str | None, examples: Sequence[Example], reporter: Reporter
) -> list[Prediction]:
    """What the model of a run said of these rows before it was trained."""
    run = classifier.run
    kept = "the head it began with" if run and run.has_head else "its own output layer"
    reporter.say(f"The base model as it was before training, with {kept}")
    with classifier.untrained(base_model) as before:
        return before.untuned().classify(examples, reporter=reporter)


def _answer_freely(evaluated: Evaluated, count: int, reporter: Reporter) -> Finding:
    from llmcls.evaluation.free import compare_free
    from llmcls.evaluation.row_tables import free_table

    _, rows, predictions = evaluated.draw(count)
    reporter.say(f"Free answers of {len(rows):,} rows")
    answers = evaluated.classifier.answer_freely(rows, reporter=reporter)
    report = compare_free(rows, answers, predictions)
    separator = evaluated.classifier.assembly.settings.data.label_separator
    return Finding(
        "free",
        report.figures(),
        free_table(report),
        "free.csv",
        lambda path: report.write(path, separator, escape_formulas=evaluated.escape_formulas),
    )


def _show_samples(evaluated: Evaluated, count: int, reporter: Reporter) -> Finding:
    from llmcls.evaluation.row_tables import samples_table
    from llmcls.evaluation.samples import write_samples

    places, rows, after = evaluated.draw(count)
    if evaluated.untrained is None:
        before = classify_untrained(evaluated.classifier, evaluated.base_model, rows, reporter)
    else:
        before = [evaluated.untrained[place] for place in places]
    content = [
        {"text": row.text, "label": row.label, "before": old.label, "after": new.label}
        for row, old, new in zip(rows, before, after, strict=True)
    ]
    heading = "untrained head" if evaluated.classifier.encoder.head else "base model"
    return Finding(
        "samples",
        content,
        samples_table(rows, before, after, heading),
        "samples.csv",
        lambda path: write_samples(path, rows, before, after, escape_formulas=evaluated.escape_formulas),
        measures=False,
    )


def _ask_otherwise(evaluated: Evaluated, templates: Sequence[str], reporter: Reporter) -> Finding:
    from llmcls.evaluation.row_tables import templates_table
    from llmcls.evaluation.stability import Asked, Stability

    classifier, examples = evaluated.classifier, evaluated.examples
    name = classifier.encoder.template.name
    own = Asked(name, evaluated.predictions, classifier.report(examples, evaluated.predictions))
    others = []
    for template in templates:
        reporter.say(f"The same rows with template '{template}'")
        other = classifier.with_template(template)
        predictions = other.classify(examples, reporter=reporter)
        others.append(Asked(template, predictions, other.report(examples, predictions)))
    stability = Stability(own, others)
    return Finding(
        "templates",
        stability.figures(),
        templates_table(stability),
        "templates.csv",
        lambda path: stability.write(path, examples, escape_formulas=evaluated.escape_formulas),
    )
