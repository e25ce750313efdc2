"""AC-Prof's published files: read into a profile, and a profile in their columns."""

from igniter_prof.dataset.acprof.exporting import export_acprof
from igniter_prof.dataset.acprof.importing import ImportReport, import_acprof

__all__ = ["ImportReport", "export_acprof", "import_acprof"]
