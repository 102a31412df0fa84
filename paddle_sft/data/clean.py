"""Writes a copy of the data without the rows that training can't use or shouldn't see twice. The input is only read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict

from paddle_sft.core.errors import DataError
from paddle_sft.data.lint import CheckedData


def write_clean(checked: CheckedData, folder: Path) -> Dict[str, str]:
    """Write train.json and dev.json (JSON lines, rows as they were) into a new folder; says what each holds.

    Left out: bad lines and rows, rows without anything to train, repeated rows (the first stays), training rows that
    are dev rows, rows that the template can't write. All other findings are for a person to judge, and stay.

    Raises:
        DataError: the folder has something in it, or no row is left.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"--fix {folder} is there already; give a new folder, nothing is written over")
    kept = {}
    for split, rows in checked.rows.items():
        removed = checked.removed_places(split)
        kept[split] = [row for row in rows if row.place not in removed]
    if not kept.get("train"):
        raise DataError("no training row is left; nothing is written")
    folder.mkdir(parents=True, exist_ok=True)
    said = {}
    for split, rows in kept.items():
        if not rows:
            continue
        lines = (json.dumps(row.row, ensure_ascii=False, default=str) + "\n" for row in rows)
        (folder / f"{split}.json").write_text("".join(lines), encoding="utf-8")
        said[split] = f"{folder / f'{split}.json'}: {len(rows):,} of {len(checked.rows[split]):,} readable rows"
    return said
