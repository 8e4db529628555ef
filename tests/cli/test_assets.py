"""`smriti-scale assets`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smriti_scale.cli import main
from smriti_scale.compression import StaticAssets


def test_a_folder_is_built_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "app.css").write_text("body { color: teal }\n" * 100)
    arguments = ["assets", str(tmp_path / "static"), str(tmp_path / "dist")]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert not left.value.code
    assert "1 files" in capsys.readouterr().out
    assert "app." in StaticAssets(tmp_path / "dist").url("app.css")
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    assert set(json.loads(capsys.readouterr().out)["app.css"]["encodings"]) == {"br", "zstd", "gzip"}
    with pytest.raises(SystemExit) as left:
        main(["assets", str(tmp_path / "absent"), str(tmp_path / "dist")])
    assert left.value.code == 1
    assert "no folder" in capsys.readouterr().err
