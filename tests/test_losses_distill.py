"""A teacher as a loss: its output, its features, and options without a type."""

import jsonschema
import pytest
import torch
from torch import nn

from sr.config.base import read
from sr.config.json_schema import schema
from sr.config.options import Options
from sr.core.errors import UserError
from sr.data.batch import Batch
from sr.losses import distill
from sr.losses.distill import Distill
from sr.nets.io.load import Model, architecture
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.rrdbnet import RRDBNet
from sr.tasks.psnr import PSNR
from sr.train.builder import TABLES, Builder, load

SMALL = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(1)
    net = RRDBNet(**SMALL).eval()
    save_safetensors(tmp_path / "teacher.safetensors", net.state_dict(), architecture("rrdbnet", SMALL))
    return net


@pytest.fixture
def batch():
    torch.manual_seed(2)
    lq, gt = torch.rand(2, 3, 16, 20), torch.rand(2, 3, 32, 40)
    return Batch(lq, gt, gt)


def student(**changes):
    torch.manual_seed(3)
    return RRDBNet(**{**SMALL, **changes})


def test_distance_to_the_teachers_output(teacher, tmp_path, batch):
    loss = Distill(teacher=str(tmp_path / "teacher.safetensors"))
    output = torch.rand(2, 3, 32, 40, requires_grad=True)
    value = loss.compare(output, batch=batch, average=None)
    assert value.dtype == torch.float32
    assert torch.allclose(value, (output - teacher(batch.lq)).abs().mean())
    value.backward()
    assert output.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in loss.parameters())


def test_features_reach_the_generator_before_its_output_does(teacher, tmp_path, batch):
    loss = Distill(
        teacher=str(tmp_path / "teacher.safetensors"), features={"conv_first": "conv_body"}, feature_weight=3
    )
    net = student(num_block=2)
    loss.watch(net)
    assert net.training
    seen = {}
    net.conv_first.register_forward_hook(lambda module, inputs, output: seen.update(mine=output))
    teacher.conv_body.register_forward_hook(lambda module, inputs, output: seen.update(theirs=output))
    for _ in range(2):
        output = net(batch.lq)
        value = loss.compare(output, batch=batch, average=None)
        expected = (output - teacher(batch.lq)).abs().mean() + 3 * (seen["mine"] - seen["theirs"]).abs().mean()
        assert torch.allclose(value, expected)
    value = loss.compare(net(batch.lq).detach(), batch=batch, average=None)
    value.backward()
    assert net.conv_first.weight.grad.abs().sum() > 0
    assert net.conv_last.weight.grad is None


def test_a_teacher_that_runs_in_inference_mode_as_spandrels_do(teacher, monkeypatch, batch):
    monkeypatch.setattr(teacher, "forward", torch.inference_mode()(teacher.forward))
    monkeypatch.setattr(distill, "open_model", lambda file: Model(teacher, 2, 1, "x2"))
    loss, net = Distill(teacher="any.pth", features={"conv_first": "conv_first"}), student()
    loss.watch(net)
    loss.compare(net(batch.lq), batch=batch, average=None).backward()
    assert net.conv_first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("features", "changes", "message"),
    [
        ({}, {"scale": 4}, r"teacher\.safetensors upscales by 2, the generator by 4; give a teacher of its scale"),
        ({"conv_frst": "conv_first"}, {}, "the generator has no module 'conv_frst'; it has conv_first, body"),
        (
            {"conv_first": "conv_first"},
            {"num_feat": 4},
            r"'conv_first' has shape \[1, 4, .* and the teacher's 'conv_first' \[1, 8, ",
        ),
    ],
)
def test_contradictions_are_reported_before_training(features, changes, message, teacher, tmp_path):
    loss = Distill(teacher=str(tmp_path / "teacher.safetensors"), features=features)
    with pytest.raises(UserError, match=message):
        loss.watch(student(**changes))


def test_unknown_module_of_the_teacher(teacher, tmp_path):
    with pytest.raises(UserError, match=r"the teacher has no module 'body\.7'"):
        Distill(teacher=str(tmp_path / "teacher.safetensors"), features={"body.0": "body.7"})


def test_a_loss_without_a_type_has_the_type_of_its_name(teacher, tmp_path, recipe, batch):
    file = recipe(losses__distill={"teacher": str(tmp_path / "teacher.safetensors"), "weight": 0.5}, losses__l1={})
    assert not list(jsonschema.Draft202012Validator(schema(Options, TABLES)).iter_errors(read(file).values))
    options = load(file)
    assert options.losses.reconstruction["distill"]["type"] == "distill"
    assert options.losses.reconstruction["l1"] == {"type": "l1"}
    net: nn.Module = student()
    reconstruction = Builder(options).reconstruction(torch.device("cpu"))
    (phase,) = PSNR(generator=net, reconstruction=reconstruction).step(batch, 0)
    assert torch.allclose(phase.losses["distill"], 0.5 * (net(batch.lq) - teacher(batch.lq)).abs().mean())
    with pytest.raises(UserError, match=r"losses\.pxel: give a mapping with a 'type'"):
        load(recipe(losses__pxel={"weight": 1}))
