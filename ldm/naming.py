"""Weight names: each component lists rows (ours, CompVis, diffusers) that name the same module three ways."""

from collections.abc import Iterable, Iterator

Row = tuple[str, str, str]


def nest(table: Iterable[Row], ours: str, compvis: str, diffusers: str) -> Iterator[Row]:
    """Put every row of `table` below a parent module, which has a name in each of the three columns."""
    for a, b, c in table:
        yield f"{ours}.{a}", f"{compvis}.{b}", f"{diffusers}.{c}"
