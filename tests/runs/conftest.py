"""Runs are made as the tests of training make them."""

from __future__ import annotations

from ..training.conftest import fit, rows

__all__ = ["fit", "rows"]
