"""Many pictures as one, labelled."""

import textwrap
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 4                                                 # pixels between the cells


class Lettering:
    """Black text in Pillow's own font, of a size that suits cells of width x height pixels."""

    def __init__(self, width: int, height: int):
        self.font = ImageFont.load_default(max(10, min(width, height) // 16))
        letter = self.font.getlength("n")
        self.letters, self.lines = max(4, int(width / letter)), max(1, int(height / letter / 3))

    def wrap(self, text: str) -> str:
        """A text in lines that fit into a cell; what is too much is left out."""
        return textwrap.fill(text, self.letters, max_lines=self.lines, placeholder="...")

    def extent(self, texts: Iterable[str]) -> tuple[int, int]:
        """Width and height that hold each of the texts, 0 where all are empty."""
        draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        boxes = [draw.multiline_textbbox((0, 0), self.wrap(text), font=self.font) for text in texts if text]
        width, height = (max((int(box[i + 2]) + 2 * GAP for box in boxes), default=0) for i in (0, 1))
        return width, height

    def write(self, page: Image.Image, text: str, box: tuple[int, int, int, int]) -> None:
        """Put a text into the middle of a box: left, top, width, height."""
        left, top, width, height = box
        ImageDraw.Draw(page).multiline_text((left + width / 2, top + height / 2), self.wrap(text), fill="black",
                                            font=self.font, anchor="mm", align="center")


def sheet(rows: Sequence[Sequence[Image.Image | str]], columns: Sequence[str], sides: Sequence[str]) -> Image.Image:
    """One picture of all cells, with a label above each column and beside each row.

    A text in place of a picture is written into its cell.  Cells have the size of the largest picture.
    """
    pictures = [cell for row in rows for cell in row if isinstance(cell, Image.Image)]
    width = max((picture.width for picture in pictures), default=128)
    height = max((picture.height for picture in pictures), default=128)
    lettering = Lettering(width, height)
    left, top = lettering.extent(sides)[0], lettering.extent(columns)[1]
    xs = [left + i * (width + GAP) for i in range(len(columns))]
    ys = [top + i * (height + GAP) for i in range(len(rows))]
    page = Image.new("RGB", (xs[-1] + width, ys[-1] + height), "white")
    for x, label in zip(xs, columns, strict=True):
        lettering.write(page, label, (x, 0, width, top))
    for y, label, row in zip(ys, sides, rows, strict=True):
        lettering.write(page, label, (0, y, left, height))
        for x, cell in zip(xs, row, strict=True):
            if isinstance(cell, str):
                lettering.write(page, cell, (x, y, width, height))
            else:
                page.paste(cell, (x + (width - cell.width) // 2, y + (height - cell.height) // 2))
    return page
