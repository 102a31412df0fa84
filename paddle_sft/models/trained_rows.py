"""New tokens' rows of an embedding and an LM head that are trained while all other rows stay as they are."""

from __future__ import annotations

from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_sft.core.errors import ArgumentError
from paddle_sft.models.head import find_head
from paddle_sft.models.hub import dtype_name


class TrainedRows(nn.Layer):
    """Rows [first, end) as parameters of their own, [end - first, hidden] each, in the place of the model's.

    Only they get a gradient and a state in the optimizer. `embedding` is read wherever one of the tokens stands in a
    row, `head` gives its logit; with tied weights both are the one parameter `embedding`. None where that weight is
    trained whole, or where there is no head.
    """

    def __init__(self, model: nn.Layer, first: int, end: int) -> None:
        super().__init__()
        self.first, self.end = first, end
        self.embedding: Optional[Tensor] = None
        self.head: Optional[Tensor] = None
        whole = {id(one) for name, one in model.named_parameters() if name in getattr(model, "trained_whole", ())}
        table = model.get_input_embeddings().weight
        if id(table) not in whole:
            self.embedding = self._parameter(table[first:end])
        self.is_tied, self.softcap = False, 0.0
        if hasattr(model, "lm_head"):
            head = find_head(model)
            self.softcap = head.softcap
            self.is_tied = head.weight is table
            if not self.is_tied and id(head.weight) not in whole:
                self.head = self._parameter(
                    head.weight[first:end] if head.is_embedding else head.weight[:, first:end].T
                )

    def _parameter(self, rows: Tensor) -> Tensor:
        made = self.create_parameter(list(rows.shape), dtype=dtype_name(rows))
        made.set_value(rows.detach())
        return made

    @property
    def of_head(self) -> Optional[Tensor]:
        """The rows that give logits."""
        return self.embedding if self.is_tied else self.head

    def take_over(self, before: TrainedRows) -> None:
        """Hold what the rows held before the model grew again."""
        for mine, theirs in ((self.embedding, before.embedding), (self.head, before.head)):
            if mine is not None and theirs is not None:
                array = mine.numpy()
                array[before.first - self.first : before.end - self.first] = theirs.numpy()
                mine.set_value(array)

    def read(self, layer: nn.Layer, inputs: tuple, output: Tensor) -> Tensor:
        """The embedding's output with these rows in it: a hook behind its forward."""
        ids = inputs[0]
        rows = F.embedding((ids - self.first).clip(0, self.end - self.first - 1), self.embedding)
        return paddle.where(((ids >= self.first) & (ids < self.end)).unsqueeze(-1), rows.astype(output.dtype), output)

    def score(self, layer: nn.Layer, inputs: tuple, output: Tensor) -> Tensor:
        """The head's logits with those of these rows in them: a hook behind its forward."""
        own = paddle.matmul(inputs[0], self.of_head.astype(inputs[0].dtype), transpose_y=True)
        if getattr(layer, "bias", None) is not None:
            own = own + layer.bias[self.first : self.end]
        if self.softcap:
            own = self.softcap * paddle.tanh(own / self.softcap)
        return paddle.concat([output[..., : self.first], own.astype(output.dtype), output[..., self.end :]], axis=-1)


def train_rows(model: nn.Layer) -> None:
    """Train the rows that `models.vocabulary.grow` has made, beside an adapter; the grown weights keep what they hold.

    Called again after the model has grown once more.

    Raises:
        ArgumentError: several ranks have parts of the vocabulary.
    """
    if getattr(model, "share", None) is not None and model.share.tensor > 1:
        raise ArgumentError(
            "new special tokens are trained beside an adapter where each rank has the whole vocabulary, and "
            "tensor_parallel_degree cuts it; set it to 1, or train every weight"
        )
    rows = model.new_rows
    before = getattr(model, "trained_rows", None)
    made = TrainedRows(model, rows.first, rows.end)
    if before is not None:
        made.take_over(before)
        for hook in model.hooks_of_rows:
            hook.remove()
    model.trained_rows = made
    hooks = []
    if made.embedding is not None:
        hooks.append(model.get_input_embeddings().register_forward_post_hook(made.read))
    if made.of_head is not None:
        hooks.append(model.lm_head.register_forward_post_hook(made.score))
    model.hooks_of_rows = tuple(hooks)
