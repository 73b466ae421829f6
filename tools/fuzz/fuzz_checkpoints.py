"""Mutated checkpoints and model files; see `fuzz_inputs`."""

import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
import torch
import yaml
from fuzz_inputs import ACCEPTED, demand, photo, sentence
from PIL import Image

from sr.core.errors import UserError
from sr.nets.io.load import architecture, load_into, open_model
from sr.nets.io.state_dicts import save_pth, save_safetensors, to_old_esrgan
from sr.nets.rrdbnet import RRDBNet
from sr.nets.unet import UNet
from sr.train.builder import Builder, load

SIZES = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2}
TINY = {
    "name": "tiny",
    "task": "psnr",
    "scale": 2,
    "generator": {"type": "rrdbnet", **SIZES},
    "losses": {"pixel": {"type": "l1"}},
    "degrade": [{"type": "downscale"}],
    "data": {"gt_size": 32, "batch_size": 1, "workers": 0},
    "optimizer": {"generator": {"type": "adam", "lr": 1e-3}},
    "train": {"total_steps": 2},
    "save": {"every": 1},
}


class Checkpoints:
    """Half of the cases resume a run, half open a model file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "photos").mkdir()
        Image.fromarray(photo(0)).save(folder / "photos" / "a.png")
        options = {**TINY, "out": str(folder / "runs")}
        options["data"] = {**TINY["data"], "source": {"type": "folder", "gt": str(folder / "photos")}}  # type: ignore[dict-item]
        (folder / "tiny.yml").write_text(yaml.safe_dump(options))
        self.engine = Builder(load(folder / "tiny.yml")).trainer()
        self.engine.run()
        self.root, self.kept = folder / "runs" / "tiny" / "checkpoints", folder / "kept"
        shutil.copytree(self.root, self.kept)
        self.models = self._models(folder / "models")

    @staticmethod
    def _models(folder: Path) -> dict[Path, bytes]:
        net, unet = RRDBNet(scale=2, **SIZES), UNet(scale=1, num_feat=2, num_downs=5)
        save_safetensors(folder / "ours.safetensors", net.state_dict(), architecture("rrdbnet", {"scale": 2, **SIZES}))
        save_safetensors(folder / "published.safetensors", net.state_dict(), {})
        save_pth(folder / "published.pth", net.state_dict())
        save_pth(folder / "old.pth", to_old_esrgan(net.state_dict()))
        save_pth(folder / "translator.pth", unet.state_dict())
        return {path: path.read_bytes() for path in sorted(folder.iterdir())}

    def __call__(self, rng: random.Random) -> str:
        return self._model(rng) if rng.random() < 0.5 else self._run(rng)

    def _run(self, rng: random.Random) -> str:
        """Resume a run: from the checkpoint, from the previous one, or refused with a sentence."""
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root)
        newest = max(self.root.iterdir())
        path = rng.choice(sorted(newest.iterdir()))
        signed = rng.random() < 0.5
        if path.suffix == ".json" and rng.random() < 0.7:
            path.write_text(json.dumps(mutate.of_tree(json.loads(path.read_text()), rng)))
        elif path.suffix == ".safetensors" and rng.random() < 0.5:
            path.write_bytes(_with_header(path.read_bytes(), lambda header: mutate.of_tree(header, rng)))
        else:
            path.write_bytes(mutate.of_bytes(path.read_bytes(), rng))
        if signed and path.name != "manifest.json":
            _sign(newest, path)
        self.engine.step = self.engine.consumed = -1
        self.engine.options.save.fallback = rng.random() < 0.3
        try:
            self.engine.resume()
        except UserError as error:
            return sentence(error, "checkpoints")
        demand(self.engine.step in (1, 2) or signed, f"resumed at step {self.engine.step}")
        return ACCEPTED

    def _model(self, rng: random.Random) -> str:
        path, content = rng.choice(sorted(self.models.items()))
        broken = path.with_stem("broken")
        if path.suffix == ".safetensors" and rng.random() < 0.7:
            broken.write_bytes(_with_header(content, lambda header: _renamed(header, rng)))
        elif rng.random() < 0.4:
            state = torch.load(path, weights_only=True)
            torch.save(_renamed(state, rng, tensors=True), broken)
        else:
            broken.write_bytes(mutate.of_bytes(content, rng))
        outcome = ACCEPTED
        ways: list[Callable[[], Any]] = [
            lambda: open_model(broken).net(torch.zeros(1, 3, 32, 32)),
            lambda: load_into(RRDBNet(scale=2, **SIZES), broken, strict=rng.random() < 0.5),
        ]
        for way in ways:
            try:
                way()
            except UserError as error:
                outcome = sentence(error, broken.name)
        return outcome


def _with_header(content: bytes, change: Callable[[Any], Any]) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def _renamed(tree: Any, rng: random.Random, *, tensors: bool = False) -> Any:
    """Change the architecture, the number of blocks, or shapes."""
    metadata = tree.get("__metadata__", {})
    if "architecture" in metadata and rng.random() < 0.5:
        changed = mutate.of_tree(json.loads(metadata["architecture"]), rng)
        return {**tree, "__metadata__": {**metadata, "architecture": json.dumps(changed)}}
    state = tree.get("params_ema", tree) if tensors else tree
    key = rng.choice(sorted(name for name in state if name != "__metadata__"))
    other = rng.choice(("body.99999999.", "body.1.", "x.", "")) + key.partition(".")[2]
    new = key.replace("0", "777777") if rng.random() < 0.5 else other
    value = state[key]
    if tensors:
        value = (
            rng.choice((value, value.flatten(), value[None], value.repeat(2), None, 3)) if value.ndim == 1 else value.T
        )
    changed = {(new if name == key else name): (value if name == key else v) for name, v in state.items()}
    if not tensors:
        return mutate.of_tree(changed, rng) if rng.random() < 0.5 else changed
    return rng.choice(({"params_ema": changed}, changed, {"params": {"params": changed}}, [changed]))


def _sign(folder: Path, path: Path) -> None:
    """Update the manifest to match the mutated file, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    content = path.read_bytes()
    manifest["files"][path.name] = {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
