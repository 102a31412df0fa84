"""The training run: which samples make a step, the step itself, evaluation, checkpoints."""
