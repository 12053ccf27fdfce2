"""CLIP's text encoder and tokenizer, and the grammar of prompts: a prompt to the context that the UNet attends to.

`from ldm.text import CLIPText, CLIPTextConfig, Tokenizer`; `python -m ldm.text "a prompt"` shows how it is read.
"""

from ldm.text.chunks import Chunks, chunk, common_length, encode, same_length, told_of_cuts
from ldm.text.clip import CLIPText, CLIPTextConfig
from ldm.text.glossary import Glossary
from ldm.text.grammar import Syntax, at_steps, parse, schedule
from ldm.text.tokenizer import Tokenizer

__all__ = ["CLIPText", "CLIPTextConfig", "Chunks", "Glossary", "Syntax", "Tokenizer", "at_steps", "chunk",
           "common_length", "encode", "parse", "same_length", "schedule", "told_of_cuts"]
