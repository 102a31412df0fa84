"""Sequence classification: a label, or several, for each text, read at its last token."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor

from paddle_sft.data.classes import Classes
from paddle_sft.losses.classification import label_loss_sum
from paddle_sft.stages.class_counts import ClassMeter
from paddle_sft.stages.supervised import Supervised


class Classification(Supervised):
    """Cross entropy of labels; with several labels a text, binary cross entropy of each. The divisor of a step is its
    number of samples."""

    def __init__(self) -> None:
        super().__init__("classification")

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Sum over the samples of a batch (the divisor belongs to the step). The model is a `Classifier`."""
        targets = model.classes.targets(batch.sample_labels)
        return label_loss_sum(self.scores(model, batch), paddle.to_tensor(targets))

    def scores(self, model: Any, batch: Any) -> Tensor:
        """[N, C] before softmax or sigmoid, of the batch's samples, row by row."""
        return at_last_tokens(self.outputs(model, batch), batch)

    def outputs(self, model: Any, batch: Any) -> Tensor:
        """Scores [B, T, C] at every token."""
        return self.logits(model, paddle.to_tensor(batch.input_ids), batch.segment_lengths, batch)

    def meter(self, model: Any) -> ClassMeter:
        return _Meter(model.classes)


class _Meter(ClassMeter):
    def __init__(self, classes: Classes) -> None:
        super().__init__(classes.names, classes.multi_label)
        self._classes = classes

    def add(self, logits: Tensor, batch: Any) -> None:
        """Scores [B, T, C] of a batch of `data.collate`."""
        scores = at_last_tokens(logits, batch).astype("float32")
        targets = self._classes.targets(batch.sample_labels)
        loss = float(label_loss_sum(scores, paddle.to_tensor(targets)))
        self.count(loss, self._classes.rows_of(targets), self._classes.predict(scores.numpy()))


def at_last_tokens(scores: Tensor, batch: Any) -> Tensor:
    """[B, T, C] -> the scores [N, C] of the batch's samples, each at its last token."""
    rows, ends = batch.last_tokens()
    places = paddle.to_tensor(rows * scores.shape[1] + ends)
    return paddle.gather(scores.reshape([-1, scores.shape[-1]]), places)
