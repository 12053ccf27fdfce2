"""Scores of pictures: against real ones (FID, KID, precision and recall), and against their prompts (CLIP score).

    made, real = (collect(features_of(network, files), len(files), path) for ...)       # [N D]
    frechet_distance(moments(made), moments(real))

The network that sees the pictures is an argument: any callable, or a local file.  Nothing is downloaded.
"""

from ldm.metrics.clip_score import ClipScorer
from ldm.metrics.features import Network, Resize, collect, features_of, load_network, pictures_in
from ldm.metrics.frechet import Moments, frechet_distance, moments
from ldm.metrics.kernel import kernel_distance, mmd2
from ldm.metrics.manifold import precision_recall

__all__ = ["ClipScorer", "Moments", "Network", "Resize", "collect", "features_of", "frechet_distance",
           "kernel_distance", "load_network", "mmd2", "moments", "pictures_in", "precision_recall"]
