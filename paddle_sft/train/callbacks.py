"""What watches a run: the progress bar and early stopping."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from paddlenlp.trainer import TrainerCallback
from tqdm import tqdm

from paddle_sft.core.log import rank


class ProgressBar(TrainerCallback):
    """One line that shows steps, loss, learning rate and speed; log lines go above it."""

    def __init__(self, disable: bool) -> None:
        self._bar: Optional[tqdm] = None
        self._disable = disable or rank() != 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=self._disable,
            mininterval=0.5,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Optional[Dict[str, float]] = None, **kwargs: Any
    ) -> None:
        if self._bar is not None and rank() == 0:
            tqdm.write(describe(logs or {}))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.close()
        self._bar = None


def describe(logs: Dict[str, float]) -> str:
    """A log entry on one line."""
    parts = [f"step {logs['step']}"] if "step" in logs else []
    for name, value in logs.items():
        if name not in ("step",):
            parts.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return "  ".join(parts)


class EarlyStopping(TrainerCallback):
    """Stop when the metric has not improved by more than `threshold` for `patience` evaluations in a row.

    Looks at the whole log history each time, so that a resumed run stops where an uninterrupted one would.
    """

    def __init__(self, trainer: Any, patience: int, threshold: float, metric: str, greater_is_better: bool) -> None:
        self._trainer = trainer
        self._patience = patience
        self._threshold = threshold
        self._metric = metric
        self._sign = 1.0 if greater_is_better else -1.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        return self.on_evaluate(args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        values = [entry[self._metric] for entry in self._trainer.progress.log_history if self._metric in entry]
        if evaluations_without_gain([self._sign * value for value in values], self._threshold) >= self._patience:
            control.should_training_stop = True
        return control


def evaluations_without_gain(values: List[float], threshold: float) -> int:
    """How many of the last values brought no gain above `threshold` over the best before; larger is better."""
    best, without_gain = float("-inf"), 0
    for value in values:
        if value > best + threshold:
            best, without_gain = value, 0
        else:
            without_gain += 1
    return without_gain
