"""python -m ldm.native: compile the kernels for this machine."""

from ldm.native import build

if __name__ == "__main__":
    try:
        print(build())
    except RuntimeError as error:
        print(error)
