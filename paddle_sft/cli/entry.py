"""How every command is called: what the user can mend becomes one message and an exit code, never a traceback."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import List, Optional

from paddle_sft.core.errors import PaddleSFTError
from paddle_sft.core.log import silence_imports

EXIT_USER_ERROR = 2
EXIT_BROKEN_INSTALLATION = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports


def run(module: str, argv: Optional[List[str]] = None) -> int:
    """Import `module`, call its main(argv), and return the exit code of the process.

    The import happens in here because it is where a broken installation shows itself.
    """
    silence_imports()
    try:
        return import_module(module).main(sys.argv[1:] if argv is None else argv)
    except PaddleSFTError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            traceback.print_exc()
        print(f"error: {error}; run `paddle-sft doctor` for the command that mends this", file=sys.stderr)
        return EXIT_BROKEN_INSTALLATION
