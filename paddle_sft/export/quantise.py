"""A model folder of floats -> one of codes, layer by layer, with a report of what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Mapping

import numpy as np
from tqdm import tqdm

from paddle_sft.core.atomic import atomic_folder, write_json
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.tensorfile import TensorSpec
from paddle_sft.export.prompts import prompt_ids, rows_of
from paddle_sft.export.receipt import compare_logits
from paddle_sft.export.stored import StoredWeights
from paddle_sft.export.streamed import streamed_logits
from paddle_sft.models.classification import build_empty_classifier, classes_of
from paddle_sft.models.config import read_config
from paddle_sft.models.hub import build_empty, open_weights, require_complete, unique_parameters
from paddle_sft.models.linears import features, find_linears
from paddle_sft.models.stored_schemes import schemes_in, summary
from paddle_sft.models.tokenizers import copy_tokenizer
from paddle_sft.models.weights import require_finite
from paddle_sft.models.writer import write_quantised
from paddle_sft.quant.choice import Choice

REPORT = "quantisation_report.json"


@dataclass(frozen=True)
class QuantiseJob:
    """What is quantised, how, and where it goes."""

    model: Path
    output: Path
    choice: Choice
    max_shard_size: str = "5GB"


def quantise_folder(job: QuantiseJob) -> Dict[str, Any]:
    """Write the quantised model folder and return its report.

    Memory: one layer at a time.

    Raises:
        ArgumentError: output_path is not empty, or the model is quantised already.
        ModelError: a weight that holds NaN or infinities, by name; a damaged folder.
    """
    require_free(job.output)
    config = read_config(job.model)
    require_floats(job.model, config)
    classes = classes_of(config, str(job.model))
    network = build_empty_classifier(config, "float32", classes) if classes else build_empty(config, "float32")
    opened = open_weights(job.model, network, {})
    require_complete(opened, network, job.model)
    shapes = {path: features(layer) for path, layer in find_linears(network).items()}
    weights = StoredWeights(opened, {}, job.choice.schemes(list(shapes)), shapes)
    with atomic_folder(job.output) as beside:
        _write(beside, network, weights, job)
        copy_tokenizer(job.model, beside)
        report = {**_sizes(network, weights), **_compare(beside, network, weights, config["vocab_size"])}
        report.update({"schemes": summary(weights.schemes), "model": str(job.model)})
        write_json(beside / REPORT, report)
    return report


def require_floats(model: Path, config: Mapping[str, Any]) -> None:
    """Raise ArgumentError if the model folder with this config.json is one of codes."""
    stored = schemes_in(config, str(model))
    if stored:
        raise ArgumentError(
            f"{model} is quantised already ({summary(stored)}); name the model of floats that it was made from"
        )


def require_free(output: Path) -> None:
    """Raise ArgumentError unless nothing stands at `output`, or an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ArgumentError(f"output_path {output} is not empty; name another folder")


def _write(folder: Path, network: Any, weights: StoredWeights, job: QuantiseJob) -> None:
    specs = [
        TensorSpec(name, weights.tag_of(name), tuple(parameter.shape))
        for name, parameter in unique_parameters(network).items()
    ]
    bar = tqdm(total=len(specs), desc="quantising", unit="tensor", mininterval=0.5)

    def produce(spec: TensorSpec) -> np.ndarray:
        bar.update(1)
        array, tag = weights.read(spec.name)
        require_finite(spec.name, array, tag)
        return array

    def encode(path: str) -> Dict[str, np.ndarray]:
        bar.update(1)
        return {name: array.numpy() for name, array in weights.codes(path).items()}

    write_quantised(folder, network, specs, produce, weights.schemes, encode, job.max_shard_size)
    bar.close()


def _sizes(network: Any, weights: StoredWeights) -> Dict[str, Any]:
    count = sum(int(np.prod(weights.shapes[path])) for path in weights.schemes)
    used = sum(scheme.num_bytes(*weights.shapes[path]) for path, scheme in weights.schemes.items())
    total = sum(int(np.prod(parameter.shape)) for parameter in unique_parameters(network).values())
    return {
        "num_quantised_weights": count,
        "num_weights": total,
        "bytes_of_quantised_weights": used,
        "bits_per_quantised_weight": 8 * used / max(count, 1),
    }


def _compare(folder: Path, network: Any, weights: StoredWeights, vocab_size: int) -> Dict[str, Any]:
    """How far the folder as it stands on the disk is from the model it was made from."""
    network.eval()
    ids, lengths = prompt_ids(folder, vocab_size)
    opened = open_weights(folder, network, weights.schemes)
    require_complete(opened, network, folder, weights.schemes)
    written = StoredWeights(opened, weights.schemes, {}, weights.shapes)
    floats = StoredWeights(weights.weights, {}, {}, weights.shapes)
    before, after = (rows_of(streamed_logits(network, one.read, ids), lengths) for one in (floats, written))
    return compare_logits(before, after)


def describe(report: Dict[str, Any]) -> str:
    """The report in a few lines."""
    size = f"{report['bytes_of_quantised_weights'] / 2**20:,.1f} MiB"
    return (
        f"{report['schemes']}: {report['num_quantised_weights']:,} of {report['num_weights']:,} weights "
        f"in {report['bits_per_quantised_weight']:.2f} bits each, {size}\n"
        f"from the model of floats: logits differ by up to {report['max_abs_logit_difference']:.2e}, top-1 agreement "
        f"{report['top1_agreement']:.2%}, KL {report['kl']:.1e} over {report['num_positions']} positions"
    )
