"""The keys of paddle-sft quantize for methods that look at data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Optional

from paddle_sft.arguments.fields import FRACTION, POSITIVE, Checked, argument
from paddle_sft.arguments.values import show

METHODS = ("ptq", "gptq", "awq", "smoothquant", "qat")
WEIGHT_OBSERVERS = ("abs_max", "mse")
ACTIVATION_OBSERVERS = ("abs_max", "avg", "hist", "kl", "mse", "emd")
"""The names in export.slim, which needs paddle; a test compares them."""


@dataclass(frozen=True)
class CalibratedKeys(Checked):
    """Quantisation for deployment by PaddleSlim's algorithms."""

    method: Optional[str] = argument(
        None,
        "ptq, gptq, awq, smoothquant: calibrated on data, by PaddleSlim; qat: of what a run with qat left. "
        "null: round to the nearest code.",
        "ptq、gptq、awq、smoothquant：用数据校准，由 PaddleSlim 完成；qat：用于 qat 训练的产物。null：取最近的编码。",
        choices=METHODS,
        rows=(10, 216),
    )
    calibration_data: Optional[str] = argument(
        None,
        "Data to calibrate and measure on: a folder or file as dataset_name_or_path names it, or the argument file of "
        "a run (such as arguments.json in its output_dir), whose data keys then hold.",
        "用于校准和测量的数据：与 dataset_name_or_path 相同的目录或文件，或某次运行的参数文件"
        "（其 output_dir 中的 arguments.json），沿用其中的数据参数。",
    )
    calibration_samples: int = argument(
        128, "Samples of the train split that are calibrated on.", "用于校准的训练样本数。", bounds=POSITIVE
    )
    evaluation_samples: int = argument(
        128,
        "Samples that perplexity is measured on: of the dev split, or of the train split behind the calibration's.",
        "用于测量困惑度的样本数：取自验证集，没有则取校准样本之后的训练样本。",
        bounds=POSITIVE,
    )
    weight_observer: str = argument(
        "abs_max", "How the scale of weights is found.", "权重缩放系数的求法。", choices=WEIGHT_OBSERVERS
    )
    activation_observer: str = argument(
        "avg",
        "How the scale of 8-bit inputs is found (ptq, smoothquant).",
        "8 比特输入的缩放系数的求法（ptq、smoothquant）。",
        choices=ACTIVATION_OBSERVERS,
    )
    smooth_alpha: float = argument(
        0.5,
        "smoothquant: how much of the inputs' range moves into the weights.",
        "smoothquant：输入的范围有多少移入权重。",
        bounds=FRACTION,
    )


def calibration_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with these keys together."""
    method = values["method"]
    if method is None:
        for name, off in (("calibration_data", None), ("weight_observer", "abs_max"), ("activation_observer", "avg")):
            if values[name] != off:
                yield f"{name} is {show(values[name])} but method is off; add --method gptq, or leave {name} out"
        return
    if not values["calibration_data"]:
        yield f"method {method} looks at data; add --calibration_data FOLDER, or the argument file of a run"
    algorithms = values["weight_quantize_algo"]
    if algorithms is not None and algorithms not in ("weight_only_int8", "weight_only_int4"):
        yield (
            f"method {method} rounds to whole numbers: weight_quantize_algo must be weight_only_int8 or "
            f"weight_only_int4, got {show(algorithms)}; leave it out for the method's own"
        )
    if values["weight_double_quant"]:
        yield f"method {method} keeps float32 scales; leave weight_double_quant out"
