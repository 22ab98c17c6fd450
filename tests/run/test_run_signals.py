"""Signals set a flag; a second ctrl-C does not wait."""

import os
import signal

import pytest

from pretrain.run.signals import Signals, signal_name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_pending_until_the_loop_asks(number: int) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals.pending() == 0
        os.kill(os.getpid(), number)
        assert signals.pending() == number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_immediate_but_a_second_term_is_not() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal_name(signals.pending()) == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
