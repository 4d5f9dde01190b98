from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitmar.console import STDOUT, Skipped, print_table, progress, resumable, write_json


def test_json_goes_to_a_file_in_a_folder_that_it_makes_or_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "out.json"
    write_json({"é": 1}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1} and capsys.readouterr().out == ""
    for place in (None, STDOUT, Path("-")):
        write_json({"é": 1}, place)
        assert json.loads(capsys.readouterr().out) == {"é": 1}


def test_a_table_in_a_pipe_loses_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cells = [f"{100 / 7 + place:.12f}" for place in range(12)]
    print_table([f"head {place}" for place in range(12)], [cells])
    out = capsys.readouterr().out
    assert all(cell in out for cell in cells) and "…" not in out


def test_no_bar_before_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), progress() as bar:
        bar.add_task("photos", total=3)
        raise ValueError
    assert capsys.readouterr() == ("", "")


def test_a_bar_from_the_first_step_on(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        skipped = Skipped(bar)
        bar.update(bar.add_task("photos", total=3), completed=2)
        skipped("b", "broken")
        skipped("b", "broken again")
    out, err = capsys.readouterr()
    assert out == "" and "photos" in err and "2/3" in err and err.count("skipped b: broken") == 1
    assert str(skipped) == "1 skipped: b" and skipped.as_list() == [{"name": "b", "error": "broken"}]
    with progress() as bar:
        assert list(bar.track("abc", description="letters")) == ["a", "b", "c"]
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize("kept, says", [(None, ""), (Path("out"), "out is kept: run the same command again to go on")])
def test_what_a_stopped_command_says(kept: Path | None, says: str) -> None:
    with pytest.raises(KeyboardInterrupt) as stop, resumable(lambda: kept):
        raise KeyboardInterrupt
    assert str(stop.value) == says
