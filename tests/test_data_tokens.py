"""Data behind a login: bearer tokens, a stub of the Hugging Face hub, and an S3-compatible server."""

import os

import pytest
from hub_stub import TOKEN, hub

from sr.core.errors import UserError
from sr.data import ShardSource
from sr.data.make_index import make_index
from sr.data.remote import transport
from sr.data.remote.transport import PermanentError
from tests.helpers.data import make_tar, png, shown

pytest_plugins = ["tests.helpers.shard_server"]


def test_a_private_data_set_of_the_hub_is_read_with_hf_token(tmp_path, capfd):
    (tmp_path / "hub").mkdir()
    make_tar(tmp_path / "hub" / "0.tar", {"a.png": png(1), "b.png": png(2)})
    make_tar(tmp_path / "hub" / "1.tar", {"c.png": png(3)})
    path, index = "hf://datasets/me/set/data/*.tar", tmp_path / "index.json"
    with hub(tmp_path / "hub"):
        assert make_index(path, index, show=False).samples == 3
        source = ShardSource(path=path, index=str(index), cache=str(tmp_path / "cache"))
        assert shown(source) == [1, 2, 3]
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert TOKEN.encode() not in kept + "".join(capfd.readouterr()).encode()


def test_a_bearer_token_goes_to_its_host_alone(server, at, monkeypatch, tmp_path, capfd):
    server.publish()
    monkeypatch.setenv("SR_TOKEN_127_0_0_1", "t0p-secret")
    assert shown(at("")) == [0, 1, 2, 3, 4, 5]
    assert set(server.logins) == {"Bearer t0p-secret"}
    server.faults["t-0.tar"] = [403] * 20
    with pytest.raises(UserError, match="grant this machine") as refused:
        ShardSource(path=f"{server.url}/t-0.tar", cache=str(tmp_path / "another")).read(0, 0)
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"t0p-secret" not in kept + "".join(capfd.readouterr()).encode() + str(refused.value).encode()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SR_TOKEN_DATA_EXAMPLE_ORG", "x")
    assert transport._login("https", "huggingface.co") == f"Bearer {TOKEN}"
    assert transport._login("https", "data.example.org") == "Bearer x"
    assert transport._login("https", "cdn.example.org") == ""
    with pytest.raises(PermanentError, match="SR_TOKEN_DATA_EXAMPLE_ORG would be sent unencrypted"):
        transport._login("http", "data.example.org")


@pytest.mark.slow
def test_an_s3_compatible_server_is_indexed_read_and_written(tmp_path, monkeypatch):
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "not_to_be_seen",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        for number in range(3):
            system.put(str(make_tar(tmp_path / f"{number}.tar", {"a.png": png(number)})), f"bucket/set/{number}.tar")
        report = make_index("s3://bucket/set/*.tar", show=False)
        assert (report.samples, report.files) == (3, ["s3://bucket/set/index.json"])
        source = ShardSource(path="s3://bucket/set/", cache=str(tmp_path / "cache"))
        assert (source.counts, shown(source)) == ([1, 1, 1], [0, 1, 2])
        cached = b"".join(file.read_bytes() for file in (tmp_path / "cache").iterdir())
        assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in cached
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
