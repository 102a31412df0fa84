"""One rank that runs argument files one after the other and writes what the tensors of a training step took.

    python measure_memory.py JOBS.json        one process
    paddle-sft launch --nproc 2 measure_memory.py JOBS.json

JOBS.json is a list of {"file": an argument file, "result": a path}; rank R writes its bytes to RESULT.R.json. What is
measured is what Paddle's allocator has given to tensors, the same quantity that paddle.device.cuda.max_memory_allocated
tells on a GPU. The memory of the process (RSS) is no measure: it holds libraries, and pages that were returned.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main(argv: Optional[List[str]] = None) -> int:
    """Run every job of the list."""
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    from paddle.distributed.fleet.base import topology

    from paddle_sft.core.log import rank

    for job in json.loads(Path((argv or sys.argv[1:])[0]).read_text(encoding="utf-8")):
        topology._HYBRID_PARALLEL_GROUP = None  # fleet starts once a process; here every run has a layout of its own
        found = measure(job["file"])
        Path(f"{job['result']}.{rank()}.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


def measure(file: str) -> Dict[str, int]:
    """Bytes of tensors on this rank in the last step of a run: before it, at most in its passes, at most after them."""
    from paddle.base import core

    from paddle_sft.arguments.load import load_finetune_arguments
    from paddle_sft.cli.wiring import Run
    from paddle_sft.losses import head

    gc.collect()  # a run refers to itself; freed in the middle of the next, its tensors would count as less
    head._ROOM._array = None  # the logits' array of the run before
    before = core.host_memory_stat_current_value("Allocated", 0)  # hooks keep some of the runs before
    arguments = load_finetune_arguments([file])
    Path(arguments.train.output_dir).mkdir(parents=True, exist_ok=True)  # as paddle-sft train does
    run = Run(arguments)
    own_memory(run.loaded.model)
    trainer, found = run.trainer, {}
    trainer._forward_backward = _watched(trainer._forward_backward, found, "passes")
    trainer._update = _watched(trainer._update, found, "update")
    trainer.team.sum_gradients = _watched(trainer.team.sum_gradients, found, "sums")
    trainer.team.norm = _watched(trainer.team.norm, found, "norm")
    trainer.train(None)
    found = {name: number - before for name, number in found.items()}
    return {**found, "peak": max(number for name, number in found.items() if name != "rest")}


def own_memory(model: Any) -> None:
    """Move weights that were read without a copy into memory of Paddle's allocator, so that it counts them."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor._is_initialized():
            tensor.clone().detach()._share_buffer_to(tensor)


def _watched(call: Callable[..., Any], found: Dict[str, int], name: str) -> Callable[..., Any]:
    from paddle.base import core

    def watched(*args: Any, **kwargs: Any) -> Any:
        if name == "passes":
            found["rest"] = core.host_memory_stat_current_value("Allocated", 0)
        core.host_memory_stat_reset_peak_value("Allocated", 0)
        result = call(*args, **kwargs)
        found[name] = core.host_memory_stat_peak_value("Allocated", 0)
        return result

    return watched


if __name__ == "__main__":
    sys.exit(main())
