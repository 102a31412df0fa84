"""Fine-tune or pre-train: python run_finetune.py CONFIG.json [--key value ...]"""

import sys

from paddle_sft.cli.entry import run

if __name__ == "__main__":
    sys.exit(run("paddle_sft.cli.finetune"))
