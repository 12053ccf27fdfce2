"""Plug-in files: LoRAs, textual inversions, ControlNets, and the folders in which they are found by name."""

from ldm.plugins.canny import canny, check_thresholds
from ldm.plugins.controlnet import Control, Controlled, ControlNet, check_control, load_controlnet
from ldm.plugins.embeddings import read_embedding, with_embedding, without_embedding
from ldm.plugins.folders import extract_loras, find, name_and_weight, named_in
from ldm.plugins.lora import LoRA, LoRAs, read_lora
from ldm.plugins.mixin import Plugins

__all__ = ["Control", "ControlNet", "Controlled", "LoRA", "LoRAs", "Plugins", "canny", "check_control",
           "check_thresholds", "extract_loras", "find", "load_controlnet", "name_and_weight", "named_in",
           "read_embedding", "read_lora", "with_embedding", "without_embedding"]
