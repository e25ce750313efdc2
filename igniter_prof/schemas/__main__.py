"""Write what is derived from the records: the schema files, the tables in docs/dataset.md."""

from __future__ import annotations

from pathlib import Path

from igniter_prof.dataset.columns import documented
from igniter_prof.schemas import FORMATS, render, stored_path


def main() -> None:
    """Write the files that changed."""
    for name in FORMATS:
        stored_path(name).write_text(render(name), encoding="utf-8")
    page = Path(__file__).parents[2] / "docs" / "dataset.md"
    if page.is_file():
        page.write_text(documented(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
