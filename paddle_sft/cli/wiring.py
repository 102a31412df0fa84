"""One fine-tuning run, wired from its arguments: device, model, adapter, data, trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import paddle

from paddle_sft.adapters.attach import attach
from paddle_sft.adapters.lora.config import LoRAConfig
from paddle_sft.adapters.state import load_adapter
from paddle_sft.arguments.load import Arguments
from paddle_sft.cli.finetune import resolved, write_results
from paddle_sft.cli.report import Report, write_lines
from paddle_sft.core.atomic import move_into, write_json
from paddle_sft.core.catalogue import choose
from paddle_sft.core.log import get_logger, num_ranks, rank, set_level
from paddle_sft.core.records import Conversation, Sample
from paddle_sft.data.build import SampleSet, build_samples
from paddle_sft.data.sources import find_sources, read_sources
from paddle_sft.generate.generation import Sampling
from paddle_sft.generate.predict import predict
from paddle_sft.models.config import read_config
from paddle_sft.models.device import choose_device, choose_half_precision, parameter_dtype
from paddle_sft.models.hub import LoadedModel, build_from_scratch, load_model
from paddle_sft.models.remote import local_folder
from paddle_sft.models.tokenizers import fill_token, load_tokenizer, require_known_ids
from paddle_sft.packing.certificate import certify
from paddle_sft.packing.packers import PACKERS
from paddle_sft.packing.packs import Packs
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.train.checkpoint import find_resume, remove_reports
from paddle_sft.train.loss_plot import plot_loss
from paddle_sft.train.noise import add_embedding_noise, let_gradients_reach_the_first_layer
from paddle_sft.train.plan import StepPlan
from paddle_sft.train.trainer import RunData, SFTTrainer
from paddle_sft.train.upstream import quieten, training_arguments
from paddle_sft.train.weights import AdapterWeights, FullWeights


class Run:
    """Everything between the arguments and the result, made in order; each step only needs those before it."""

    def __init__(self, arguments: Arguments) -> None:
        quieten()
        set_level(arguments.train.log_level)
        self.arguments = arguments
        self.train_arguments = arguments.train
        self.output_dir = Path(arguments.train.output_dir)
        self.report = Report(arguments)
        self.stage = choose("stage", arguments.train.stage, STAGES)
        self.resume_from = self._find_resume()
        self.args = self._precision()
        self.tokenizer_folder = self._tokenizer_folder()
        self.tokenizer = load_tokenizer(self.tokenizer_folder)
        self.train_set = self._samples("train") if arguments.train.do_train else None
        self.packs = self._pack()
        self.dev_set = self._samples("dev") if self._needs_dev() else None
        # read now: what can't be asked is found out before training
        self.asked = self._questions() if arguments.train.do_predict else []
        self.loaded = self._model()
        self.weights = self._trained_weights()
        self.plan = self._plan()
        self.trainer = self._trainer()
        if self.resume_from is not None:
            self.trainer.require_same_run(self.resume_from)

    # ---- what to compute with ----------------------------------------------------------------------------------

    def _find_resume(self) -> Optional[Path]:
        train = self.train_arguments
        if not train.do_train:
            return None
        if train.overwrite_output_dir and not train.resume_from_checkpoint:
            return None  # what is there goes when training begins: until then anything may be refused
        return find_resume(self.output_dir, train.resume_from_checkpoint, train.overwrite_output_dir)

    def _precision(self) -> Any:
        train = self.train_arguments
        device, why = choose_device(train.device)
        paddle.set_device(device)
        self.half_precision, why_half = choose_half_precision(device, train.bf16, train.fp16)
        self.dtype, why_dtype = parameter_dtype(
            self.arguments.model.dtype, device, self.half_precision, train.fp16_opt_level
        )
        self.report.section(
            "device", {"device": (device, why), "ranks": (num_ranks(), ""), "dtype": (self.dtype, why_dtype)}
        )
        self.report.add("device", "threads", os.environ.get("OMP_NUM_THREADS", "1"), "OMP_NUM_THREADS")
        if (train.bf16 or train.fp16) and not self.half_precision:
            self.report.add("device", "half precision", "off", why_half)
        return training_arguments(self.arguments, self.half_precision)

    # ---- model and data ----------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        model = self.arguments.model
        return local_folder(name, from_hf_hub=model.from_hf_hub, from_aistudio=model.from_aistudio)

    def _tokenizer_folder(self) -> Path:
        model = self.arguments.model
        name = model.tokenizer_name_or_path or model.model_name_or_path or model.config_name
        return self._folder(name)

    def _needs_dev(self) -> bool:
        train = self.train_arguments
        return train.do_eval or train.do_predict or train.evaluation_strategy != "no" or train.eval_at_start

    def _samples(self, split: str) -> SampleSet:
        samples = build_samples(
            self.arguments.data, self.tokenizer, split, self.stage.name, rank() == 0, self.tokenizer_folder
        )
        self.report.lines(
            f"{split} data", [f"files: {', '.join(str(path) for path in samples.files)}", *samples.lines()]
        )
        return samples

    def _questions(self) -> List[Conversation]:
        data = self.arguments.data
        return read_sources(find_sources(data, "dev"), "sft", data.max_samples).records

    def _pack(self) -> Optional[Packs]:
        """Which samples share a row: the same for any number of ranks."""
        data = self.arguments.data
        if self.train_set is None or data.packing == "none" or self.stage.name == "pretrain":
            return None
        lengths = np.array([len(sample) for sample in self.train_set.samples])
        packs = PACKERS[data.packing](lengths, data.max_length, self.train_arguments.seed)
        packs = packs if self.train_arguments.shuffle else packs.in_data_order()
        self.report.lines("packing", certify(packs, lengths, data.max_length).lines())
        return packs

    def _model(self) -> LoadedModel:
        model = self.arguments.model
        if model.config_name:
            config = read_config(Path(model.config_name))
            self._check_ids(config)
            network = build_from_scratch(config, self.dtype, self.train_arguments.seed)
            return LoadedModel(network, config, model.config_name, False)
        folder = self._folder(model.model_name_or_path)
        config = read_config(folder)
        self._check_ids(config)
        return load_model(folder, self.dtype)

    def _check_ids(self, config: dict) -> None:
        self._note_long_rows(config)
        largest = max((int(sample.ids.max()) for sample in self._all_samples()), default=0)
        require_known_ids(largest, config["vocab_size"], str(self.tokenizer_folder))

    def _note_long_rows(self, config: dict) -> None:
        known = config.get("max_position_embeddings")
        longest = max((len(sample) for sample in self._all_samples()), default=0)
        if known and longest > known:
            why = f"the longest sample has {longest}: positions the model has not seen in pre-training"
            self.report.add("model", "max_position_embeddings", known, why)

    def _all_samples(self) -> List[Sample]:
        return [sample for one in (self.train_set, self.dev_set) if one is not None for sample in one.samples]

    def _trained_weights(self) -> Any:
        adapter, network = self.arguments.adapter, self.loaded.model
        if not adapter.lora:
            for parameter in network.parameters():
                parameter.stop_gradient = False
            return FullWeights(network, self.tokenizer_folder)
        if adapter.lora_path:
            saved = load_adapter(network, self._folder(adapter.lora_path))
            self.report.section("adapter", {"lora": (str(saved.folder), "its own rank, alpha and targets hold")})
            return AdapterWeights(network, saved.method, saved.config, self.tokenizer_folder)
        config = LoRAConfig(adapter.lora_rank, adapter.lora_alpha, adapter.lora_dropout)
        paddle.seed(self.train_arguments.seed)  # the adapter's first values are drawn now
        config = attach(network, "lora", config, adapter.lora_target_modules)
        names = dict.fromkeys(path.rsplit(".", 1)[-1] for path in config.target_modules)
        self.report.section(
            "adapter",
            {
                "lora": (f"rank {config.lora_rank}, alpha {config.lora_alpha:g}, dropout {config.lora_dropout:g}", ""),
                "targets": (f"{len(config.target_modules)} layers: {', '.join(names)}", ""),
            },
        )
        return AdapterWeights(network, "lora", config, self.tokenizer_folder)

    # ---- the run -----------------------------------------------------------------------------------------------

    def _plan(self) -> Optional[StepPlan]:
        if self.train_set is None:
            return None
        train = self.train_arguments
        return StepPlan(
            num_samples=len(self.train_set.samples if self.packs is None else self.packs),
            rows=train.per_device_train_batch_size,
            accumulation=train.gradient_accumulation_steps,
            ranks=num_ranks(),
            num_epochs=train.num_train_epochs,
            max_steps=train.max_steps,
            seed=train.seed,
            shuffle=train.shuffle,
            drop_last=bool(self.args.dataloader_drop_last),
        )

    def _trainer(self) -> SFTTrainer:
        network, train = self.loaded.model, self.train_arguments
        if train.recompute:
            let_gradients_reach_the_first_layer(network)
        if self.arguments.model.neftune:
            add_embedding_noise(network, self.arguments.model.neftune_noise_alpha)
        data = RunData(
            self.train_set.samples if self.train_set else [],
            self.dev_set.samples if self.dev_set else [],
            fill_token(self.tokenizer),
            self.packs,
        )
        return SFTTrainer(network, self.stage, self.args, train, self.weights, data, self.plan)

    def show_plan(self) -> None:
        """Print the plan and write it to plan.json."""
        content = self.report.finish(self.loaded, self.trainer, self.resume_from)
        if rank() == 0:
            print(self.report.text(), flush=True)
            write_json(self.output_dir / "plan.json", content)
            write_json(self.output_dir / "arguments.json", resolved(self.arguments))

    def train(self) -> None:
        """Train, save the result at the top of output_dir, evaluate once more if asked to."""
        afresh = self.train_arguments.overwrite_output_dir and self.resume_from is None and rank() == 0
        if afresh:
            find_resume(self.output_dir, None, overwrite=True)  # removes the checkpoints
        metrics = self.trainer.train(self.resume_from)
        if afresh:
            remove_reports(self.output_dir)
        if rank() == 0:
            with move_into(self.output_dir) as beside:
                self.weights.write(beside)
        write_results(self.output_dir, "train", metrics)
        if self.train_arguments.do_eval:
            self.evaluate()
        if rank() == 0:
            history = {"log_history": self.trainer.progress.log_history, **metrics}
            write_json(self.output_dir / "trainer_state.json", history)
        if self.train_arguments.plot_loss and rank() == 0:
            plot_loss(self.output_dir / "loss.png", self.trainer.progress.log_history, str(self.output_dir))
        get_logger().info("done: %s", self.output_dir)

    def evaluate(self) -> None:
        """Metrics over the dev split into eval_results.json; those of the last step are not computed twice."""
        write_results(self.output_dir, "eval", self.trainer.last_evaluation() or self.trainer.evaluate())

    def predict(self) -> None:
        """Answers to the dev split's prompts into predictions.json (JSON lines with src, tgt, output)."""
        if rank() == 0:
            rows = predict(
                self.loaded.model,
                self.tokenizer,
                self.asked,
                Sampling(),
                self.train_arguments.per_device_eval_batch_size,
                self.arguments.data.template,
                self.tokenizer_folder,
            )
            write_lines(self.output_dir / "predictions.json", rows)
