"""Progress bars and messages on standard error."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

T = TypeVar("T")
console = Console(stderr=True)


def say(text: str, style: str = "") -> None:
    """One line above the bars, to the letter: names and paths may look like rich's markup."""
    console.print(Text(text, style), soft_wrap=True)


@contextlib.contextmanager
def bar(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar with the remaining time; yields a function that moves it on."""
    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=console) as shown:
        task = shown.add_task(what, total=total, completed=done)
        yield lambda count: shown.advance(task, count)


def track(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a bar as they are taken."""
    with bar(what, len(items)) as advance:
        for item in items:
            yield item
            advance(1)
