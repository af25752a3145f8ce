# Works on a fresh machine with Python 3.11 or newer: .venv is made and filled when it is missing.
.DEFAULT_GOAL := help
.PHONY: help test check figures lab bench stress audit oldest clean

CONFIG ?= sample
CORES ?= all
WORKERS ?= 2
ARGS ?=
MINIMUM := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach python,python3.11 python3,\
    $(shell $(python) -c '$(MINIMUM)' 2>/dev/null && echo $(python))))
PY := .venv/bin/python
INSTALLED := .venv/.installed

export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:
	@echo "make test      run the tests             (make test ARGS=tests/test_masks.py: one file; WORKERS=2)"
	@echo "make figures   run what is missing of the sweep and draw every figure and table"
	@echo "               (CONFIG=sample: papermill_runs/configs/sample.yaml; CORES=all)"
	@echo "make check     say what a config lacks here, how long it takes and what it can show (CONFIG=msmarco)"
	@echo "make lab       open JupyterLab on this machine, at an index of the notebooks"
	@echo "make bench     measure speed and memory"
	@echo "make stress    run the long tests at their full counts"
	@echo "make audit     ask for known weaknesses of the pinned packages (needs a network)"
	@echo "make oldest    run a short form of the tests with the lowest versions that pyproject.toml allows (needs a"
	@echo "               network; minutes, and as much disk as .venv)"
	@echo "make clean     remove .venv and caches; results in papermill_runs stay"
	@echo "ARGS=... is handed on to pytest, snakemake or JupyterLab. PYTHON=... makes .venv with that Python."

# Installed once; again only when the dependencies change.
$(INSTALLED): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(MINIMUM)' 2>/dev/null || { \
	    echo "gdmtl needs Python 3.11 or newer: install it, or name one: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; }
	@test -x .venv/bin/pip || { echo "Creating .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "Installing the pinned packages into .venv: a few minutes the first time"
	@$(PY) -m pip install --disable-pip-version-check $(if $(MAKE_TERMOUT),,--quiet) \
	    -c constraints.txt -e '.[offline,test]'
	@touch $@
	@echo "Installed"

# Files side by side, a thread each: faster than one after the other on all cores. In the order of tests/conftest.py, the
# longest first: xdist's own, those of many tests first, leaves single long ones to the end.
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

check: $(INSTALLED)
	@$(PY) -m gdmtl_lib.sweep.check papermill_runs/configs/$(CONFIG).yaml $(ARGS)

figures: $(INSTALLED)
	$(PY) -m snakemake -s papermill_runs/Snakefile --configfile papermill_runs/configs/$(CONFIG).yaml \
	    --cores $(CORES) $(ARGS)

# Loopback only, and JupyterLab asks for its token. Root, as in a container, has to be allowed.
lab: $(INSTALLED)
	$(PY) -m jupyterlab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/00_index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

bench: $(INSTALLED)
	$(PY) -m pytest tests/benchmarks -o python_files='bench_*.py' -s $(ARGS)

stress: $(INSTALLED)
	GDMTL_STRESS=1 $(PY) -m pytest $(SIDE_BY_SIDE) -m slow $(ARGS)

# Strict: a package that nothing could be found out about is a failure, not a success.
audit: $(INSTALLED)
	@test -x .venv/audit/bin/pip-audit || { $(PY) -m venv .venv/audit && \
	    .venv/audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit==2.10.1; }
	.venv/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt $(ARGS)

# Direct dependencies as low as pyproject.toml lets them be, what they need as high as that allows; torch stays as it is
# pinned, for another one is gigabytes. Trainings and notebooks are left out: ARGS=tests takes them, too.
OLDEST := .venv/oldest
OLDEST_TESTS := tests/data tests/evaluation tests/figures tests/widgets tests/training/test_folder.py tests/test_losses.py \
    tests/test_masks.py tests/test_models.py tests/test_pretrained.py tests/trust/test_refusals.py
oldest: $(INSTALLED)
	@test -x .venv/uv/bin/uv || { $(PY) -m venv .venv/uv && \
	    .venv/uv/bin/python -m pip install --disable-pip-version-check --quiet uv==0.13.9; }
	@grep '^torch==' constraints.txt > $(OLDEST).pins
	.venv/uv/bin/uv pip compile --quiet --resolution lowest-direct --override $(OLDEST).pins --python $(PY) \
	    --extra offline --extra test pyproject.toml --output-file $(OLDEST).txt
	.venv/uv/bin/uv venv --quiet --allow-existing --python $(PY) $(OLDEST)
	.venv/uv/bin/uv pip sync --quiet --python $(OLDEST)/bin/python $(OLDEST).txt
	.venv/uv/bin/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps --editable .
	$(OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE) $(or $(ARGS),$(OLDEST_TESTS))

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .snakemake
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
