"""A run as a plan sees it: shape, recipe, and the layouts that the suite would take."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from paddle_sft.adapters.targets import choose_targets
from paddle_sft.arguments.check import settle
from paddle_sft.arguments.check_parallel import offloads, sharding_stage
from paddle_sft.arguments.draft import Draft
from paddle_sft.arguments.load import Arguments
from paddle_sft.arguments.owners import OWNERS
from paddle_sft.cli.run_parallel import require_layout
from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import read_config
from paddle_sft.models.device import choose_half_precision, parameter_dtype
from paddle_sft.parallel.recipe import Recipe
from paddle_sft.parallel.shape import ALIASES, SHAPES, ModelShape
from paddle_sft.parallel.topology import KEYS, Layout, make_layout
from paddle_sft.quant.scheme import Scheme

_OTHER = ("freeze", "spectrum_top", "spectrum_config_path", "lora_modules_to_save", "rank_pattern", "lora_path", "qat")
"""Keys that train other numbers than all, or LoRA of one rank."""


@dataclass(frozen=True)
class Case:
    """A run that is planned."""

    arguments: Arguments
    config: Dict[str, Any]
    shape: ModelShape
    place: str
    """Where the shape comes from."""

    @staticmethod
    def of(arguments: Arguments) -> Case:
        """
        Raises:
            ArgumentError: a model, or a way to train, whose memory is not modelled.
        """
        name = arguments.model.model_name_or_path or arguments.model.config_name
        config, place = _config_of(name)
        case = Case(arguments, config, ModelShape.of(config, place), place)
        case.require_modelled()
        return case

    def require_modelled(self) -> None:
        """
        Raises:
            ArgumentError: something is trained that the plan does not know.
        """
        values, arguments = self.values(), self.arguments
        if arguments.adapter.adapter not in (None, "lora"):
            raise ArgumentError(
                f"a plan knows full fine-tuning and adapter lora, not {arguments.adapter.adapter}; plan with lora of "
                "the rank that has as many trained numbers, and leave room"
            )
        for name in _OTHER:
            if values.get(name):
                raise ArgumentError(f"a plan does not know what {name} trains; leave it out of what is planned")
        if offloads(arguments.parallel.sharding) and (arguments.train.device or "").startswith("cpu"):
            raise ArgumentError("a plan for device cpu does not know sharding offload: leave the word, or device, out")
        if arguments.train.stage == "classification":
            raise ArgumentError("a plan does not know stage classification; plan with stage sft, whose head is larger")

    def values(self) -> Dict[str, Any]:
        """Every key at its value."""
        found = dict(self.arguments.upstream)
        for group in OWNERS:
            part = getattr(self.arguments, group)
            found.update({field.name: getattr(part, field.name) for field in dataclasses.fields(part)})
        return found

    @property
    def trained(self) -> int:
        """Numbers that the run trains."""
        if self.arguments.adapter.adapter is None:
            return self.shape.parameters
        targets, rank = self.targets(), self.arguments.adapter.lora_rank
        matrices = [matrix for layer in range(self.shape.layers) for matrix in self.shape.matrices(layer)]
        return sum(rank * (one.rows + one.columns) for one in matrices if one.path in targets)

    def targets(self) -> frozenset:
        """Paths of the linear layers with LoRA."""
        return frozenset(choose_targets(self.shape.paths(), self.arguments.adapter.lora_target_modules))

    def schemes(self) -> Mapping[str, Scheme]:
        """Path of a linear layer that is stored in 4 or 8 bits -> how."""
        if self.arguments.quant.weight_quantize_algo is None:
            return {}
        from paddle_sft.cli.run_quant import choice_of  # seconds: it imports paddleslim

        return choice_of(self.arguments.quant).schemes(self.shape.paths())

    def recipe(self) -> Recipe:
        """As the file says."""
        arguments, train = self.arguments, self.arguments.train
        device = "cpu" if (train.device or "").startswith("cpu") else "gpu"
        half, _ = choose_half_precision(device, train.bf16, train.fp16)
        dtype, _ = parameter_dtype(arguments.model.dtype, device, half, train.fp16_opt_level)
        number = 4 if dtype == "float32" else 2
        is_lora = arguments.adapter.adapter is not None
        return Recipe(
            rows=train.per_device_train_batch_size,
            length=arguments.data.max_length,
            accumulation=train.gradient_accumulation_steps,
            weight_bytes=number,
            compute_bytes=2 if half else number,
            optimizer=train.optim,
            lora_rank=arguments.adapter.lora_rank if is_lora else 0,
            targets=self.targets() if is_lora else frozenset(),
            schemes=self.schemes(),
            recompute=train.recompute_granularity if train.recompute else "",
            offloads=offloads(arguments.parallel.sharding),
            on_gpu=device == "gpu",
        )

    @property
    def chunks(self) -> int:
        """Parts of the stack on a stage of a pipeline."""
        return max(1, self.arguments.parallel.virtual_pp_degree)

    def layout(self, ranks: int) -> Layout:
        """As the file says, for so many ranks.

        Raises:
            ArgumentError: it can't be had.
        """
        own = self.arguments.parallel
        degrees = {axis: getattr(own, key) for axis, key in KEYS.items()}
        layout = make_layout(degrees, sharding_stage(own.sharding), ranks, own.sequence_parallel, self.chunks)
        require_layout(layout, self.config, self.arguments.adapter)
        return layout

    def require(self, layout: Layout, changes: Mapping[str, Any]) -> None:
        """
        Args:
            changes: keys of the layout and the recipe, at other values than in the file.

        Raises:
            ArgumentError: a run with these keys would be refused.
        """
        draft = Draft({**self.values(), **changes}, set(self.arguments.given) | set(changes))
        problems: List[Tuple[Tuple[str, ...], str]] = settle(draft)
        if problems:
            raise ArgumentError("\n".join(text for _, text in problems))
        require_layout(layout, self.config, self.arguments.adapter)


def _config_of(name: str) -> Tuple[Dict[str, Any], str]:
    if Path(name).exists():
        config = read_config(Path(name))
        return {**FAMILIES[config["model_type"]].defaults(), **config}, name
    known = ALIASES.get(name, name)
    if known not in SHAPES:
        names = ", ".join([*SHAPES, *ALIASES])
        near = get_close_matches(name, [*SHAPES, *ALIASES], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ArgumentError(
            f"{name} is neither a folder here nor a shape that is known{hint}; a plan downloads nothing: name a folder "
            f"with a config.json (weights are not needed), or one of {names}"
        )
    shape = {"model_type": "llama", **SHAPES[known]}
    return {**FAMILIES[shape["model_type"]].defaults(), **shape}, f"built-in shape of {known}"
