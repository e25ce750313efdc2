"""What a user asks for: sweeps, workloads, devices."""

from igniter_prof.config.sweep import cells, load_sweep

__all__ = ["cells", "load_sweep"]
