# make demo     sets up .venv and shows what adapterhub does, on the fixtures and on ../shared/real where it is
# make test     sets up .venv and runs the tests
# make check    lint, format, types, imports; schemas, inventories and README current
# make fuzz     every parser under atheris, SECONDS each
# make bench    speed and memory, as ratios within one run
# make schemas  writes schemas/ from adapterhub/documents/, and the parts of README.md that come from the code
# make fixtures writes fixtures/ again
# make tiny-base trains fixtures/learning/tiny-base anew, on a GPU with DEVICE=cuda: minutes there, hours on one CPU core
# make demo-train trains all four techniques on fixtures/learning, SEEDS times, and writes demo-train/index.html
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell \
	$(name) -c 'import sys; print("$(name)" if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
BIN := .venv/bin
JOBS ?= 2
SECONDS ?= 60
DEVICE ?= cpu
SEEDS ?= 1

# One thread a process: the tests run in JOBS processes. Nothing reaches for the network.
export OMP_NUM_THREADS := 1
export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_XET := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export MPLCONFIGDIR := $(CURDIR)/.venv/matplotlib

.PHONY: demo test check fuzz bench schemas fixtures tiny-base demo-train
.DELETE_ON_ERROR:

.venv/installed: pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error Python 3.11 or later is needed: make PYTHON=...))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m adapterhub demo

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses $(JOBS)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m adapterhub.documents --check
	$(BIN)/python -m adapterhub.architectures.generate --check
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cog --check README.md
	$(BIN)/python -m tests.fuzz --seconds 5 --seed 1

fuzz: .venv/installed
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

bench: .venv/installed
	$(BIN)/python -m compileall -q adapterhub
	$(BIN)/python -m tests.benchmarks

schemas: .venv/installed
	$(BIN)/python -m adapterhub.documents
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cog -r README.md

fixtures: .venv/installed
	$(BIN)/python -m fixtures.make

demo-train: .venv/installed
	$(BIN)/python -W ignore -m fixtures.learning.demo --seeds $(SEEDS) --jobs $(JOBS)

tiny-base: .venv/installed
	$(BIN)/python -m fixtures.learning.base --device $(DEVICE)
