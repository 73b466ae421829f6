"""A run resumes at the next sample on another number of processes, with the same final weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sr.data.batch import RawBatch
from sr.train import checkpoint
from sr.train.trainer import Trainer
from tests.helpers.training import assert_same, engine, run_legs, state

Recipe = Callable[..., Path]


def positions(run: Path) -> dict[int, list[list[list[int]]]]:
    """Step -> its micro-batches -> the positions of each rank."""
    steps: dict[int, list[list[list[int]]]] = {}
    for line in (run / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        steps.setdefault(row["step"], []).append(row["ranks"])
    return steps


def assert_each_position_once(steps: dict[int, list[list[list[int]]]], batch: int, worlds: list[int]) -> None:
    for number, (step, world) in enumerate(zip(sorted(steps), worlds, strict=True)):
        assert step == number + 1
        assert [len(ranks) for ranks in steps[step]] == [world] * len(steps[step])
        used = [place for ranks in steps[step] for rank in ranks for place in rank]
        assert used == list(range(number * batch, (number + 1) * batch))


@pytest.mark.distributed
def test_four_then_two_then_one_then_four_processes_are_one_run(recipe: Recipe, tmp_path: Path) -> None:
    file, whole = recipe(name="elastic", log__samples=True), recipe(name="whole", log__samples=True)
    worlds = [4, 2, 1, 4]
    legs = [(world, file, (f"train.total_steps={2 * leg + 2}",)) for leg, world in enumerate(worlds)]
    codes, said = run_legs([*legs, (1, whole, ("train.total_steps=8", "save.every=2"))])
    assert codes == [[0] * 4, [0] * 2, [0], [0] * 4, [0]], said
    runs = {name: tmp_path / "runs" / name for name in ("elastic", "whole")}
    assert_each_position_once(positions(runs["elastic"]), 4, [4, 4, 2, 2, 1, 1, 4, 4])
    assert_each_position_once(positions(runs["whole"]), 4, [1] * 8)
    for leg in range(3):  # the last three that are kept
        step = f"step_{2 * leg + 4:08d}"
        found = {name: checkpoint.load(run / "checkpoints" / step) for name, run in runs.items()}
        assert found["elastic"].state["world"] == worlds[leg + 1]
        assert found["elastic"].state["consumed"] == found["whole"].state["consumed"] == 4 * (2 * leg + 4)
        for name, tensors in found["whole"].tensors.items():
            ours = found["elastic"].tensors[name]
            optimizer_state = {key: value for key, value in tensors.items() if not key.startswith("exp_avg_sq")}
            assert_same(optimizer_state, {key: ours[key] for key in optimizer_state}, tolerance=2e-5)


def test_accumulation_may_change_and_a_crash_repeats_no_sample(recipe: Recipe, tmp_path: Path) -> None:
    """Without a critic: spectral norm iterates once a forward, so the number of forwards is part of its function."""
    psnr = {"task": "psnr", "discriminator": None, "losses__gan": None, "optimizer__discriminator": None}
    file, whole = (recipe(name=name, log={"every": 1, "samples": True}, **psnr) for name in ("elastic", "whole"))
    ends = [engine(whole, "train.total_steps=8", "data.workers=1")]
    ends[0].run()
    for steps, accumulate in ((3, 1), (6, 2), (8, 4)):
        ends.append(engine(file, f"train.total_steps={steps}", f"train.accumulate={accumulate}", "save.every=2"))
        if steps == 6:
            ends[-1].train_step = Crash(ends[-1], at=5)  # type: ignore[method-assign]
            with pytest.raises(Crash.Happened):
                ends[-1].run()
            continue
        ends[-1].run()
    used = {run: positions(tmp_path / "runs" / run) for run in ("elastic", "whole")}
    assert [len(used["elastic"][step]) for step in sorted(used["elastic"])] == [1, 1, 1, 2, 4, 4, 4, 4]
    for steps in used.values():
        assert_each_position_once(steps, 4, [1] * 8)
    assert_same(state(ends[0]), state(ends[-1]), tolerance=1e-5)


class Crash:
    """`train_step` of an engine, until step `at` is done."""

    class Happened(Exception):
        pass

    def __init__(self, run: Trainer, *, at: int) -> None:
        self.run, self.at, self.step = run, at, run.train_step

    def __call__(self, batches: Iterator[RawBatch]) -> None:
        if self.run.step == self.at:
            raise self.Happened
        self.step(batches)
