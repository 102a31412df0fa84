"""The trainer: PaddleNLP's set-up, precision and callbacks around a training loop of our own.

PaddleNLP 3.0.0b4's loop averages losses per micro-batch, carries half a step into the next epoch, and replays the data
on resume; a subclass that only overrides hooks inherits all three. So the loop is here: a step is what the feed gives,
its loss is the sum over trained tokens divided by the trained tokens of the whole step over all ranks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import paddle
from paddlenlp.trainer import PrinterCallback, Trainer
from paddlenlp.trainer.trainer_utils import get_scheduler

from paddle_sft.core.errors import PaddleSFTError, Terminated
from paddle_sft.core.log import get_logger, rank
from paddle_sft.data.collate import Batch
from paddle_sft.data.pose import SkippedPositions
from paddle_sft.losses.supervised import TokenMeter
from paddle_sft.train import checkpoint
from paddle_sft.train.callbacks import EarlyStopping, ProgressBar
from paddle_sft.train.checkpoint import Progress
from paddle_sft.train.evaluate import DevSets, evaluate_sets
from paddle_sft.train.feed import Feed, Step
from paddle_sft.train.guard import Fault, StepGuard, StepLosses
from paddle_sft.train.heartbeats import Radio
from paddle_sft.train.host_optimizer import HostOptimizer
from paddle_sft.train.hybrid import Passes
from paddle_sft.train.optimizer import build_optimizer, optimizer_tensors, restore_optimizer
from paddle_sft.train.profile import StepProfile
from paddle_sft.train.saver import Saver
from paddle_sft.train.storage import Storage
from paddle_sft.train.team import Team
from paddle_sft.train.termination import Termination
from paddle_sft.train.watchdog import Watchdog
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
    team: Team = field(default_factory=Team)
    """The ranks of the run."""
    offloads: bool = False
    """Whether the optimizer's state is in host memory."""
    storage: Optional[Storage] = None
    """Who sees output_dir; None: this process, which is alone."""


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
            self._run["scaled_positions"] = getattr(model, "scaled_positions", None)
        self._best_folder = Path(args.output_dir)
        self._stage_name = ""
        self.team = data.team
        self.storage = data.storage or Storage(None, Path(args.output_dir))
        cleans = self.storage.leads and rank() > 0
        self.saver = Saver(Path(args.output_dir), args.save_total_limit, settings.use_async_save, self.team, cleans)
        self.guard = StepGuard(settings.nonfinite_step, settings.max_nonfinite_steps, self.team)
        self.passes = Passes(model, stage, self.team, data.fill, data.pose, args.seed)
        self.termination = Termination()
        limit, world = settings.hang_timeout, self.team.groups.world if self.team.groups else None
        self.watchdog = Watchdog(limit, rank(), Radio(rank(), world if limit else None))
        self._watch()

    def require_same_run(self, resume_from: Path) -> None:
        """Raise CheckpointError unless the checkpoint is one of this very run."""
        checkpoint.read_progress(resume_from, self._run)

    def _watch(self) -> None:
        self.remove_callback(PrinterCallback)
        self.add_callback(ProgressBar(self.settings.disable_tqdm))
        if self.settings.profile:
            self.add_callback(StepProfile(Path(self.args.output_dir), self.settings.profile_steps))
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
            with self.termination, self.watchdog:
                for step in range(first_step, self.feed.num_steps):
                    if self.control.should_training_stop:  # perhaps before the first: early stopping had spoken
                        break
                    self.saver.check()
                    self._one_step(step)
                    self.progress.seconds = seconds_before + time.time() - began
                    is_leaving = self.termination.agreed and step + 1 < self.feed.num_steps
                    self._follow_control(is_leaving)
                    if is_leaving:
                        self._leave()
                with self.watchdog.pause("saving"):
                    self.saver.finish()
        finally:
            self.feed.close()
            self.saver.close()
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        if self.args.load_best_model_at_end and self.progress.best_checkpoint:
            self._read_weights(self._best())
            self.storage.release()
        return self._summary()

    def _best(self) -> Path:
        return self.storage.fetch(self._best_folder / self.progress.best_checkpoint, checkpoint.require_best)

    def _leave(self) -> None:
        """End a run that was asked to stop, once its checkpoint is on the disk."""
        with self.watchdog.pause("saving"):
            self.saver.finish()
        step = self.progress.global_step
        raise Terminated(
            f"SIGTERM came, so the run stopped after step {step} of {self.feed.num_steps} and saved "
            f"{Path(self.args.output_dir) / f'checkpoint-{step}'}; the same command goes on from there"
        )

    def _set_up(self, resume_from: Optional[Path]) -> None:
        self.is_in_train = True
        self.team.same_start(self.model.parameters())
        self.trainable = self.team.share_out(self.model, trainable_parameters(self.model))
        self.create_optimizer_and_scheduler(self.feed.num_steps)
        if self.do_grad_scaling:  # fp16, GPU only
            self.model, self.optimizer = paddle.amp.decorate(
                models=self.model, optimizers=self.optimizer, level=self.args.fp16_opt_level, dtype=self.amp_dtype
            )
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler
        if resume_from is not None:
            self.progress, state = checkpoint.read_progress(resume_from, self._run)
            self._best_folder = resume_from.parent
            self._read_weights(resume_from)
            mine, others = self.team.shares(self.trainable)
            restore_optimizer(self.optimizer, mine, checkpoint.optimizer_file(resume_from), others)
            self.lr_scheduler.set_state_dict(state.schedule)
            self.feed.restore(state.feed, self.progress.global_step)
            if self.args.load_best_model_at_end and self.progress.best_checkpoint:
                self._best()  # better now than at the end
            self.storage.release()
        self.storage.clean()
        self.state.max_steps = self.feed.num_steps
        self.state.num_train_epochs = math.ceil(self.feed.num_epochs)
        self.state.is_local_process_zero = self.state.is_world_process_zero = rank() == 0
        self._show_state()

    def _read_weights(self, folder: Path) -> None:
        self.weights.read(folder)
        self.team.share_out_again()

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
        clips = not self.team.clips  # else it sees a part of the gradients
        build = partial(build_optimizer, schedule=self.lr_scheduler, arguments=self.args, clips=clips)
        if self.data.offloads:
            self.optimizer = HostOptimizer(self.trainable, self.team.shares(self.trainable)[0], build)
        else:
            self.optimizer = build(self.trainable)
        return self.optimizer

    # ---- one optimizer step ------------------------------------------------------------------------------------

    def _one_step(self, step: int) -> None:
        self.watchdog.mark(step + 1, "reading data")
        data = self.feed.step(step)
        self.watchdog.mark(step + 1, "computing")
        if data.stage != self._stage_name:
            self._stage_name = data.stage
            get_logger().info("data stage: %s, from step %d", data.stage, step + 1)
        if data.begins_epoch:
            self.control = self.callback_handler.on_epoch_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_step_begin(self.args, self.state, self.control)
        found = self._forward_backward(step, data)
        losses = found.of_all_ranks(self.termination.asked)
        self.termination.agreed = found.anyone_asked
        loss_sum, parameters = float(losses.sum()), list(self.trainable.values())
        fault = self.guard.fault_of_loss(step, data, losses)
        if fault is None and self.do_grad_scaling:  # too large a gradient in float16 is the scaler's to skip
            self.team.sum_gradients(parameters)
        elif fault is None:
            fault = self.guard.fault_of_gradient(step, data, parameters, loss_sum)
        self._skip(fault) if fault else self._update()
        self._count(0.0 if fault else loss_sum, 0 if fault else data.num_trained, data)
        self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
        if data.ends_epoch:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)

    def _forward_backward(self, step: int, data: Step) -> StepLosses:
        """Gradients of sum(loss) / num_trained over this rank's micro-batches; returns their losses."""
        self.model.train()
        scale = self.scaler.scale if self.do_grad_scaling else lambda loss: loss
        autocast = self.autocast_smart_context_manager
        return self.passes.train(step, data, autocast, lambda loss: scale(loss).backward())

    def _update(self) -> None:
        place = (self.progress.global_step, self.feed.num_steps)
        is_changed = self.weights.before_update(*place)
        if self.do_grad_scaling:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            if self.team.clips:
                parameters = list(self.trainable.values())
                norm = self.team.norm(parameters) if is_changed else self.guard.norm
                self.team.clip(parameters, norm, self.args.max_grad_norm)
            self.team.update(self.optimizer, self.trainable)
        self.weights.after_update(*place)
        self.lr_scheduler.step()
        self.optimizer.clear_grad()
        self.progress.skipped_in_a_row = 0

    def _skip(self, fault: Fault) -> None:
        """Leave weights and moments as they are; the schedule goes on, for it belongs to the step's number."""
        self.progress.skipped_in_a_row += 1
        self.progress.skipped_steps += 1
        self.guard.skip(fault, self.progress.skipped_in_a_row)
        self.weights.skip_update()
        self.lr_scheduler.step()
        self.optimizer.clear_grad()

    def _count(self, loss_sum: float, num_trained: int, data: Step) -> None:
        progress = self.progress
        progress.global_step += 1
        progress.loss_sum += loss_sum
        progress.num_trained += num_trained
        progress.interval_loss_sum += loss_sum
        progress.interval_num_trained += num_trained
        progress.num_input_tokens_seen += data.num_tokens
        for name, num in data.tokens_by_source.items():
            progress.tokens_by_source[name] = progress.tokens_by_source.get(name, 0) + num
        self._show_state()

    # ---- logs, evaluation, checkpoints -------------------------------------------------------------------------

    def _follow_control(self, is_leaving: bool) -> None:
        if self.control.should_log:
            self._log_interval()
        metrics = self.evaluate() if self.control.should_evaluate else None
        if self.control.should_save or is_leaving:
            with self.watchdog.pause("saving"):
                self._save_checkpoint(self.model, metrics)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _log_interval(self) -> None:
        progress = self.progress
        now = time.time()
        seen = progress.num_input_tokens_seen
        speed = (seen - self._last_log_tokens) / max(now - self._last_log_time, 1e-9)
        self._last_log_time, self._last_log_tokens = now, seen
        logs = {
            "loss": progress.interval_loss_sum / (progress.interval_num_trained or math.nan),
            "learning_rate": float(self.optimizer.get_lr()),
            "tokens_per_second": round(speed, 1),
            "num_input_tokens_seen": seen,
        }
        if progress.skipped_steps:
            logs["skipped_steps"] = progress.skipped_steps
        progress.interval_loss_sum, progress.interval_num_trained = 0.0, 0
        self.log({name: value for name, value in logs.items() if value == value})  # no loss of skipped steps alone

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
            partial(self.stage.meter, self.model) if self.team.is_last_stage else TokenMeter,
            self.team,
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

    def _outputs(self, batch: Batch) -> Tuple[Any, Batch]:
        self.watchdog.mark(self.progress.global_step, "evaluating")
        fitted = self.passes.fit(batch)
        with self.autocast_smart_context_manager():
            return self.passes.outputs(fitted), fitted

    def _save_checkpoint(self, model: Any, metrics: Optional[Dict[str, float]] = None) -> None:
        self._remember_best(metrics, f"checkpoint-{self.progress.global_step}")
        state = checkpoint.RunState(self._run, self.lr_scheduler.state_dict(), self.feed.state())
        mine, _ = self.team.shares(self.trainable)
        self.saver.save(self.weights, optimizer_tensors(self.optimizer, mine), state, self.progress)

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
            **({"skipped_steps": progress.skipped_steps} if progress.skipped_steps else {}),
            "train_tokens_per_second": round(progress.num_input_tokens_seen / max(progress.seconds, 1e-9), 1),
        }
