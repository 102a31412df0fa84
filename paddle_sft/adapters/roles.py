"""What a linear layer is for, by the end of its path: for methods that go on some roles of a block only."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from paddle_sft.core.errors import ArgumentError

KEY_VALUE = ("k_proj", "v_proj", "query_key_value", "c_attn", "qkv_proj")
"""What makes keys and values. A layer that makes queries, too, is taken whole, as PEFT does."""
ATTENTION_OUTPUT = ("self_attn.o_proj", "self_attn.out_proj", "self_attention.dense", "attn.c_proj")
"""The last layer of attention, before the residual is added."""
FEED_FORWARD_OUTPUT = ("down_proj", "dense_4h_to_h", "linear2", "mlp.c_proj", "w2")
"""The last layer of a feed-forward network (or of an expert), before the residual is added."""


def has_role(path: str, role: Sequence[str]) -> bool:
    """Whether a layer's path ends in one of the names of a role."""
    return any(path == name or path.endswith(f".{name}") for name in role)


def with_roles(paths: Sequence[str], roles: Sequence[Tuple[str, ...]], method: str) -> List[str]:
    """The layers of a model that have one of the roles, in its order.

    Raises:
        ArgumentError: a role that no layer has.
    """
    if not all(any(has_role(path, role) for path in paths) for role in roles):
        names = dict.fromkeys(path.rsplit(".", 1)[-1] for path in paths)
        raise ArgumentError(
            f"adapter {method} doesn't know which layers of this model it goes on; name them in lora_target_modules. "
            f"Linear layers here: {', '.join(names)}"
        )
    return [path for path in paths if any(has_role(path, role) for role in roles)]
