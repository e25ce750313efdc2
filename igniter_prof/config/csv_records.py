"""The records of a CSV file as they are in it, byte for byte."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from igniter_prof.config.cells_csv import CellTable
from igniter_prof.files import atomic_write


def write_same_rows(path: Path, table: CellTable, rows: Sequence[int]) -> None:
    """Write some rows of a file of cells as they stand there, after its header.

    Args:
        path: the file to write.
        table: as it was read; its file is read again.
        rows: indices into ``table.rows``, in the order in which they are to stand.

    Raises:
        BadInput, MissingCapability: it cannot be written.
    """
    text = table.path.read_bytes().decode()
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines)
    records: dict[int, str] = {}
    began = 0
    for _ in reader:
        records[reader.line_num] = "".join(lines[began : reader.line_num])
        began = reader.line_num
    header = next(iter(records.values()))
    ending = header[len(header.rstrip("\r\n")) :] or "\n"
    with atomic_write(path) as out:
        for record in (header, *(records[table.rows[row].line] for row in rows)):
            # the last line of a file may lack its end
            out.write((record if record.endswith(("\n", "\r")) else record + ending).encode())
