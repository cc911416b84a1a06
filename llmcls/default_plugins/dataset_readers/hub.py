"""Reads a data set of the Hugging Face Hub through `datasets`.

hub:fancyzhx/ag_news        hub:nyu-mll/glue/sst2        hub:fancyzhx/ag_news@refs/convert/parquet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmcls.data.objects import tables_from_object
from llmcls.data.reader import DatasetReader, Table
from llmcls.errors import LlmclsError

PREFIX = "hub:"


@dataclass(frozen=True, slots=True)
class HubName:
    """The parts of a specification.

    Attributes:
        name: the data set's repository, `OWNER/NAME`, or `NAME` for the few without an owner.
        config: the configuration, None for the default one.
        revision: branch, tag or commit, None for the default branch.
    """

    name: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, spec: str) -> HubName:
        """Take a specification apart.

        Raises:
            LlmclsError: when it has no, an empty, or too many parts.
        """
        name, at, revision = spec.removeprefix(PREFIX).partition("@")
        parts = name.split("/")
        if not 1 <= len(parts) <= 3 or not all(part.strip() for part in parts) or (at and not revision):
            raise LlmclsError(f"'{spec}' is no Hub data set; write hub:OWNER/NAME[/CONFIG][@REVISION].")
        return cls("/".join(parts[:2]), parts[2] if len(parts) == 3 else None, revision or None)


class HubReader(DatasetReader):
    """Reads data sets of the Hugging Face Hub."""

    name = "hub"
    description = "a data set of the Hugging Face Hub: hub:fancyzhx/ag_news, hub:OWNER/NAME/CONFIG@REVISION"

    def reads(self, spec: str) -> bool:
        """Whether the specification starts with `hub:`."""
        return spec.startswith(PREFIX)

    def read(self, spec: str) -> dict[str, Table]:
        """All splits of the data set, downloaded into the cache of `datasets` on first use."""
        wanted = HubName.parse(spec)
        import datasets

        try:
            found: Any = datasets.load_dataset(wanted.name, wanted.config, revision=wanted.revision)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise LlmclsError(f"Cannot load '{spec}' from the Hugging Face Hub: {_explain(error, wanted)}") from error
        return tables_from_object(dict(found))


def _explain(error: Exception, wanted: HubName) -> str:
    """One sentence with the fix, from the exceptions of datasets 5 and huggingface_hub 2."""
    reason = str(error).strip().split("\n")[0].rstrip(".")
    if "gated" in reason.lower() or type(error).__name__ == "GatedRepoError":
        return (
            f"it is gated; accept its terms at https://huggingface.co/datasets/{wanted.name} "
            "and set HF_TOKEN to a token of yours."
        )
    if "OfflineModeIsEnabled" in reason or type(error).__name__ == "OfflineModeIsEnabled":
        return "it is not in the cache, and HF_HUB_OFFLINE is set; unset it, or load the data set once while online."
    if isinstance(error, ConnectionError):
        return f"the Hub cannot be reached ({reason}); check the network, or give a local copy."
    if type(error).__name__ in {"DatasetNotFoundError", "RepositoryNotFoundError"}:
        revision = f" at revision '{wanted.revision}'" if wanted.revision else ""
        return f"there is no data set '{wanted.name}'{revision}, or it is private; check the name, or set HF_TOKEN."
    if "onfig" in reason:
        choices = str(error).partition("available configs: ")[2].split("\n")[0]
        return f"{reason}; name one as hub:{wanted.name}/CONFIG" + (f". Available: {choices}." if choices else ".")
    return f"{reason}."
