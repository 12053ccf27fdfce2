"""Load a full-size file and print what it cost; run as a program by test_memory.

    python load_full.py FILE DTYPE  ->  bytes of weights, peak bytes over `import torch`
"""

import resource
import sys

import torch

base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

import ldm.text.names  # noqa: E402
import ldm.unet.names  # noqa: E402
import ldm.vae.names  # noqa: E402
from ldm.text import CLIPText  # noqa: E402
from ldm.unet import UNet  # noqa: E402
from ldm.vae import VAE  # noqa: E402
from ldm.weights import fill, open_checkpoint  # noqa: E402

source = open_checkpoint(sys.argv[1])
models = []
for part, model, names in (("unet", UNet, ldm.unet.names), ("vae", VAE, ldm.vae.names),
                           ("text", CLIPText, ldm.text.names)):
    with torch.device("meta"):
        models.append(model(names.config_from(source.parts[part].shapes)))
    fill(models[-1], names.rows(models[-1].cfg), source.parts[part], getattr(torch, sys.argv[2]))
weights = sum(p.nbytes for model in models for p in model.parameters())
print(weights, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base))
