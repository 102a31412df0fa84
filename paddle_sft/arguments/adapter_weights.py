"""The keys that choose which of a model's own weights are trained, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Union

from paddle_sft.arguments.fields import Bounds, Checked, argument


@dataclass(frozen=True)
class WeightKeys(Checked):
    """Training some weights of the model itself, without an adapter."""

    freeze: bool = argument(
        False,
        "Train some layers whole and freeze the rest (see freeze_trainable_layers).",
        "完整训练部分层，冻结其余（见 freeze_trainable_layers）。",
        rows=(155,),
    )
    freeze_trainable_layers: int = argument(
        2,
        "With freeze: train the last so many layers; negative: the first so many; 0: none of them.",
        "与 freeze 一起：训练最后若干层；负数：最前若干层；0：都不训练。",
        rows=(155,),
    )
    freeze_trainable_modules: Union[str, List[str]] = argument(
        "all",
        "With freeze: which parts of these layers, such as mlp or q_proj; all: the whole layer.",
        "与 freeze 一起：这些层的哪些部分，如 mlp 或 q_proj；all：整层。",
        rows=(155,),
    )
    freeze_extra_modules: Optional[Union[str, List[str]]] = argument(
        None,
        "With freeze: what is trained beside the layers, such as embed_tokens or lm_head.",
        "与 freeze 一起：层之外还要训练的部分，如 embed_tokens 或 lm_head。",
        rows=(155,),
    )
    spectrum_top: Optional[float] = argument(
        None,
        "Spectrum: train the matrices with the highest signal-to-noise ratio, so many percent of each kind.",
        "Spectrum：训练信噪比最高的矩阵，每种类型取百分之多少。",
        aliases=("top_percent",),
        bounds=Bounds(minimum=0, maximum=100, strict_minimum=True),
        rows=(167, 168),
    )
    spectrum_config_path: Optional[str] = argument(
        None,
        "Spectrum: file that says which weights are trained: a report of this suite (spectrum.json), or a list "
        "unfrozen_parameters in JSON or YAML.",
        "Spectrum：指定训练哪些权重的文件：本套件的报告（spectrum.json），或 JSON/YAML 中的 unfrozen_parameters 列表。",
        aliases=("spectrum",),
        rows=(167, 168),
    )
    layerwise_lr_decay: float = argument(
        1.0,
        "Learning rate of a layer over that of the one above it; the head and the last norm have learning_rate.",
        "某层学习率与其上一层之比；输出层与最后的归一化使用 learning_rate。",
        bounds=Bounds(minimum=0, maximum=1, strict_minimum=True),
    )
