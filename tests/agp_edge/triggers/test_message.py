"""What a trigger may say."""

from __future__ import annotations

import pytest

from agp_edge.errors import InputError
from agp_edge.triggers.message import LARGEST_MESSAGE, Message, read_message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", Message()),
        (b" \r\n", Message()),
        (b"P-17\n", Message("P-17")),
        ("Teil №1".encode(), Message("Teil №1")),
        (b"[1]", Message("[1]")),
        (b"{}", Message()),
        (b'{"part": "P", "source": "left", "id": "9"}', Message("P", "left", "9")),
        (b'{"part": null, "source": ""}', Message()),
    ],
)
def test_what_is_understood(data: bytes, message: Message) -> None:
    assert read_message(data) == message


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe", "no UTF-8"),
        (b"{", "no JSON"),
        (b'{"a":' * 2000, "too long"),
        (b'{"a":' * 800, "no JSON"),
        (b'{"Part": "P"}', "no 'Part'"),
        (b'{"part": 17}', "'part' is no text"),
        (b"x" * (LARGEST_MESSAGE + 1), "too long"),
    ],
)
def test_what_is_not_is_refused_in_words(data: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_message(data)
    assert said in caught.value.what
    assert len(caught.value.what) < 300
