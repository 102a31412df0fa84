"""Virtual tokens in a model's forward pass: they are computed as tokens before every sample, or every layer has keys
and values of them. What comes out of the base model has the rows' own tokens only: nothing behind it knows of them.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import paddle
from paddle import Tensor, nn

from paddle_sft.masks.virtual import VirtualRows, put_before
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.family import find_named


class VirtualTokens:
    """What gives a model virtual tokens; `install` puts it into the model."""

    num_virtual: int
    enabled: bool
    """Whether it takes part."""
    in_rows: bool
    """Whether they are computed as tokens are, and have `vectors`; else the layers have `keys_and_values` of them."""

    def vectors(self) -> Tensor:
        """[num_virtual, E], in the place of word vectors."""
        raise NotImplementedError

    def keys_and_values(self, number: int) -> Tuple[Tensor, Tensor]:
        """Of layer `number`, from 0: two [num_virtual, G, D]. They are not turned by rotary positions."""
        raise NotImplementedError


class Places:
    """Where the tokens of rows [B, T] stand among rows [B, W] that hold the virtual tokens too."""

    def __init__(self, rows: VirtualRows) -> None:
        self.rows = rows
        self._width = rows.sources.shape[1]
        self._sources = paddle.to_tensor(rows.sources.reshape(-1))
        self._places = paddle.to_tensor(rows.places)

    def put(self, virtual: Tensor, tokens: Tensor) -> Tensor:
        """virtual [num_virtual, ...], tokens [B, T, ...] -> [B, W, ...]."""
        rest = tokens.shape[2:]
        known = paddle.concat([virtual.astype(tokens.dtype), tokens.reshape([-1, *rest])])
        return paddle.gather(known, self._sources).reshape([tokens.shape[0], self._width, *rest])

    def take(self, everything: Tensor) -> Tensor:
        """[B, W, ...] -> [B, T, ...]."""
        rest = everything.shape[2:]
        tokens = paddle.gather(everything.reshape([-1, *rest]), self._places)
        return tokens.reshape([everything.shape[0], -1, *rest])


def install(model: nn.Layer, tokens: VirtualTokens) -> None:
    """Let the model begin every sample with these, while they are `enabled`."""
    model.row_layout.virtual.append(tokens)
    _Reading(model, tokens)


class _Reading:
    """The base model's forward: rows are made longer before it, and short again behind it."""

    def __init__(self, model: nn.Layer, tokens: VirtualTokens) -> None:
        base = getattr(model, model.base_model_prefix)
        self._tokens, self._layout = tokens, model.row_layout
        self._forward, self._signature = base.forward, inspect.signature(base.forward)
        self._embedding = model.get_input_embeddings
        base.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._tokens.enabled:
            return self._forward(*args, **kwargs)
        named = named_arguments(self._signature, args, kwargs)
        ids, past = named["input_ids"], length_read(named.get("past_key_values"))
        added = self._tokens.num_virtual if self._tokens.in_rows and not past else 0
        named.pop("position_ids", None)  # of the rows' own tokens; the row layout knows better
        if named.get("attention_mask") is not None:
            named["attention_mask"] = _lengthened(named["attention_mask"], past + added + ids.shape[1])
        if not added:
            return self._forward(**named)
        rows, width = ids.shape
        places = self._layout.places or Places(put_before([[width]] * rows, added))
        blank = paddle.zeros([added, 1], dtype=ids.dtype)
        with self._beside_words(ids, places):
            output = self._forward(**{**named, "input_ids": places.put(blank, ids.unsqueeze(2)).squeeze(2)})
        return (places.take(output[0]), *output[1:]) if isinstance(output, (tuple, list)) else places.take(output)

    @contextmanager
    def _beside_words(self, ids: Tensor, places: Places) -> Iterator[None]:
        """Let the embedding look up the rows' own ids, and put the vectors beside what comes out in the end: behind all
        other hooks, such as that of NEFTune's noise, which see words alone."""
        embedding = self._embedding()
        before = embedding.register_forward_pre_hook(lambda layer, inputs: (ids,))
        behind = embedding.register_forward_post_hook(
            lambda layer, inputs, out: places.put(self._tokens.vectors(), out)
        )
        try:
            yield
        finally:
            before.remove()
            behind.remove()


def decoder_layers(model: nn.Layer) -> List[nn.Layer]:
    """The layers of the model's stack, in order: each holds one attention layer."""
    kind = find_named(FAMILIES[model.config.model_type].attention[0])
    layers = dict(model.named_sublayers())
    return [layers[path.rpartition(".")[0]] for path, layer in layers.items() if type(layer) is kind]


def named_arguments(signature: inspect.Signature, args: tuple, kwargs: Dict[str, Any]) -> Dict[str, Any]:
    """What a forward is called with, by name."""
    named = dict(signature.bind(*args, **kwargs).arguments)
    rest = [name for name, one in signature.parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD]
    return {**named, **{key: value for name in rest for key, value in named.pop(name, {}).items()}}


def length_read(past: Any) -> int:
    """Tokens that a cache of all layers holds, virtual ones included."""
    return int(past[0][0].shape[1]) if past and past[0] is not None else 0


def _lengthened(mask: Tensor, length: int) -> Tensor:
    """A mask [B, N] that hides nothing, for rows of `length` tokens: PaddleNLP's BLOOM looks at its shape."""
    more = length - mask.shape[-1]
    if mask.ndim != 2 or more <= 0:
        return mask
    return paddle.concat([paddle.ones([mask.shape[0], more], dtype=mask.dtype), mask], axis=1)
