"""Measure how models that share a GPU slow each other down, and plan from it."""

__version__ = "0.1.0"
