"""Fixtures shared by all tests: the real data, small volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_path() -> Callable[[str], Path]:
    """Path of a real test file; skips, naming it, where it is absent."""
    root = Path(os.environ.get("POPCLUST_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

    def find(name: str) -> Path:
        path = root / name
        if not path.exists():
            pytest.skip(f"test data is missing: {name} (set POPCLUST_TEST_DATA)")
        return path

    return find
