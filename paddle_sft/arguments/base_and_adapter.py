"""The keys of the commands that read a base model and one adapter of it."""

from __future__ import annotations

from typing import Any, Tuple

from paddle_sft.arguments.fields import argument


def base_key(rows: Tuple[int, ...] = ()) -> Any:
    """model_name_or_path."""
    return argument(None, "Base model, folder or name. Required.", "基础模型的目录或名字。必填。", rows=rows)


def adapter_key(rows: Tuple[int, ...] = ()) -> Any:
    """lora_path."""
    return argument(
        None,
        "Adapter, folder or name: of this suite, of PEFT or of PaddleNLP. Required.",
        "适配器的目录或名字：本套件、PEFT 或 PaddleNLP 的。必填。",
        rows=rows,
    )
