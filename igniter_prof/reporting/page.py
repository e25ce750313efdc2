"""Builds the page: one HTML file without a single external resource, and its tables as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from igniter_prof import __version__
from igniter_prof.errors import BadInput
from igniter_prof.files import atomic_write, write_csv
from igniter_prof.records import Coefficients, Plan, Result
from igniter_prof.reporting.blocks import Section, shown
from igniter_prof.reporting.coefficients_section import coefficients_section
from igniter_prof.reporting.inputs import Content, Profile, Source, read_inputs
from igniter_prof.reporting.plan_section import plan_section
from igniter_prof.reporting.profile_section import profile_section
from igniter_prof.reporting.result_section import result_section

_ORDER: tuple[type[Content], ...] = (Profile, Coefficients, Plan, Result)


def write_report(inputs: Sequence[Path], out: Path) -> list[Path]:
    """Write one HTML file, and beside it its tables as CSV.

    The same inputs give the same bytes. The page is written last, so that a page that is there is
    whole and so are its tables.

    Args:
        inputs: profile folders and JSON files of coefficients, plans and results, in any order.
        out: the HTML file; ``REPORT.html`` gets its tables in ``REPORT-tables/``.

    Returns:
        The paths written, the page first.

    Raises:
        BadInput: an input is broken or of no known kind, or ``out`` cannot be written.
        MissingCapability: no disk space is left.
    """
    out = Path(out)
    if out.is_dir():
        raise BadInput("is a folder", where=str(out), hint="name the HTML file, with --out")
    sections = build_sections(read_inputs(inputs))
    folder = tables_folder(out)
    page = render(sections, tables_at=folder.name)
    tables = [table for section in sections for table in section.tables]
    if tables:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"the folder cannot be made: {error.strerror}",
                where=str(folder),
                hint="choose an --out whose folder exists and is writable",
            ) from error
    written = [out]
    for table in tables:
        path = folder / f"{table.name}.csv"
        write_csv(path, table.csv_rows(), [column.key for column in table.columns])
        written.append(path)
    with atomic_write(out) as stream:
        stream.write(page.encode("utf-8", "replace"))
    return written


def tables_folder(out: Path) -> Path:
    """Where the tables of a report lie: ``REPORT-tables`` beside ``REPORT.html``."""
    return out.with_name(f"{out.stem}-tables")


def build_sections(sources: Sequence[Source]) -> tuple[Section, ...]:
    """A section for each input, in the order of the stages."""
    ordered = sorted(sources, key=lambda source: _ORDER.index(type(source.content)))
    total = Counter(type(source.content) for source in ordered)
    seen: Counter[type[Content]] = Counter()
    sections = []
    for source in ordered:
        kind = type(source.content)
        seen[kind] += 1
        name = kind.__name__.lower()
        prefix = name if total[kind] == 1 else f"{name}-{seen[kind]}"
        section = _section(source.content, str(source.path), prefix)
        if total[kind] > 1:
            section = replace(section, title=f"{section.title} {seen[kind]}")
        sections.append(section)
    return tuple(sections)


def _section(content: Content, source: str, prefix: str) -> Section:
    if isinstance(content, Profile):
        return profile_section(content, source, prefix)
    if isinstance(content, Coefficients):
        return coefficients_section(content, source, prefix)
    if isinstance(content, Plan):
        return plan_section(content, source, prefix)
    return result_section(content, source, prefix)


def render(sections: Sequence[Section], *, tables_at: str) -> str:
    """The page as HTML; everything but the drawings is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("igniter_prof.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["drawing"] = Markup  # made by drawing.draw, which escapes its texts
    template = environment.get_template("report.html.j2")
    return template.render(sections=sections, tables_at=quote(tables_at), version=__version__)
