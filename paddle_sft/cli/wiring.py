"""One fine-tuning run, wired from its arguments: device, model, adapter, data, trainer."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional

import paddle

from paddle_sft.arguments.check_parallel import offloads
from paddle_sft.arguments.hub import hub_of
from paddle_sft.arguments.load import Arguments
from paddle_sft.cli.finetune import resolved, write_results
from paddle_sft.cli.report import Report, write_lines
from paddle_sft.cli.run_adapter import train_adapter
from paddle_sft.cli.run_classes import choose_classes, describe_head, make_classifier
from paddle_sft.cli.run_data import (
    make_feed,
    make_stream_feed,
    mixing_tables,
    packing_lines,
    require_metric,
    split_dev,
    stream_lines,
    weights_of,
)
from paddle_sft.cli.run_parallel import (
    describe_share,
    join_heads,
    require_same_samples,
    share_of,
    sign_base,
    start_ranks,
)
from paddle_sft.cli.run_quant import choice_of, describe_base, with_awareness
from paddle_sft.cli.run_step import longer_context, say_attention
from paddle_sft.cli.run_tokens import RunTokens, tokenizer_of_adapter, vocab_size_with
from paddle_sft.cli.run_virtual import find_room, leave_room
from paddle_sft.cli.run_weights import require_trained_tokens, set_rates, train_weights
from paddle_sft.core.atomic import move_into, write_json
from paddle_sft.core.catalogue import choose
from paddle_sft.core.log import get_logger, num_ranks, rank, set_level
from paddle_sft.data.build import SampleSet, build_samples
from paddle_sft.data.classes import Classes
from paddle_sft.data.pose import SkippedPositions
from paddle_sft.data.sources import find_sources, read_sources, replaced_dev_files, row_filter
from paddle_sft.data.store import SampleStore
from paddle_sft.data.stream import build_stream
from paddle_sft.generate.classify import classify, prediction_rows
from paddle_sft.generate.generation import Sampling
from paddle_sft.generate.predict import predict
from paddle_sft.models.catalogue import require_positions, require_skips
from paddle_sft.models.config import read_config
from paddle_sft.models.device import choose_device, choose_half_precision, parameter_dtype
from paddle_sft.models.hub import LoadedModel, build_from_scratch, load_model
from paddle_sft.models.long_context import extend, longest_text
from paddle_sft.models.remote import local_adapter, local_folder
from paddle_sft.models.tokenizers import fill_token, load_tokenizer, require_known_ids
from paddle_sft.operators.build import describe_operators
from paddle_sft.parallel.agree import together
from paddle_sft.parallel.groups import Groups
from paddle_sft.stages.catalogue import STAGES
from paddle_sft.train.checkpoint import find_resume, remove_reports, writing_results
from paddle_sft.train.feed import Feed
from paddle_sft.train.loss_plot import plot_loss
from paddle_sft.train.noise import add_embedding_noise, let_gradients_reach_the_first_layer
from paddle_sft.train.saving import Part, save
from paddle_sft.train.storage import Storage
from paddle_sft.train.stream_feed import StreamFeed
from paddle_sft.train.team import Team
from paddle_sft.train.trainer import RunData, SFTTrainer
from paddle_sft.train.upstream import quieten, training_arguments


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
        self.args = self._precision()
        self.storage = Storage(self.groups, self.output_dir)
        if not self.storage.is_shared:
            self.report.add("device", "output_dir", *self.storage.text())
        self.resume_from = self._find_resume()
        self.room = find_room(arguments.adapter, self._adapter_folder())
        self.arguments = leave_room(arguments, self.room, self.report)
        self.tokens = RunTokens(
            self._tokenizer_folder(), arguments.model.new_special_tokens, arguments.model.resize_vocab, self.report
        )
        self.tokenizer_folder = self.tokens.folder
        self.tokenizer = load_tokenizer(self.tokenizer_folder)
        self.train_set = self._samples("train") if arguments.train.do_train and not arguments.data.lazy else None
        self.feed = self._feed()
        require_same_samples(self.groups, self.feed)
        self.dev_set = self._samples("dev") if self._needs_dev() else None
        # read now: what can't be asked is found out before training
        self.asked = self._questions() if arguments.train.do_predict else []
        self.pose = self._pose()
        self.classes = self._classes() if self.stage.name == "classification" else None
        self.loaded = self._model()
        self.weights = self._trained_weights()
        set_rates(self.loaded.model, self.arguments.adapter.layerwise_lr_decay, self.report)
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
        return self.storage.find_resume(train.resume_from_checkpoint, train.overwrite_output_dir)

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
        if device == "cpu":
            self.report.add("device", "operators", describe_operators(), "")
        if (train.bf16 or train.fp16) and not self.half_precision:
            self.report.add("device", "half precision", "off", why_half)
        self.groups = self._ranks()  # before PaddleNLP starts them in its own way
        return training_arguments(self.arguments, self.half_precision)

    def _ranks(self) -> Optional[Groups]:
        model = self.arguments.model
        name = model.model_name_or_path
        find = lambda: local_folder(name, hub_of(model), with_weights=False)  # noqa: E731
        read = lambda: read_config(find() if name else Path(model.config_name))  # noqa: E731
        return start_ranks(self.arguments, read, self.report)

    # ---- model and data ----------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        model = self.arguments.model
        return local_folder(name, hub_of(model))

    def _tokenizer_folder(self) -> Path:
        model = self.arguments.model
        name = model.tokenizer_name_or_path or model.model_name_or_path or model.config_name
        own = None if model.tokenizer_name_or_path else tokenizer_of_adapter(self._adapter_folder())
        return own or local_folder(name, hub_of(model), with_weights=False)

    def _adapter_folder(self) -> Optional[Path]:
        path = self.arguments.adapter.lora_path
        return local_adapter(path, hub_of(self.arguments.model)) if path else None

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
        replaced = replaced_dev_files(self.arguments.data, self.stage.name) if split == "dev" else []
        if replaced:
            given = ", ".join(str(path) for path in replaced)
            self.report.lines("dev data", [f"not used, for eval_dataset names the dev sets: {given}"])
        return samples

    def _questions(self) -> List[Any]:
        """The conversations to answer, or the texts to label."""
        data, stage = self.arguments.data, "classification" if self.stage.name == "classification" else "sft"
        sources = find_sources(data, "dev", stage)
        asked = [source for source in sources if source.stage == stage]  # running text asks nothing
        return read_sources(asked, data.max_samples, row_filter(sources, data, "dev")).records

    def _feed(self) -> Optional[Feed]:
        """What the steps see: the same for any number of ranks."""
        data = self.arguments.data
        if not self.train_arguments.do_train:
            return None
        sources = find_sources(data, "train", self.stage.name)
        if self.train_set is None:
            seed = self.train_arguments.seed if self.train_arguments.shuffle else None
            stream = build_stream(data, self.tokenizer, self.stage.name, self.tokenizer_folder, seed)
            files = ", ".join(str(path) for source in sources for path in source.files)
            self.report.lines("train data", [f"read while training (lazy): {files}"])
            feed = make_stream_feed(self.arguments, stream, weights_of(sources), self.room.tokens)
            self.report.lines("mixing", stream_lines(feed))
            return feed
        feed = make_feed(self.arguments, self.train_set.samples, weights_of(sources), self.room.tokens)
        self.report.lines("packing", packing_lines(feed))
        self.report.mixing(mixing_tables(feed))
        return feed

    def _pose(self) -> Optional[SkippedPositions]:
        target = self.arguments.data.pose_max_length
        if target is None or self.feed is None:
            return None
        why = "PoSE: a sample is cut in two, the second part begins later; drawn in every step, not for dev sets"
        self.report.add("training", "positions", f"below {target:,}", why)
        return SkippedPositions(target, self.train_arguments.seed)

    def _model(self) -> LoadedModel:
        model = self.arguments.model
        folder = None if model.config_name else self._folder(model.model_name_or_path)
        config = read_config(folder or Path(model.config_name))
        changes = longer_context(model, config, str(folder or model.config_name), self.report)
        self._check_ids({**config, **changes})
        loaded = together(self.groups, lambda: self._load(folder, config))
        sign_base(loaded.model, self.groups)
        join_heads(loaded.model, self.groups)
        describe_share(self.report, self.groups, loaded.model)
        extend(loaded.model, changes)
        loaded.config = {**loaded.config, **changes}
        say_attention(loaded, self.arguments, self.half_precision, self.dtype, self.report)
        trains_all = self.train_arguments.do_train and self.arguments.adapter.adapter is None
        describe_base(loaded.model, loaded.place, trains_all, self._adapter_folder(), self.report)
        return loaded

    def _load(self, folder: Optional[Path], config: dict) -> LoadedModel:
        """The model of a folder, or of a config alone."""
        if self.classes is not None:
            return self._classifier(folder, config)
        share = share_of(self.groups, config)
        if folder is not None:
            return load_model(folder, self.dtype, share, choice_of(self.arguments.quant))
        network = build_from_scratch(config, self.dtype, self.train_arguments.seed, share)
        return LoadedModel(network, config, self.arguments.model.config_name, False)

    def _classes(self) -> Classes:
        model = self.arguments.model
        place = self._folder(model.model_name_or_path) if model.model_name_or_path else Path(model.config_name)
        return choose_classes(read_config(place), str(place), self._adapter_folder(), self._stores(), self.report)

    def _classifier(self, folder: Optional[Path], config: dict) -> LoadedModel:
        place, choice = str(folder or self.arguments.model.config_name), choice_of(self.arguments.quant)
        loaded = make_classifier(folder, config, place, self.classes, self.dtype, self.train_arguments.seed, choice)
        describe_head(loaded, self.tokenizer, self._stores(), self.report)
        return loaded

    def _check_ids(self, config: dict) -> None:
        self._note_long_rows(config)
        if self.pose is not None:
            require_skips(config, self.pose.target + self.room.positions)
        largest = max((samples.largest_id for samples in self._stores().values()), default=0)
        known = vocab_size_with(self._adapter_folder(), config["vocab_size"])
        known = max(known, self.tokens.needed(self.tokenizer))
        require = partial(require_known_ids, vocab_size=known, place=str(self.tokenizer_folder))
        require(largest)
        if isinstance(self.feed, StreamFeed):
            self.feed.check_ids = require  # of what is read later

    def _note_long_rows(self, config: dict) -> None:
        known = longest_text(config)
        longest = max((int(samples.lengths.max()) for samples in self._stores().values()), default=0)
        require_positions(config, longest, self.room.positions)
        longest += self.room.positions
        reach = self.pose.target + self.room.positions if self.pose else 0
        if known and reach > known and not config.get("rope_scaling"):
            why = f"positions go up to {reach:,} without rope_scaling in config.json: the model has not seen them"
            self.report.add("model", "max_position_embeddings", known, why)
        elif known and longest > known:
            why = f"the longest sample has {longest}: positions the model has not seen in pre-training"
            self.report.add("model", "max_position_embeddings", known, why)

    def _stores(self) -> Dict[str, SampleStore]:
        """Split -> its samples."""
        sets = {"train": self.train_set, "dev": self.dev_set}
        return {split: one.samples for split, one in sets.items() if one is not None}

    def _trained_weights(self) -> Any:
        adapter, network = self.arguments.adapter, self.loaded.model
        if adapter.adapter is None:
            self.tokens.grow(network, self.tokenizer, is_trained=True)
            full = train_weights(network, adapter, self.tokenizer_folder, self.output_dir, self.report)
            require_trained_tokens(network, self.arguments.model.new_special_tokens or ())
            return with_awareness(full, self.arguments.quant, self.groups, self.report)
        if adapter.lora_path is None:
            self.tokens.grow(network, self.tokenizer, is_trained=False)
        seed, folder = self.train_arguments.seed, self.tokenizer_folder
        weights = train_adapter(network, adapter, self._adapter_folder(), seed, folder, self.report)
        if adapter.lora_path is not None:  # after the rows that the adapter brings
            self.tokens.grow(network, self.tokenizer, is_trained=False)
        return weights

    # ---- the run -----------------------------------------------------------------------------------------------

    def _trainer(self) -> SFTTrainer:
        network, train = self.loaded.model, self.train_arguments
        if train.recompute:
            let_gradients_reach_the_first_layer(network)
        if self.arguments.model.neftune:
            add_embedding_noise(network, self.arguments.model.neftune_noise_alpha)
        dev = split_dev(self.dev_set.samples, self.arguments.data) if self.dev_set else {}
        if self.dev_set and train.load_best_model_at_end:
            require_metric(train.metric_for_best_model, dev)
        team, offload = Team(self.groups, network), offloads(self.arguments.parallel.sharding)
        if offload:
            why = "sharding offload: its update is computed there, by the CPU"
            self.report.add("training", "optimizer state", "in the memory of the host", why)
        data = RunData(self.feed, dev, fill_token(self.tokenizer), self.pose, team, offload, self.storage)
        return SFTTrainer(network, self.stage, self.args, train, self.weights, data)

    def show_plan(self) -> None:
        """Print the plan and write it to plan.json."""
        content = self.report.finish(self.loaded, self.trainer, self.resume_from)
        if rank() == 0:
            print(self.report.text(), flush=True)
            write_json(self.output_dir / "plan.json", content)
            write_json(self.output_dir / "arguments.json", resolved(self.arguments))

    def train(self) -> None:
        """Train, save the result at the top of output_dir, evaluate once more if asked to."""
        afresh = self.train_arguments.overwrite_output_dir and self.resume_from is None and self.storage.leads
        if afresh:
            find_resume(self.output_dir, None, overwrite=True)  # removes the checkpoints
        metrics = self.trainer.train(self.resume_from)
        if afresh:
            remove_reports(self.output_dir)
        with writing_results(self.output_dir, self.storage.leads):
            self._write_results(metrics)
        get_logger().info("done: %s", self.output_dir)

    def _write_results(self, metrics: Dict[str, float]) -> None:
        self.weights.is_result = True
        save(self.trainer.team, self.weights, {}, self._write_result)
        write_results(self.output_dir, "train", metrics)
        if self.train_arguments.do_eval:
            self.evaluate()
        if rank() == 0:
            progress = self.trainer.progress
            tokens = {name: getattr(progress, name) for name in ("num_input_tokens_seen", "tokens_by_source")}
            history = {"log_history": progress.log_history, **tokens, **metrics}
            write_json(self.output_dir / "trainer_state.json", history)
        if self.train_arguments.plot_loss and rank() == 0:
            plot_loss(self.output_dir / "loss.png", self.trainer.progress.log_history, str(self.output_dir))

    def _write_result(self, weights: Part, *_: Any) -> None:
        with move_into(self.output_dir) as beside:
            weights.write(beside)

    def evaluate(self) -> None:
        """Metrics over the dev split into eval_results.json; those of the last step are not computed twice."""
        write_results(self.output_dir, "eval", self.trainer.last_evaluation() or self.trainer.evaluate())

    def predict(self) -> None:
        """Answers to the dev split's prompts into predictions.json (JSON lines with src, tgt, output); in stage
        classification its labels (text, label, output, probabilities)."""
        if rank() == 0 and self.classes is not None:
            samples, rows_at_once = self.dev_set.samples, self.train_arguments.per_device_eval_batch_size
            scores = classify(self.stage, self.loaded.model, samples, rows_at_once, fill_token(self.tokenizer))
            found = prediction_rows(self.asked, samples, scores, self.classes)
            write_lines(self.output_dir / "predictions.json", found)
        elif rank() == 0:
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
