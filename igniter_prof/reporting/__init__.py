"""Tables, plots and a one-file HTML report from profiles, coefficients, plans and results."""

from igniter_prof.reporting.page import write_report

__all__ = ["write_report"]
