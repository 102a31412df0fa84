"""python -m paddle_sft COMMAND, and the file that `paddle-sft launch train` hands to Paddle's launcher."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent

if __name__ == "__main__":
    if sys.path and Path(sys.path[0] or ".").resolve() == PACKAGE:
        # Run as a file, Python puts this folder first, where our rooms (data, models) would hide top-level modules.
        sys.path[0] = str(PACKAGE.parent)
    from paddle_sft.cli.entry import leave
    from paddle_sft.cli.main import main

    leave(main())
