# Everything docmill needs, from a fresh clone. `make` prints the targets.
# EXTRA=gpu takes the CUDA lock; without it the environment stays what it is, cpu when there is none yet.
SHELL     := /bin/bash
PYTHON    ?= python3
READY     := .venv/.docmill-ready
EXTRA     ?= $(or $(file < $(READY)),cpu)
LOCK      := requirements/$(EXTRA).txt
SEED      ?= 7
DOCUMENTS ?= 300
RUNS      ?= 12
TESTERS   ?= 3
BENCHES   := backfill compress durability fusion host plan raw ray_data restore second_night

# -qq: pip's warnings about the reader's own pip settings are not ours to print; errors still are.
PIP := .venv/bin/python -m pip -qq --disable-pip-version-check --no-input install --progress-bar off --root-user-action ignore

.DEFAULT_GOAL := help
.PHONY: help demo demo-accuracy ui test test-servers faults bench kernels gpu-check lint lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name text; do printf 'make %-14s %s\n' "$$name" "$$text"; done

demo: $(READY)  ## translate, classify and summarise the demo corpus on this machine, then show the report
	@.venv/bin/docmill demo

demo-accuracy: $(READY)  ## the demo model's answers against the known ones (SEED=7 DOCUMENTS=300)
	@.venv/bin/docmill demo-accuracy --seed $(SEED) --documents $(DOCUMENTS)

ui: $(READY)  ## Dagster's pages: assets, runs, schedules
	@.venv/bin/docmill ui

# File by file and in order (tests/conftest.py): what a module sets up is set up once.
test: $(READY) test-servers lint  ## lint and every test that this machine can run (PYTEST_ARGS="-k ledger" TESTERS=3)
	@.venv/bin/pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: $(READY) $(if $(filter ray_data,$(NAME)),build/ray-data)  ## one benchmark of tests/benchmarks; JSON in its results/ (NAME=durability BENCH_ARGS="--documents 200")
	@.venv/bin/python tests/benchmarks/$(or $(filter $(BENCHES),$(NAME)),$(error NAME is one of: $(BENCHES))).py $(BENCH_ARGS)

build/ray-data: requirements/ray-data.txt | $(READY)
	@rm -rf $@ && $(PIP) --no-deps --target $@ -r $<

test-servers:
	@bash tests/servers/install.sh

# -P: the repository root stays off sys.path (see pyproject.toml, packages).
faults: $(READY) test-servers  ## kill the job at every layer, check that nothing is lost (RUNS=100 SEED=1 OUT=faults.json)
	@PYTHONPATH=tests .venv/bin/python -P -m faults.harness --runs $(RUNS) --seed $(SEED) $(if $(OUT),--out $(OUT)) $(FAULTS_ARGS)

# No environment is made for these two: a machine with a GPU may have nothing but torch. One that is here is used.
KERNEL_PYTHON = PYTHONPATH=build/typing $(or $(wildcard .venv/bin/python),$(PYTHON)) -P

kernels: build/typing/docmill  ## compile the CUDA kernels for A100, H100 and later (a minute; wants nvcc, no GPU)
	@$(KERNEL_PYTHON) -m docmill.kernels.build

gpu-check: build/typing/docmill  ## on a GPU machine: build the kernels, test and measure them
	@$(KERNEL_PYTHON) -m docmill.kernels.gpu_check

# `docmill` where it is not installed, and for mypy and lint-imports, which cannot follow setuptools' editable hook.
build/typing/docmill:
	@mkdir -p $(@D) && ln -sfn ../.. $@

lint: $(READY) build/typing/docmill  ## ruff, mypy and the import contracts
	@.venv/bin/ruff check --quiet --output-format concise .
	@.venv/bin/ruff format --check --quiet --output-format concise . || { echo 'to format: .venv/bin/ruff format FILE'; exit 1; }
	@MYPYPATH=build/typing .venv/bin/mypy --no-error-summary
	@PYTHONPATH=build/typing .venv/bin/lint-imports > build/lint-imports.txt || { cat build/lint-imports.txt; exit 1; }

# uv only resolves, in an environment of its own: it does not look where pip finds a CPU build of torch.
UV_PIP_COMPILE := build/uv/bin/uv pip compile --quiet --python-platform x86_64-unknown-linux-gnu --python-version 3.11 \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' $(LOCK_ARGS)
UV_COMPILE := $(UV_PIP_COMPILE) pyproject.toml --override requirements/overrides.txt --extra dev --extra ray --extra production

lock:  ## resolve requirements/*.txt anew (LOCK_ARGS=--upgrade for the newest versions)
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/python -m pip -qq --disable-pip-version-check install uv; }
	@$(UV_COMPILE) --extra cpu --override requirements/overrides-cpu.txt --config-file requirements/uv-cpu.toml --output-file requirements/cpu.txt
	@$(UV_COMPILE) --extra gpu --output-file requirements/gpu.txt
	@$(UV_PIP_COMPILE) requirements/ray-data.in --no-deps --constraint requirements/cpu.txt --output-file requirements/ray-data.txt
	@git --no-pager diff --stat -- requirements

clean:  ## remove everything that a target here made, the environment included
	rm -rf .venv .docmill build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Once, and again when the lock or the project changes. torch comes first and with its own dependencies: where
# pip finds only the CUDA build, that needs libraries which the CPU lock does not name. The rest is exactly the
# lock; --no-deps because the lock leaves out what vLLM names and text does not need (requirements/overrides.txt).
# A change of EXTRA makes the environment anew, whatever the files' dates say.
ifneq ($(EXTRA),$(or $(file < $(READY)),$(EXTRA)))
$(READY): FORCE
FORCE:
endif

$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "docmill needs Python 3.11 or 3.12; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.11"; exit 1; }
	@[ "$$(cat $@ 2>/dev/null || echo $(EXTRA))" = $(EXTRA) ] || { echo 'removing the $(file < $(READY)) environment'; rm -rf .venv; }
	@echo '[1/4] virtual environment .venv (10 seconds)'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo '[2/4] torch (half a minute for the CPU build; several GB where pip finds the CUDA build)'
	@$(PIP) -c $(LOCK) torch
	@echo '[3/4] $(words $(shell grep -v "^ *\#" $(LOCK))) packages of $(LOCK) (3 to 6 minutes)'
	@$(PIP) --no-deps -r $(LOCK)
	@echo '[4/4] docmill itself, editable (5 seconds)'
	@$(PIP) --no-deps --no-build-isolation --editable .
	@echo $(EXTRA) > $@
