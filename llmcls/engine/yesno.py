"""Yes or no for every label from one reading of the text: each label's question is a branch of the token tree.

    questions = QuestionTrie([Question((30, 31), yes=5, no=6), Question((30, 40), yes=5, no=6)])
    scorer = make_yes_no_scorer(model, questions)
    scorer.score(prompts)                               # (rows, labels) log P(yes)
    batch = packed_yes_no_batch(prompts, [(0,), ()], questions, objective)
    loss = packed_loss(model, batch)                    # gradients as those of padded_yes_no_batch

A question is what asks about one label behind the prompt (`joy:`); where it ends, the next token is its `yes` or its
`no`, and nothing else is looked at. Questions that begin alike share their tokens, and one may begin another. With a
classification head every question is empty. Output j of the head is the yes of label j, and one more output is the no
of all labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmcls.engine.attention import supports_packing
from llmcls.engine.decoder import evaluating, turn, vocabulary_size
from llmcls.engine.objectives import Objective, lay_out_tree, pad_right
from llmcls.engine.packed import PackedScorer, check_vocabulary
from llmcls.engine.packing import Batch
from llmcls.engine.plan import ScoringPlan
from llmcls.engine.scorer import UnsharedScorer
from llmcls.engine.scores import Progress, Prompts, Scorer
from llmcls.engine.tree import check_prompts
from llmcls.engine.trie import LabelTrie, common_length
from llmcls.errors import LlmclsError, LlmclsWarning, several
from llmcls.model.wrapped import bare


@dataclass(frozen=True)
class Question:
    """One label's question, and the tokens that answer it.

    Attributes:
        tokens: what asks about the label behind the prompt; may be empty.
        yes: the token that says so.
        no: the token that denies it.
    """

    tokens: tuple[int, ...]
    yes: int
    no: int

    @classmethod
    def between(cls, yes: Sequence[int], no: Sequence[int]) -> Question:
        """From a question answered with yes and with no: they part at the first token that differs.

        Tokens that both answers begin with belong to the question; those behind the first different one say nothing
        new and are left out.

        Raises:
            LlmclsError: when one of the two is the beginning of the other.
        """
        shared = common_length(yes, no)
        if shared in (len(yes), len(no)):
            raise LlmclsError(
                f"The answers {list(yes)} and {list(no)} to a question do not differ by a token; give other ones."
            )
        return cls(tuple(yes[:shared]), yes[shared], no[shared])


class QuestionTrie:
    """All labels' questions as one prefix tree.

    Attributes:
        questions: one per label.
        trie: the tree of all questions with their answers.
        plan: what a row feeds and scores for all of them.

    Raises:
        LlmclsError: for no questions, or two that cannot be told apart: the same tokens and yes, or one that goes on
            with the answer to another; all problems in one message.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = tuple(questions)
        answered = [(*question.tokens, token) for question in self.questions for token in (question.yes, question.no)]
        asked_by: dict[tuple[int, ...], int] = {}
        answers_of = {answer: at // 2 for at, answer in enumerate(answered)}
        number = {answer: at for at, answer in enumerate(answers_of)}
        problems = [] if questions else ["there is none; give one per label"]
        for label, question in enumerate(self.questions):
            path = question.tokens
            if (other := asked_by.setdefault((*path, question.yes), label)) != label:
                problems.append(f"questions {other} and {label} are the same tokens; rename one of the labels")
            problems += [
                f"question {label} begins with question {answers_of[path[:stop]]} and its answer; rename one label"
                for stop in range(1, len(path) + 1)
                if path[:stop] in answers_of
            ]
        if problems:
            raise LlmclsError(several(problems, "The questions about the labels cannot be used"))
        self.trie = LabelTrie(list(number))
        numbers = np.asarray([number[answer] for answer in answered], dtype=np.int64)
        self.plan = ScoringPlan.for_questions(self.trie, numbers[0::2], numbers[1::2])

    @classmethod
    def between(cls, yes: Sequence[Sequence[int]], no: Sequence[Sequence[int]]) -> QuestionTrie:
        """From every label's question answered with yes and with no; see `Question.between`."""
        return cls([Question.between(*pair) for pair in zip(yes, no, strict=True)])

    def __len__(self) -> int:
        """Number of labels."""
        return len(self.questions)


class PackedYesNoScorer:
    """Answers every label's question on the packed token tree: prefix once, each text once, all questions branches.

    Its scores are float32 log-probabilities on the CPU, (rows, labels),

        scores[i, j] = log( p(yes_j | x_i, q_j) / (p(yes_j | x_i, q_j) + p(no_j | x_i, q_j)) )

    with prompt x_i, question q_j and the model's softmax p over the full vocabulary. Labels do not see each other, so
    the probabilities of a row do not sum to 1.
    """

    def __init__(self, model: Any, questions: QuestionTrie, *, pack_tokens: int | None = None) -> None:
        self._packed = PackedScorer(model, questions.trie, pack_tokens=pack_tokens)
        self._plan = questions.plan

    def warm_up(self, prompts: Prompts) -> None:
        """See `Scorer`."""
        self._packed.warm_up(prompts)

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> torch.Tensor:
        """See `Scorer`."""
        _refuse_global(want_global)
        rows = check_prompts(prompts)
        if not rows:
            return torch.empty(0, len(self._plan.answer_edge))
        return self._packed.run(rows, self._plan, progress=progress)[0].float().cpu()


class ReferenceYesNoScorer(UnsharedScorer):
    """As `PackedYesNoScorer`, by one plain forward per row and question: the slow reference.

    Labels whose questions are the same tokens share it: all labels of a classification head.
    """

    def __init__(self, model: Any, questions: QuestionTrie) -> None:
        self._model, self._labels = model, len(questions)
        self._asked: dict[tuple[int, ...], list[int]] = {}
        for label, question in enumerate(questions.questions):
            self._asked.setdefault(question.tokens, []).append(label)
        self._choices = torch.tensor([[question.yes, question.no] for question in questions.questions])
        check_vocabulary(questions.trie, vocabulary_size(model))

    def score(
        self,
        prompts: Prompts,
        want_global: bool = False,
        progress: Progress | None = None,
        *,
        all_labels: bool = False,
    ) -> torch.Tensor:
        """See `Scorer`."""
        _refuse_global(want_global)
        rows = check_prompts(prompts)
        scores = torch.zeros(len(rows), self._labels)
        with torch.no_grad(), evaluating(self._model):
            for at, row in enumerate(rows):
                for question, labels in self._asked.items():
                    ids = torch.tensor([[*row, *question]], device=bare(self._model).device)
                    with turn(self._model):
                        logits = self._model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu()
                    scores[at, labels] = logits[self._choices[labels]].log_softmax(1)[:, 0]
                if progress is not None:
                    progress(1)
        return scores


def make_yes_no_scorer(
    model: Any, questions: QuestionTrie, *, method: str = "exact", pack_tokens: int | None = None
) -> Scorer[torch.Tensor]:
    """The packed scorer, or the reference where it is asked for or the model cannot take the packed mask.

    Raises:
        LlmclsError: for tokens outside the vocabulary, or a method that is neither `auto` or `exact` nor `reference`.
    """
    if method not in ("auto", "exact", "reference"):
        raise LlmclsError(f"Method '{method}' does not answer yes or no for every label; use 'exact' or 'reference'.")
    reason = supports_packing(model)
    if method != "reference" and reason is None:
        return PackedYesNoScorer(model, questions, pack_tokens=pack_tokens)
    if method != "reference":
        warnings.warn(
            f"Method '{method}' cannot pack this model because {reason}; using 'reference', which gives the same "
            "probabilities but takes many times longer.",
            LlmclsWarning,
            stacklevel=2,
        )
    return ReferenceYesNoScorer(model, questions)


def _refuse_global(wanted: bool) -> None:
    if wanted:
        raise LlmclsError("Answers to yes or no about every label have no label mass; leave want_global out.")


def packed_yes_no_batch(
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    questions: QuestionTrie,
    objective: Objective,
    row_weights: Sequence[float] | None = None,
) -> Batch:
    """Lay a micro-batch out as one token tree, every row followed by all questions; for `objectives.packed_loss`.

    With t_ij = 1 where row i has label j, else 0, the loss is the two-way cross-entropy of the answers,

        sum_i r_i 1/L sum_j w_ij ( - t'_ij log p_ij - (1 - t'_ij) log(1 - p_ij) )   over   sum_i r_i,

    with r the weights of rows, t' = t where label smoothing e is 0, else (1 - e) t + e/2, and w_ij = w_j where t_ij is
    1, else 1 (without smoothing that is torch's `pos_weight`).

    Args:
        prompts: token ids, each prompt at least one token.
        labels: indices of each row's true labels; may be empty.
        questions: the labels' questions.
        objective: class weights and label smoothing; its name must be `label`.
        row_weights: (rows,) 0 or more; None for ones.

    Returns:
        CPU tensors, as `objectives.packed_batch` describes them; `points` are the questions' ends.

    Raises:
        LlmclsError: for no rows, a prompt without tokens, a label out of range, weights for another number of labels.
    """
    rows = _check(prompts, labels, questions, objective)
    plan = questions.plan
    layout, last_own = lay_out_tree(rows, [plan.branch] * len(rows))
    # `answer_edge` is the edge of each label's yes; edges stand two by two below their question's end.
    ends = plan.scored_at[plan.answer_edge // 2] + 1
    return {
        **layout,
        "points": torch.from_numpy((last_own[:, None] + ends[None, :]).reshape(-1)),
        **_targets(labels, questions, objective, row_weights),
    }


def padded_yes_no_batch(
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    questions: QuestionTrie,
    objective: Objective,
    row_weights: Sequence[float] | None = None,
    *,
    pad_token_id: int,
) -> Batch:
    """As `packed_yes_no_batch`, by one right-padded sequence per row and question; for `objectives.padded_loss`.

    Questions of the same tokens share a sequence: all labels of a classification head.
    """
    rows = _check(prompts, labels, questions, objective)
    asked = [question.tokens for question in questions.questions]
    different = list(dict.fromkeys(asked))
    place = {tokens: at for at, tokens in enumerate(different)}
    sequences = [row + list(tokens) for row in rows for tokens in different]
    width = max(map(len, sequences))
    points = [
        at * width + len(sequences[at]) - 1
        for row in range(len(rows))
        for at in (row * len(different) + place[tokens] for tokens in asked)
    ]
    return {
        **pad_right(sequences, width, pad_token_id),
        "points": torch.tensor(points),
        **_targets(labels, questions, objective, row_weights),
    }


def _targets(
    labels: Sequence[Sequence[int]],
    questions: QuestionTrie,
    objective: Objective,
    row_weights: Sequence[float] | None,
) -> Batch:
    size = len(questions)
    own = np.ones(len(labels)) if row_weights is None else np.asarray(row_weights, dtype=np.float64)
    true = np.zeros((len(labels), size), dtype=np.int64)
    for row, positions in enumerate(labels):
        true[row, list(positions)] = 1
    weights = np.where(true == 1, [objective.weight(label) for label in range(size)], 1.0) * own[:, None] / size
    return {
        "targets": torch.from_numpy(1 - true.reshape(-1)),  # column 0 of the choices is yes
        "choices": torch.tensor([[question.yes, question.no] for question in questions.questions]).repeat(
            len(labels), 1
        ),
        "weights": torch.from_numpy(weights.reshape(-1)).float(),
        "normalizer": torch.tensor(float(own.sum())),
        "label_smoothing": torch.tensor(objective.label_smoothing),
        "row": torch.arange(len(labels)).repeat_interleave(size),
        "counted": torch.ones(len(labels)),
    }


def _check(
    prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], questions: QuestionTrie, objective: Objective
) -> list[list[int]]:
    rows = check_prompts(prompts)
    if not rows or len(rows) != len(labels):
        raise LlmclsError(f"A batch has {len(rows)} prompts and {len(labels)} rows of labels; give one per prompt.")
    for label in {label for positions in labels for label in positions}:
        if not 0 <= label < len(questions):
            raise LlmclsError(f"Label index {label} is not among the {len(questions)} labels.")
    if objective.name != "label":
        raise LlmclsError(f"Objective '{objective.name}' does not learn yes and no for every label; use 'label'.")
    if objective.class_weights is not None and len(objective.class_weights) != len(questions):
        raise LlmclsError(
            f"There are {len(objective.class_weights)} class weights for {len(questions)} labels; give one per label."
        )
    return rows
