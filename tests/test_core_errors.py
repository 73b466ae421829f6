"""What error messages may hold."""

from sr.core.errors import UserError, first_line
from sr.distributed import comm, watchdog


def test_control_characters_and_undecodable_bytes_are_escaped() -> None:
    error = UserError("a\x1b[31m\x07\udc80.png: b\nc é 中")
    assert str(error) == "a\\x1b[31m\\x07\\udc80.png: b\nc é 中"


def test_first_line_quotes_one_line_and_names_the_type_where_it_is_needed() -> None:
    assert first_line(ValueError("\n wrong size\nTraceback")) == "wrong size"
    assert first_line(RuntimeError("Errors in loading:\n\tMissing key: a\n\tb")) == "Errors in loading: Missing key: a"
    assert first_line(KeyError("a")) == "KeyError: 'a'"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(RuntimeError("x" * 900), 80) == "x" * 80


def test_an_error_of_gloo_while_all_processes_run_is_one_sentence(monkeypatch) -> None:
    """gloo starts its messages with the source file that raised; other errors of that type are internal ones."""

    class Quiet:
        code = watchdog.LOST

        def verdict(self) -> None:
            return None

        def sentence(self, text: str) -> str:
            return text

    monkeypatch.setattr(comm, "_watchdog", Quiet())
    path = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534]"
    sentence, code = comm.lost(RuntimeError(f"{path} Connection closed by peer [10.0.0.2]:1234")) or ("", 0)
    assert sentence.endswith("Connection closed by peer [10.0.0.2]:1234); check the network, or raise train.timeout")
    assert code == watchdog.LOST
    assert comm.lost(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")) is None
