"""Loss of labels, one or several a text."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor


def label_loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples, in float32; divided by their number it is transformers' loss of a sequence classifier.

    Shapes: logits [N, C]; targets [N] int64 for one label a text: -log softmax(logits)[target]; targets [N, C] float32
    of zeros and ones for several: the mean over the C classes of the binary cross entropy of sigmoid(logits). -> [].
    """
    logits = logits.astype("float32")
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[1]
