"""What the arguments know of the adapter methods: their names, their switches, and which keys are theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple


@dataclass(frozen=True)
class MethodKeys:
    """One method as a user writes it."""

    switch: str = ""
    """PaddleNLP's key that means the same as `adapter: <name>` when it is true."""
    keys: Tuple[str, ...] = ()
    """Keys that only this method (and others that list them) reads."""
    learning_rate: Optional[float] = None
    """The method's own default, where one for the training of all weights teaches it nothing; said in the plan."""
    refines: str = ""
    """The method whose switch may stand beside this one's: PaddleNLP writes lora true, pissa true."""
    alpha_per_rank: float = 2.0
    """lora_alpha over lora_rank where the user gives no lora_alpha."""
    on_layers: bool = True
    """Whether it changes linear layers, so that lora_target_modules means something."""
    virtual_tokens: int = 0
    """Where the user gives no num_virtual_tokens."""


_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "rslora", "rank_pattern", "alpha_pattern", "use_quick_lora")
_PLUS = (*_LORA, "lora_plus_scale")

_ADALORA = (
    "adalora_init_r", "adalora_target_r", "adalora_alpha", "adalora_tinit", "adalora_tfinal", "adalora_delta_t",
    "adalora_beta1", "adalora_beta2", "adalora_orth_weight", "lora_dropout",
)  # fmt: skip

_LOKR = ("lokr_rank", "lokr_alpha", "lokr_factor", "lokr_decompose_both")

_REFT = (
    "layers", "position", "intervention_type", "rank", "act_fn", "add_bias", "dropout", "share_weights",
)  # fmt: skip
_PROMPT = ("num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text")
_P_TUNING = (
    "num_virtual_tokens", "encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers",
    "encoder_dropout",
)  # fmt: skip
_PREFIX = ("num_virtual_tokens", "prefix_projection", "encoder_hidden_size")

METHODS: Dict[str, MethodKeys] = {
    "lora": MethodKeys("lora", (*_PLUS, "loftq"), learning_rate=3e-4),
    "dora": MethodKeys("use_dora", _PLUS, learning_rate=3e-4, refines="lora"),
    "pissa": MethodKeys("pissa", (*_PLUS, "pissa_niter"), learning_rate=3e-4, refines="lora", alpha_per_rank=1.0),
    "olora": MethodKeys(keys=_PLUS, learning_rate=3e-4, refines="lora", alpha_per_rank=1.0),
    "moslora": MethodKeys("lora_use_mixer", _PLUS, learning_rate=3e-4, refines="lora"),
    "mora": MethodKeys("use_mora", ("lora_rank", "lora_dropout"), learning_rate=3e-4, refines="lora"),
    "lora_fa": MethodKeys(keys=_LORA, learning_rate=3e-4, refines="lora"),
    "adalora": MethodKeys(keys=_ADALORA, learning_rate=6e-4),
    "vera": MethodKeys("vera", ("vera_rank", "vera_d_initial", "lora_dropout"), learning_rate=3e-3),
    "lokr": MethodKeys("lokr", _LOKR, learning_rate=1e-3),
    "loha": MethodKeys(keys=("loha_rank", "loha_alpha"), learning_rate=3e-4),
    "ia3": MethodKeys(learning_rate=3e-3),
    "oft": MethodKeys(keys=("oft_block_size", "oft_neumann_terms"), learning_rate=3e-4),
    "bitfit": MethodKeys(learning_rate=1e-3),
    "bottleneck": MethodKeys(keys=("bottleneck_size", "bottleneck_activation"), learning_rate=3e-4),
    "prompt_tuning": MethodKeys(keys=_PROMPT, learning_rate=0.03, on_layers=False, virtual_tokens=20),
    "p_tuning": MethodKeys(keys=_P_TUNING, learning_rate=5e-3, on_layers=False, virtual_tokens=20),
    "prefix_tuning": MethodKeys("prefix_tuning", _PREFIX, learning_rate=5e-3, on_layers=False, virtual_tokens=128),
    "reft": MethodKeys("reft", _REFT, learning_rate=5e-3, on_layers=False),
}
"""Name -> its keys; a test compares the names with the catalogue of the adapters."""
