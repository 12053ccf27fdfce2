"""What people do with a pipeline beside drawing: upscaling, colorizing, variations, paths, grids.

Most are pipelines made from one, `Colorizer(pipe)`, that do one step otherwise and are called the same way.  scripts/
has a program for each, docs/tasks.md the pictures.
"""

from ldm.tasks.animation import check_animation, save_animation
from ldm.tasks.color import Colorizer, keep_luma, luma
from ldm.tasks.grid import Axis, Cell, axis, cells, draw_cells
from ldm.tasks.outpaint import Outpainter
from ldm.tasks.sheet import sheet
from ldm.tasks.task import Task
from ldm.tasks.upscale import Enlarger, TiledUNet, X4Upscaler, check_noise_level, enlarge, is_x4, tiled
from ldm.tasks.variations import Varied, check_path, check_variation, draw_path, slerp

__all__ = ["Axis", "Cell", "Colorizer", "Enlarger", "Outpainter", "Task", "TiledUNet", "Varied", "X4Upscaler", "axis",
           "cells", "check_animation", "check_noise_level", "check_path", "check_variation", "draw_cells", "draw_path",
           "enlarge", "is_x4", "keep_luma", "luma", "save_animation", "sheet", "slerp", "tiled"]
