"""What libraries say when a base model cannot be loaded, as one sentence with a way out.

with clear_errors("owner/name"):
    AutoModelForCausalLM.from_pretrained("owner/name")
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from llmcls.errors import LlmclsError
from llmcls.model.calm import calm_libraries
from llmcls.model.foreign import refuse_code


@contextmanager
def clear_errors(checkpoint: str, remedy: str = "") -> Iterator[None]:
    """Turn transformers' many ways of failing to load into one sentence with the fix."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    # What a damaged configuration, tokenizer or file of weights comes to in these libraries.
    known = (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError, RuntimeError)
    try:
        with calm_libraries():
            yield
    except OutOfMemoryError:
        raise
    except (*known, SafetensorError, StrictDataclassError) as error:
        raise _explain(checkpoint, error, remedy) from error
    except Exception as error:
        if type(error) is not Exception:  # tokenizers raises this very class
            raise
        raise _explain(checkpoint, error, remedy) from error


def _explain(checkpoint: str, error: Exception, remedy: str) -> LlmclsError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes = [error, error.__cause__, error.__context__]
    if any(isinstance(cause, GatedRepoError) for cause in causes) or "gated repo" in str(error):
        return LlmclsError(
            f"'{checkpoint}' is gated: accept its licence at https://huggingface.co/{checkpoint}, then run "
            "`hf auth login` or set HF_TOKEN."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return LlmclsError(
            f"There is no model '{checkpoint}' on the Hub, or it is private: check the name, or set HF_TOKEN."
        )
    if "trust_remote_code=True" in str(error):  # transformers: the class is not one of its own
        return refuse_code(f"'{checkpoint}'", checkpoint)
    lines = str(error).strip().split("\n")
    first = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])[:300]
    first = first if first.endswith((".", "!", "?")) else f"{first}."
    for words, told in _KNOWN:
        if words in str(error):
            reason = re.split(r"\. (?=[A-Z])", first)[0].rstrip(".")  # not whom to ask for support
            return LlmclsError(f"'{checkpoint}' cannot be loaded: {reason}. {told}")
    if isinstance(error, ImportError):
        return LlmclsError(
            f"'{checkpoint}' cannot be loaded, for it needs a package that is not installed here, or that does not "
            f"import: {first} Install it, or choose another base model."
        )
    if "ignore_mismatched_sizes" in str(error):  # and the sizes are in a report on standard error
        first = "its weights have other shapes than its config.json says."
    elif not isinstance(error, (OSError, ValueError)):  # of a KeyError the text alone says nothing
        first = f"a file of it is damaged, or of a kind that is not known ({type(error).__name__} {first})."
    remedy = remedy or "Check the name or folder; without a network, only downloaded models and 'nano' work."
    return LlmclsError(f"'{checkpoint}' cannot be loaded: {first} {remedy}")


_INSTEAD = "Leave model.attn_implementation out, or set it to 'eager'."
_KNOWN = (
    ("FlashAttention2 has been toggled on", _INSTEAD),
    ("does not support Flash Attention", _INSTEAD),
    ("does not support an attention implementation", _INSTEAD),
    ("does not support attn_implementation", _INSTEAD),
    (
        "does not recognize this architecture",
        "The installed transformers does not know models of this type; choose another base model.",
    ),
    ("bitsandbytes", "Install bitsandbytes, or use --quantization none."),
)
"""Words of a library's refusal, and what is said of it: the reason and a way out."""
