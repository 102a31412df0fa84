"""Reads rows from tables: CSV with a header row, Parquet. A table has flat values; chat data is better kept as JSON."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import BinaryIO, Iterator, List

from paddle_sft.core.errors import DataError
from paddle_sft.data.json_rows import FoundRow, decode
from paddle_sft.data.problems import Problems

_LONGEST_FIELD = 2**31 - 1  # the csv module's own limit is 128 KB, which a document exceeds
_ROWS_AT_ONCE = 1024
_UTF8_MARK = "\ufeff"


def read_csv(stream: BinaryIO, name: str, problems: Problems) -> Iterator[FoundRow]:
    """Rows of a comma-separated UTF-8 file whose first row names the columns; every value is a string.

    The place of a row is the line it begins in; one broken quote would shift all that follows, so reading stops there.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    lines = _decoded_lines(stream, name, problems)
    reader = csv.reader(lines, strict=True)
    header: List[str] = []
    num_rows, problems_before = 0, problems.num
    while True:
        place = f"{name} line {reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            problems.add(f'{place}: not valid CSV ({error}); write values with commas or line ends as "..."')
            return
        if values is None:
            break
        if not values:
            continue  # a blank line
        if header:
            num_rows += 1
            yield _row(header, values, place, problems), place
            continue
        header = values
        doubled = sorted({column for column in header if header.count(column) > 1 or not column.strip()})
        if doubled:
            problems.add(
                f"{place}: the header has an empty or repeated name ({', '.join(map(repr, doubled))}); name each once"
            )
            return
    if not num_rows and problems.num == problems_before:
        problems.add(f"{name} is empty; write a header row and at least one row of data")


def _row(header: List[str], values: List[str], place: str, problems: Problems):
    if len(values) != len(header):
        problems.add(f"{place}: {len(values)} values, and the header names {len(header)} columns; write one for each")
        return None
    return dict(zip(header, values))


def _decoded_lines(stream: BinaryIO, name: str, problems: Problems) -> Iterator[str]:
    offset = 0
    for number, line in enumerate(stream, start=1):
        text = decode(line, f"{name} line {number}", offset, problems)
        if text is None:
            return
        if "\0" in text:  # the csv module of Python 3.10 and before refuses it with an error that names no line
            problems.add(f"{name} line {number}: holds a NUL character, so it is hardly text; save it as UTF-8 CSV")
            return
        offset += len(line)
        yield text[1:] if number == 1 and text.startswith(_UTF8_MARK) else text


def read_parquet(path: Path, name: str, problems: Problems) -> Iterator[FoundRow]:
    """Rows of a Parquet file, read in batches; needs pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path} is a Parquet file, and reading it needs the package pyarrow: pip install pyarrow"
        ) from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield row, f"{name} item {number}"
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problems.add(f"{name} can't be read as Parquet ({str(error).splitlines()[0][:200]}); write it again")
        return
    if not number:
        problems.add(f"{name} is empty; it has no rows")
