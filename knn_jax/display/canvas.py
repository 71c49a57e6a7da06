"""What all pictures are made of: PNG bytes, images with a word in their corner, steps of accuracy.

Figures are made without pyplot, which would set the backend of whoever imports this.
"""

import io
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

# Styles of attacks and of certificates: dashed once there are more than colours.
COLORS = ("C3", "C1", "C4", "C5", "C8", "C9", "C7", "C0")
LINES = ("-", "--", ":", "-.")
STYLES = [(color, line) for line in LINES for color in COLORS]
CERTIFIED = [(color, line) for line in LINES for color in ("C0", "C2", "C6")]
SHOWN = 6  # examples in a picture


def axes(
    rows: int,
    columns: int,
    size: tuple[float | int, float | int],
    *,
    sharey: bool = False,
    projection: Literal["3d"] | None = None,
) -> tuple[Figure, np.ndarray]:
    """A figure of that size in inches, and its axes (row, column)."""
    figure = Figure(figsize=size, layout="constrained")
    kind = {"projection": projection}
    return figure, figure.subplots(rows, columns, sharey=sharey, squeeze=False, subplot_kw=kind)


def png(figure: Figure) -> bytes:
    """The figure; a name with two dollar signs in it is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def show(axis: Axes, image: np.ndarray, told: str = "") -> None:
    """An image (height, width, channel) in [0, 1], with what is told of it in its corner."""
    axis.imshow(np.clip(image, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.text(0.03, 0.95, told, transform=axis.transAxes, color="orange", va="top", fontsize=9)


def grey(delta: np.ndarray) -> np.ndarray:
    """A perturbation scaled to the range of grey."""
    return 0.5 + delta / (2 * np.abs(delta).max() or 1)


def steps(
    axis: Axes,
    correct: Bool[np.ndarray, " image"],
    lengths: Float[np.ndarray, " some"],
    label: str,
    color: str,
    line: str = "-",
    reach: float | None = None,
) -> None:
    """The share of examples that are correct and whose length is above each value, up to `reach` at
    least where some have none."""
    lengths = np.where(correct[: len(lengths)], lengths, 0.0)
    finite = np.sort(lengths[np.isfinite(lengths) & (lengths > 0)])
    start = np.mean(lengths > 0)
    share = np.r_[start, start - np.arange(1, len(finite) + 1) / len(lengths)]
    ends = np.r_[0, finite]
    if reach is not None and reach > ends[-1]:
        ends, share = np.r_[ends, reach], np.r_[share, share[-1]]
    axis.step(ends, share, where="post", label=label, color=color, linestyle=line)
