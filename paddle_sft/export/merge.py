"""Base + adapter -> one complete model folder, tensor by tensor, checked before it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import paddle
from tqdm import tqdm

from paddle_sft.adapters.attach import wrap
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.state import SavedAdapter, fill_adapter, read_adapter, require_base, require_vocabulary
from paddle_sft.core.atomic import atomic_folder, write_json
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, from_float32, to_float32
from paddle_sft.export.receipt import PROMPTS, TOLERANCES, compare_logits
from paddle_sft.export.streamed import streamed_logits
from paddle_sft.models.classification import Classifier, build_empty_classifier, classes_of, follow_padding
from paddle_sft.models.config import is_classifier, read_config
from paddle_sft.models.hub import build_empty, require_complete, unique_parameters
from paddle_sft.models.linears import features, find_linears
from paddle_sft.models.renames import rename_table
from paddle_sft.models.tokenizers import copy_tokenizer, load_tokenizer, require_known_ids
from paddle_sft.models.tokenizing.folder import CONFIG as TOKENIZER_CONFIG
from paddle_sft.models.vocabulary import put_rows, token_parameters
from paddle_sft.models.weights import PDPARAMS_NAME, ModelWeights, require_finite
from paddle_sft.models.writer import write_config, write_weights

RECEIPT = "merge_receipt.json"
_LONGEST_PROMPT = 32  # tokens; 6 prompts of 32 over a vocabulary of 152,064 are 117 MB of logits


@dataclass(frozen=True)
class MergeJob:
    """Where a merge reads and writes, and what it accepts."""

    base: Path
    adapter: Path
    output: Path
    layout: str = "paddle"
    safe_serialization: bool = True
    tolerance: Optional[float] = None
    """Largest accepted difference of a logit; None takes TOLERANCES for the weights' type."""
    max_shard_size: str = "5GB"
    overwrite: bool = False


class _Base:
    """The base model's folder, opened and checked, with all of the adapter that is no update of a layer (a classifier's
    head, rows for new tokens) in its place; and a network without weights for it."""

    def __init__(self, folder: Path, saved: SavedAdapter) -> None:
        config = read_config(folder)
        original = _empty(config)
        require_complete(ModelWeights(folder, rename_table(type(original), original.config)), original, folder)
        require_vocabulary(saved, config["vocab_size"], str(folder))
        own = classes_of(config, str(folder))
        if own != saved.classes and None not in (own, saved.classes):
            raise ModelError(
                f"{folder} tells {', '.join(own.names[:8])} apart, the adapter {', '.join(saved.classes.names[:8])}; "
                "give the model it was trained from"
            )
        self._saved = saved
        self._rows = saved.rows()
        size = saved.new_rows.vocab_size if saved.new_rows else config["vocab_size"]
        self.config = {**config, "vocab_size": size}
        self.network = self.empty()
        self.renames = rename_table(type(self.network), self.network.config)
        self.weights = ModelWeights(folder, self.renames)
        self._axes = {name: axis for name, (_, axis) in token_parameters(self.network).items()} if self._rows else {}
        self._tag = _most_frequent([self.weights.spec(name).tag for name in self.weights.names])
        self.specs = [
            TensorSpec(name, self.tag(name), tuple(parameter.shape))
            for name, parameter in unique_parameters(self.network).items()
        ]

    def empty(self) -> Any:
        """A network of base and adapter, without the adapter's layers."""
        network, classes = _empty(self.config), self._saved.classes
        if classes is None or is_classifier(self.config):
            return network
        with paddle.LazyGuard():
            return Classifier(network, classes, "float32")

    def tag(self, name: str) -> str:
        """How the merged model stores a tensor."""
        return self._tag if name in self._saved.whole else self.weights.spec(name).tag

    def read(self, name: str) -> Tuple[np.ndarray, str]:
        tag = self.tag(name)
        if name in self._saved.whole:
            return _as_tag(self._saved.file.read(name), self._saved.file.specs[name].tag, tag), tag
        array = self.weights.read(name)
        if name in self._axes:
            array = put_rows(array, self._axes[name], self._saved.new_rows, _as_tag(*self._rows[name], tag))
        return array, tag


def _empty(config: Dict[str, Any]) -> Any:
    classes = classes_of(config, "the base")
    return build_empty(config, "float32") if classes is None else build_empty_classifier(config, "float32", classes)


def _as_tag(array: np.ndarray, tag: str, to_tag: str) -> np.ndarray:
    return array if tag == to_tag else from_float32(to_float32(array, tag), to_tag)


def merge(job: MergeJob) -> Dict[str, Any]:
    """Write the merged model folder and return its receipt.

    Memory: one tensor at a time for writing, one layer at a time for the check, never the model (except with
    safe_serialization false, whose format is one object).

    Raises:
        ModelError: the adapter belongs to another base, or the merged model is further from base + adapter than the
            tolerance; then nothing is written.
        ArgumentError: output_path is not empty.
    """
    _require_free(job)
    saved = read_adapter(job.adapter)
    why_not = ADAPTERS[saved.method].why_not_merge
    if why_not:
        raise ArgumentError(f"an adapter of method {saved.method} can't be merged: {why_not}")
    base = _Base(job.base, saved)
    require_base(saved, {path: features(layer) for path, layer in find_linears(base.network).items()}, str(job.base))
    with atomic_folder(job.output) as beside:
        _write_merged(beside, base, saved, job)
        copy_tokenizer(job.base, beside)
        copy_tokenizer(job.adapter, beside)
        receipt = _check(beside, base, saved, job)
        write_json(beside / RECEIPT, receipt)
    return receipt


def _require_free(job: MergeJob) -> None:
    output = job.output.resolve()
    if output in (job.base.resolve(), job.adapter.resolve()):
        raise ArgumentError(f"output_path {job.output} is the base or the adapter itself; name another folder")
    if job.layout == "hf" and not job.safe_serialization:
        raise ArgumentError("format hf is written as safetensors only; leave safe_serialization true")
    if job.output.exists() and not job.output.is_dir():
        raise ArgumentError(f"output_path {job.output} is a file; name another folder")
    names = {path.name for path in job.output.iterdir()} if job.output.exists() else set()
    if names and not job.overwrite:
        raise ArgumentError(
            f"output_path {job.output} is not empty; name another folder, or set overwrite_output_dir to true"
        )
    if names and RECEIPT not in names:
        raise ArgumentError(
            f"output_path {job.output} holds something else than a merged model (it has no {RECEIPT}), and "
            "overwrite_output_dir would remove all of it; name another folder"
        )


def merged_tensor(base: Any, saved: SavedAdapter, spec: TensorSpec) -> np.ndarray:
    """One tensor of the merged model, stored as the base stores it; computed in float32."""
    array, tag = base.read(spec.name)
    require_finite(spec.name, array, tag)
    path, _, parameter = spec.name.rpartition(".")
    if parameter not in ("weight", "bias") or path not in saved.shapes:
        return array
    before = paddle.to_tensor(to_float32(array, tag))
    with paddle.no_grad():
        update = saved.update(path)
        after = update.merged_weight(before) if parameter == "weight" else update.merged_bias(before)
    return from_float32(after.numpy(), tag)


def _write_merged(folder: Path, base: _Base, saved: SavedAdapter, job: MergeJob) -> None:
    bar = tqdm(total=len(base.specs), desc="merging", unit="tensor", mininterval=0.5)

    def produce(spec: TensorSpec) -> np.ndarray:
        bar.update(1)
        return merged_tensor(base, saved, spec)

    if job.safe_serialization:
        write_weights(folder, base.specs, produce, base.renames, job.layout, job.max_shard_size)
    else:
        paddle.save({spec.name: np.array(produce(spec)) for spec in base.specs}, str(folder / PDPARAMS_NAME))
    bar.close()
    if saved.classes is not None:
        own = (job.adapter / TOKENIZER_CONFIG).is_file()
        follow_padding(base.network, load_tokenizer(job.adapter if own else job.base))
    write_config(folder, base.network.config, job.layout, _dtype_of(base.specs))


def _most_frequent(tags: List[str]) -> str:
    return max(sorted(set(tags)), key=tags.count)


def _dtype_of(specs: Any) -> str:
    tag = _most_frequent([spec.tag for spec in specs])
    return next(dtype for dtype, known in FLOAT_TAGS.items() if known == tag)


def _check(folder: Path, base: _Base, saved: SavedAdapter, job: MergeJob) -> Dict[str, Any]:
    """Compare base + adapter with what stands in `folder` now, both read from the disk."""
    ids, lengths = _prompt_ids(folder, base.config["vocab_size"])
    adapted = base.empty()
    linears = find_linears(adapted)
    wrap(adapted, saved.method, saved.config, {path: linears[path] for path in saved.shapes})
    fill_adapter(adapted, saved)
    adapted.eval()
    base.network.eval()
    merged = ModelWeights(folder, base.renames)
    require_complete(merged, base.network, folder)
    print("checking the merged model against base + adapter on fixed prompts", flush=True)
    before = _rows(streamed_logits(adapted, lambda name: base.read(name.replace(".base.", ".")), ids), lengths)
    after = _rows(streamed_logits(base.network, lambda name: (merged.read(name), merged.spec(name).tag), ids), lengths)
    dtype = _dtype_of(base.specs)
    tolerance = job.tolerance if job.tolerance is not None else TOLERANCES[FLOAT_TAGS[dtype]]
    receipt = {
        **compare_logits(before, after),
        "tolerance": tolerance,
        "dtype": dtype,
        "format": job.layout,
        "method": saved.method,
        "base": str(job.base),
        "adapter": str(job.adapter),
    }
    _require_equal(receipt)
    return receipt


def _prompt_ids(folder: Path, vocab_size: int) -> Tuple[np.ndarray, List[int]]:
    """The fixed prompts as one batch [B, T], filled at the end, and their lengths: weights are read once for all."""
    tokenizer = load_tokenizer(folder)
    found = [tokenizer(text)["input_ids"][:_LONGEST_PROMPT] for text in PROMPTS]
    require_known_ids(max(max(ids) for ids in found), vocab_size, str(folder))
    batch = np.zeros((len(found), max(len(ids) for ids in found)), dtype=np.int64)
    for row, ids in enumerate(found):
        batch[row, : len(ids)] = ids
    return batch, [len(ids) for ids in found]


def _rows(logits: np.ndarray, lengths: List[int]) -> List[np.ndarray]:
    return [logits[row : row + 1, :length] for row, length in enumerate(lengths)]


def _require_equal(receipt: Dict[str, Any]) -> None:
    difference = receipt["max_abs_logit_difference"]
    if not difference <= receipt["tolerance"]:  # also true for NaN
        raise ModelError(
            f"the merged model's logits differ from base + adapter by up to {difference:.3g}, more than the tolerance "
            f"{receipt['tolerance']:g} for {receipt['dtype']} (top-1 agreement {receipt['top1_agreement']:.1%}, "
            f"KL {receipt['kl']:.2g}); nothing was written. Was the adapter trained on this base? "
            "If the difference is acceptable, raise tolerance"
        )


def describe(receipt: Dict[str, Any]) -> str:
    """The receipt in a sentence."""
    return (
        f"merged = base + adapter: logits differ by at most {receipt['max_abs_logit_difference']:.2e} "
        f"(tolerance {receipt['tolerance']:g}), top-1 agreement {receipt['top1_agreement']:.2%}, "
        f"KL {receipt['kl']:.1e} over {receipt['num_positions']} positions"
    )
