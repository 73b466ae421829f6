"""The table of decoding rates."""

import sys

import decode_speed
import pytest


@pytest.mark.tools
def test_every_format_is_decoded_and_cores_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(decode_speed, "SIZES", {"small": (300, 320)})
    monkeypatch.setattr(sys, "argv", ["decode_speed.py", "--gpu", "100", "--rounds", "1", "--sizes", "small"])
    decode_speed.main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["png", "webp", "npy", "JPEG 4:2:0", "JPEG 4:4:4", "avif"]
    for row in rows:
        assert float(row[4].split(" to ")[0]) == pytest.approx(100 / float(row[3]), abs=0.06)
    assert float(rows[2][3]) > 3 * float(rows[0][3]), "npy is not decoded"
