"""python -m ldm.native: compile the kernels for this machine."""

import sys

from ldm.native import build

if __name__ == "__main__":
    try:
        print(build())
    except RuntimeError as error:
        sys.exit(f"ldm.native: {error}")
