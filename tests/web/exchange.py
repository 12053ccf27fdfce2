"""What tests send to the API, and read from its replies."""

import base64
import io

from PIL import Image

TINY = {"steps": 2, "width": 64, "height": 64, "seed": 1}           # a drawing that takes no time


def encoded(image: Image.Image, format: str = "PNG") -> str:
    """A picture as a file in base64."""
    file = io.BytesIO()
    image.save(file, format)
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> Image.Image:
    """The picture of a reply."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
