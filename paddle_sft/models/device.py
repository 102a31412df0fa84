"""Where to compute, and in which precision."""

from __future__ import annotations

from typing import Optional, Tuple

import paddle

from paddle_sft.core.errors import ArgumentError


def choose_device(asked: Optional[str]) -> Tuple[str, str]:
    """(device, why) for an asked device: gpu, gpu:N, cpu, or None for a GPU if there is one.

    Raises:
        ArgumentError: a GPU was named in full (gpu:N) and there is none.
    """
    kind = (asked or "gpu").split(":")[0]
    if kind == "cpu":
        return "cpu", "asked for"
    num_gpus = paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0
    if num_gpus:
        return asked or "gpu", "asked for" if asked else "the default where there is a GPU"
    reason = "this paddle is built without CUDA" if not paddle.is_compiled_with_cuda() else "no GPU is visible"
    if asked and ":" in asked:
        raise ArgumentError(f"device is {asked}, but {reason}; run paddle-sft doctor, or set device to cpu")
    return "cpu", f"{reason}; run paddle-sft doctor if there should be one"


def choose_half_precision(device: str, bf16: bool, fp16: bool) -> Tuple[str, str]:
    """("bf16" | "fp16" | "", why). A CPU has no half-precision product in Paddle, so it always computes in float32."""
    asked = "bf16" if bf16 else "fp16" if fp16 else ""
    if asked and device == "cpu":
        return "", f"{asked} needs a GPU; on this CPU everything is computed in float32"
    return asked, "asked for"


def parameter_dtype(asked: str, device: str, half_precision: str, level: str) -> Tuple[str, str]:
    """(dtype of the parameters, why).

    Raises:
        ArgumentError: a half type on a CPU.
    """
    if asked != "auto":
        if device == "cpu" and asked != "float32":
            raise ArgumentError(
                f"dtype is {asked}, but Paddle's CPU kernels compute in float32 only; use dtype auto or float32"
            )
        return asked, "asked for"
    if half_precision and level == "O2":
        return {"bf16": "bfloat16", "fp16": "float16"}[half_precision], f"{half_precision} at level O2"
    return (
        "float32",
        "the default without O2 half precision" if device != "cpu" else "the only type of Paddle's CPU kernels",
    )
