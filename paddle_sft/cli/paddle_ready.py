"""Paddle, imported and set up for a command that computes outside a training run."""

from __future__ import annotations

from typing import Optional, TextIO

from paddle_sft.core.threads import import_quietly, settle_threads


def paddle_ready(asked: Optional[str], say: Optional[TextIO] = None) -> str:
    """Import paddle with this machine's settings; returns the device that computes.

    Call it when every argument is known to be right: it takes a second or two.

    Args:
        asked: the argument `device`.
        say: where the device and the reason for it are printed, if anywhere.

    Raises:
        ArgumentError: there is no such device.
    """
    settle_threads()
    import_quietly("paddle")
    import paddle

    from paddle_sft.models.device import choose_device
    from paddle_sft.train.upstream import quieten

    quieten()
    device, why = choose_device(asked)
    paddle.set_device(device)
    if say is not None:
        print(f"device: {device} ({why})", file=say, flush=True)
    return device
