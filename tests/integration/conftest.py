"""Fixtures of several integration tests."""

from tests.integration.docker_engine import docker_engine, on_engine

__all__ = ["docker_engine", "on_engine"]
