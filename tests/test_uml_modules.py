"""The compiled modules of a lab kernel: made once for what is installed, never taken from under a run, nothing left when they cannot be made."""

from __future__ import annotations

import pytest

from testbed.world.uml import modules


@pytest.fixture
def above(tmp_path, monkeypatch):
    """The cache's folder of modules; what is installed is what `fill` writes."""
    monkeypatch.setattr(modules, "cache_folder", lambda: tmp_path / "kernel")
    return tmp_path / "modules"


def filled_with(monkeypatch, text, is_whole):
    def fill(folder, earlier):
        (folder / modules._LIST).write_text(text)

    monkeypatch.setattr(modules, "_fill", fill)
    monkeypatch.setattr(modules, "_is_whole", is_whole)


def test_other_packages_have_a_folder_of_their_own_and_the_first_stays(above, tmp_path, monkeypatch):
    filled_with(monkeypatch, "{}", lambda folder: False)
    one = modules.compiled(tmp_path)
    filled_with(monkeypatch, '{"other": "00"}', lambda folder: False)
    other = modules.compiled(tmp_path)
    assert one != other and {one, other} == set(above.iterdir())
    filled_with(monkeypatch, "never", lambda folder: folder == one)
    assert modules.compiled(tmp_path) == one


def test_what_cannot_be_made_in_the_cache_is_made_in_the_runs_own_folder(above, tmp_path, monkeypatch):
    spare = tmp_path / "control"
    spare.mkdir()

    def fill(folder, earlier):
        (folder / modules._LIST).write_text("{}")
        if folder.parent == above:
            raise OSError("no space left on device")

    monkeypatch.setattr(modules, "_fill", fill)
    assert modules.compiled(spare).parent == spare
    assert not list(above.iterdir())
