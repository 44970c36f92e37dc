# The two commands of the README: `make demo` and `make test`. Both need Python 3.11 or newer,
# make and a package index, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.leangan-installed

.PHONY: demo test lint clean

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "leangan needs Python 3.11 or newer; say for example: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# A real CycleGAN on real photos, a real DCGAN on latents; both compressed, measured, reported.
demo: $(STAMP)
	$(BIN)/leangan compress zoo:cyclegan-vintage --data zoo:photos -o demo/cyclegan
	$(BIN)/leangan compress zoo:dcgan-faces -o demo/dcgan
	@echo
	@echo "Open demo/cyclegan/report.html and demo/dcgan/report.html"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo
