"""Fine-tune or pre-train: python run_finetune.py CONFIG.json [--key value ...]"""

from paddle_sft.cli.entry import leave, run

if __name__ == "__main__":
    leave(run("paddle_sft.cli.finetune"))
