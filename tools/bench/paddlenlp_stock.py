"""Contestant: PaddleNLP's own SFTTrainer, LoRAModel and greedy zero padding, as they are."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from meter import LEARNING_RATE, Meter, hand_over, labels_of, mean_loss, read_options  # noqa: E402
from paddlenlp.datasets import ZeroPaddingMapDataset  # noqa: E402
from paddlenlp.peft import LoRAConfig, LoRAModel  # noqa: E402
from paddlenlp.trainer import TrainerCallback  # noqa: E402
from paddlenlp.transformers import AutoModelForCausalLM  # noqa: E402
from paddlenlp.trl import SFTTrainer  # noqa: E402
from paddlenlp.trl.sft_config import SFTConfig  # noqa: E402


class Watch(TrainerCallback):
    """Tells the meter of each optimizer step."""

    def __init__(self, meter: Meter, tokens: list) -> None:
        self.meter, self.tokens = meter, tokens

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self.meter.step_done(self.tokens[state.global_step - 1])


class Tokenizer:
    """What the trainer asks of one: the samples are token ids already."""

    pad_token_id, model_max_length, padding_side = 3, 1024, "right"


def main() -> None:
    """One epoch; writes the numbers."""
    options = read_options()
    meter, rank = Meter(options.began), options.sizes["rank"]
    paddle.set_device("cpu")
    model = AutoModelForCausalLM.from_pretrained(
        str(options.work / "model"), dtype="float32", convert_from_torch=True, low_cpu_mem_usage=False
    )
    targets = [f".*{name}.*" for name in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")]
    config = LoRAConfig(
        target_modules=targets, r=rank, lora_alpha=2 * rank, dtype="float32", base_model_name_or_path=""
    )
    model = LoRAModel(model, config)
    model.mark_only_lora_as_trainable()
    for name, parameter in model.named_parameters():
        if name.endswith("lora_A"):
            parameter.set_value(options.lora["layers." + name.split("layers.")[1][: -len(".lora_A")]])
    # As its own fine-tuning script prepares them: labels are those of the next token.
    rows = [
        {"input_ids": one["ids"][:-1], "labels": labels_of(one)[1:], "position_ids": list(range(len(one["ids"]) - 1))}
        for one in options.train
    ]
    packed = ZeroPaddingMapDataset(rows, Tokenizer(), options.sizes["row"], greedy_zero_padding=True)
    tokens: list = []

    def collate(batch: list) -> dict:
        (row,) = batch
        tokens.append(len(row["input_ids"]) + row["position_ids"].count(0))  # with the token that shifting took
        return {name: np.asarray(value)[None] for name, value in row.items()}

    args = SFTConfig(
        output_dir=str(options.output.with_suffix("")), per_device_train_batch_size=1, num_train_epochs=1,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", logging_steps=10**6, save_strategy="no",
        disable_tqdm=True, device="cpu", dataset_kwargs={"skip_prepare_dataset": True}, max_seq_length=1024,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=packed, tokenizer=Tokenizer(), data_collator=collate,
        callbacks=[Watch(meter, tokens)], formatting_func=lambda row: row,
    )  # fmt: skip
    trainer.train()
    numbers = {**meter.numbers(), "version": version("paddlenlp")}
    hand_over(options, {**numbers, "final_loss": mean_loss(options.held_out, lambda ids: logits_of(model, ids))})


def logits_of(model: object, ids: np.ndarray) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        output = model(input_ids=paddle.to_tensor(ids[None].astype("int64")))
        return (output[0] if isinstance(output, (tuple, list)) else output)[0].numpy()


if __name__ == "__main__":
    main()
