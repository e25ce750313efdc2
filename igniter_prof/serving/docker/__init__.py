"""Tenants as containers of a Docker engine, on this host or elsewhere."""

from igniter_prof.serving.docker.deployment import DockerDeployment, deploy_docker
from igniter_prof.serving.docker.device import device_of

__all__ = ["DockerDeployment", "deploy_docker", "device_of"]
