"""CLIP's text encoder and tokenizer: a prompt to the context that the UNet attends to.

`from ldm.text import CLIPText, CLIPTextConfig, Tokenizer`.
"""

from ldm.text.clip import CLIPText, CLIPTextConfig
from ldm.text.tokenizer import Tokenizer

__all__ = ["CLIPText", "CLIPTextConfig", "Tokenizer"]
