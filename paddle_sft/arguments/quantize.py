"""What paddle-sft quantize does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import DEVICES, Checked, argument
from paddle_sft.arguments.hub import hub_key
from paddle_sft.arguments.quant import CodecKeys
from paddle_sft.arguments.quantize_calibrated import CalibratedKeys


@dataclass(frozen=True)
class QuantizeArguments(CalibratedKeys, CodecKeys, Checked):
    """A model of floats, and the folder of codes that it becomes."""

    model_name_or_path: Optional[str] = argument(
        None, "Model of floats, folder or name. Required.", "浮点模型的目录或名字。必填。"
    )
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    output_path: Optional[str] = argument(
        None,
        "Folder for the quantised model. Required.",
        "量化后模型的目录。必填。",
        aliases=("output", "output_dir"),
    )
    device: Optional[str] = argument(
        None, "gpu or cpu; null: gpu if there is one.", "gpu 或 cpu；null：有 GPU 就用。", choices=DEVICES
    )
    max_shard_size: str = argument(
        "5GB", "Largest weight file: a number with KB, MB or GB.", "最大的权重文件：数字加 KB、MB 或 GB。"
    )
