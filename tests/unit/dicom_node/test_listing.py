"""What a peer sent is text in a table: no markup of ours, and no control of a terminal."""

import pytest

from dicom_node.listing import Format, print_rows


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("A\\[/x]", "A\\[/x]"),
        ("[bold]A[/bold] [/]", "[bold]A[/bold] [/]"),
        (":smile: A\\", ":smile: A\\"),
        ("\x1b[31mA\x1b]0;title\x07\r\n", "?[31mA?]0;title???"),
        ("\x9b2JA\u202e\udc80", "?2JA??"),
        ("Zoë 山田", "Zoë 山田"),
    ],
)
def test_text_of_a_peer_stays_text(
    said: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_rows(
        [{"calling": said, "why": [said]}], Format.TABLE, [("from", "calling"), ("w", "why")]
    )
    assert capsys.readouterr().out.count(f" {shown} ") == 2


def test_numbers_and_what_is_missing_are_short(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"percent": 12.345, "at": None}]
    print_rows(rows, Format.TABLE, [("percent", "percent"), ("at", "at"), ("odd", "odd")])
    assert [each.strip() for each in capsys.readouterr().out.splitlines()[3].split("│")[1:-1]] == [
        *("12.3", "", "")
    ]
