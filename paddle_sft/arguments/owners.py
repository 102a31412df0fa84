"""The groups of arguments of a fine-tuning run and the dataclass that owns each."""

from __future__ import annotations

from paddle_sft.arguments.adapter import AdapterArguments
from paddle_sft.arguments.data import DataArguments
from paddle_sft.arguments.generate import GenerateArguments
from paddle_sft.arguments.model import ModelArguments
from paddle_sft.arguments.parallel import ParallelArguments
from paddle_sft.arguments.quant import QuantArguments
from paddle_sft.arguments.train import TrainArguments

OWNERS = {
    "model": ModelArguments,
    "data": DataArguments,
    "adapter": AdapterArguments,
    "quant": QuantArguments,
    "train": TrainArguments,
    "parallel": ParallelArguments,
    "generate": GenerateArguments,
}
"""The groups of a fine-tuning run, in the order of Arguments' fields."""
