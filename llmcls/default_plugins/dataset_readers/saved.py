"""Reads the folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` of Hugging Face `datasets` wrote."""

from __future__ import annotations

from llmcls.data.objects import tables_from_object
from llmcls.data.paths import cannot_read, is_folder, to_path
from llmcls.data.reader import DatasetReader, Table
from llmcls.errors import LlmclsError

# What `datasets` writes beside the data: the first for a DatasetDict, the second for a Dataset.
_MARKS = ("dataset_dict.json", "state.json")


class SavedReader(DatasetReader):
    """Reads data sets that `datasets` saved on disk."""

    name = "saved"
    description = "a folder written by save_to_disk of Hugging Face datasets: my_dataset/"

    def reads(self, spec: str) -> bool:
        """Whether the folder holds one of the marks that `datasets` leaves."""
        return is_folder(spec) and any((to_path(spec) / mark).is_file() for mark in _MARKS)

    def read(self, spec: str) -> dict[str, Table]:
        """The saved data set's splits; a saved `Dataset` is the train split."""
        from datasets import DatasetDict, load_from_disk

        path = to_path(spec)
        try:
            found = load_from_disk(str(path))
        except PermissionError as error:
            raise cannot_read(path, error) from error
        except (OSError, ValueError, KeyError, TypeError) as error:  # what damaged JSON or Arrow files come to
            reason = str(error).split("\n")[0].rstrip(".")
            raise LlmclsError(f"The data set saved in '{spec}' is damaged or incomplete: {reason}.") from error
        return tables_from_object(dict(found) if isinstance(found, DatasetDict) else found)
