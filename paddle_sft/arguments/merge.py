"""What merge_lora_params.py does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.fields import DEVICES, NOT_NEGATIVE, Checked, argument
from paddle_sft.arguments.hub import hub_key


@dataclass(frozen=True)
class MergeArguments(Checked):
    """A base model, an adapter, and the model folder they become."""

    model_name_or_path: Optional[str] = argument(
        None, "Base model, folder or name. Required.", "基础模型的目录或名字。必填。", rows=(41,)
    )
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    lora_path: Optional[str] = argument(None, "Adapter folder. Required.", "适配器目录。必填。", rows=(40,))
    output_path: Optional[str] = argument(
        None,
        "Folder for the merged model. Required.",
        "合并后模型的目录。必填。",
        aliases=("merge_model_path",),
        rows=(35, 42),
    )
    device: Optional[str] = argument(
        None,
        "gpu or cpu; null: gpu if there is one.",
        "gpu 或 cpu；null：有 GPU 就用。",
        choices=DEVICES,
        rows=(43,),
    )
    safe_serialization: bool = argument(
        True, "Write safetensors; false writes pdparams.", "写 safetensors；false 写 pdparams。", rows=(44,)
    )
    format: str = argument(
        "paddle",
        "paddle: a folder for PaddleNLP; hf: one for Hugging Face transformers.",
        "paddle：PaddleNLP 的目录；hf：Hugging Face transformers 的目录。",
        choices=("paddle", "hf"),
    )
    tolerance: Optional[float] = argument(
        None,
        "Largest difference of a logit between base + adapter and the merged model; above it nothing is written. "
        "null: 0.01 for float32 weights, 0.05 for float16, 0.3 for bfloat16.",
        "基础模型加适配器与合并模型之间 logit 的最大差；超过则不写出。"
        "null：float32 权重 0.01，float16 0.05，bfloat16 0.3。",
        bounds=NOT_NEGATIVE,
    )
    overwrite_output_dir: bool = argument(False, "Replace what is in output_path.", "替换 output_path 中已有的内容。")
    max_shard_size: str = argument(
        "5GB", "Largest weight file: a number with KB, MB or GB.", "最大的权重文件：数字加 KB、MB 或 GB。"
    )
