"""Tenants as containers of a Docker engine, on this host or elsewhere."""

from igniter_prof.serving.docker.deployment import DockerDeployment
from igniter_prof.serving.docker.device import device_of
from igniter_prof.serving.docker.runtime import deploy_docker

__all__ = ["DockerDeployment", "deploy_docker", "device_of"]
