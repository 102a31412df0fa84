"""Adapter folders of other programs: whose they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Optional

from paddle_sft.adapters import paddlenlp
from paddle_sft.adapters.peft.folder import PEFT_CONFIG, read_peft
from paddle_sft.adapters.saved import SavedAdapter

Reader = Callable[[Path, Any], SavedAdapter]
"""(folder, network of the base) -> adapter."""

READERS: Dict[str, Reader] = {PEFT_CONFIG: read_peft, **paddlenlp.READERS}
"""The file, or pattern of files, that tells a program's folder -> its reader."""


def foreign_reader(folder: Path) -> Optional[Reader]:
    """The reader of a folder; None where it is of no program that is known."""
    return next((reader for name, reader in READERS.items() if any(Path(folder).glob(name))), None)
