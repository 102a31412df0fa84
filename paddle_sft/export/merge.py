"""Base + adapter -> one complete model folder, tensor by tensor, checked before it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import paddle
from tqdm import tqdm

from paddle_sft.adapters.attach import base_layers, wrap
from paddle_sft.adapters.catalogue import ADAPTERS
from paddle_sft.adapters.saved import SavedAdapter, require_base, require_fingerprint, require_vocabulary
from paddle_sft.adapters.state import fill_adapter, read_adapter, read_if_own
from paddle_sft.core.atomic import atomic_folder, write_json
from paddle_sft.core.errors import ArgumentError, ModelError
from paddle_sft.core.tensorfile import FLOAT_TAGS, TensorSpec, from_float32, to_float32
from paddle_sft.export.prompts import prompt_ids, rows_of
from paddle_sft.export.receipt import TOLERANCES, compare_logits
from paddle_sft.export.stored import StoredWeights
from paddle_sft.export.streamed import streamed_logits
from paddle_sft.models.classification import Classifier, build_empty_classifier, classes_of, follow_padding
from paddle_sft.models.config import is_classifier, read_config
from paddle_sft.models.hub import build_empty, open_weights, require_complete, unique_parameters
from paddle_sft.models.linears import features, find_linears
from paddle_sft.models.renames import rename_table
from paddle_sft.models.stored_schemes import schemes_in, summary
from paddle_sft.models.tokenizers import copy_tokenizer, load_tokenizer
from paddle_sft.models.tokenizing.folder import CONFIG as TOKENIZER_CONFIG
from paddle_sft.models.vocabulary import put_rows, token_parameters
from paddle_sft.models.weights import PDPARAMS_NAME, require_finite
from paddle_sft.models.writer import write_config, write_quantised, write_weights
from paddle_sft.quant.choice import Schemes
from paddle_sft.quant.codec import quantise

RECEIPT = "merge_receipt.json"


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
    merge_into: str = "dequantised"
    """For a base that training saw quantised: its dequantised weights, or the original ones."""
    requantise: bool = False
    """Write codes, by the algorithm of the base."""
    allow_other_base: bool = False
    """Take a base of the same shapes and other weights than the adapter was trained on."""


class _Base:
    """The base model's folder, opened and checked, with all of the adapter that is no update of a layer (a classifier's
    head, rows for new tokens) in its place; and a network without weights for it."""

    def __init__(self, folder: Path, saved: SavedAdapter, seen: Schemes) -> None:
        config = read_config(folder)
        original = _empty(config)
        stored = schemes_in(config, str(folder))
        require_complete(open_weights(folder, original, stored), original, folder, stored)
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
        self.config = {**config, **(saved.scaled_positions or {}), "vocab_size": size}
        self.network = self.empty()
        self.renames = rename_table(type(self.network), self.network.config)
        opened = open_weights(folder, self.network, stored)
        shapes = {path: features(layer) for path, layer in base_layers(self.network).items()}
        self.weights = StoredWeights(opened, stored, seen, shapes)
        self._axes = {name: axis for name, (_, axis) in token_parameters(self.network).items()} if self._rows else {}
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
        return self.weights.tag_of(name)

    def read(self, name: str) -> Tuple[np.ndarray, str]:
        tag = self.tag(name)
        if name in self._saved.whole:
            return _as_tag(self._saved.file.read(name), self._saved.file.specs[name].tag, tag), tag
        array, tag = self.weights.read(name)
        if name in self._rows:
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
    saved = read_if_own(job.adapter) or read_adapter(job.adapter, _empty(read_config(job.base)))
    why_not = ADAPTERS[saved.method].why_not_merge
    if why_not:
        raise ArgumentError(f"an adapter of method {saved.method} can't be merged: {why_not}")
    _require_sense(job, saved)
    base = _Base(job.base, saved, saved.schemes if job.merge_into == "dequantised" else {})
    require_base(saved, {path: features(layer) for path, layer in base_layers(base.network).items()}, str(job.base))
    found = base.weights.fingerprint(find_linears(base.network))
    require_fingerprint(saved, found, str(job.base), job.allow_other_base)
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
        return _as_tag(array, tag, spec.tag)
    before = paddle.to_tensor(to_float32(array, tag))
    with paddle.no_grad():
        update = saved.update(path)
        after = update.merged_weight(before) if parameter == "weight" else update.merged_bias(before)
    return from_float32(after.numpy(), spec.tag)


def _write_merged(folder: Path, base: _Base, saved: SavedAdapter, job: MergeJob) -> None:
    bar = tqdm(total=len(base.specs), desc="merging", unit="tensor", mininterval=0.5)

    def produce(spec: TensorSpec) -> np.ndarray:
        bar.update(1)
        return merged_tensor(base, saved, spec)

    def encode(path: str) -> Dict[str, np.ndarray]:
        if path not in saved.shapes:  # what no adapter changes keeps its codes
            return {name: array.numpy() for name, array in base.weights.codes(path).items()}
        weight = merged_tensor(base, saved, TensorSpec(f"{path}.weight", "F32", ()))
        arrays = quantise(paddle.to_tensor(weight).t(), base.weights.schemes[path], path)
        return {name: array.numpy() for name, array in arrays.items()}

    if saved.classes is not None:
        own = (job.adapter / TOKENIZER_CONFIG).is_file()
        follow_padding(base.network, load_tokenizer(job.adapter if own else job.base))
    if job.requantise:
        schemes = base.weights.schemes
        write_quantised(folder, base.network, base.specs, produce, schemes, encode, job.max_shard_size)
        bar.close()
        return
    if job.safe_serialization:
        write_weights(folder, base.specs, produce, base.renames, job.layout, job.max_shard_size)
    else:
        paddle.save({spec.name: np.array(produce(spec)) for spec in base.specs}, str(folder / PDPARAMS_NAME))
    bar.close()
    write_config(folder, base.network.config, job.layout, _dtype_of(base.specs))


def _most_frequent(tags: List[str]) -> str:
    return max(sorted(set(tags)), key=tags.count)


def _dtype_of(specs: Any) -> str:
    tag = _most_frequent([spec.tag for spec in specs])
    return next(dtype for dtype, known in FLOAT_TAGS.items() if known == tag)


def _check(folder: Path, base: _Base, saved: SavedAdapter, job: MergeJob) -> Dict[str, Any]:
    """Compare base + adapter with what stands in `folder` now, both read from the disk."""
    ids, lengths = prompt_ids(folder, base.config["vocab_size"])
    base.network.eval()
    written = base.weights.schemes if job.requantise else {}
    opened = open_weights(folder, base.network, written)
    require_complete(opened, base.network, folder, written)
    merged = StoredWeights(opened, written, {}, base.weights.shapes)
    print("checking the merged model against base + adapter on fixed prompts", flush=True)
    before = rows_of(_adapted_logits(base, saved, ids), lengths)
    after = rows_of(streamed_logits(base.network, merged.read, ids), lengths)
    dtype = _dtype_of(base.specs)
    tolerance = TOLERANCES[FLOAT_TAGS[dtype]] if job.tolerance is None and not job.requantise else job.tolerance
    receipt = {
        **compare_logits(before, after),
        **_against_trained(base, saved, job, (ids, lengths), after),
        "tolerance": tolerance,
        "dtype": dtype,
        "format": job.layout,
        "method": saved.method,
        "base": str(job.base),
        "adapter": str(job.adapter),
    }
    _require_equal(receipt)
    return receipt


def _adapted_logits(base: _Base, saved: SavedAdapter, ids: np.ndarray) -> np.ndarray:
    """Logits of base + adapter."""
    adapted = base.empty()
    layers = base_layers(adapted)
    wrap(adapted, saved.method, saved.config, {path: layers[path] for path in saved.shapes})
    fill_adapter(adapted, saved)
    adapted.eval()
    return streamed_logits(adapted, lambda name: base.read(name.replace(".base.", ".")), ids)


def _against_trained(base: _Base, saved: SavedAdapter, job: MergeJob, prompts: tuple, after: Any) -> Dict[str, Any]:
    """What a receipt says of a quantised base: how it was merged, and how far the model that was trained is."""
    trained = base.weights.schemes or saved.schemes
    if not trained:
        return {}
    about = {"merge_into": job.merge_into, "requantised": job.requantise, "base_quantised": summary(trained)}
    if base.weights.schemes:
        return about  # then base + adapter is the model that was trained
    ids, lengths = prompts
    as_trained = _Base(job.base, saved, saved.schemes)
    before = rows_of(_adapted_logits(as_trained, saved, ids), lengths)
    return {**about, "against_trained": compare_logits(before, after)}


def _require_sense(job: MergeJob, saved: SavedAdapter) -> None:
    """Raise ArgumentError where the base can't be merged into as the user says."""
    stored = schemes_in(read_config(job.base), str(job.base))
    if job.merge_into == "original" and stored:
        raise ArgumentError(
            f"merge_into is original and {job.base} holds codes only ({summary(stored)}); name the float model that it "
            "was made from, or leave merge_into out"
        )
    if not job.requantise:
        return
    if job.merge_into == "original":
        raise ArgumentError(
            "requantise writes codes of what training saw; leave merge_into out, or quantise the merged model "
            "afterwards with paddle-sft quantize"
        )
    if not stored and not saved.schemes:
        raise ArgumentError(
            f"requantise needs a base that was quantised in training, and the adapter in {job.adapter} was trained on "
            "floats; leave requantise out, and quantise the merged model with paddle-sft quantize"
        )
    if job.layout != "paddle" or not job.safe_serialization:
        raise ArgumentError("requantise writes safetensors in Paddle's layout; leave format and safe_serialization out")


def _require_equal(receipt: Dict[str, Any]) -> None:
    difference = receipt["max_abs_logit_difference"]
    if receipt["tolerance"] is None and np.isfinite(difference):
        return  # codes are coarser than any sum; the receipt says by how much
    if receipt["tolerance"] is None or not difference <= receipt["tolerance"]:  # also true for NaN
        raise ModelError(
            f"the merged model's logits differ from base + adapter by up to {difference:.3g}, more than the tolerance "
            f"{receipt['tolerance']:g} for {receipt['dtype']} (top-1 agreement {receipt['top1_agreement']:.1%}, "
            f"KL {receipt['kl']:.2g}); nothing was written. Was the adapter trained on this base? "
            "If the difference is acceptable, raise tolerance"
        )


def describe(receipt: Dict[str, Any]) -> str:
    """The receipt in a sentence."""
    quantised = receipt.get("base_quantised")
    what = f" (base in {quantised}, merged into its {receipt['merge_into']} weights)" if quantised else ""
    limit = (
        f"tolerance {receipt['tolerance']:g}" if receipt["tolerance"] is not None else "quantised again, no tolerance"
    )
    lines = (
        f"merged = base + adapter{what}: logits differ by at most {receipt['max_abs_logit_difference']:.2e} "
        f"({limit}), top-1 agreement {receipt['top1_agreement']:.2%}, "
        f"KL {receipt['kl']:.1e} over {receipt['num_positions']} positions"
    )
    if "against_trained" not in receipt:
        return lines
    far = receipt["against_trained"]
    return lines + (
        f"\nfrom the model that was trained: logits differ by up to {far['max_abs_logit_difference']:.2e}, top-1 "
        f"agreement {far['top1_agreement']:.2%}, KL {far['kl']:.1e}: the adapter was trained beside quantised weights"
    )
