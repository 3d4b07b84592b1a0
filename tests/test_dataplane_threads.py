"""What two threads of an agent share takes one of them at a time."""

from __future__ import annotations

import os
import threading

import pytest

from enforcer.dataplanes.libnft import Nft


def test_an_nft_handle_takes_one_script_at_a_time(monkeypatch):
    inside, most = [], []

    def run(self, script):
        inside.append(script)
        for _ in range(200):
            os.sched_yield()
            most.append(len(inside))
        inside.remove(script)
        return 0, script, ""

    monkeypatch.setattr(Nft, "_run", run)
    try:
        nft = Nft()
    except Exception as error:
        pytest.skip(str(error))
    threads = [threading.Thread(target=nft.run, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    nft.close()
    assert max(most) == 1
