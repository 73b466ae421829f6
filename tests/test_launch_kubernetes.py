"""launch/kubernetes.yaml fits the kinds of Kubernetes and of the Kubeflow Trainer, and its parts fit together."""

import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from torch.distributed.run import get_args_parser

from tests.helpers.program import ROOT

FILE = ROOT / "launch" / "kubernetes.yaml"

# The fields of the CRDs (Trainer 2.0 to 2.3, JobSet v1alpha2) that the manifest uses; no others pass.


def fields(*required: str, **properties: object) -> dict:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def each(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


NAME, COUNT, TEXT = {"type": "string", "pattern": "^[a-z0-9-]+$"}, {"type": "integer", "minimum": 0}, {"type": "string"}
LABELS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["integer", "string"], "pattern": r"^\d+([KMGT]i?)?$"}}
VOLUME = fields(
    "name",
    name=NAME,
    persistentVolumeClaim=fields("claimName", claimName=NAME),
    emptyDir=fields(medium={"enum": ["", "Memory"]}, sizeLimit=TEXT),
)
CONTAINER = fields(
    "name",
    name={"const": "node"},  # the name that the trainer looks for
    image=TEXT,
    workingDir=TEXT,
    env=each(fields("name", name={"type": "string", "not": {"pattern": "^PET_"}}, value=TEXT)),  # PET_ is the trainer's
    volumeMounts=each(fields("name", "mountPath", name=NAME, mountPath={"type": "string", "pattern": "^/"})),
)
POD = fields(
    "containers",
    restartPolicy={"const": "Never"},  # what a podFailurePolicy asks for
    terminationGracePeriodSeconds=COUNT,
    containers=each(CONTAINER),
    volumes=each(VOLUME),
)
CONDITION = fields("type", "status", type={"const": "DisruptionTarget"}, status={"const": "True"})
JOB = fields(
    "template",
    backoffLimit=COUNT,
    podFailurePolicy=fields(
        "rules", rules=each(fields("action", action={"const": "FailJob"}, onPodConditions=each(CONDITION)))
    ),
    template=fields("spec", spec=POD),
)
STEP = {"const": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
REPLICATED = fields(
    "name",
    "template",
    name={"const": "node"},  # the trainer's address of rank 0 is <job>-node-0-0
    replicas={"const": 1},
    template=fields("metadata", "spec", metadata=fields("labels", labels=STEP), spec=JOB),
)
RULE = fields(
    "name",
    "action",
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
    onJobFailureReasons=each({"const": "PodFailurePolicy"}),
)
JOB_SET = fields(
    "replicatedJobs",
    failurePolicy=fields(maxRestarts=COUNT, rules=each(RULE)),
    replicatedJobs=each(REPLICATED),
)
SPECS = {
    ("v1", "PersistentVolumeClaim"): fields(
        "accessModes",
        "resources",
        accessModes=each({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"]}),
        resources=fields("requests", requests=QUANTITIES),
        storageClassName=NAME,
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): fields(
        "mlPolicy",
        "template",
        mlPolicy=fields("torch", numNodes=COUNT, torch=fields()),
        template=fields("spec", spec=JOB_SET),
    ),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): fields(
        "runtimeRef",
        "trainer",  # without it the trainer sets no PET_ variables
        runtimeRef=fields("name", apiGroup={"const": "trainer.kubeflow.org"}, kind=TEXT, name=NAME),
        trainer=fields(
            "command",
            numNodes=COUNT,
            command=each(TEXT),
            resourcesPerNode=fields(requests=QUANTITIES, limits=QUANTITIES),
        ),
    ),
}


def objects() -> list[dict]:
    return list(yaml.safe_load_all(FILE.read_text()))


@pytest.mark.parametrize("made", objects(), ids=lambda made: made["kind"])
def test_the_manifest_fits_the_schema_of_its_kind(made: dict) -> None:
    spec = SPECS[made["apiVersion"], made["kind"]]
    metadata = fields("name", name=NAME, labels=LABELS)
    whole = fields("apiVersion", "kind", "metadata", "spec", apiVersion=TEXT, kind=TEXT, metadata=metadata, spec=spec)
    jsonschema.Draft202012Validator(whole).validate(made)


def test_kubectl_reads_the_manifest(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl here")
    shutil.copy(FILE, tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: [kubernetes.yaml]\n")
    done = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [made["kind"] for made in yaml.safe_load_all(done.stdout)].count("TrainJob") == 1


def test_the_parts_of_the_manifest_fit_together() -> None:
    claims = {made["metadata"]["name"] for made in objects() if made["kind"] == "PersistentVolumeClaim"}
    runtime, job = (next(m for m in objects() if m["kind"] == kind) for kind in ("TrainingRuntime", "TrainJob"))
    reference = job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == ("TrainingRuntime", runtime["metadata"]["name"])
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    used = {volume["persistentVolumeClaim"]["claimName"] for name, volume in volumes.items() if name != "shm"}
    assert used == claims
    (node,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in node["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["shm"] == "/dev/shm"
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    env = {entry["name"]: entry["value"] for entry in node["env"]}
    assert int(env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    args = get_args_parser().parse_args(job["spec"]["trainer"]["command"][1:])
    assert (args.module, args.training_script, args.training_script_args[0]) == (True, "sr", "train")
    assert (ROOT / args.training_script_args[1]).is_file()
