"""paddle-sft train: from an argument file to a trained model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from paddle_sft.arguments.load import Arguments, load_finetune_arguments
from paddle_sft.core.atomic import disk_errors, require_writable, write_json
from paddle_sft.core.log import num_ranks, rank
from paddle_sft.core.parent import die_with_parent, is_launched
from paddle_sft.core.threads import import_quietly, settle_threads
from paddle_sft.parallel.lost import after_the_lost


def main(argv: Optional[List[str]] = None) -> int:
    """Run the stage that the arguments describe; returns 0. What a user can mend is raised, and cli.entry prints it."""
    if num_ranks() > 1 and is_launched():  # ranks started by hand may outlive their shell
        die_with_parent()
    arguments = load_finetune_arguments(sys.argv[1:] if argv is None else argv)
    require_writable(Path(arguments.train.output_dir))
    settle_threads()
    import_quietly("paddle")
    from paddle_sft.cli.wiring import Run  # imports paddle: only after every argument is known to be right

    with after_the_lost(), disk_errors(Path(arguments.train.output_dir)):
        run = Run(arguments)
        run.show_plan()
        if arguments.train.do_train:
            run.train()
        elif arguments.train.do_eval:
            run.evaluate()
        if arguments.train.do_predict:
            run.predict()
    return 0


def write_results(output_dir: Path, name: str, results: Dict[str, Any]) -> None:
    """NAME_results.json, and the same keys merged into all_results.json."""
    if rank() != 0:
        return
    import json

    everything = output_dir / "all_results.json"
    known = json.loads(everything.read_text(encoding="utf-8")) if everything.is_file() else {}
    write_json(output_dir / f"{name}_results.json", results)
    write_json(everything, {**known, **results})


def resolved(arguments: Arguments) -> Dict[str, Any]:
    """Every argument at the value it has now, for the record beside the weights."""
    content: Dict[str, Any] = {}
    for room in ("model", "data", "adapter", "quant", "train", "parallel", "generate"):
        content.update(dataclasses.asdict(getattr(arguments, room)))
    return {**content, **_without_secrets(arguments.upstream), "num_ranks": num_ranks()}


def _without_secrets(values: Mapping[str, Any]) -> Dict[str, Any]:
    return {key: "(not written down)" if key.endswith("_api_key") else value for key, value in values.items()}


if __name__ == "__main__":
    from paddle_sft.cli.entry import leave, run

    leave(run("paddle_sft.cli.finetune"))
