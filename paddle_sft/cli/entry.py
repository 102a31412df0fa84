"""How every command is called: what the user can mend becomes one message and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import List, NoReturn, Optional

from paddle_sft.core.errors import PaddleSFTError, Terminated
from paddle_sft.core.log import rank, silence_imports

EXIT_USER_ERROR = 2
EXIT_BROKEN_INSTALLATION = 1
CPU_BACKEND = "paddle_sft.parallel.cpu_backend"
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports
EXIT_TERMINATED = 143  # 128 + SIGTERM


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
    except Terminated as stop:
        if rank() == 0:
            print(f"terminated: {stop}", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            traceback.print_exc()
        print(f"error: {error}; run `paddle-sft doctor` for the command that mends this", file=sys.stderr)
        return EXIT_BROKEN_INSTALLATION


def leave(code: int) -> NoReturn:
    """End the process with an exit code.

    A rank on a CPU ends without taking its groups down: the destructors of paddlepaddle 3.3.1's stores and gloo groups
    fail by SIGSEGV about one time in twenty (4 ranks, 45 groups), and the launcher then calls a finished run failed.
    """
    if CPU_BACKEND in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
