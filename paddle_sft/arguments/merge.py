"""What merge_lora_params.py does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddle_sft.arguments.base_and_adapter import adapter_key, base_key
from paddle_sft.arguments.fields import DEVICES, NOT_NEGATIVE, Checked, argument
from paddle_sft.arguments.hub import hub_key


@dataclass(frozen=True)
class MergeArguments(Checked):
    """A base model, an adapter, and the model folder they become."""

    model_name_or_path: Optional[str] = base_key(rows=(41,))
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    lora_path: Optional[str] = adapter_key(rows=(40,))
    allow_other_base: bool = argument(
        False,
        "Put the adapter on a base of the same shapes and other weights than it was trained on; otherwise an error.",
        "允许把适配器用于形状相同但权重不同的基础模型；否则报错。",
    )
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
    merge_into: str = argument(
        "dequantised",
        "For an adapter that was trained on a quantised base. dequantised: into the weights that training saw: the "
        "merged model is the trained one; original: into the float weights from before, which the adapter never saw.",
        "适配器在量化基座上训练时。dequantised：合并到训练时所见的反量化权重，合并结果即训练所得模型；"
        "original：合并到量化前的浮点权重（适配器未曾见过）。",
        choices=("dequantised", "original"),
    )
    requantise: bool = argument(
        False,
        "Write the merged weights in 4 or 8 bits again, by the algorithm of the base.",
        "合并后的权重再按基座的算法以 4 或 8 比特写出。",
    )
    tolerance: Optional[float] = argument(
        None,
        "Largest difference of a logit between base + adapter and the merged model; above it nothing is written. "
        "null: 0.01 for float32 weights, 0.05 for float16, 0.3 for bfloat16, no limit with requantise.",
        "基础模型加适配器与合并模型之间 logit 的最大差；超过则不写出。"
        "null：float32 权重 0.01，float16 0.05，bfloat16 0.3；requantise 时不设上限。",
        bounds=NOT_NEGATIVE,
    )
    overwrite_output_dir: bool = argument(False, "Replace what is in output_path.", "替换 output_path 中已有的内容。")
    max_shard_size: str = argument(
        "5GB", "Largest weight file: a number with KB, MB or GB.", "最大的权重文件：数字加 KB、MB 或 GB。"
    )
