"""adapter_config.json: which of its settings are honoured, which change nothing here, and which are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

from paddle_sft.core.errors import ModelError

COMMON_INERT = (
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "megatron_config", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "revision", "runtime_config", "target_modules", "task_type",
)  # fmt: skip
"""Settings that say where a method goes (the names of the weights say it, too) or how it was started."""


@dataclass(frozen=True)
class Settings:
    """What a table knows of the settings of a method."""

    honoured: Tuple[str, ...]
    only: Mapping[str, Tuple[Any, ...]]
    """Setting -> the values that mean what is computed here."""
    inert: Tuple[str, ...] = ()

    def require(self, content: Dict[str, Any], place: str) -> None:
        """
        Raises:
            ModelError: names every setting that can't be honoured.
        """
        problems = [
            f"{key} is {content[key]!r} (here: {' or '.join(repr(value) for value in allowed)})"
            for key, allowed in self.only.items()
            if key in content and content[key] not in allowed
        ]
        known = {*self.honoured, *self.only, *self.inert, *COMMON_INERT}
        unknown: List[str] = [key for key, value in content.items() if key not in known and value]
        problems += [f"{key} is {content[key]!r}, a setting that isn't known here" for key in unknown]
        if problems:
            raise ModelError(
                f"{place}: {'; '.join(problems)}. "
                "Merge the adapter with PEFT (merge_and_unload) and use the merged model"
            )
