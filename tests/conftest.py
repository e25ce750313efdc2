"""Unit and property tests run anywhere; integration tests are found by their marker."""

from __future__ import annotations

import os

import pytest

# as scripts/test has it, and before anything imports numpy
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/integration/" in str(item.path):
            item.add_marker("integration")
