"""Which of the model's own weights a run trains: all, some layers, or those with the most signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple, Union

import numpy as np

from paddle_sft.arguments.adapter import AdapterArguments
from paddle_sft.cli.report import Report, count_parameters
from paddle_sft.core.atomic import write_json
from paddle_sft.core.errors import ArgumentError
from paddle_sft.core.log import rank
from paddle_sft.models.hub import unique_parameters
from paddle_sft.models.linears import find_linears, weight_matrix
from paddle_sft.models.writer import renames_of
from paddle_sft.train.chosen_weights import choose_by_layers, choose_by_patterns, set_layer_rates, train_only
from paddle_sft.train.spectrum import REPORT, choose_top, make_report, measure, read_patterns, report_lines
from paddle_sft.train.weights import FullWeights

SECTION = "trained weights"


def train_weights(
    network: Any, arguments: AdapterArguments, tokenizer_folder: Path, output_dir: Path, report: Report
) -> FullWeights:
    """Freeze what is not trained, set the rates of layers, and say both in the plan.

    Raises:
        ArgumentError: a name that matches nothing, or nothing is left to train.
    """
    names = list(unique_parameters(network))
    chosen, what = _choose(network, names, arguments, output_dir, report)
    train_only(network, chosen)
    if len(chosen) < len(names):
        total, trained = count_parameters(network)
        share = f"{len(chosen)} of {len(names)} tensors, {trained:,} of {total:,} numbers ({trained / total:.1%})"
        report.section(SECTION, {"chosen": (share, "the rest costs no gradient and no optimizer state")})
    return FullWeights(network, tokenizer_folder, what)


def _choose(
    network: Any, names: Sequence[str], arguments: AdapterArguments, output_dir: Path, report: Report
) -> Tuple[List[str], Union[str, Dict[str, Any]]]:
    """The weights to train, and what the run is called on resume."""
    if arguments.freeze:
        modules, extra = _listed(arguments.freeze_trainable_modules), _listed(arguments.freeze_extra_modules)
        chosen = choose_by_layers(names, arguments.freeze_trainable_layers, modules, extra)
        layers = arguments.freeze_trainable_layers
        where = f"the {'first' if layers < 0 else 'last'} {abs(layers)} layers: {', '.join(modules)}"
        report.section(SECTION, {"freeze": (where, f"and {', '.join(extra)}" if extra else "")})
        return chosen, {"freeze": layers, "modules": modules, "extra": extra}
    if arguments.spectrum_top is not None:
        linears = find_linears(network).items()
        ratios = measure((f"{path}.weight", np.asarray(weight_matrix(layer))) for path, layer in linears)
        found = make_report(ratios, arguments.spectrum_top, str(network.config.model_type))
        if rank() == 0:
            output_dir.mkdir(parents=True, exist_ok=True)
            write_json(output_dir / REPORT, found)
        report.section(SECTION, {"spectrum": (f"top {arguments.spectrum_top:g} % of each kind", REPORT)})
        report.lines(SECTION, report_lines(found))
        return choose_top(ratios, arguments.spectrum_top), {"spectrum_top": arguments.spectrum_top}
    if arguments.spectrum_config_path:
        path = arguments.spectrum_config_path
        chosen = choose_by_patterns(names, read_patterns(path), renames_of(network), path)
        report.section(SECTION, {"spectrum": (path, "")})
        return chosen, {"spectrum": chosen}
    return list(names), "every weight"


def _listed(given: Union[str, Sequence[str], None]) -> List[str]:
    """A list, or a text with commas, as a list."""
    if given is None:
        return []
    parts = given.split(",") if isinstance(given, str) else given
    return [part.strip() for part in parts]


def require_trained_tokens(network: Any, new_tokens: Sequence[str]) -> None:
    """Raise ArgumentError where new tokens would keep the row they begin with, because the embedding is frozen."""
    if new_tokens and network.get_input_embeddings().weight.stop_gradient:
        raise ArgumentError(
            f"new_special_tokens {', '.join(new_tokens)} would not be trained: the embedding is frozen. Add its name "
            'to freeze_extra_modules (or to the list of spectrum_config_path), such as "embed_tokens", and "lm_head"'
        )


def set_rates(network: Any, decay: float, report: Report) -> None:
    """Learning rates by layer, where they differ."""
    if decay == 1.0:
        return
    factors = set_layer_rates(network, decay)
    trained = [factors[name] for name, parameter in unique_parameters(network).items() if not parameter.stop_gradient]
    shown = f"times {min(trained):.3g} to {max(trained):.3g}"
    report.section(SECTION, {"rates by layer": (shown, f"layerwise_lr_decay {decay:g} for each layer further down")})
