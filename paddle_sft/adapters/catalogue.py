"""Every adapter method: its name in adapter.json, its config and its layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple, Type

from paddle_sft.adapters.adalora.budget import AdaLoRABudget
from paddle_sft.adapters.adalora.config import AdaLoRAConfig
from paddle_sft.adapters.adalora.layer import AdaLoRADelta
from paddle_sft.adapters.base import AdapterConfig, ModelUpdate, Update
from paddle_sft.adapters.bitfit.config import BitFitConfig
from paddle_sft.adapters.bitfit.layer import BitFitDelta
from paddle_sft.adapters.bottleneck.config import BottleneckConfig
from paddle_sft.adapters.bottleneck.layer import BottleneckUpdate
from paddle_sft.adapters.ia3.config import IA3Config
from paddle_sft.adapters.ia3.layer import IA3Update
from paddle_sft.adapters.loha.config import LoHaConfig
from paddle_sft.adapters.loha.layer import LoHaDelta
from paddle_sft.adapters.lokr.config import LoKrConfig
from paddle_sft.adapters.lokr.layer import LoKrDelta
from paddle_sft.adapters.lora.config import LoRAConfig, PiSSAConfig, StartedConfig
from paddle_sft.adapters.lora.dora import DoRAUpdate
from paddle_sft.adapters.lora.embedding import LoRAEmbedding
from paddle_sft.adapters.lora.layer import LoRADelta
from paddle_sft.adapters.lora.started import OLoRADelta, PiSSADelta
from paddle_sft.adapters.lora.variants import LoRAFAConfig, LoRAFADelta, MoRAConfig, MoRADelta, MosLoRADelta
from paddle_sft.adapters.oft.config import OFTConfig
from paddle_sft.adapters.oft.layer import OFTUpdate
from paddle_sft.adapters.p_tuning.config import PTuningConfig
from paddle_sft.adapters.p_tuning.layer import PTuning
from paddle_sft.adapters.prefix_tuning.config import PrefixTuningConfig
from paddle_sft.adapters.prefix_tuning.layer import PrefixTuning
from paddle_sft.adapters.prompt_tuning.config import PromptTuningConfig
from paddle_sft.adapters.prompt_tuning.layer import PromptTuning
from paddle_sft.adapters.reft.config import ReFTConfig
from paddle_sft.adapters.reft.layer import ReFT
from paddle_sft.adapters.vera.config import VeRAConfig
from paddle_sft.adapters.vera.layer import VeRADelta, VeRAMatrices


@dataclass(frozen=True)
class Method:
    """A method is a config and the layer that is put on each linear layer, on the model, or both."""

    config: Type[AdapterConfig]
    layer: Optional[Type[Update]] = None
    model: Optional[Type[ModelUpdate]] = None
    embedding: Optional[Type[Update]] = None
    """Its update of an embedding, with parameters of the same names and shapes as `layer`; None: it has none."""

    @property
    def why_not_merge(self) -> str:
        """The reason, where an adapter of this method can't be merged."""
        return next((part.why_not_merge for part in (self.layer, self.model) if part and part.why_not_merge), "")

    @property
    def splits(self) -> Tuple[str, ...]:
        """How a model may be split over ranks under it (`Family.splits` has the words): as all of its parts say of
        themselves. What a variant adds need not split as its parent does."""
        of_parts = [vars(part).get("splits", ()) for part in (self.layer, self.model) if part]
        return tuple(kind for kind in of_parts[0] if all(kind in of_part for of_part in of_parts))

    @property
    def why_not_split(self) -> str:
        """The reason, where it doesn't go with every way."""
        return next((part.why_not_split for part in (self.layer, self.model) if part and part.why_not_split), "")


ADAPTERS: Dict[str, Method] = {
    "lora": Method(LoRAConfig, LoRADelta, embedding=LoRAEmbedding),
    "dora": Method(StartedConfig, DoRAUpdate),
    "pissa": Method(PiSSAConfig, PiSSADelta),
    "olora": Method(StartedConfig, OLoRADelta),
    "moslora": Method(StartedConfig, MosLoRADelta),
    "mora": Method(MoRAConfig, MoRADelta),
    "lora_fa": Method(LoRAFAConfig, LoRAFADelta),
    "adalora": Method(AdaLoRAConfig, AdaLoRADelta, AdaLoRABudget),
    "vera": Method(VeRAConfig, VeRADelta, VeRAMatrices),
    "lokr": Method(LoKrConfig, LoKrDelta),
    "loha": Method(LoHaConfig, LoHaDelta),
    "ia3": Method(IA3Config, IA3Update),
    "oft": Method(OFTConfig, OFTUpdate),
    "bitfit": Method(BitFitConfig, BitFitDelta),
    "bottleneck": Method(BottleneckConfig, BottleneckUpdate),
    "prompt_tuning": Method(PromptTuningConfig, model=PromptTuning),
    "p_tuning": Method(PTuningConfig, model=PTuning),
    "prefix_tuning": Method(PrefixTuningConfig, model=PrefixTuning),
    "reft": Method(ReFTConfig, model=ReFT),
}
