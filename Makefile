# `make help` lists what there is to do. Everything runs in .venv, which the first target that needs it makes.
MODEL ?=
EXPERIMENT ?=
ARGS ?=
PYTHON3 ?= python3
HARDWARE ?= $(if $(shell command -v nvidia-smi),cuda,cpu)

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --no-deps --progress-bar off -q
LOCK := requirements/$(HARDWARE).txt
INSTALLED := $(VENV)/.installed-$(HARDWARE)

STAGES := calibrate quantize verify bench eval report
ASKED := $(filter $(STAGES),$(MAKECMDGOALS))
# Whoever measures wants to read the result; the stages asked for together run as one command and share each server.
RUN := $(ASKED) $(if $(filter report,$(ASKED)),,$(if $(filter bench eval,$(ASKED)),report))
EMPTY :=
COMMA := ,
LIST := [$(subst $(EMPTY) $(EMPTY),$(COMMA),$(strip $(RUN)))]
GIVEN := $(if $(MODEL),'model=$(MODEL)') $(if $(EXPERIMENT),experiment=$(EXPERIMENT))

.DEFAULT_GOAL := help
.PHONY: help install lock run all compare gate $(STAGES) demo-model config docs lint test test-slow mutants reliability clean

help: ## This list
	@echo "make compare MODEL=<hub id or folder>   BF16 and the study's formats of your model, one report"
	@echo "make compare                            the same for the small model that comes with the project, on a CPU"
	@echo "make compare EXPERIMENT=formats         every format that there is"
	@echo
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 22
	@echo
	@echo "Settings: MODEL=demo  EXPERIMENT=study (conf/experiment)  HARDWARE=$(HARDWARE)  ARGS='key=value ...'  ($(PY) -m pipeline --help)"

$(INSTALLED): $(LOCK) requirements/torch-cuda.txt pyproject.toml
	@$(PYTHON3) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else \
	"Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON3=python3.11 ..." % v)'
	@echo "installing $(LOCK) into $(VENV) (a few GB; once)"
	@test -x $(PY) || $(PYTHON3) -m venv $(VENV)
	@# torch's CPU build is not on the package index: taken where pip's configuration offers it, else the CUDA build,
	@# which needs NVIDIA's libraries to be imported (requirements/lock.py says more).
	@test $(HARDWARE) = cuda || $(PIP) --require-hashes -r requirements/torch-cpu.txt >/dev/null 2>&1 || true
	@$(PIP) --require-hashes -r $(LOCK)
	@test $(HARDWARE) = cuda || $(PY) -c 'import importlib.metadata as m, sys; sys.exit("+cpu" not in m.version("torch"))' \
		|| $(PIP) --require-hashes -r requirements/torch-cuda.txt
	@$(PIP) --no-build-isolation --editable .
	@touch $@

install: $(INSTALLED) ## Make .venv from the lock (every other target does it when needed)

run: $(INSTALLED)
	@$(PY) -m pipeline $(GIVEN) 'stage=$(LIST)' $(ARGS)

all compare: LIST = all
all: run ## All six stages
compare: run ## The same, as a question: which format of MODEL should I deploy?

calibrate: run ## Observe the activations of the BF16 model on the calibration set
quantize: run ## Make the quantized checkpoints
verify: run ## The gate each checkpoint passes before it is measured
bench: run ## Serve each checkpoint with vLLM and measure throughput and latency
eval: run ## Score each served checkpoint with lm-eval
report: run ## The table and the page from all results in outputs/

$(STAGES): ; @: # `run` does the work; without a recipe, make would say that there was nothing to do

gate: $(INSTALLED) ## Fail (exit code 5) where a variant became worse than a stored run: BASELINE=report.json
	@$(PY) -m pipeline $(GIVEN) stage=gate report.baseline=$(BASELINE) $(ARGS)

demo-model: $(INSTALLED) ## Train the embedded demo model again (about an hour on two cores)
	$(PY) -m tools.demo_model.build
	$(PY) -m tools.demo_model.train
	$(PY) -m tools.demo_model.score --card

config: $(INSTALLED) ## Write defaults and descriptions of pipeline/config/ into conf/config.yaml
	$(PY) -m tools.config_yaml

lint: $(INSTALLED) ## ruff, mypy --strict, and the direction of imports
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m mypy benchmarks
	$(VENV)/bin/lint-imports --no-logo

test: lint ## Lint, types and tests: what CI runs
	@# Two files at a time, a thread each: threads that wait for each other's cores take many times as long.
	OMP_NUM_THREADS=1 $(PY) -m pytest -m 'not slow and not alone' --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(PY) -m pytest -m alone

test-slow: $(INSTALLED) ## The proofs that take minutes
	$(PY) -m pytest -m slow

mutants: $(INSTALLED) ## A mutation run: do the nearest tests fail where the code is changed? (hours; resumable)
	@$(PY) -m tools.mutants $(ARGS)

reliability: $(INSTALLED) ## Kill runs, fill disks, fuzz readers, try the sandbox, and write docs/reliability.md (40 minutes; resumable)
	@$(PY) -m tools.reliability $(ARGS)

docs: $(INSTALLED) ## Write what documents derive from the code (formats, layers, power, schema of report.json) and from docs/results (measured figures)
	$(PY) -m tools.format_tables
	$(PY) -m tools.power_table
	$(PY) -m tools.import_layers
	$(PY) -m tools.headline
	$(PY) -m tools.report_schema
	$(PY) -m tools.stored_reports
	$(PY) -m tools.page_picture

lock: $(INSTALLED) ## Resolve pyproject.toml again into requirements/*.txt
	$(PY) requirements/lock.py $(ARGS)

clean: ## Remove outputs/
	rm -rf outputs
