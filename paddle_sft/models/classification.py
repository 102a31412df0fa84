"""Sequence classifiers: a causal language model's network with a linear head, read at the last token of a text.

The same function as transformers' ...ForSequenceClassification, with its names of weights and keys of config.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import paddle
from paddle import Tensor, nn

from paddle_sft.core.errors import ModelError
from paddle_sft.data.classes import Classes
from paddle_sft.models.catalogue import FAMILIES
from paddle_sft.models.config import is_classifier, read_config
from paddle_sft.models.family import find_named
from paddle_sft.models.hub import LoadedModel, build_empty, fill, load_model
from paddle_sft.models.renames import Piece, pieces_of
from paddle_sft.quant.choice import AnyChoice

HEAD = "score.weight"
"""The head's weight, under that name in both layouts."""
_PROBLEM_TYPES = {False: "single_label_classification", True: "multi_label_classification"}


class ClassificationHead(nn.Layer):
    """scores = hidden W. Shapes: hidden [..., H], W [H, C], scores [..., C]. No bias, as in transformers.

    Not an nn.Linear, so that adapters leave it alone: it is trained whole.
    """

    def __init__(self, hidden_size: int, num_classes: int, dtype: str, spread: float) -> None:
        super().__init__()
        normal = nn.initializer.Normal(0.0, spread)
        self.weight = self.create_parameter([hidden_size, num_classes], dtype=dtype, default_initializer=normal)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight


class Classifier(nn.Layer):
    """The network of a causal language model with a `ClassificationHead` in place of its LM head.

    Beside an adapter the head is trained whole.

    Args:
        language_model: a PaddleNLP model as `models.hub` builds it; its layers become this model's.
    """

    trained_whole = (HEAD,)

    def __init__(self, language_model: nn.Layer, classes: Classes, dtype: str) -> None:
        super().__init__()
        config = language_model.config
        self.config = config
        self.classes = classes
        self.base_model_prefix = language_model.base_model_prefix
        self.row_layout = language_model.row_layout
        setattr(self, self.base_model_prefix, getattr(language_model, self.base_model_prefix))
        width = self.get_input_embeddings().weight.shape[1]  # OPT comes back from hidden_size to its embedding's
        self.score = ClassificationHead(width, len(classes), dtype, getattr(config, "initializer_range", 0.02))
        config.update(labels_in_config(classes))
        config.architectures = [architecture(config.model_type)]

    def get_input_embeddings(self) -> nn.Layer:
        return getattr(self, self.base_model_prefix).get_input_embeddings()

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        """[B, T] -> scores [B, T, C] of what was read up to each token; those of a text stand at its last token."""
        output = getattr(self, self.base_model_prefix)(input_ids=input_ids, **kwargs)
        return self.score(output[0] if isinstance(output, (tuple, list)) else output)

    @classmethod
    def weight_pieces(cls, config: Any) -> List[Piece]:
        """The language model's weights without its head, and ours."""
        model_class = find_named(FAMILIES[config.model_type].model_class)
        body = [piece for piece in pieces_of(model_class, config) if not piece.paddle.startswith("lm_head")]
        return [*body, Piece(HEAD, HEAD, transposed=True)]


@dataclass
class LoadedClassifier(LoadedModel):
    """A classifier, and whether its head is new."""

    head_is_new: bool = False


def architecture(model_type: str) -> str:
    """transformers' class of the family's classifiers, such as LlamaForSequenceClassification."""
    language_model = FAMILIES[model_type].hf_architecture
    return language_model.replace("LMHeadModel", "").replace("ForCausalLM", "") + "ForSequenceClassification"


def labels_in_config(classes: Classes) -> Dict[str, Any]:
    """The classes as config.json keeps them."""
    return {
        "id2label": dict(enumerate(classes.names)),
        "label2id": {name: index for index, name in enumerate(classes.names)},
        "problem_type": _PROBLEM_TYPES[classes.multi_label],
    }


def classes_of(config: Mapping[str, Any], place: str) -> Optional[Classes]:
    """The classes that a config.json (`models.config.read_config`) names; None where the model is no classifier.

    Raises:
        ModelError: a regression model, or class ids that are not 0, 1, 2, ...
    """
    if not is_classifier(config):
        return None
    found = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    found = found or {index: f"LABEL_{index}" for index in range(config.get("num_labels") or 2)}
    problem = config.get("problem_type")
    if problem not in (None, *_PROBLEM_TYPES.values()) or (len(found) == 1 and problem is None):
        raise ModelError(f"{place} is a regression model, which is not available; give a classifier or a base model")
    if sorted(found) != list(range(len(found))) or len(set(found.values())) < len(found):
        raise ModelError(f"{place}: id2label in config.json must name ids 0, 1, 2, ... and give each its own name")
    return Classes(tuple(found[index] for index in range(len(found))), problem == _PROBLEM_TYPES[True], known=True)


def load_classifier(
    folder: Path, dtype: str, classes: Classes, seed: int = 0, choice: Optional[AnyChoice] = None
) -> LoadedClassifier:
    """The classifier of a folder; or of a folder with a language model, whose LM head a new head replaces.

    A new head is drawn from a normal distribution of the config's initializer_range, the same for the same seed.

    Raises:
        ModelError: as `models.hub.load_model`.
    """
    config = read_config(folder)
    if is_classifier(config):
        model = build_empty_classifier(config, dtype, classes)
        is_hugging_face = fill(model, folder, config, choice)
        model.eval()
        return LoadedClassifier(model, config, str(folder), is_hugging_face)
    loaded = load_model(folder, dtype, choice=choice)
    paddle.seed(seed)
    model = Classifier(loaded.model, classes, dtype)
    model.eval()
    return LoadedClassifier(model, loaded.config, loaded.place, loaded.is_hugging_face, head_is_new=True)


def follow_padding(model: nn.Layer, tokenizer: Any) -> None:
    """Note the tokenizer's pad token in the model's config: by it transformers finds the last token of a text."""
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = int(tokenizer.pad_token_id)


def build_empty_classifier(config: Dict[str, Any], dtype: str, classes: Classes) -> Classifier:
    """The classifier of a config with parameters that hold no memory yet."""
    language_model = build_empty(config, dtype)
    with paddle.LazyGuard():
        return Classifier(language_model, classes, dtype)
