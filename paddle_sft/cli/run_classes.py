"""The classes of a run of stage classification, and the model that tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Mapping, Optional

from paddle_sft.adapters.state import read_if_own
from paddle_sft.cli.report import Report
from paddle_sft.core.errors import ArgumentError
from paddle_sft.data.classes import Classes, find_classes
from paddle_sft.data.store import SampleStore
from paddle_sft.models.classification import Classifier, LoadedClassifier, classes_of, follow_padding, load_classifier
from paddle_sft.models.hub import build_from_scratch
from paddle_sft.quant.choice import AnyChoice


def choose_classes(
    config: Mapping[str, Any], place: str, adapter: Optional[Path], data: Dict[str, SampleStore], report: Report
) -> Classes:
    """The classes that the adapter or the model was trained for, or else those of the training data.

    Args:
        config: the model's, from `place`.
        data: split -> samples; all their labels must be among the classes.

    Raises:
        DataError: labels that are none of them, with their places.
        ArgumentError: nothing says what the classes are.
    """
    saved = read_if_own(adapter) if adapter else None
    classes = (saved.classes if saved else None) or classes_of(config, place)
    why = "" if classes is None else f"of {adapter or place}"
    if classes is None and "train" not in data:
        raise ArgumentError(
            f"{place} has no classification head, and without do_train there is no data to learn one from; name a "
            "trained classifier as model_name_or_path, or its adapter as lora_path"
        )
    if classes is None:
        classes, why = find_classes(data["train"]), "found in the training data"
    for split, samples in data.items():
        classes.require_known(samples, split)
    report.lines("classes", [f"classes {why}"])
    for split, samples in data.items():
        report.lines("classes", [f"{split}: {line}" for line in classes.lines(samples)])
    return classes


def make_classifier(
    folder: Optional[Path],
    config: Dict[str, Any],
    place: str,
    classes: Classes,
    dtype: str,
    seed: int,
    choice: Optional[AnyChoice] = None,
) -> LoadedClassifier:
    """The classifier of `folder`, or without one a network from scratch."""
    if folder is not None:
        return load_classifier(folder, dtype, classes, seed, choice)
    model = Classifier(build_from_scratch(config, dtype, seed), classes, dtype)
    model.eval()
    return LoadedClassifier(model, config, place, False, head_is_new=True)


def describe_head(loaded: LoadedClassifier, tokenizer: Any, samples: Mapping[str, SampleStore], report: Report) -> None:
    """Say where the head comes from, and how transformers finds the last token of a text."""
    report.add("classes", "head", "new, drawn by the seed" if loaded.head_is_new else f"from {loaded.place}")
    follow_padding(loaded.model, tokenizer)
    pad = loaded.model.config.pad_token_id
    if pad is None:
        why = "transformers classifies one text at a time: it needs a pad token for more"
        report.add("classes", "pad_token_id", "none", why)
        return
    report.add("classes", "pad_token_id", pad, "in config.json: transformers takes the last token before it")
    num = sum(int(sample.ids[-1]) == pad for store in samples.values() for sample in store)
    if num:
        why = f"{num:,} samples end with the pad token itself: transformers reads these one token earlier"
        report.add("classes", "note", "pad token in the data", why)
