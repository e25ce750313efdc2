"""The networks that come with igprof, and the repositories that Triton serves them from.

``networks()`` says what there is, ``build`` makes a network's ONNX file in the user's cache,
``render`` writes the Triton model repository of one tenant. Nothing here runs a network.
"""

from igniter_prof.zoo.catalog import Network, Port, find, known_names, networks, resolve
from igniter_prof.zoo.repository import Rendered, install, read_config, render, repository_root
from igniter_prof.zoo.torch_repository import PRECISIONS, TORCH_NETWORKS, Precision, install_torch
from igniter_prof.zoo.weights import build, built, file_hash, forget, installed

__all__ = [
    "PRECISIONS",
    "TORCH_NETWORKS",
    "Network",
    "Port",
    "Precision",
    "Rendered",
    "build",
    "built",
    "file_hash",
    "find",
    "forget",
    "install",
    "install_torch",
    "installed",
    "known_names",
    "networks",
    "read_config",
    "render",
    "repository_root",
    "resolve",
]
