"""What paddle-sft export does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.base_and_adapter import adapter_key, base_key
from paddle_sft.arguments.fields import Checked, argument
from paddle_sft.arguments.hub import hub_key


@dataclass(frozen=True)
class ExportArguments(Checked):
    """An adapter folder of any program, and the one that it becomes."""

    model_name_or_path: Optional[str] = base_key()
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    lora_path: Optional[str] = adapter_key()
    output_path: Optional[str] = argument(
        None, "Folder for the adapter. Required.", "适配器的输出目录。必填。", aliases=("output", "output_dir")
    )
    format: str = argument(
        "peft",
        "peft: a folder for PEFT; paddle_sft: one of this suite.",
        "peft：PEFT 的目录；paddle_sft：本套件的目录。",
        choices=("peft", "paddle_sft"),
    )
    base_model_name: Optional[str] = argument(
        None,
        "Where PEFT finds the base, written into its config; null: model_name_or_path as given.",
        "PEFT 从何处加载基础模型，写入其配置；null：与 model_name_or_path 相同。",
    )
    overwrite_output_dir: bool = argument(False, "Replace the adapter in output_path.", "替换 output_path 中的适配器。")
