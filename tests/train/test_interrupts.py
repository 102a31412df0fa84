"""Ctrl-C is noticed at the next step even where the exception was swallowed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from paddle_sft.train.interrupts import noticing_interrupts


def interrupt_and_swallow():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    except KeyboardInterrupt:
        pass


def test_a_swallowed_interrupt_is_raised_between_steps():
    with pytest.raises(KeyboardInterrupt):
        with noticing_interrupts() as check:
            check()
            interrupt_and_swallow()
            check()


def test_the_handler_is_python_s_again_afterwards():
    with noticing_interrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_program_s_own_is_left_alone():
    own = lambda number, frame: None  # noqa: E731
    before = signal.signal(signal.SIGINT, own)
    try:
        with noticing_interrupts():
            assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
