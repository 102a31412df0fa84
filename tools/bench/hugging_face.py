"""Contestant: Hugging Face's Trainer and PEFT with their default padding, in float32 or bfloat16."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from meter import LEARNING_RATE, Meter, hand_over, labels_of, mean_loss, read_options  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402


class Watch(transformers.TrainerCallback):
    """Tells the meter of each optimizer step."""

    def __init__(self, meter: Meter, tokens: list) -> None:
        self.meter, self.tokens = meter, tokens

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        self.meter.step_done(self.tokens[state.global_step - 1])


def main() -> None:
    """One epoch; writes the numbers."""
    options = read_options()
    meter, rank = Meter(options.began), options.sizes["rank"]
    dtype = getattr(torch, options.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.work / "model", dtype=dtype)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            start = options.lora["layers." + name.split("layers.")[1].split(".lora_A.")[0]]
            parameter.data = torch.from_numpy(np.ascontiguousarray(start.T)).to(parameter.dtype)
    words = Tokenizer(models.WordLevel({f"<{number}>": number for number in range(8)}, unk_token="<0>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<3>")
    rows = [{"input_ids": one["ids"], "labels": labels_of(one)} for one in options.train]
    pad, tokens = transformers.DataCollatorForSeq2Seq(tokenizer), []

    def collate(batch: list) -> dict:
        tokens.append(sum(len(row["input_ids"]) for row in batch))
        return pad(batch)

    args = transformers.TrainingArguments(
        output_dir=str(options.output.with_suffix("")), per_device_train_batch_size=options.batch, num_train_epochs=1,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", logging_steps=10**6, save_strategy="no",
        disable_tqdm=True, use_cpu=True, bf16=options.dtype == "bfloat16", report_to=[], remove_unused_columns=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=args, train_dataset=rows, data_collator=collate, callbacks=[Watch(meter, tokens)]
    )
    trainer.train()
    versions = f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}"
    numbers = {**meter.numbers(), "version": versions}
    hand_over(options, {**numbers, "final_loss": mean_loss(options.held_out, lambda ids: logits_of(model, ids))})


def logits_of(model: object, ids: np.ndarray) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids[None].astype("int64"))).logits[0].float().numpy()


if __name__ == "__main__":
    main()
