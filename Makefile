# A newcomer types `make demo` and `make test`, a developer `make setup`. CI runs `make check`. Needs Python 3.11+.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# One process more than there are cores, because tests often wait.
PYTEST_ARGS ?= -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
BIN := $(VENV)/bin
SOURCES := etl migrations tests benchmarks docs man

.PHONY: demo test setup all-tests faults soak trial check lint format schema wheel docs benchmark clean

demo: $(VENV)/.runtime
	$(BIN)/cdr-sync demo

# The tests to run before every commit, on every database that this machine can start; minutes on two cores.
test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/unit tests/integration tests/cli -m 'not heavy' $(PYTEST_ARGS)

# Everything for a developer: the environment, the tools, and the hooks that check each commit in seconds.
setup: $(VENV)/.dev
	$(BIN)/pre-commit install

# Every test: also faults, soak, deploy files, trials, and what is marked heavy.
all-tests: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The forty faults, injected on every database; ends with a table of what each one did.
faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

# Workers, database and API are disturbed at random, from a seed: nothing may be lost or stored twice.
DATABASE ?= postgresql
SECONDS ?= 60
SEED ?= 1
soak: $(VENV)/.dev
	$(BIN)/python tests/support/soak.py --database $(DATABASE) --seconds $(SECONDS) --seed $(SEED)

# An operator's view: a whole day under cron, and a backfill of 20,000 requests beside live ones.
REQUESTS ?= 20000
trial: $(VENV)/.dev
	$(BIN)/python tests/trials/cron_day.py
	$(BIN)/python tests/trials/backfill_beside_live.py --requests $(REQUESTS)

check: lint schema wheel all-tests

lint: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# The migrations, run by Alembic itself, must end in the tables that the models describe.
schema: $(VENV)/.dev
	folder=$$(mktemp -d) && touch $$folder/check.sqlite3 \
		&& export CDR_SYNC_DATABASE_URL=sqlite:///$$folder/check.sqlite3 \
		&& $(BIN)/alembic upgrade head && $(BIN)/alembic check \
		&& $(BIN)/alembic downgrade base && $(BIN)/alembic upgrade head && rm -r $$folder

# An installed wheel must contain its migrations, manual and report page, and work from any folder.
wheel: $(VENV)/.dev
	folder=$$(mktemp -d) && $(BIN)/pip wheel -q --no-deps --wheel-dir $$folder . \
		&& $(PYTHON) -m zipfile -l $$folder/*.whl | grep -q etl/report/page.html \
		&& $(PYTHON) -m venv $$folder/venv && $$folder/venv/bin/pip install -q $$folder/*.whl \
		&& test -f $$folder/venv/share/man/man1/cdr-sync.1 \
		&& cd $$folder && CDR_SYNC_DATABASE_URL=sqlite:///$$folder/wheel.sqlite3 venv/bin/cdr-sync db upgrade \
		&& CDR_SYNC_DATABASE_URL=sqlite:///$$folder/wheel.sqlite3 venv/bin/cdr-sync db check && rm -r $$folder

# Generates the parts of docs and manual pages that describe commands, tables and queries; tests fail when stale.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/datasette_metadata.py
	$(BIN)/python man/generate.py

benchmark: $(VENV)/.dev
	$(BIN)/python benchmarks/job.py
	$(BIN)/python benchmarks/report.py

clean:
	rm -rf .venv .venv-* dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev,postgresql,mysql,otel,parquet,report]'
	touch $@ $(VENV)/.runtime
