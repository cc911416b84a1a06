"""A classification head: an output layer whose vocabulary is the labels.

    head = Head(labels=("negative", "positive"), pad_token_id=0, seed=42)
    model = load_model(base, settings.model, formats, head)          # its logits: (rows, positions, labels)
    model(input_ids, attention_mask=mask, logits_to_keep=1).logits

The model is transformers' own sequence-classification class with one thing changed: `forward` gives the logits at the
positions that are asked for, as a causal LM does, where transformers pools one position a row by looking for padding.
So the engine scores and trains it like any other model: label j is the "token" j of a vocabulary of labels, and the
position is the prompt's last token, wherever padding stands. What it saves is a plain checkpoint for
`AutoModelForSequenceClassification`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from llmcls.errors import LlmclsError

SEVERAL = "multi_label_classification"
"""What transformers calls it in a configuration when every label has a sigmoid of its own."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a head needs to know.

    Attributes:
        labels: the label names, in order.
        pad_token_id: what transformers' own class skips when it pools.
        seed: of the initial weights, where the checkpoint has none.
        several: whether a text may have several labels: each has a sigmoid of its own.
    """

    labels: tuple[str, ...]
    pad_token_id: int
    seed: int
    several: bool = False

    def config_arguments(self) -> dict[str, Any]:
        """What `from_pretrained` writes into the model's configuration."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {name: at for at, name in enumerate(self.labels)},
            "pad_token_id": self.pad_token_id,
            "problem_type": SEVERAL if self.several else "single_label_classification",
        }

    def write_into(self, config: Any) -> dict[str, Any]:
        """What to give `from_pretrained` so that the model's configuration says all of this.

        Args:
            config: the checkpoint's; of one that reads more than text the text model's part knows of padding.
        """
        if (text := config.get_text_config(decoder=True)) is config:
            return self.config_arguments()
        for name, value in self.config_arguments().items():
            setattr(text if name == "pad_token_id" else config, name, value)
        return {"config": config}

    def arrange(self, model: Any, order: tuple[int, ...] | None, outputs: int) -> None:
        """Bring the head of a checkpoint into the order of the labels, or begin with a new one.

        Args:
            model: as loaded, with a head `score`.
            order: which of the checkpoint's outputs is each label; None where they are other labels.
            outputs: how many outputs the checkpoint's head has.

        Raises:
            LlmclsError: under ZeRO-3, whose processes have cut the head up.
        """
        if order == tuple(range(len(self.labels))):
            return
        if order is None and outputs != len(self.labels):
            return  # transformers has drawn a new one
        if any(hasattr(parameter, "ds_id") for parameter in model.score.parameters()):
            raise LlmclsError(
                "The checkpoint's classification head has other labels, or the same in another order, and zero3 cuts "
                "it up before that can be set right; use ddp or zero2, or give data.labels in the head's order."
            )
        spread = getattr(model.config, "initializer_range", None) or 0.02
        with torch.no_grad():
            for name, parameter in model.score.named_parameters():
                if parameter.is_meta:  # FSDP loads on rank 0 only
                    continue
                if order is not None:
                    parameter.copy_(parameter[list(order)].clone())
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.normal_(std=spread)


class LabelHead(torch.nn.Module):
    """Mixed into a sequence-classification class before its own `forward`: logits at positions instead of rows.

    The head `score` is kept and computed in float32, also where the decoder is not: it is small, and it decides.
    """

    score: Any
    base_model: Any
    config: Any

    # transformers reads these from the class: the head may be new, the language model's output layer is not wanted.
    _keep_in_fp32_modules_strict = ("score",)
    _keys_to_ignore_on_load_missing = (r"^score\.",)
    _keys_to_ignore_on_load_unexpected = (r"^lm_head\.", r"^embed_out\.")

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(config, *arguments, **options)
        if not hasattr(self, "score"):
            raise _no_head(config.model_type)
        if not hasattr(self.score.weight, "ds_id"):  # ZeRO-3 has cut it up already, and wants one type for all
            self.score.float()

    def forward(
        self, input_ids: torch.Tensor | None = None, logits_to_keep: int | torch.Tensor = 0, **inputs: Any
    ) -> SequenceClassifierOutputWithPast:
        """Run the decoder, then the head at the positions wanted.

        Args:
            input_ids: (rows, tokens).
            logits_to_keep: as causal LMs have it: that many last positions (0: all), or an index tensor of positions.
            inputs: what else the decoder takes: `attention_mask` (2-D, or the packed 4-D one), `position_ids`, ...

        Returns:
            `logits`: (rows, kept positions, labels), float32; see `label_logits`.
        """
        output = self.base_model(input_ids=input_ids, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return SequenceClassifierOutputWithPast(
            logits=self.label_logits(output.last_hidden_state[:, kept]), past_key_values=output.past_key_values
        )

    def label_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head on hidden states, (..., hidden) -> (..., labels), float32.

        Where a text may have several labels, one more column is 0: the no of every label, against which the label's
        logit z is its yes, with probability exp(z) / (exp(z) + exp(0)) = sigmoid(z).
        """
        with torch.autocast(hidden.device.type, enabled=False):
            logits: torch.Tensor = self.score(hidden.to(self.score.weight.dtype)).float()
        return torch.nn.functional.pad(logits, (0, 1)) if self.config.problem_type == SEVERAL else logits


def head_class(config: Any) -> Any:
    """transformers' sequence-classification class for a configuration, with `LabelHead` mixed in.

    Raises:
        LlmclsError: when there is none. Making an instance raises it for one whose head is not a `score` on a decoder.
    """
    plain = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if plain is None:
        raise _no_head(config.model_type)
    return _with_label_head(plain)


def _no_head(kind: str) -> LlmclsError:
    return LlmclsError(
        f"transformers has no classification head for models of type '{kind}'; set training.objective to 'label', "
        "which needs none."
    )


@cache
def _with_label_head(plain: type) -> type:
    # The name makes it save as the plain class; transformers looks into the source of the module for what it can do.
    return type(plain.__name__, (LabelHead, plain), {"__module__": plain.__module__})
