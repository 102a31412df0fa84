"""What paddle-sft combine does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional

from paddle_sft.arguments.fields import NOT_NEGATIVE, POSITIVE, Bounds, Checked, argument
from paddle_sft.arguments.hub import hub_key

COMBINATIONS: Dict[str, str] = {
    "cat": "the weighted sum, exactly; its rank is the sum of the ranks",
    "svd": "the nearest update of a rank to the weighted sum",
    "linear": "A and B added apart",
    "ties": "A and B by TIES",
    "dare_linear": "A and B by DARE, added",
    "dare_ties": "A and B by DARE and TIES",
    "magnitude_prune": "A and B, of each the largest numbers, added",
    "ties_svd": "updates by TIES, then svd",
    "dare_linear_svd": "updates by DARE, then svd",
    "dare_ties_svd": "updates by DARE and TIES, then svd",
    "magnitude_prune_svd": "of each update the largest numbers, then svd",
}
"""PEFT's names of the ways to combine adapters -> what they do."""


@dataclass(frozen=True)
class CombineArguments(Checked):
    """Several adapters of one base, and the one that they become."""

    lora_path: Optional[List[str]] = argument(
        None,
        "Adapter folders, two or more; they may stand before the first key, too. Required.",
        "适配器目录，两个或更多；也可以写在第一个键之前。必填。",
    )
    weights: Optional[List[float]] = argument(
        None,
        "A number for each adapter, also negative; null: each counts one over their number.",
        "每个适配器一个数，可为负；null：平均。",
    )
    method: str = argument(
        "cat",
        "How they become one; " + "; ".join(f"{name}: {text}" for name, text in COMBINATIONS.items()) + ".",
        "合并方式（与 PEFT 同名）：cat 为精确的加权和；svd 为其最近的低秩近似；linear、ties、dare_*、"
        "magnitude_prune 分别处理 A 与 B；以 _svd 结尾的处理更新矩阵再做 SVD。",
        choices=tuple(COMBINATIONS),
    )
    output_path: Optional[str] = argument(
        None, "Folder for the new adapter. Required.", "新适配器的目录。必填。", aliases=("output", "output_dir")
    )
    svd_rank: Optional[int] = argument(
        None,
        "Rank of the result of a method that ends in svd; null: the largest rank among the adapters.",
        "以 svd 结尾的方式所得的秩；null：各适配器中最大的秩。",
        bounds=POSITIVE,
    )
    density: float = argument(
        0.5,
        "Share of the numbers that ties, dare_* and magnitude_prune keep.",
        "ties、dare_*、magnitude_prune 保留的比例。",
        bounds=Bounds(minimum=0, maximum=1, strict_minimum=True),
    )
    seed: int = argument(42, "Seed of what DARE drops.", "DARE 丢弃的随机种子。", bounds=NOT_NEGATIVE)
    model_name_or_path: Optional[str] = argument(
        None,
        "Their base, folder or name; only folders of PEFT and PaddleNLP need it.",
        "它们的基础模型的目录或名字；只有 PEFT 与 PaddleNLP 的目录需要。",
    )
    from_hf_hub: bool = hub_key("from_hf_hub")
    from_aistudio: bool = hub_key("from_aistudio")
    from_modelscope: bool = hub_key("from_modelscope")
    overwrite_output_dir: bool = argument(False, "Replace the adapter in output_path.", "替换 output_path 中的适配器。")
