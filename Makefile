# Everything a developer or a CI runs. `make venv` first; the others do it for you.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread a test process: the models are tiny, and more threads only fight over the cores.
export OMP_NUM_THREADS ?= 1
# No test may reach for a hub.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1

.PHONY: help demo venv check test test-slow test-gpu docs format clean

help:
	@echo "make demo       the whole method on a small real language model, in minutes: no GPU; one download of 93 MB"
	@echo "make venv       create $(VENV) and install the project with its development tools"
	@echo "make check      ruff (lint and format) and mypy --strict"
	@echo "make test       the suite without the slow tests"
	@echo "make test-slow  only the slow tests"
	@echo "make docs       write the generated parts of docs/ again: the configuration's reference, scaling's tables"
	@echo "make test-gpu   on a machine with a GPU: tests/gpu, then benchmarks/gpu.py, written to logs/gpu.json"
	@echo "make format     let ruff rewrite what it can"
	@echo "make clean      remove $(VENV) and the caches"

demo: $(STAMP)
	$(BIN)/python -m sparc3_lightning.demo

venv: $(STAMP)

# The version is part of the installed metadata, so a new version installs again. The last line refuses a
# torchvision that was built for another torch (it would break `import lightning`) before the stamp is set.
$(STAMP): pyproject.toml sparc3_lightning/version.py
	@echo "installing into $(VENV): some 7 GB, several minutes without a word"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -c "import torch, torchvision, lightning, lxt; print('torch', torch.__version__, 'torchvision', torchvision.__version__, 'cuda', torch.cuda.is_available())"
	touch $(STAMP)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

docs: $(STAMP)
	PYTHONPATH=. $(BIN)/python docs/reference.py
	PYTHONPATH=. $(BIN)/python docs/scaling.py

test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu
	$(BIN)/python benchmarks/gpu.py --json logs/gpu.json

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info build dist
