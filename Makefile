# make demo    the main job for real: serve, upload, upscale, download, check
# make test    install and run every test but the long ones (make soak)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Each test process computes on one thread, so that two of them are as fast as two cores allow.
PROCESSES ?= 2

.PHONY: demo test serve check bench soak screenshots clean install

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test,dev]"
	touch $@

demo: $(READY)
	$(BIN)/python -m slidelift.service.tools.demo $(if $(SLIDE),--slide "$(SLIDE)") $(if $(MPP),--mpp $(MPP))

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not soak" -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

serve: $(READY)
	$(BIN)/slidelift serve

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python -m benchmarks.bench

soak: $(READY)
	RELIABILITY_LOG=$(CURDIR) $(BIN)/pytest -m soak

screenshots: $(READY)
	SLIDELIFT_SCREENSHOTS=docs/images $(BIN)/pytest tests/acceptance/test_page.py

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output .pytest_cache .ruff_cache .mypy_cache .hypothesis
