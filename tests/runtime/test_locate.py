from __future__ import annotations

from pathlib import Path

import pytest

from bitmar.core.errors import BitMarError, FormatError
from bitmar.runtime import locate
from bitmar.runtime.locate import find_model


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_file_and_a_folder_with_one_are_found(tmp_path: Path) -> None:
    file = touch(tmp_path / "run" / "some.bitmar")
    assert find_model(file) == find_model(str(file)) == find_model(tmp_path / "run") == file


def test_of_several_the_export_of_a_run_is_taken(tmp_path: Path) -> None:
    touch(tmp_path / "a.bitmar")
    touch(tmp_path / "b.bitmar")
    with pytest.raises(FormatError, match="holds 2 models"):
        find_model(tmp_path)
    assert find_model(touch(tmp_path / "model.bitmar").parent) == tmp_path / "model.bitmar"


def test_a_checkpoint_says_how_to_export_it(tmp_path: Path) -> None:
    touch(tmp_path / "model.safetensors")
    with pytest.raises(FormatError, match=r"bitmar export .* .*model\.bitmar"):
        find_model(tmp_path)


def test_an_empty_folder_and_a_wrong_path_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no \.bitmar file"):
        find_model(tmp_path)
    for name in (
        tmp_path / "absent",
        "absent.bitmar",
        "some/where.bitmar",
        "../some/where",
        "no such model",
        "a" * 5000,
        "a\0b",
    ):
        with pytest.raises(FormatError, match="no such file or folder"):
            find_model(name)


def test_the_bundled_model_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "BUNDLED", tmp_path)
    with pytest.raises(FormatError, match="holds no model"):
        find_model()
    file = touch(tmp_path / "default.bitmar")
    assert find_model() == file


def test_a_hub_id_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    file, asked = touch(tmp_path / "model.bitmar"), []

    def download(name: str, revision: str | None, allow_patterns: str) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for name in ("someone/model", "hf://someone/model", "hf://someone/model@refs/pr/1", "someone/model@v1.0"):
        assert find_model(name) == file
    assert asked == [("someone/model", revision) for revision in (None, None, "refs/pr/1", "v1.0")]


def test_what_the_hub_has_is_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "someone/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    touch(tmp_path / "model.bitmar")
    assert find_model("hf://someone/model") == tmp_path / "model.bitmar"
    for name in ("hf://", "hf://model", "hf://a/b/c", "hf://../model", "hf://a/b@"):
        with pytest.raises(FormatError, match="OWNER/NAME"):
            find_model(name)


def test_without_a_connection_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BitMarError, match=r"'someone/model' is no file or folder here.*not known.*path of a \.bitmar"):
        find_model("someone/model")
