# make run     install on the first call, then serve the page on http://127.0.0.1:7860
# make test    ruff, mypy and the tests of every change; installs what they need (Chromium too, when
#              root; with node and npm the JavaScript clients, into tests/api/fal_clients/node_modules)
# make test-slow   the rest: whole clips, training, compilation, each GPU size, more made-up inputs
# make lint    ruff and mypy alone
# make space SPACE=owner/name   create or update a Hugging Face Space from this folder
# make bench   time and memory of the embedded model
# make clean   remove what the targets above made
#
# PYTHON=/path/to/python    the Python to build .venv with; otherwise the first one from 3.11 on
# TIME_BUDGET=SECONDS       make test-slow starts no test after that, and lists those it skipped
# TORCH_INDEX=URL           where torch comes from; empty: the package index that pip uses anyway

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check --constraint .ci/constraints.txt

# Plain PyPI gives every Linux machine the CUDA build with some 3 GB of libraries. Without a GPU
# (/dev/dxg is the one inside WSL) the CPU build is tried first, and given up quickly when offline.
ifeq ($(shell uname -s)$(wildcard /dev/nvidiactl /dev/dxg),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif
export PYTHON

.PHONY: run test test-slow lint bench clean browser space

run: $(VENV)/run.stamp
	@exec $(PY) app.py

# Three processes with one thread each fill two cores, since many tests wait for other programs.
# `$(PY) -m pytest` runs the same tests one after another.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=25

test: lint browser
	$(PYTEST) -m "not slow"

test-slow: browser
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile=thorough \
		$(if $(TIME_BUDGET),--time-budget=$(TIME_BUDGET) --shuffle=$(shell git rev-parse HEAD))

# Gradio writes a stub beside our components when it is imported; mypy would believe that instead.
lint: $(VENV)/test.stamp
	@find svd_core -name '*.pyi' -delete
	$(PY) -m ruff check
	$(PY) -m mypy

space: $(VENV)/run.stamp
	@$(PY) deploy/space.py $(SPACE)

bench: $(VENV)/run.stamp
	$(PY) -m svd_core.benchmarks --model svd-nano

browser: $(VENV)/test.stamp
	@.ci/browser
	@.ci/nginx

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .gradio tests/api/fal_clients/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@.ci/venv

$(VENV)/run.stamp: requirements.txt .ci/constraints.txt | $(PY)
	@echo "Installing what requirements.txt lists into $(VENV) (some minutes the first time)."
ifneq ($(TORCH_INDEX),)
	@$(PIP) --no-deps --retries 0 --timeout 10 --index-url $(TORCH_INDEX) torch || \
		echo "No torch from $(TORCH_INDEX); taking the one of the usual package index."
endif
	@$(PIP) --requirement requirements.txt
	@touch $@

$(VENV)/test.stamp: tests/requirements.txt requirements-cluster.txt $(VENV)/run.stamp
	@echo "Installing what tests/requirements.txt lists into $(VENV)."
	@$(PIP) --requirement tests/requirements.txt
	@touch $@
