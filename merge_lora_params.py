"""Merge: python merge_lora_params.py --model_name_or_path M --lora_path L --output_path O"""

import sys

from paddle_sft.cli.entry import run

if __name__ == "__main__":
    sys.exit(run("paddle_sft.cli.merge"))
