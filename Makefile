# make demo: set up, then draw a picture.   make test: set up, then run all quick tests.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python

# make webui: set up, then start the web page.
.PHONY: setup demo webui test test-slow parity lint types

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml ldm/native/attention.cpp
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev]'
	$(RUN) -m pip install --quiet --no-deps k-diffusion==0.1.1.post1      # its samplers alone: the rest asks for wandb and more
	-$(RUN) -m ldm.native     # needs g++ and AVX-512; without it everything works, only slower
	touch $@

demo: setup
	$(RUN) scripts/txt2img.py "3d render of a fox" --out out/fox.png

webui: setup          # make webui ARGS="--models-dir ~/sd"
	$(RUN) scripts/webui.py $(ARGS)

test: setup
	$(RUN) -m pytest -q -m "not slow and not gpu"

test-slow: setup
	$(RUN) -m pytest -q -m "slow and not gpu"

parity: setup         # docs/parity.md, from the numbers of the tests
	$(RUN) -m pytest -q --parity

lint: setup
	$(VENV)/bin/ruff check .

types: setup
	$(VENV)/bin/pyright
