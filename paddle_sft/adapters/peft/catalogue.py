"""The methods that PEFT has, too: one table each."""

from __future__ import annotations

from typing import Dict

from paddle_sft.adapters.peft import adalora, linear, lora, prompts
from paddle_sft.adapters.peft.table import Table
from paddle_sft.adapters.plain import PLAIN

WRITTEN: Dict[str, Table] = {
    **{method: lora.TABLE for method in (*PLAIN, "dora")},
    "adalora": adalora.TABLE,
    "vera": linear.VERA,
    "lokr": linear.LOKR,
    "loha": linear.LOHA,
    "ia3": linear.IA3,
    "oft": linear.OFT,
}
"""Our method -> how it is written."""

READ: Dict[str, Table] = {table.peft_type: table for table in WRITTEN.values()}
"""PEFT's name of a method -> how it is read."""

PROMPTS: Dict[str, prompts.PromptTable] = {table.peft_type: table for table in prompts.TABLES}
"""The same for methods that stand before the text, both ways."""
