"""Training that goes on from a finished run: `llmcls train --base-model runs/tickets --data more.csv`.

start = find_start(settings.model.base_model)              # None where it is a base model
settings = start.settle(settings, explicit)                # what is not given follows the run
start.load_lora(trainer.model, head)                       # for a run that holds LoRA weights

A run that holds all weights is a checkpoint like any other. The LoRA weights of a run are trained on, on its own base
model, so that the new run's are complete in themselves: nobody needs the first run to predict with the second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcls.data.paths import path_exists
from llmcls.errors import LlmclsError, several, shorten
from llmcls.model.foreign import require_weights
from llmcls.model.loading import kept_head, order_of_head, short_names
from llmcls.prompt.template import PromptTemplate
from llmcls.runs.run import Run
from llmcls.runs.writing import CARD
from llmcls.settings import Settings, make_settings
from llmcls.training.backends import SHARDED

if TYPE_CHECKING:
    from llmcls.console import Reporter
    from llmcls.model.head import Head
    from llmcls.runs.assembly import Assembly

_SCORE = "base_model.model.score."


@dataclass(frozen=True)
class Start:
    """The run that a training goes on from.

    Attributes:
        run: the run, which matched its seal.
    """

    run: Run

    @property
    def origin(self) -> dict[str, str]:
        """What the new run's card says of it."""
        kind = "model" if self.run.whole else "adapter"
        return {"run": str(self.run.path.absolute()), "fingerprint": self.run.fingerprint, "weights": kind}

    def settle(self, settings: Settings, explicit: Mapping[str, Collection[str]], output: Path | None) -> Settings:
        """The settings with the run's base model in place of the run; what is not given follows the run.

        Args:
            settings: as resolved, with the run as `model.base_model`.
            explicit: the settings of each section that were given, and so are not to follow the run.
            output: the run directory to write.

        Raises:
            LlmclsError: for LoRA settings that are not the run's, all at once; for `training.tuning` full where the
                run holds LoRA weights; and where the run itself would be replaced.
        """
        run, trained = self.run, self.run.settings
        if output is not None and output.absolute().resolve() == run.path.resolve():
            raise LlmclsError(f"'{output}' is the run that training goes on from; choose another --output-dir.")
        lora = settings.lora
        if not run.whole:
            if settings.training.tuning == "full":
                raise LlmclsError(
                    f"Run '{run.path}' holds LoRA weights, which are trained on as such, but training.tuning 'full' "
                    "trains all weights; set it to 'lora', or give a run that holds all of its model."
                )
            lora, given = trained.lora, {key: getattr(settings.lora, key) for key in explicit.get("lora", ())}
            differing = {key: value for key, value in given.items() if value != getattr(lora, key)}
            if differing:
                problems = [
                    f"lora.{key} is {getattr(lora, key)!r} there, not {value!r}" for key, value in differing.items()
                ]
                heading = f"The LoRA weights of run '{run.path}' are trained on as they are; leave out what differs"
                raise LlmclsError(several(problems, heading))
        chosen = {key: getattr(settings.model, key) for key in explicit.get("model", ()) if key != "base_model"}
        held = run.model_settings.model_copy(update=chosen)
        if run.whole:
            held = held.model_copy(update={"base_model": str(run.model_path.absolute())})
        return make_settings({**settings.model_dump(), "model": held.model_dump(), "lora": lora.model_dump()})

    def named_in(self, settings: Settings) -> Settings:
        """Settled settings with the run as `model.base_model` again, which `settle` settles to the same."""
        model = settings.model.model_copy(update={"base_model": str(self.run.path.absolute())})
        return settings.model_copy(update={"model": model})

    def refuse_backend(self, backend: str) -> None:
        """Refuse processes that share out the weights before those of the run can be put into them.

        Raises:
            LlmclsError: for a run with LoRA weights, under ZeRO-3 and FSDP.
        """
        if backend in SHARDED and not self.run.whole:
            raise LlmclsError(
                f"The LoRA weights of run '{self.run.path}' cannot be trained on with '{backend}', which cuts them up "
                "first; use ddp, zero1 or zero2."
            )

    def describe(self, settings: Settings, head: Head | None) -> Iterator[str]:
        """What a user should know before training, a sentence each."""
        run = self.run
        yield f"Going on from run '{run.path}' with {'all its weights' if run.whole else 'its LoRA weights'}"
        if run.whole and settings.training.tuning == "lora":
            yield f"  the new run's LoRA weights need '{settings.model.base_model}' as their base model: keep it"
        if head is not None and not run.whole:
            yield f"  {describe_head(self._order(head), run.labels.names if run.has_head else None, head)}"

    def differences(self, settings: Settings, template: PromptTemplate) -> Iterator[str]:
        """In what the prompts are other ones than the run's."""
        then, now = self.run.settings, settings
        if self.run.template.source != template.source:
            yield (
                f"the run was trained with template '{self.run.template.name}', and goes on with '{template.name}': "
                "what it has learnt may be lost; --template chooses."
            )
        if then.prompt.verbalizer != now.prompt.verbalizer and not self.run.has_head:
            yield (
                f"the run was trained with prompt.verbalizer {then.prompt.verbalizer}, and goes on with "
                f"{now.prompt.verbalizer}."
            )

    def load_lora(self, model: Any, head: Head | None) -> None:
        """Put the run's LoRA weights into a model that PEFT has prepared with the same settings.

        The head goes with them where it has the same labels, its rows in the new order; else the model's own stays.

        Raises:
            LlmclsError: when the weights do not fit the model, or hold NaN or infinite values.
        """
        from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

        from llmcls.model.soundness import unsound_among, unsound_error

        require_weights(self.run.lora_path, "adapter_model")
        own = get_peft_model_state_dict(model, save_embedding_layers=False)
        saved = load_peft_weights(str(self.run.lora_path), device="cpu")
        if unsound := unsound_among((name, values, True) for name, values in saved.items()):
            raise unsound_error(unsound, f"'{self.run.lora_path}'", "train that run again, or give another one")
        state = {name: value for name, value in saved.items() if not name.startswith(_SCORE)}
        order = self._order(head) if head is not None else None
        for name in filter(lambda name: name.startswith(_SCORE), own):  # PEFT wants a head among the weights
            state[name] = own[name] if order is None else saved[name][list(order)]
        if strange := sorted(own.keys() ^ state.keys()):
            raise LlmclsError(
                f"The LoRA weights of run '{self.run.path}' do not fit this model ({shorten(strange, 3)}); another "
                "version of llmcls or PEFT may have written them."
            )
        set_peft_model_state_dict(model, state)

    def _order(self, head: Head) -> tuple[int, ...] | None:
        """The outputs of the run's head in the order of the new labels; None where there is none to keep."""
        known = self.run.labels.names if self.run.has_head else None
        return order_of_head(known, head.labels) if self.run.settings.form.several == head.several else None


def find_start(base_model: str) -> Start | None:
    """The run that is named in place of a base model, if it is one.

    Raises:
        LlmclsError: when it does not match its seal.
    """
    if base_model in short_names() or not path_exists(f"{base_model}/{CARD}"):
        return None
    return Start(Run.open(base_model))


def describe_head(order: tuple[int, ...] | None, known: tuple[str, ...] | None, head: Head) -> str:
    """Whether a classification head is kept, in a sentence.

    Args:
        order: where its outputs go, or None where a new one is made.
        known: its labels, or None where there was none.
        head: the new one.
    """
    if order is not None:
        moved = "" if order == tuple(range(len(order))) else ", with its outputs in the new order of the labels"
        return f"its classification head is kept{moved}"
    if known is None:
        return "a new classification head is made: there was none"
    if sorted(known) == sorted(head.labels):
        return "a new classification head is made: the one there was is for another task"
    return f"a new classification head is made: the one there was is for {shorten(known)}"


def announce_start(start: Start | None, settings: Settings, assembly: Assembly, reporter: Reporter) -> None:
    """Say what training goes on from: a run, a classification head, or neither."""
    head, base = assembly.head, assembly.base
    if start is not None:
        for line in start.describe(settings, head):
            reporter.say(line)
        for difference in start.differences(settings, assembly.encoder.template):
            reporter.warn(difference)
    if head is not None and (known := base.head_labels) is not None and (start is None or start.run.whole):
        reporter.say(f"  {describe_head(kept_head(base, head), known, head)}")
