"""The room that virtual tokens take in rows and among positions, known before data are read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional

from paddle_sft.arguments.adapter import AdapterArguments
from paddle_sft.arguments.load import Arguments
from paddle_sft.cli.report import Report
from paddle_sft.core.errors import ArgumentError

_IN_ROWS = ("prompt_tuning", "p_tuning")
_VIRTUAL = (*_IN_ROWS, "prefix_tuning")


@dataclass(frozen=True)
class VirtualRoom:
    """What virtual tokens take of every sample."""

    positions: int = 0
    """Positions before that of its first token."""
    tokens: int = 0
    """Tokens of a row."""


def find_room(arguments: AdapterArguments, folder: Optional[Path]) -> VirtualRoom:
    """The room that the adapter of a run takes: a fresh one, or one of a folder, ours or PEFT's."""
    method, num = arguments.adapter, arguments.num_virtual_tokens or 0
    if folder is not None:
        saved = _settings(folder)
        method = saved.get("method") or str(saved.get("peft_type")).lower()
        num = int(saved.get("num_virtual_tokens") or 0)
    if method not in _VIRTUAL:
        return VirtualRoom()
    return VirtualRoom(num, num if method in _IN_ROWS else 0)


def _settings(folder: Path) -> Dict[str, Any]:
    """Of an adapter's folder; empty where there are none to read, which is found out when it is loaded."""
    for name in ("adapter.json", "adapter_config.json"):
        try:
            return json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return {}


def leave_room(arguments: Arguments, room: VirtualRoom, report: Report) -> Arguments:
    """The arguments with a max_length that counts the text alone.

    Raises:
        ArgumentError: max_length is too short for the virtual tokens, a prompt and a target.
    """
    if not room.tokens:
        return arguments
    data = arguments.data
    left = data.max_length - room.tokens
    needed = data.src_length + 1 if arguments.train.stage == "sft" else 2
    if left < needed:
        raise ArgumentError(
            f"max_length {data.max_length} holds {room.tokens} virtual tokens and {max(left, 0)} tokens of a text, and "
            f"{needed} are needed (src_length {data.src_length}); raise max_length, or lower num_virtual_tokens or "
            "src_length"
        )
    why = f"max_length {data.max_length} less {room.tokens} virtual tokens before every sample"
    report.add("training", "text tokens", f"at most {left:,}", why)
    return replace(arguments, data=replace(data, max_length=left))
