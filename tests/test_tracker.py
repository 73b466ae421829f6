"""What TensorBoard and log.jsonl show of a run."""

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sr.train.tracker import Tracker


def test_tensorboard_leads_with_the_losses_and_has_the_options_as_text(tmp_path: Path) -> None:
    values = {"bad_samples": 0.0, "d/real": 0.7, "g/pixel": 0.5, "g/share_pixel": 1.0, "val/Set5/psnr_y": 30.0}
    tracker = Tracker(tmp_path, resume_step=0, losses=["g/pixel", "d/real"])
    tracker.text("options", "scale: 4\nname: run\n")
    tracker.scalars(values, step=1)
    tracker.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(shown.Tags()["scalars"]) == [
        "1_losses/d/real",
        "1_losses/g/pixel",
        "2_validation/val/Set5/psnr_y",
        "3_balance/g/share_pixel",
        "4_run/bad_samples",
    ]
    text = shown.Tensors("options/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    scale: 4\n    name: run\n"
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, **values}
