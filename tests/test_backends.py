"""One options file on every backend: equal weights, EMA and optimizer state, and checkpoints that all of them resume.

Two processes on a CPU, launched by accelerate as a user does. One launch runs all jobs of a backend, because starting
dominates the time. Each backend can be run alone (`-k fsdp2`): it resumes the checkpoints of one process, and one
process resumes its own. Backends are not bit-identical: norms are summed over shards, ZeRO-2 and 3 reduce every
micro-batch separately, and the fused optimizer rounds the ends of rows differently for another sharding.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from sr.core.errors import UserError
from sr.distributed.backends import Launch, read_launch
from sr.distributed.backends.deepspeed import _alike
from sr.distributed.backends.fsdp import chosen
from sr.distributed.backends.launch_config import accelerator
from sr.distributed.backends.sharded import check_player
from sr.train import replica_check
from sr.train.builder import Builder, load
from sr.train.checkpoint import Checkpoint
from sr.train.checkpoint import load as load_checkpoint
from tests.helpers.backend_jobs import check_loaded
from tests.helpers.program import ROOT, TINY, write_photos
from tests.helpers.training import Momentum, assert_same

LAUNCH = {
    "ddp": ["--multi_gpu"],
    "zero1": ["--use_deepspeed", "--zero_stage=1"],
    "zero2": ["--use_deepspeed", "--zero_stage=2"],
    "zero3": ["--use_deepspeed", "--zero_stage=3"],
    "fsdp2": [
        *("--use_fsdp", "--fsdp_version=2", "--fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP"),
        "--fsdp_transformer_layer_cls_to_wrap=RRDB",
    ],
}
pytestmark = pytest.mark.timeout(900)  # a launch runs in the first test that needs it
TIMES = {"images_per_second", "data_wait"}  # in the log
SINGLE = "single"  # one process: its checkpoints are the ones that every backend resumes

PENALTY = "losses.gan.regularizers=[{type: r1, weight: 1, every: 1}, {type: feature_matching, weight: 1}]"
PATCHES = {"type": "patchgan", "num_feat": 8, "num_layers": 1, "norm": "spectral"}
TASKS: dict[str, dict[str, Any]] = {  # spectral norm in every discriminator
    "psnr": {"task": "psnr", "discriminator": None, "losses": {"pixel": {"type": "l1"}}},
    "sr_gan": {},
    "pix2pix": {"task": "pix2pix", "scale": 1, "degrade": [], "discriminator": {**PATCHES, "conditional": True}},
    "cyclegan": {"task": "cyclegan", "scale": 1, "degrade": [], "discriminator": PATCHES},
}
WHOLE = "data.gt_size=48"  # and channels in sixteens: what sr.nets.cpu.winograd takes
EXTRAS = {  # on sr_gan
    "penalty": (PENALTY, "log.every=1"),  # second-order gradients, hooks, and graphs with two backward passes
    "bf16": ("train.precision=bf16",),
    "wide": (
        "generator={type: rrdbnet, num_feat: 16, num_block: 1, num_grow_ch: 16}",
        "discriminator.num_feat=16",
        WHOLE,
    ),
    "average": ("losses.ldl={type: ldl, weight: 1}", "train.channels_last=false"),  # a loss that looks at the average
}
SETS = (
    *("data.batch_size=8", "train.accumulate=2", "train.clip_norm=0.05", "train.check_ranks_every=1", "save.every=2"),
    *("train.precision=fp32", "losses.gan.weight=0.1", "optimizer.discriminator.type=adamw"),
    "schedule={type: multistep, milestones: [1], gamma: 0.5}",
)


def options(folder: Path, photos: Path, name: str, task: str) -> str:
    values = yaml.safe_load(yaml.safe_dump(TINY)) | {"name": name, "out": str(folder / "runs")} | TASKS[task]
    images = {"type": "folder", "gt": str(photos)}
    values["data"]["source"] = {
        "pix2pix": {"type": "side_by_side", "path": str(photos)},
        "cyclegan": {"type": "unpaired", "a": images, "b": images},
    }.get(task, images)
    if values["discriminator"] is None:
        values = {key: value for key, value in values.items() if key != "discriminator"}
        values["optimizer"].pop("discriminator")
    file = folder / f"{name}.yml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


def jobs(folder: Path, photos: Path, backend: str) -> list[dict[str, Any]]:
    """whole: 4 steps. resumed: from its own step 2. moved: from step 2 of one process."""
    made: list[dict[str, Any]] = []

    def job(what: str, task: str, start: str | None = None, sets: tuple[str, ...] = (), **more: Any) -> None:
        name = f"{backend}.{what}"
        point = {"start": str(step_two(folder, start))} if start else {}
        given = [*settings(task), *sets]
        made.append({"do": "run", "options": options(folder, photos, name, task), "sets": given, **point, **more})

    for task in TASKS:
        job(f"whole.{task}", task)
        job(f"resumed.{task}", task, start=f"{backend}.whole.{task}")
        job(f"moved.{task}", task, start=f"{SINGLE}.whole.{task}")
    for extra, sets in EXTRAS.items():
        job(extra, "sr_gan", sets=(*sets, "train.total_steps=2"))
    if backend in ("ddp", "zero1"):
        job("diverge", "sr_gan", do="diverge")
    return [*made, {"do": "spectral", "out": str(folder / "runs" / f"{backend}.spectral")}]


def step_two(folder: Path, run: str) -> Path:
    return folder / "runs" / run / "checkpoints" / "step_00000002"


def settings(task: str) -> list[str]:
    return [one for one in SETS if task != "psnr" or not ("gan" in one or "discriminator" in one)]


def launch(folder: Path, photos: Path, backend: str) -> None:
    file = folder / f"{backend}.json"
    file.write_text(json.dumps(jobs(folder, photos, backend)))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH[backend], "--num_processes=2"]
    command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    env["TORCHDYNAMO_DISABLE"] = "1"  # DeepSpeed imports torch's compiler, a quarter of its start, for nothing here
    done = subprocess.run(
        [*command, "-m", "tests.helpers.backend_jobs", str(file), backend],
        capture_output=True,
        text=True,
        timeout=600,
        env=env,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"{backend}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


def single(folder: Path, photos: Path, name: str, task: str, start: Path | None = None) -> None:
    """The same run in this process alone; `start`: the checkpoint that it resumes."""
    run = Builder(load(options(folder, photos, name, task), settings(task))).trainer()
    if start:
        shutil.copytree(start, run.options.folder / "checkpoints" / start.name)
        check_loaded(run, load_checkpoint(start))
    run.run()


class Runs:
    """The folder of all runs. A backend is launched when the first test asks for it, and depends on no other one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"
        self.photos = write_photos(folder / "photos")
        self.succeeded: dict[str, bool] = {}

    def __call__(self, backend: str) -> Path:
        if SINGLE not in self.succeeded:
            for task in TASKS:
                single(self.folder.parent, self.photos, f"{SINGLE}.whole.{task}", task)
            self.succeeded[SINGLE] = True
        if backend not in self.succeeded:
            self.succeeded[backend] = False
            launch(self.folder.parent, self.photos, backend)
            self.succeeded[backend] = True
        assert self.succeeded[backend], f"the launch of {backend} failed; see its first test"
        return self.folder

    def with_ddp(self, backend: str) -> Path:
        """The same, for a comparison with DDP: skipped where the selected tests do not include DDP's own."""
        if not self.succeeded.get("ddp"):
            pytest.skip("compared with DDP when the tests of ddp run as well")
        return self(backend)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("backends"))


def ends_of(one: Path, other: Path) -> list[Checkpoint]:
    ends = [load_checkpoint(sorted((run / "checkpoints").iterdir())[-1]) for run in (one, other)]
    assert ends[0].state["step"] == ends[1].state["step"]
    assert ends[0].tensors.keys() == ends[1].tensors.keys()
    return ends


def assert_alike(one: Path, other: Path, tolerance: float, *, pools: bool = True) -> None:
    """Compare weights, optimizer state and EMA at the end of two runs; pools: also the tensors of the task."""
    ends = ends_of(one, other)
    for name, tensors in ends[0].tensors.items():
        if name == "task" and not pools:
            continue
        assert tensors.keys() == ends[1].tensors[name].keys()
        assert_same(tensors, ends[1].tensors[name], tolerance)


def assert_near(one: Path, other: Path, mean: float) -> None:
    """Compare the mean difference over all values of a player. In half precision a gradient near 0 may change its
    sign, and Adam then steps in the other direction: single weights differ by whole steps (of 1e-3)."""
    ends = ends_of(one, other)
    for name, tensors in ends[0].tensors.items():
        rows = [torch.cat([end.tensors[name][key].double().flatten() for key in tensors]) for end in ends]
        assert (rows[0] - rows[1]).abs().mean() <= mean, name


ONE_PROCESS = 2e-5  # tolerance: one process sums batches, and fills CycleGAN's pools, in another order
OTHERS = [name for name in LAUNCH if name != "ddp"]


@pytest.mark.distributed
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", LAUNCH)
def test_trains_as_one_process_does(runs: Runs, backend: str, task: str) -> None:
    folder = runs(backend)
    assert_alike(folder / f"{SINGLE}.whole.{task}", folder / f"{backend}.whole.{task}", ONE_PROCESS, pools=False)


@pytest.mark.distributed
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", OTHERS)
def test_trains_as_ddp_does(runs: Runs, backend: str, task: str) -> None:
    folder = runs.with_ddp(backend)
    assert_alike(folder / f"ddp.whole.{task}", folder / f"{backend}.whole.{task}", 1e-6)
    assert_alike(folder / f"ddp.moved.{task}", folder / f"{backend}.moved.{task}", 1e-6)
    logs = [(folder / f"{name}.whole.{task}" / "log.jsonl").read_text().splitlines() for name in ("ddp", backend)]
    rows = [[{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in log] for log in logs]
    assert any("g/grad_norm" in row for row in rows[0])
    for ours, theirs in zip(*rows, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", LAUNCH)
def test_resumed_equals_uninterrupted(runs: Runs, backend: str, task: str) -> None:
    folder = runs(backend)
    assert_alike(folder / f"{backend}.whole.{task}", folder / f"{backend}.resumed.{task}", 0.0)


@pytest.mark.distributed
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", LAUNCH)
def test_resumes_the_canonical_checkpoint(runs: Runs, backend: str, task: str) -> None:
    """Of one process. That it loads bit for bit is asserted in the run itself (`check_loaded`)."""
    folder = runs(backend)
    assert_alike(folder / f"{SINGLE}.whole.{task}", folder / f"{backend}.moved.{task}", ONE_PROCESS, pools=False)


@pytest.mark.distributed
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("backend", LAUNCH)
def test_one_process_resumes_its_checkpoint(runs: Runs, backend: str, task: str) -> None:
    """Together with the canonical checkpoint: a run moves from any backend to any other one."""
    folder, name = runs(backend), f"{SINGLE}.from_{backend}.{task}"
    single(folder.parent, runs.photos, name, task, start=step_two(folder.parent, f"{backend}.whole.{task}"))
    assert_alike(folder / f"{SINGLE}.whole.{task}", folder / name, ONE_PROCESS, pools=False)


@pytest.mark.distributed
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("backend", OTHERS)
def test_extras_equal_ddp(runs: Runs, backend: str, extra: str) -> None:
    folder = runs.with_ddp(backend)
    if extra == "bf16":  # which rounds sums in another order: the hooks of ZeRO-3 and FSDP2 split the graph
        assert_near(folder / f"ddp.{extra}", folder / f"{backend}.{extra}", 1e-6)  # bf16 and fp32 are 7e-6 apart
    else:
        assert_alike(folder / f"ddp.{extra}", folder / f"{backend}.{extra}", 1e-6)


@pytest.mark.distributed
@pytest.mark.parametrize("backend", LAUNCH)
def test_spectral_norm_of_sharded_weights(runs: Runs, backend: str) -> None:
    ours = load_file(runs(backend) / f"{backend}.spectral")
    assert {"model/0.weight_u", "exp_avg/2.weight_orig", "step/2.bias"} < ours.keys()
    assert_same(load_file(runs.with_ddp(backend) / "ddp.spectral"), ours, 1e-6)


# ---- without processes -----------------------------------------------------------------------------------------------

ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def test_the_launch_is_read() -> None:
    assert read_launch({}) == Launch("ddp")
    assert read_launch(ZERO) == Launch("zero2")
    offload = {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}
    assert read_launch(ZERO | offload) == Launch("zero3", offload_parameters=True)
    wrap = {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "1e3"}
    assert read_launch(FSDP | wrap | {"FSDP_RESHARD_AFTER_FORWARD": "false"}) == Launch(
        "fsdp2", wrap_size=1000, reshard=False
    )


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "zero_stage 0 shards nothing.*--multi_gpu"),
        (ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "ds.json.*remove deepspeed_config_file"),
        (ZERO | {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, "nvme is not supported; set cpu or none"),
        (ZERO | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "needs zero_stage 3, not 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version 1 is not supported; set fsdp_version: 2"),
        (FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is not supported; set it to false"),
        (FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "fsdp_activation_checkpointing is not supported"),
        (FSDP | {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}, "fsdp_transformer_layer_cls_to_wrap: RRDB"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "by DDP, ZeRO and FSDP2 alone"),
    ],
)
def test_a_launch_that_would_be_ignored_is_refused(env: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_launch(env)


def test_the_launcher_that_starts_one_of_several_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate launch --cpu --num_processes 2: the variables it leaves, and one process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=r"starts one process.*--multi_gpu --num_processes N"):
        accelerator(Launch())


def test_what_cannot_be_shared_out_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    adam = torch.optim.Adam(net.parameters())
    check_player("generator", net, adam, precision="bf16", way="ZeRO-1")
    check_player("generator", net, Momentum(net.parameters(), lr=1.0), precision="fp32", way="ZeRO-1")
    with pytest.raises(UserError, match=r"optimizer.generator: Adafactor may need whole tensors.*use adam or adamw"):
        check_player("generator", net, torch.optim.Adafactor(net.parameters()), precision="fp32", way="ZeRO-1")
    with pytest.raises(UserError, match=r"fp16 needs a loss scaler.*use bf16 or fp32"):
        check_player("generator", net, adam, precision="fp16", way="FSDP2")
    net[1].weight = net[0].weight
    with pytest.raises(UserError, match=r"uses a weight in two places"):
        check_player("generator", net, adam, precision="fp32", way="FSDP2")


def test_zero_refuses_counts_that_differ() -> None:
    one, two, row = torch.tensor(1.0), torch.tensor(2.0), torch.zeros(3)
    assert _alike([one, one])
    assert _alike([row, row + 1])
    assert _alike([None, None])
    assert not _alike([one, two])
    assert not _alike([one, None])
    assert not _alike([row, None])


def test_fsdp_takes_the_modules_that_the_launch_names() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 8), nn.ReLU())
    assert chosen(net, Launch("fsdp2")) == []
    assert chosen(net, Launch("fsdp2", wrap=("Linear",))) == [net[0][0], net[0][1], net[1]]
    assert chosen(net, Launch("fsdp2", wrap_size=40)) == [net[0], net[1]]  # of 40 values each; not the whole


def test_the_guard_sees_one_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"a": torch.rand(3, 4), "b": torch.rand(2, 3, 3, 3).to(memory_format=torch.channels_last)}
    other = {name: value.clone() for name, value in weights.items()}
    bits = other["b"].view(torch.int32)
    bits[1, 2, 0, 1] ^= 1
    sums = [[int(replica_check._bits(value)) for value in held.values()] for held in (weights, weights, other)]
    answers = iter([[hash(tuple(one)) for one in sums], sums])
    monkeypatch.setattr(replica_check.comm, "world", lambda: 3)
    monkeypatch.setattr(replica_check.comm, "gather", lambda value: next(answers))
    with pytest.raises(UserError, match="step 7: b on rank 2 differs from rank 0"):
        replica_check.compare(weights, step=7)


def test_deepspeed_is_imported_by_its_launch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert read_launch({}).backend == "ddp"
    with pytest.raises(UserError, match="asks for DeepSpeed, which is not installed; run pip install deepspeed"):
        read_launch({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"})
