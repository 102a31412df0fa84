"""The trainer: PaddleNLP's set-up, precision and callbacks around a training loop of our own.

PaddleNLP 3.0.0b4's loop averages losses per micro-batch, carries half a step into the next epoch, and replays the data
on resume; a subclass that only overrides hooks inherits all three. So the loop is here: a step is what the feed gives,
its loss is the sum over trained tokens divided by the trained tokens of the whole step over all ranks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Dict, Optional

import paddle
from paddlenlp.trainer import PrinterCallback, Trainer
from paddlenlp.trainer.trainer_utils import get_scheduler

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.core.log import get_logger, num_ranks, rank
from paddle_sft.data.collate import collate_rows
from paddle_sft.data.pose import SkippedPositions
from paddle_sft.train import checkpoint
from paddle_sft.train.callbacks import EarlyStopping, ProgressBar
from paddle_sft.train.checkpoint import Progress
from paddle_sft.train.evaluate import DevSets, evaluate_sets
from paddle_sft.train.feed import Feed, Step
from paddle_sft.train.gradients import global_norm, sum_over_ranks
from paddle_sft.train.optimizer import build_optimizer, optimizer_arrays, restore_optimizer
from paddle_sft.train.plan import random_seed
from paddle_sft.train.weights import trainable_parameters


@dataclass(frozen=True)
class RunData:
    """What a run reads, and the id that fills short rows."""

    feed: Optional[Feed]
    """None for a run that only evaluates."""
    dev: DevSets
    fill: int
    pose: Optional[SkippedPositions] = None
    """Where the tokens of training samples stand; None: where they are."""


NUM_PLACES = 20
"""Samples that are named when a step can't be applied."""


class SFTTrainer(Trainer):
    """Trains a model on what a feed gives.

    Args:
        model: with the parameters that are not trained frozen.
        stage: an entry of STAGES: its `loss` sums over the trained tokens of a batch.
        args: PaddleNLP's TrainingArguments.
        settings: the suite's TrainArguments.
        weights: what is saved (train.weights).
        data: the samples.
    """

    def __init__(self, model: Any, stage: Any, args: Any, settings: Any, weights: Any, data: RunData) -> None:
        super().__init__(model=model, args=args)
        self.stage = stage
        self.settings = settings
        self.weights = weights
        self.data = data
        self.feed = data.feed
        self.progress = Progress()
        self._run = {}
        if self.feed is not None:
            self._run = {**self.feed.describe(), "optim": settings.optim, **weights.describe()}
            self._run["pose_max_length"] = data.pose.target if data.pose else None
        self._best_folder = Path(args.output_dir)
        self._stage_name = ""
        self._watch()

    def require_same_run(self, resume_from: Path) -> None:
        """Raise CheckpointError unless the checkpoint is one of this very run."""
        checkpoint.read_progress(resume_from, self._run)

    def _watch(self) -> None:
        self.remove_callback(PrinterCallback)
        self.add_callback(ProgressBar(self.settings.disable_tqdm))
        if self.settings.early_stopping:
            self.add_callback(
                EarlyStopping(
                    self,
                    self.settings.early_stopping_patience,
                    self.settings.early_stopping_threshold,
                    self._best_metric_name(),
                    bool(self.args.greater_is_better),
                )
            )

    # ---- the run -----------------------------------------------------------------------------------------------

    def train(self, resume_from: Optional[Path] = None) -> Dict[str, float]:
        """Train from the start, or from a checkpoint folder, to the end of the feed. Returns the run's metrics."""
        self._set_up(resume_from)
        first_step, began = self.progress.global_step, time.time()
        seconds_before = self.progress.seconds
        self._last_log_time, self._last_log_tokens = began, self.progress.num_input_tokens_seen
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        if self.settings.eval_at_start and first_step == 0:
            self.evaluate()
            self.control.should_training_stop = False
        try:
            for step in range(first_step, self.feed.num_steps):
                if self.control.should_training_stop:  # perhaps before the first: early stopping had spoken
                    break
                self._one_step(step)
                self.progress.seconds = seconds_before + time.time() - began
                self._follow_control()
        finally:
            self.feed.close()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.args.load_best_model_at_end and self.progress.best_checkpoint:
            self.weights.read(self._best_folder / self.progress.best_checkpoint)
        return self._summary()

    def _set_up(self, resume_from: Optional[Path]) -> None:
        self.is_in_train = True
        self.trainable = trainable_parameters(self.model)
        self.create_optimizer_and_scheduler(self.feed.num_steps)
        if self.do_grad_scaling:  # fp16, GPU only
            self.model, self.optimizer = paddle.amp.decorate(
                models=self.model, optimizers=self.optimizer, level=self.args.fp16_opt_level, dtype=self.amp_dtype
            )
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
        if resume_from is not None:
            self.progress, state = checkpoint.read_progress(resume_from, self._run)
            self._best_folder = resume_from.parent
            self.weights.read(resume_from)
            restore_optimizer(self.optimizer, self.trainable, checkpoint.optimizer_file(resume_from))
            self.lr_scheduler.set_state_dict(state.schedule)
            self.feed.restore(state.feed, self.progress.global_step)
        if num_ranks() > 1:
            for parameter in self.model.parameters():
                paddle.distributed.broadcast(parameter, src=0)
        self.state.max_steps = self.feed.num_steps
        self.state.num_train_epochs = math.ceil(self.feed.num_epochs)
        self.state.is_local_process_zero = self.state.is_world_process_zero = rank() == 0
        self._show_state()

    def _show_state(self) -> None:
        """Keep PaddleNLP's state, which its callbacks read, in step with ours."""
        self.state.global_step = self.progress.global_step
        self.state.epoch = self.feed.epochs_after(self.progress.global_step) if self.feed else 0.0
        self.state.best_metric = self.progress.best_metric
        self.state.best_model_checkpoint = self.progress.best_checkpoint
        self.state.log_history = self.progress.log_history

    def create_scheduler(self, num_training_steps: int) -> Any:
        """PaddleNLP's schedules; a warm-up ratio is rounded up, as the plan says (PaddleNLP itself rounds it down)."""
        self.lr_scheduler = get_scheduler(
            self.args.lr_scheduler_type,
            learning_rate=self.args.learning_rate,
            num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
            num_training_steps=num_training_steps,
            num_cycles=self.args.num_cycles,
            lr_end=self.args.lr_end,
            power=self.args.power,
        )
        return self.lr_scheduler

    def create_optimizer(self, lr_scheduler: Any = None) -> Any:
        self.optimizer = build_optimizer(self.trainable, self.lr_scheduler, self.args)
        return self.optimizer

    # ---- one optimizer step ------------------------------------------------------------------------------------

    def _one_step(self, step: int) -> None:
        data = self.feed.step(step)
        if data.stage != self._stage_name:
            self._stage_name = data.stage
            get_logger().info("data stage: %s, from step %d", data.stage, step + 1)
        if data.begins_epoch:
            self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
        loss_sum = self._forward_backward(step, data)
        if not math.isfinite(loss_sum):
            self._refuse_to_go_on(data, f"loss of step {step + 1} is {loss_sum}")
        parameters = list(self.trainable.values())
        if num_ranks() > 1:
            sum_over_ranks(parameters)
        if not self.do_grad_scaling and not math.isfinite(norm := global_norm(parameters)):  # fp16: the scaler skips it
            self._refuse_to_go_on(data, f"gradient of step {step + 1} has norm {norm}, its loss is {loss_sum}")
        self._update()
        self._count(loss_sum, data)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if data.ends_epoch:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)

    def _forward_backward(self, step: int, data: Step) -> float:
        """Gradients of sum(loss) / num_trained over this rank's micro-batches; returns sum(loss) over all ranks."""
        self.model.train()
        total = paddle.zeros([], dtype="float64")
        for number, rows in enumerate(data.micro_batches(rank())):
            if not rows:
                continue
            paddle.seed(random_seed(self.args.seed, step, number, rank()))
            batch = collate_rows(rows, self.data.fill)
            if self.data.pose is not None:
                batch = self.data.pose.place(batch, step)
            with self.autocast_smart_context_manager():
                loss = self.stage.loss(self.model, batch)
            scaled = loss / data.num_trained
            (self.scaler.scale(scaled) if self.do_grad_scaling else scaled).backward()
            total += loss.detach().astype("float64")
        if num_ranks() > 1:
            paddle.distributed.all_reduce(total)
        return float(total)

    def _update(self) -> None:
        if self.do_grad_scaling:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.clear_grad()

    def _refuse_to_go_on(self, data: Step, what: str) -> None:
        places = list(islice(data.places(), NUM_PLACES + 1))
        more = ", ..." if len(places) > NUM_PLACES else ""
        raise PaddleSFTError(
            f"the {what}; the step was not applied. Its samples: {', '.join(places[:NUM_PLACES])}{more}. Lower "
            "learning_rate, or look at these samples"
        )

    def _count(self, loss_sum: float, data: Step) -> None:
        progress = self.progress
        progress.global_step += 1
        progress.loss_sum += loss_sum
        progress.num_trained += data.num_trained
        progress.interval_loss_sum += loss_sum
        progress.interval_num_trained += data.num_trained
        progress.num_input_tokens_seen += data.num_tokens
        for name, num in data.tokens_by_source.items():
            progress.tokens_by_source[name] = progress.tokens_by_source.get(name, 0) + num
        self._show_state()

    # ---- logs, evaluation, checkpoints -------------------------------------------------------------------------

    def _follow_control(self) -> None:
        if self.control.should_log:
            self._log_interval()
        metrics = self.evaluate() if self.control.should_evaluate else None
        if self.control.should_save:
            self._save_checkpoint(self.model, metrics)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _log_interval(self) -> None:
        progress = self.progress
        now = time.time()
        seen = progress.num_input_tokens_seen
        speed = (seen - self._last_log_tokens) / max(now - self._last_log_time, 1e-9)
        self._last_log_time, self._last_log_tokens = now, seen
        logs = {
            "loss": progress.interval_loss_sum / max(progress.interval_num_trained, 1),
            "learning_rate": float(self.optimizer.get_lr()),
            "tokens_per_second": round(speed, 1),
            "num_input_tokens_seen": seen,
        }
        progress.interval_loss_sum, progress.interval_num_trained = 0.0, 0
        self.log(logs)

    def log(self, logs: Dict[str, float], **kwargs: Any) -> None:
        """Append to the history and tell every logger."""
        entry = {"step": self.progress.global_step, "epoch": round(self.state.epoch or 0.0, 4), **logs}
        self.progress.log_history.append(entry)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(entry))

    def evaluate(self) -> Dict[str, float]:
        """Metrics over the dev sets, logged."""
        self.model.eval()
        metrics = evaluate_sets(
            self._outputs,
            self.data.dev,
            self.args.per_device_eval_batch_size,
            self.data.fill,
            partial(self.stage.meter, self.model),
        )
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def last_evaluation(self) -> Dict[str, float]:
        """The metrics of the weights as they are now, if they were measured already; else empty."""
        if self.args.load_best_model_at_end and self.progress.best_checkpoint:
            return {}
        entries = [entry for entry in self.progress.log_history if "eval_loss" in entry]
        if not entries or entries[-1]["step"] != self.progress.global_step:
            return {}
        return {name: value for name, value in entries[-1].items() if name.startswith("eval_")}

    def _outputs(self, input_ids: paddle.Tensor) -> paddle.Tensor:
        with self.autocast_smart_context_manager():
            return self.stage.outputs(self.model, input_ids)

    def _save_checkpoint(self, model: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        output_dir = Path(self.args.output_dir)
        folder = output_dir / f"checkpoint-{self.progress.global_step}"
        self._remember_best(metrics, folder.name)
        if rank() == 0:
            checkpoint.save_checkpoint(
                folder,
                self.weights,
                optimizer_arrays(self.optimizer, self.trainable),
                checkpoint.RunState(self._run, self.lr_scheduler.state_dict(), self.feed.state()),
                self.progress,
            )
            checkpoint.remove_old(output_dir, self.args.save_total_limit, self.progress.best_checkpoint)
        if num_ranks() > 1:
            paddle.distributed.barrier()

    def _best_metric_name(self) -> str:
        name = self.args.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    def _remember_best(self, metrics: Optional[Dict[str, float]], name: str) -> None:
        if metrics is None or not self.args.load_best_model_at_end:
            return
        metric = self._best_metric_name()
        if metric not in metrics:
            raise PaddleSFTError(f"metric_for_best_model is {metric!r}; evaluation gives {', '.join(metrics)}")
        value, best = metrics[metric], self.progress.best_metric
        if best is None or best != best or (value > best if self.args.greater_is_better else value < best):
            self.progress.best_metric, self.progress.best_checkpoint = value, name
            self._best_folder = Path(self.args.output_dir)
            self._show_state()

    def _summary(self) -> Dict[str, float]:
        progress = self.progress
        return {
            "train_loss": progress.loss_sum / max(progress.num_trained, 1),
            "train_steps": progress.global_step,
            "train_epochs": round(self.feed.epochs_after(progress.global_step), 4),
            "train_tokens": progress.num_input_tokens_seen,
            "train_runtime": round(progress.seconds, 3),
            "train_tokens_per_second": round(progress.num_input_tokens_seen / max(progress.seconds, 1e-9), 1),
        }
