"""When a run is saved: after so many seconds, at the end of epochs, and within a share of the time."""

import time

import pytest
import torch

from mastlib.resume import SHARE, Keeper, Place


class Writer:
    """Takes `seconds` for a checkpoint on a clock that is ours."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.kept = clock, seconds, []

    def checkpoint(self, step, tensors, facts):
        self.clock[0] += self.seconds
        self.kept.append((step, facts))

    def resume(self):
        return None


def keeper(monkeypatch, every, takes):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    method = torch.nn.Linear(2, 2)
    return clock, Keeper(Writer(clock, takes), method, torch.optim.SGD(method.parameters(), 1.0), every)


def test_it_is_due_after_so_many_seconds_or_with_an_epoch(monkeypatch):
    clock, keeps = keeper(monkeypatch, every=180, takes=0)
    assert not keeps.due() and keeps.due(epoch_ended=True)
    clock[0] += 179
    assert not keeps.due()
    clock[0] += 1
    assert keeps.due()
    keeps.save(Place(1, 2, 3.0, {"loss": 4.0}), 5)
    assert not keeps.due()
    assert keeps.writer.kept == [(5, {"place": {"epoch": 1, "position": 2, "seconds": 3.0, "sums": {"loss": 4.0}}})]


@pytest.mark.parametrize("every,epoch_ended", [(0.1, False), (0.1, True), (1, True)])
def test_saving_takes_at_most_a_share_of_the_time(monkeypatch, every, epoch_ended):
    clock, keeps = keeper(monkeypatch, every, takes=2.0)
    begun, saving = clock[0], 0.0
    for _ in range(5000):
        clock[0] += 0.5
        if keeps.due(epoch_ended=epoch_ended):
            keeps.save(Place(), 1)
            saving += 2.0
    assert len(keeps.writer.kept) > 20
    assert saving - 2.0 <= SHARE * (clock[0] - begun - saving)  # the first one's time is not known before


def test_who_asks_for_it_has_every_step_saved_whatever_it_takes(monkeypatch):
    clock, keeps = keeper(monkeypatch, every=0, takes=2.0)
    for step in range(1, 6):
        clock[0] += 0.001
        assert keeps.due()
        keeps.save(Place(), step)
    assert [step for step, _ in keeps.writer.kept] == [1, 2, 3, 4, 5]


def test_a_place_adds_values_and_turns_with_the_epoch():
    place = Place(seconds=1.5)
    place.add({"loss": 1.0, "rank": 2.0})
    place.add({"loss": 0.5, "rank": 1.0})
    assert (place.epoch, place.position, place.sums) == (0, 2, {"loss": 1.5, "rank": 3.0})
    place.turn()
    assert place == Place(1, 0, 1.5, {})
