"""Tables in Markdown, and their places in a text."""

import re
from collections.abc import Iterable, Sequence

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """The rows below their head."""
    every = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(plain, row))} |\n" for row in every)


def plain(cell: str) -> str:
    """A text that opens no other cell, line or tag in Markdown: names come from outside."""
    return re.sub(r"([\\|<])", r"\\\1", re.sub(r"[\r\n]+", " ", cell))


def place(text: str, name: str) -> tuple[int, int] | None:
    """Where in a text what is between `<!-- name -->` and the next `<!-- end -->` begins and ends."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    return None if found is None else found.span(1)


def put(text: str, name: str, made: str) -> str:
    """The text with `made` in that place; ValueError for a text that has none."""
    span = place(text, name)
    if span is None:
        raise ValueError(f"no <!-- {name} --> before an <!-- end -->: add them")
    return f"{text[: span[0]]}\n{made}\n{text[span[1] :]}"
