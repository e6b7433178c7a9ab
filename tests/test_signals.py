"""Requests to stop are noted, obeyed when told to, and a second Ctrl-C does not wait."""

import signal

import pytest

from mastlib.signals import noted


@pytest.mark.parametrize("number,error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_waits_until_it_is_obeyed(number, error, capsys):
    before = signal.getsignal(number)
    with noted() as asked:
        asked.obey()
        assert asked.number is None
        signal.raise_signal(number)
        assert asked.number == number and "saving after this step" in capsys.readouterr().out
        with pytest.raises(error) as raised:
            asked.obey()
    assert signal.getsignal(number) == before
    assert error is KeyboardInterrupt or raised.value.code == 128 + number


def test_a_second_interrupt_does_not_wait():
    with noted():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_waits_as_the_first():
    with noted() as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert asked.number == signal.SIGTERM


def test_what_is_to_follow_follows_each_signal():
    done = []
    with noted(lambda: done.append("told")) as asked:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert done == ["told", "told"] and asked.number == signal.SIGTERM
