"""Contestant: this suite, best-fit packing, everything else at its defaults."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from meter import LEARNING_RATE, Meter, hand_over, mean_loss, read_options  # noqa: E402


def main() -> None:
    """One epoch; writes the numbers."""
    from paddle_sft.core.threads import import_quietly, settle_threads

    settle_threads()
    import_quietly("paddle")
    options = read_options()
    meter = Meter(options.began)
    trainer, model = make_trainer(options)
    tokens = [0]

    def step_done(*_: object) -> None:
        seen = trainer.progress.num_input_tokens_seen
        meter.step_done(seen - tokens[0])
        tokens[0] = seen

    trainer.callback_handler.on_step_end = step_done_after(trainer.callback_handler.on_step_end, step_done)
    trainer.train()
    numbers = {**meter.numbers(), "version": version("paddlepaddle")}
    hand_over(options, {**numbers, "final_loss": mean_loss(options.held_out, logits_of(model))})


def step_done_after(own: object, step_done: object) -> object:
    def call(*arguments: object, **named: object) -> object:
        result = own(*arguments, **named)
        step_done()
        return result

    return call


def make_trainer(options: object) -> tuple:
    import numpy as np

    from paddle_sft.adapters.attach import attach
    from paddle_sft.adapters.base import adapted_linears
    from paddle_sft.adapters.lora.config import LoRAConfig
    from paddle_sft.arguments.load import load_finetune_arguments
    from paddle_sft.cli.run_data import make_feed
    from paddle_sft.core.records import Sample
    from paddle_sft.data.store import SampleStore
    from paddle_sft.models.hub import load_model
    from paddle_sft.stages.catalogue import STAGES
    from paddle_sft.train.trainer import RunData, SFTTrainer
    from paddle_sft.train.upstream import quieten, training_arguments
    from paddle_sft.train.weights import AdapterWeights

    quieten()
    file = options.output.with_suffix(".arguments.json")
    file.write_text(json.dumps({
        "model_name_or_path": "reference", "dataset_name_or_path": "reference", "device": "cpu", "do_train": True,
        "output_dir": str(options.output.with_suffix("")), "save_strategy": "no", "logging_strategy": "no",
        "disable_tqdm": True, "num_train_epochs": 1, "per_device_train_batch_size": 1, "packing": "best_fit",
        "max_length": options.sizes["row"], "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant",
    }), encoding="utf-8")  # fmt: skip
    arguments = load_finetune_arguments([str(file)])
    model = load_model(options.work / "model", "float32").model
    for parameter in model.parameters():
        parameter.stop_gradient = True
    rank = options.sizes["rank"]
    config = attach(model, "lora", LoRAConfig(lora_rank=rank, lora_alpha=2.0 * rank), None)
    for path, layer in adapted_linears(model).items():
        update = next(iter(layer.updates.values()))
        update.lora_a.set_value(options.lora["layers." + path.split("layers.")[1]])
    samples = [
        Sample(np.asarray(one["ids"], np.int32), np.arange(len(one["ids"])) >= one["first_trained"], str(number))
        for number, one in enumerate(options.train)
    ]
    feed = make_feed(arguments, SampleStore.of(samples))
    weights = AdapterWeights(model, "lora", config, options.work)
    arguments_of_paddlenlp = training_arguments(arguments, "")
    data = RunData(feed, {}, 3)
    return SFTTrainer(model, STAGES["sft"], arguments_of_paddlenlp, arguments.train, weights, data), model


def logits_of(model: object) -> object:
    import paddle

    def compute(ids: object) -> object:
        model.eval()
        model.row_layout.clear()
        with paddle.no_grad():
            output = model(input_ids=paddle.to_tensor(ids[None].astype("int64")))
            return (output[0] if isinstance(output, (tuple, list)) else output)[0].numpy()

    return compute


if __name__ == "__main__":
    main()
