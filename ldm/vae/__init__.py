"""The KL autoencoder: 512x512x3 pictures to 64x64x4 latents and back.  `from ldm.vae import VAE, VAEConfig`.

`TinyVAE` is TAESD, a small stand-in for previews and quick pictures.
"""

from ldm.vae.tiny import TinyVAE, TinyVAEConfig
from ldm.vae.vae import VAE, Posterior, VAEConfig

__all__ = ["VAE", "Posterior", "TinyVAE", "TinyVAEConfig", "VAEConfig"]
