"""The record of measurements: schema, append-only store, export, merge, comparison."""

from igniter_prof.dataset.store import ProfileStore

__all__ = ["ProfileStore"]
