"""Writes a copy of the data without the rows that training can't use or shouldn't see twice. The input is only read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Dict, List

from paddle_sft.core.errors import DataError
from paddle_sft.data.lint import CheckedData, CheckedRow


def write_clean(checked: CheckedData, folder: Path) -> Dict[str, str]:
    """Write train.json and dev.json (JSON lines, rows as they were) into a new folder; says what each file holds.

    Sources that have names get a folder of their name each, so that any of them can be read in the way it was.

    Left out: bad lines and rows, rows without anything to train, repeated rows (the first stays), training rows that
    are dev rows, rows that the template can't write. All other findings are for a person to judge, and stay.

    Raises:
        DataError: the folder has something in it, no row is left, or two sources would write into one folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"--fix {folder} is there already; give a new folder, nothing is written over")
    kept = {split: checked.kept_rows(split) for split in checked.rows}
    if not (kept["train"] if "train" in kept else any(kept.values())):
        raise DataError("no training row is left; nothing is written")
    files = _files(checked, folder)
    said = {}
    for split, rows in checked.rows.items():
        for source in dict.fromkeys(row.source for row in rows):
            path = files[source] / f"{split}.json"
            lines = [_line(row) for row in kept[split] if row.source == source]
            if not lines:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
            num_read = sum(row.source == source for row in rows)
            said[str(path)] = f"{path}: {len(lines):,} of {num_read:,} readable rows"
    return said


def _files(checked: CheckedData, folder: Path) -> Dict[str, Path]:
    """Name of a source -> where its files go."""
    names: List[str] = list(dict.fromkeys(row.source for rows in checked.rows.values() for row in rows))
    found = {name: folder / re.sub(r"[^\w-]", "_", name) for name in names}
    for name, path in found.items():
        others = [other for other in names if other != name and found[other] == path]
        if others:
            raise DataError(f"the sources {name!r} and {others[0]!r} would both be written to {path}; rename one")
    return found


def _line(row: CheckedRow) -> str:
    text = json.dumps(row.row, ensure_ascii=False, default=str)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, in a key that nobody reads
        text = json.dumps(row.row, default=str)
    return text + "\n"
