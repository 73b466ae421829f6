"""The files of launch/, each read by the tool it is for, and run where a CPU allows it.

Slurm is stood in for by two commands on the PATH: what `srun` does with the processes and the codes is what its manual
says; the scheduler itself was not at hand.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.run import get_args_parser

from sr.distributed.backends import Launch, read_launch
from sr.train import checkpoint
from tests.helpers.program import ROOT, sr

Recipe = Callable[..., Path]
LAUNCH = ROOT / "launch"
CONFIGS = sorted(path.stem for path in LAUNCH.glob("*.yaml") if path.stem != "kubernetes")
BACKENDS = {"ddp": "one_node", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3", "fsdp2": "fsdp2"}
FIRST = "runs/tiny/checkpoints/step_00000001"
SHARDING = ("ACCELERATE_USE", "ACCELERATE_DEEPSPEED", "FSDP")
NODES = ("--num_machines", "4", "--num_processes", "32", "--machine_rank", "3", "--main_process_ip", "10.0.0.1")
VENV = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def launched(config: str, *flags: str) -> tuple[argparse.Namespace, dict[str, str]]:
    """What `accelerate launch` makes of a file: the arguments it hands to torch's launcher, and the environment."""
    given = ["--config_file", str(LAUNCH / f"{config}.yaml"), *flags, "-m", "sr", "train", "FILE"]
    args, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(given))
    args.deepspeed_fields_from_accelerate_config = ""
    if args.use_deepspeed:
        command, environment = prepare_deepspeed_cmd_env(args)
        assert command is None, "torch's own launcher, not pdsh"
        return args, environment
    return args, prepare_multi_gpu_env(args)


def sharding(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(SHARDING)}


def script(name: str, *args: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", *SHARDING))} | env
    # A hang ends by a signal that reaches the processes of a launcher: they are in sessions of their own.
    line = ["timeout", "--kill-after=20", "200", "bash", str(LAUNCH / name), *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=cwd)


def command(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)


# The configurations of accelerate


def test_every_backend_has_a_file() -> None:
    assert {"cpu", "one_gpu", "many_nodes", *BACKENDS.values()} == set(CONFIGS)


@pytest.mark.parametrize("config", CONFIGS)
def test_accelerate_reads_a_file_and_leaves_precision_and_accumulation_to_sr(config: str) -> None:
    read = load_config_from_file(str(LAUNCH / f"{config}.yaml"))
    assert read.mixed_precision == "no"
    assert not {"gradient_accumulation_steps", "gradient_clipping"} & read.deepspeed_config.keys()


def test_one_node_starts_eight_processes_without_sharding() -> None:
    args, environment = launched("one_node")
    assert args.nproc_per_node == "8"
    assert not sharding(environment)


@pytest.mark.parametrize("config", [name for name in CONFIGS if name not in ("cpu", "one_gpu")])
def test_the_same_line_serves_many_nodes(config: str) -> None:
    args, _ = launched(config, *NODES, "--main_process_port", "29511")
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("4", "8", 3)
    assert args.rdzv_endpoint == "10.0.0.1:29511"


def test_two_nodes_by_the_file_alone() -> None:
    args, _ = launched("many_nodes", "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--max_restarts", "10")
    assert (args.nnodes, args.nproc_per_node, args.node_rank, args.max_restarts) == ("2", "8", 1, 10)
    assert args.rdzv_endpoint == "10.0.0.1:29500"


@pytest.mark.parametrize("backend", BACKENDS)
def test_sr_reads_the_backend_of_a_file(backend: str) -> None:
    _, environment = launched(BACKENDS[backend])
    assert read_launch(environment) == Launch(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_scripts_set_what_the_files_set(backend: str) -> None:
    shown = subprocess.run(
        ["bash", "-c", ". launch/backend.sh $0; env", backend], capture_output=True, text=True, cwd=ROOT, check=True
    )
    lines = dict(line.partition("=")[::2] for line in shown.stdout.splitlines())
    _, environment = launched(BACKENDS[backend])
    ours, theirs = sharding(lines), sharding(environment)
    assert ours.items() <= theirs.items()
    assert {key for key in theirs if key.startswith("ACCELERATE_USE")} <= ours.keys()


@pytest.mark.distributed
def test_the_cpu_file_starts_two_processes_that_meet(recipe: Recipe) -> None:
    wrong = recipe(data__batch_size=3)
    done = sr("train", wrong, launcher=("accelerate", "launch", "--config_file", str(LAUNCH / "cpu.yaml")), **VENV)
    assert "batch_size 3 is not a multiple of 2 processes" in done.stderr


@pytest.mark.distributed
@pytest.mark.parametrize("config", ["zero3", "fsdp2"])
def test_a_sharded_file_trains_on_two_processes_of_a_cpu(config: str, recipe: Recipe, tmp_path: Path) -> None:
    line = ("accelerate", "launch", "--config_file", str(LAUNCH / f"{config}.yaml"), "--num_processes", "2")
    done = sr("train", recipe(train__total_steps=1), launcher=line, **VENV)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(tmp_path / FIRST).state["world"] == 2


@pytest.mark.slow
def test_one_process_trains_through_its_file(recipe: Recipe, tmp_path: Path) -> None:
    line = ("accelerate", "launch", "--config_file", str(LAUNCH / "one_gpu.yaml"))
    done = sr("train", recipe(train__total_steps=1), launcher=line, **VENV)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(tmp_path / FIRST).state["world"] == 1


# torchrun


def test_torchrun_reads_the_line_of_one_and_of_many_machines(tmp_path: Path) -> None:
    command(tmp_path / "bin", "torchrun", 'printf "%s\\n" "$@"; echo "stage=${ACCELERATE_DEEPSPEED_ZERO_STAGE:-}"')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    nodes = {"NNODES": "4", "NODE_RANK": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29511", "BACKEND": "zero3"}
    seen = []
    for env in ({"NPROC": "2"}, nodes):
        *line, stage = script("torchrun.sh", "x.yml", "--set", "a b", PATH=path, **env).stdout.splitlines()
        args = get_args_parser().parse_args(line)
        assert (args.module, args.training_script, args.max_restarts) == (True, "sr", 10)
        assert args.training_script_args == ["train", "x.yml", "--set", "a b"]
        seen.append((args.standalone, args.nproc_per_node, stage))
    assert seen == [(True, "2", "stage="), (False, "gpu", "stage=3")]
    assert (args.nnodes, args.node_rank, args.master_addr, args.master_port) == ("4", 3, "10.0.0.1", 29511)


@pytest.mark.parametrize("name", ["torchrun.sh", "slurm.sh"])
def test_an_unknown_backend_is_refused(name: str) -> None:
    done = script(name, "x.yml", BACKEND="zero4")
    assert (done.returncode, done.stderr) == (
        2,
        "BACKEND=zero4: there is none of this name; use ddp, zero1, zero2, zero3 or fsdp2\n",
    )


@pytest.mark.distributed
def test_torchrun_trains_on_two_processes_of_a_cpu(recipe: Recipe, tmp_path: Path) -> None:
    own = {"NPROC": "2", "MAX_RESTARTS": "0", "BACKEND": "zero2", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = script("torchrun.sh", recipe(train__total_steps=1), **own, **VENV)
    assert done.returncode == 0, done.stderr
    assert checkpoint.load(tmp_path / FIRST).state["world"] == 2


# Slurm

SCONTROL = """
case "$1 $2" in
  "show hostnames") printf "%s\\n" 127.0.0.1 other ;;
  requeue*) echo "$2" >> "$REQUEUED" ;;
esac"""
# As the manual has it: every task gets its numbers, and the highest code of all is returned. TERM stands for Slurm's.
SRUN = """
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!)
done
if [[ -n ${TERM_WHEN:-} ]]; then
  until [[ -e $TERM_WHEN ]]; do sleep 0.1; done
  kill -TERM "${tasks[@]}"
fi
highest=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; ((code > highest)) && highest=$code; done
exit $highest"""


@pytest.fixture
def slurm(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], bool]]:
    """Runs slurm.sh with two tasks on one machine; returns how it ended, and whether it went back into the queue."""
    folder, requeued = tmp_path / "bin", tmp_path / "requeued"
    command(folder, "scontrol", SCONTROL)
    command(folder, "srun", SRUN)

    def run(*args: str | Path, **env: str) -> tuple[subprocess.CompletedProcess[str], bool]:
        requeued.unlink(missing_ok=True)
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        given = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "1"}
        given |= {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_SUBMIT_DIR": str(ROOT)}
        done = script("slurm.sh", *args, cwd=tmp_path, **{"PATH": path, "REQUEUED": str(requeued)} | given | env)
        if requeued.exists():
            assert requeued.read_text() == f"{given['SLURM_JOB_ID']}\n"
        return done, requeued.exists()

    return run


def test_slurm_reads_the_directives() -> None:
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line.removeprefix("#SBATCH ") for line in lines[:first] if line.startswith("#SBATCH ")]
    assert not any(line.startswith("#SBATCH") for line in lines[first:]), "sbatch reads none after the first command"
    assert not any("#" in directive for directive in directives), "sbatch would take a comment for an argument"
    assert {"--requeue", "--open-mode=append", "--signal=TERM@300"} <= set(directives)


def test_slurm_gives_every_process_its_place(slurm: Callable[..., object], tmp_path: Path) -> None:
    shown = "$RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR $ACCELERATE_USE_FSDP $FSDP_VERSION"
    command(tmp_path / "bin", "python", f'echo "$@" {shown}')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done, requeued = slurm("x.yml", "--set", "a b", PATH=path, BACKEND="fsdp2")  # type: ignore[misc]
    places = sorted(done.stdout.splitlines())
    assert places == [f"-m sr train x.yml --set a b {rank} 2 {rank} 2 127.0.0.1 true 2" for rank in (0, 1)]
    assert (done.returncode, requeued) == (0, False)


@pytest.mark.parametrize(
    ("code", "starts", "requeued"),
    [(2, 0, False), (3, 0, False), (70, 0, False), (143, 99, True), (137, 1, True), (1, 19, True), (1, 20, False)],
)
def test_slurm_requeues_what_a_restart_can_fix(
    code: int, starts: int, requeued: bool, slurm: Callable[..., object], tmp_path: Path
) -> None:
    command(tmp_path / "bin", "python", f"exit $(( RANK == 1 ? {code} : 0 ))")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done, back = slurm("x.yml", PATH=path, SLURM_RESTART_COUNT=str(starts))  # type: ignore[misc]
    assert (done.returncode, back) == (code, requeued)
    assert f"exit code {code}" in done.stderr


@pytest.mark.distributed
def test_a_preempted_job_resumes(slurm: Callable[..., object], recipe: Recipe, tmp_path: Path) -> None:
    options = recipe(train__total_steps=2000, save__every=2, log__every=1)
    begun = tmp_path / "runs" / "tiny" / "checkpoints" / "step_00000002"
    done, requeued = slurm(options, TERM_WHEN=str(begun))  # type: ignore[misc]
    assert (done.returncode, requeued) == (143, True), done.stderr
    assert "SIGTERM: step" in done.stderr
    saved = checkpoint.steps(begun.parent)[-1]
    done, requeued = slurm(options, "--set", f"train.total_steps={saved + 2}")  # type: ignore[misc]
    assert (done.returncode, requeued) == (0, False), done.stderr
    assert f"at step {saved}" in done.stdout + done.stderr
    assert checkpoint.steps(begun.parent)[-1] == saved + 2
