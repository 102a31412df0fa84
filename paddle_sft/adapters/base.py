"""The contract between an adapter method and everything else, and the one wrapper that composes it with its base.

A method changes linear layers (`Update`, most often by adding to them: `Delta`), or the model as a whole
(`ModelUpdate`). Attaching, saving, merging and the tests know nothing else of a method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Tuple

from paddle import Tensor, nn

from paddle_sft.adapters.targets import Targets, choose_targets
from paddle_sft.models.fast import fused_linears, is_hooked, parts_of
from paddle_sft.models.split import keep_part
from paddle_sft.operators.linear import LinearParts

DEFAULT_NAME = "default"
"""Name of an adapter where only one is there."""
WITH_WHOLE_LAYERS = ("pipeline", "sep", "stage3")
"""Ways to split a model in which a layer that computes is whole (`Family.splits`): what a method does to a layer alone
goes with all of them."""
EVERY_SPLIT = ("tensor", "sequence", *WITH_WHOLE_LAYERS)
"""The same, and those in which each rank has a part of a layer."""


@dataclass(frozen=True)
class AdapterConfig:
    """What every method's config has. The fields of a method's own config are keys of `AdapterArguments`."""

    target_modules: Tuple[str, ...] = ()
    """Paths of the linear layers that are adapted, as they were found at attach."""

    def for_path(self, path: str) -> AdapterConfig:
        """The config of one layer: a method whose numbers differ from layer to layer overrides this."""
        return self

    def on(self, linears: Dict[str, nn.Layer], targets: Targets) -> AdapterConfig:
        """The config for these layers (path -> layer): with `target_modules`, and whatever else it has to know of them.

        A method with targets of its own where the user names none, or with layers that it can't go on, overrides this.

        Raises:
            ArgumentError: a target that matches no layer, or one that the method can't go on.
        """
        return replace(self, target_modules=tuple(choose_targets(list(linears), targets)))

    def remarks(self, shapes: Dict[str, Tuple[int, int]]) -> Dict[str, Tuple[str, str]]:
        """Lines of the plan, name -> (value, why), about what the shapes [in, out] of the adapted layers decide."""
        return {}


class Update(nn.Layer):
    """What a method does to one linear layer.

    A subclass takes (in_features, out_features, config, dtype), makes its parameters there, and implements `forward`,
    `merged_weight` and `count`. Its parameters and buffers (its state_dict) are what an adapter folder holds.
    """

    starts_at_zero = True
    """Whether the layer computes what its base does until the first step."""
    why_not_merge = ""
    """Why no weight matrix can stand for the adapted layer, and what to do instead; empty where one can."""
    splits: Tuple[str, ...] = ()
    """How a model may be split over ranks under it (`Family.splits` has the words). Each class says it of itself: not
    inherited."""
    why_not_split = ""
    """Why it doesn't go into a model that is split in another way."""
    number = 0
    """Of the layer, among all adapted ones of the model."""
    low_rank: Any = None
    """Beside such a layer: how it is split (models.linears: `LowRank`)."""

    def __init__(self, in_features: int, out_features: int, config: Any, dtype: str) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    def start(self, base: nn.Layer) -> None:
        """Take first values from the base layer (models.linears: `weight_matrix`). Called once, at attach, never when a
        trained adapter is loaded; the base is not changed."""

    def split(self, low_rank: Any) -> None:
        """Keep this rank's part of what is there with its values, beside a layer that is split so."""
        self.low_rank = low_rank
        axes = self.split_axes(low_rank)
        for name, axis in axes.items():
            keep_part(self, name, low_rank.part(getattr(self, name).shape, axis))
        for name, parameter in self.named_parameters():
            if low_rank.of_tokens and name not in axes:
                parameter.sequence_parallel = True  # it sees some tokens: its gradients are to be added up

    def split_axes(self, low_rank: Any) -> Dict[str, int]:
        """Parameters and buffers of which a rank keeps what goes along its part of the layer -> their axis; every rank
        has all of the others. Only where `splits` says tensor.

        Raises:
            ArgumentError: a layer on which it can't be split.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, base: nn.Layer) -> Tensor:
        """The adapted layer's output. x [..., in] -> [..., out]."""
        raise NotImplementedError

    def factors(self) -> Optional[Tuple[Tensor, Tensor, float]]:
        """(A, B, scaling) where the layer computes nothing but base(x) + scaling (x A) B in this mode."""
        return None

    def merged_weight(self, weight: Tensor) -> Tensor:
        """The weight [in, out] of the plain layer that computes the same, from the base's; float32 both."""
        raise NotImplementedError

    def merged_bias(self, bias: Optional[Tensor]) -> Optional[Tensor]:
        """The same for the bias [out], None where the base has none."""
        return bias

    @staticmethod
    def count(in_features: int, out_features: int, config: Any) -> int:
        """Trainable numbers by formula; a test compares it with the parameters that exist."""
        raise NotImplementedError


class Delta(Update):
    """An update that is added: y = base(x) + delta(x). Several of them may be active at once."""

    def forward(self, x: Tensor, base: nn.Layer) -> Tensor:
        return base(x) + self.delta(x)

    def delta(self, x: Tensor) -> Tensor:
        """What is added to the base layer's output. x [..., in] -> [..., out]."""
        raise NotImplementedError

    def delta_weight(self) -> Tensor:
        """The same as one float32 matrix [in, out]; float32 because bfloat16 would round it away on merge."""
        raise NotImplementedError

    def merged_weight(self, weight: Tensor) -> Tensor:
        return weight + self.delta_weight()


@dataclass(frozen=True)
class ModelFacts:
    """The sizes of a base model that a `ModelUpdate` is made for; they stand in adapter.json."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    embedding_size: int = 0
    """Numbers of a word vector, where that isn't hidden_size (OPT)."""

    @property
    def token_size(self) -> int:
        """Numbers of a word vector."""
        return self.embedding_size or self.hidden_size


State = Dict[str, Tensor]


class ModelUpdate(nn.Layer):
    """What a method does to the model as a whole: virtual tokens, keys and values before a row, edited hidden states.

    A subclass takes (facts, config, dtype), makes its parameters there, and implements `install` and `count`.
    """

    starts_at_zero = False
    why_not_merge = ""
    """Why it can't be merged, and what to do instead."""
    splits: Tuple[str, ...] = ()
    """How a model may be split over ranks under it. Each class says it of itself: not inherited."""
    why_not_split = ""
    """Why it doesn't go into a model that is split in another way."""
    stands_alone = False
    """Whether no two such adapters can take part together."""

    def __init__(self, facts: ModelFacts, config: Any, dtype: str) -> None:
        super().__init__()
        self.facts = facts
        self.enabled = True

    def start(self, model: nn.Layer) -> None:
        """Take first values from the model. Called once, at attach, never when a trained adapter is loaded."""

    def share(self, update: Update) -> None:
        """Give the update of one layer what the layers have in common, or remember it. Called once for each."""

    def before_update(self, step: int, num_steps: int) -> bool:
        """Called in training with the gradients of a step (from 0), before the optimizer reads them; returns whether it
        changed them."""
        return False

    def after_update(self, step: int, num_steps: int) -> None:
        """Called after the optimizer's step, with its gradients still there."""

    def training_state(self) -> Dict[str, Tensor]:
        """What a resumed run needs beside the parameters; empty when training is over."""
        return {}

    def restore_training(self, state: Dict[str, Tensor]) -> None:
        """Take up what `training_state` gave."""

    def for_use(self, config: Any) -> Tuple[Any, State]:
        """The config and the state of an update that computes the same without what only training needs."""
        return config, dict(self.state_dict())

    def split(self, share: Any) -> None:
        """Say how gradients are put together in a model of which this rank has a share (models.split: `Share`): every
        rank has all parameters, and each stage of a pipeline and, where `has_part_of_gradients`, each rank of tensor
        parallelism a term of their gradients."""
        for parameter in self.parameters():
            parameter.on_every_stage = bool(share.ranges)
            parameter.sequence_parallel = self.has_part_of_gradients(share)

    def has_part_of_gradients(self, share: Any) -> bool:
        """Whether ranks of tensor parallelism compute other terms of its gradients, not the same sum."""
        return False

    def install(self, model: nn.Layer) -> None:
        """Put it into the model's forward; it computes the plain model while `enabled` is false. A part that only
        serves the updates of layers has nothing to put."""

    @staticmethod
    def count(facts: ModelFacts, config: Any) -> int:
        """Trainable numbers by formula; a test compares it with the parameters that exist."""
        raise NotImplementedError


class AdaptedLinear(nn.Layer):
    """A frozen linear layer and the updates it may be computed with."""

    def __init__(self, base: nn.Layer) -> None:
        super().__init__()
        self.base = base
        self.updates = nn.LayerDict()
        self.active: Tuple[str, ...] = ()
        """Names of the updates that take part: none, one, or several that are added."""
        for parameter in base.parameters():
            parameter.stop_gradient = True

    @property
    def weight(self) -> Tensor:
        """The base's weight, for PaddleNLP code that asks a linear layer for its dtype or shape."""
        return self.base.weight

    @property
    def bias(self) -> Optional[Tensor]:
        return self.base.bias

    @property
    def update(self) -> Update:
        """The one update of a layer that has one."""
        (only,) = self.updates.values()
        return only

    def linear_parts(self) -> Optional[LinearParts]:
        """What computes the layer in one go (models.fast: `parts_of`), None where the update has to be called."""
        parts = parts_of(self.base)
        if parts is None or not self.active:
            return parts
        update = self.updates[self.active[0]]
        factors = update.factors() if len(self.active) == 1 and not is_hooked(update) else None
        return None if factors is None else LinearParts(parts.weight, parts.bias, *factors)

    def forward(self, x: Tensor) -> Tensor:
        fused = fused_linears(x, [self])
        if fused is not None:
            return fused[0]
        if len(self.active) == 1:
            return self.updates[self.active[0]](x, self.base)
        output = self.base(x)
        for name in self.active:
            output = output + self.updates[name].delta(x)
        return output


def adapted_linears(model: nn.Layer, name: Optional[str] = None) -> Dict[str, AdaptedLinear]:
    """Path -> wrapper, in the model's order; only those with an update called `name`, if one is given."""
    found = {path: layer for path, layer in model.named_sublayers() if isinstance(layer, AdaptedLinear)}
    return {path: layer for path, layer in found.items() if name is None or name in layer.updates}


def model_updates(model: nn.Layer) -> Dict[str, ModelUpdate]:
    """Adapter's name -> its `ModelUpdate`."""
    return dict(model.model_updates.items()) if hasattr(model, "model_updates") else {}


def is_adapters(parameter_name: str) -> bool:
    """Whether a parameter of an adapted model is an adapter's, by its name."""
    return ".updates." in parameter_name or parameter_name.startswith(("model_updates.", "trained_rows."))
