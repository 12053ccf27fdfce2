"""Start the web page and the API on this machine, and open the browser.

    python scripts/webui.py --models-dir ~/sd
"""

import argparse
import os
import threading
import webbrowser
from pathlib import Path

import cli

from ldm.images import check_target


def user_and_password(text: str) -> tuple[str, str]:
    """"user:password" on a command line."""
    user, _, password = text.partition(":")
    if not user or not password:
        raise argparse.ArgumentTypeError(f"{text!r} is not user:password")
    return user, password


def parser() -> argparse.ArgumentParser:
    p = cli.Parser(__doc__)
    p.add_argument("--ckpt", default="bundled", help="name of a model in models/ to begin with (default bundled)")
    cli.add_models_dir(p, "models, loras and embeddings")
    p.add_argument("--out", type=Path, default=Path("out/web"), help="folder of the pictures (default out/web)")
    p.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS",
                   help="address to listen on; others than this machine's own need --auth (default 127.0.0.1)")
    p.add_argument("--auth", type=user_and_password, metavar="USER:PASSWORD", help="ask for these")
    p.add_argument("--port", type=int, help="port (default: 7860, or the next free one)")
    p.add_argument("--no-browser", action="store_true", help="open no browser")
    p.add_argument("--queue", type=cli.positive, default=100, help="how many jobs may wait (default 100)")
    cli.add_device(p)
    p.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"],
                   help="precision (default: bfloat16 where the hardware has it)")
    return p


def main() -> None:
    args = parser().parse_args()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"    # nothing is sent anywhere; Gradio reads it when imported
    from ldm.web.jobs import Queue
    from ldm.web.server import address_of, bind, build_app, check_listen, serve
    from ldm.web.studio import Studio

    check_listen(args.listen, args.auth)
    check_target(args.out)
    studio = Studio(args.out, args.models_dir, args.ckpt, args.device, args.dtype)
    studio.path_of(args.ckpt)                           # a wrong name is said before anything is started
    listening = bind(args.listen, args.port)
    address = address_of(listening)

    def ready() -> None:
        print(f"ready: {address}", flush=True)
        if not args.no_browser:                         # some browsers keep who calls them waiting
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    print(f"starting at {address}; Ctrl+C stops it", flush=True)
    serve(build_app(studio, Queue(args.queue), hosts={args.listen}, auth=args.auth), listening, ready)


if __name__ == "__main__":
    cli.run(main)
