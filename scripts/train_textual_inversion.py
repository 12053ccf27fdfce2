"""Teach a model one new word from a few pictures: vectors for it are learned, the model stays as it is.

    python scripts/train_textual_inversion.py --data zorbl --word zorbl --init-word frog --out runs/word \\
        --prompt "3d render of a zorbl"
    python scripts/txt2img.py "3d render of a zorbl on a green background" --embedding runs/word/zorbl.safetensors

Gal et al. 2022.
Writes to --out: <word>.safetensors (diffusers and AUTOMATIC1111 read it), state.pt (resumes), losses.csv and .png,
samples.png.
"""

import cli
import finetuning
from torch import nn

from ldm.training.data import ImageFolder
from ldm.training.finetune import Examples, batch_loss
from ldm.training.inversion import new_word
from ldm.weights.saving import save_safetensors


def main() -> None:
    p = finetuning.parser(__doc__, lr=5e-3)
    p.add_argument("--word", required=True, help="the new word, which all captions must have")
    p.add_argument("--init-word", required=True, help="known words to begin with, near what the pictures show")
    p.add_argument("--vectors", type=cli.positive, help="vectors of the word (default: as many as --init-word has)")
    args = p.parse_args()
    pipe = finetuning.open_model(args)
    pipe.warn_of_unseen([args.init_word])
    pipe.tokenizer = words = new_word(pipe.text, pipe.tokenizer, args.word, args.init_word, args.vectors)
    data = ImageFolder(args.data, args.size)
    own = Examples.of(pipe, data, args.prompt)
    for prompt in (prompt for several in own.prompts for prompt in several):
        if words.ids[0][0] not in words.encode(prompt):
            raise ValueError(f"the caption {prompt!r} lacks the word {args.word!r}; put it in")
    run = finetuning.run_of(args, pipe, data, captions=own.prompts, word=args.word, init_word=args.init_word)
    finetuning.learn(
        args, pipe, run, nn.ParameterDict({"vectors": words.vectors}),
        loss=lambda step: batch_loss(pipe, own, args.batch, args.seed, step, args.min_snr),
        save=lambda _: save_safetensors(args.out / f"{args.word}.safetensors", {args.word: words.vectors}))


if __name__ == "__main__":
    cli.run(main)
