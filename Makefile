# make demo: set up, then draw a picture.   make test: set up, then run all quick tests.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python

.PHONY: setup demo test test-slow lint types

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml ldm/native/attention.cpp
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable '.[dev]'
	-$(RUN) -m ldm.native     # needs g++ and AVX-512; without it everything works, only slower
	touch $@

demo: setup
	$(RUN) scripts/txt2img.py "3d render of a fox" --out out/fox.png

test: setup
	$(RUN) -m pytest -q -m "not slow and not gpu"

test-slow: setup
	$(RUN) -m pytest -q -m "slow and not gpu"

lint: setup
	$(VENV)/bin/ruff check .

types: setup
	$(VENV)/bin/pyright
