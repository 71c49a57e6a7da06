"""The page of `--help`: what a recipe is, and each knob of its values with what it is now."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console

from knn_jax.cli.knobs import Flag, Group, choices, first_sentence

LEFT = 24  # columns of a knob and its value; the text of a longer one begins on the next line


def page(program: str, about: str, text: str, flags: Sequence[Flag | Group]) -> str:
    """The page, as wide as the terminal."""
    width = Console().width
    usage = f"usage: {program} [--workdir DIR] [--PART.KNOB VALUE ...]"
    head = [textwrap.fill(line, width) for line in (usage, first_sentence(text) + ".", about)]
    return "\n".join([*head, "", *_lines(flags, width)])


def _lines(flags: Sequence[Flag | Group], width: int, place: str = "") -> Iterator[str]:
    """The knobs of a value, and below a title those of each value within."""
    for flag in flags:
        if isinstance(flag, Flag):
            name = flag.name.replace("_", "-")
            name = f"[no-]{name}" if isinstance(flag.now, bool) else f"{name} {_written(flag.now)}"
            shown = f"  {name}" if place else f"--{name}"
            yield from _columns(shown.rstrip(), _explained(flag), width)
    for flag in flags:
        if isinstance(flag, Group):
            within = f"{place}.{flag.name}".removeprefix(".").replace("_", "-")
            if any(isinstance(knob, Flag) for knob in flag.flags):
                title = f"--{within}.KNOB  {flag.text}"
                yield textwrap.shorten(title, width, placeholder=" ...")
            yield from _lines(flag.flags, width, within)


def _columns(left: str, right: str, width: int) -> Iterator[str]:
    """A knob, and what it means beside it."""
    first, *rest = textwrap.wrap(right, max(20, width - LEFT - 2)) or [""]
    if len(left) > LEFT:
        yield left
        left = ""
    yield f"{left:{LEFT}}  {first}".rstrip()
    yield from (f"{'':{LEFT}}  {line}" for line in rest)


def _written(now: object) -> str:
    """A value as it is given on the command line."""
    if isinstance(now, tuple):
        return " ".join(map(_written, now))
    return f"{now:.6g}" if isinstance(now, float) else str(now)


def _explained(flag: Flag) -> str:
    """The first sentence of a knob's text, and its choices; of a switch how it stands."""
    named = choices(flag.hint)
    if isinstance(flag.now, bool):
        named = ("on" if flag.now else "off",)
    told = first_sentence(flag.text)
    return f"{told} ({', '.join(named)})" if named else told
