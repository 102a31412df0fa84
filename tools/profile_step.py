"""Where the time of a LoRA step of the reference model goes, operator by operator, on a CPU.

    python tools/profile_step.py

A Llama of 8 layers and hidden size 512 (56 M weights, random), rank 8 on all linear layers, packed rows of 1,024 random
tokens of which 60 % are trained. The first step is left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROW = 1024


def make_rows(num: int, vocabulary: int) -> List[List[Any]]:
    """Packed rows of samples with lognormal lengths, mean about 140."""
    import numpy as np

    from paddle_sft.core.records import Sample

    random, rows = np.random.default_rng(0), []
    for _ in range(num):
        row, room = [], ROW
        while room > 8:
            length = min(room, int(np.clip(random.lognormal(4.76, 0.6), 8, 500)))
            ids = random.integers(0, vocabulary, length).astype(np.int32)
            row.append(Sample(ids, np.arange(length) >= 0.4 * length, str(len(row))))
            room -= length
        rows.append(row)
    return rows


def main(argv: Optional[List[str]] = None) -> int:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32000)
    options = parser.parse_args(argv)
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    import paddle

    from paddle_sft.adapters.attach import attach
    from paddle_sft.adapters.lora.config import LoRAConfig
    from paddle_sft.data.collate import collate_rows
    from paddle_sft.models.hub import build_from_scratch
    from paddle_sft.stages.catalogue import STAGES
    from paddle_sft.train.profile import StepProfile

    sizes = dict(vocab_size=options.vocabulary, hidden_size=options.hidden, intermediate_size=options.hidden * 11 // 4)
    heads = dict(num_hidden_layers=options.layers, num_attention_heads=8, num_key_value_heads=4)
    config = dict(model_type="llama", max_position_embeddings=ROW, **sizes, **heads)
    model = build_from_scratch(config, "float32", 0)
    attach(model, "lora", LoRAConfig(lora_rank=8, lora_alpha=16.0), None)
    model.train()
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    optimizer = paddle.optimizer.AdamW(1e-4, parameters=trained, grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0))
    rows = make_rows(options.steps + 1, options.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        profile = StepProfile(Path(folder), options.steps)
        profile.on_train_begin(None, SimpleNamespace(max_steps=len(rows), global_step=0), None)
        for row in rows:
            profile.on_step_begin(None, None, None)
            (STAGES["sft"].loss(model, collate_rows([row], 0)) / ROW).backward()
            optimizer.step()
            optimizer.clear_grad()
            profile.on_step_end(None, None, None)
        profile.on_train_end(None, None, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
