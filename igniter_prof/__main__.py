"""``python -m igniter_prof`` is ``igprof``."""

from igniter_prof.cli import main

main()
