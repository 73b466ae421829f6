"""What error messages may hold."""

from sr.core.errors import UserError, first_line


def test_control_characters_and_undecodable_bytes_are_escaped() -> None:
    error = UserError("a\x1b[31m\x07\udc80.png: b\nc é 中")
    assert str(error) == "a\\x1b[31m\\x07\\udc80.png: b\nc é 中"


def test_first_line_quotes_one_line_and_names_the_type_where_it_is_needed() -> None:
    assert first_line(ValueError("\n wrong size\nTraceback")) == "wrong size"
    assert first_line(RuntimeError("Errors in loading:\n\tMissing key: a\n\tb")) == "Errors in loading: Missing key: a"
    assert first_line(KeyError("a")) == "KeyError: 'a'"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(RuntimeError("x" * 900), 80) == "x" * 80
