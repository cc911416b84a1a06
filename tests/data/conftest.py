"""The built-in readers as a catalog, and the folder of real data sets beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmcls.data import reader
from llmcls.default_plugins import dataset_readers
from llmcls.plugin.manager import check_hooks, new_manager


@pytest.fixture(scope="session")
def readers():
    manager = new_manager()
    manager.register(dataset_readers, name="dataset_readers")
    check_hooks(manager)
    return reader.dataset_readers(manager)


@pytest.fixture(scope="session")
def shared_data():
    root = os.environ.get("LLMCLS_SHARED") or Path(__file__).resolve().parents[2] / ".." / "shared"
    folder = Path(root) / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout")
    return folder
