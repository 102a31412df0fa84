"""Every training stage."""

from __future__ import annotations

from typing import Dict

from paddle_sft.stages.classification import Classification
from paddle_sft.stages.supervised import Supervised

STAGES: Dict[str, Supervised] = {
    "sft": Supervised("sft"),
    "pretrain": Supervised("pretrain"),
    "classification": Classification(),
}
