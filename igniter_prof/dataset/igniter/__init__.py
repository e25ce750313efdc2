"""iGniter's published measurements: read into a profile, and a profile in their columns."""

from igniter_prof.dataset.igniter.exporting import export_igniter
from igniter_prof.dataset.igniter.importing import (
    ImportReport,
    Sources,
    find_sources,
    import_igniter,
)

__all__ = ["ImportReport", "Sources", "export_igniter", "find_sources", "import_igniter"]
