# What a newcomer types: `make demo`, `make test`. What CI runs: `make check`. Needs Python 3.11 or later.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
# One more at a time than there are cores, since tests often wait.
PYTEST_ARGS ?= -n $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
BIN := $(VENV)/bin
SOURCES := etl migrations tests benchmarks docs man

.PHONY: demo test faults soak trial check lint format schema wheel docs benchmark clean

demo: $(VENV)/.runtime
	$(BIN)/cdr-sync demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# The forty faults alone, injected for real on every database; ends with a table of what came of each.
faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

# Workers, database and API hurt at random for a while, from a seed: nothing may be lost or stored twice.
DATABASE ?= postgresql
SECONDS ?= 60
SEED ?= 1
soak: $(VENV)/.dev
	$(BIN)/python tests/support/soak.py --database $(DATABASE) --seconds $(SECONDS) --seed $(SEED)

# What an operator lives through: a whole day under cron, and 20,000 requests once more beside fresh ones.
REQUESTS ?= 20000
trial: $(VENV)/.dev
	$(BIN)/python tests/trials/cron_day.py
	$(BIN)/python tests/trials/backfill_beside_live.py --requests $(REQUESTS)

check: lint schema wheel test

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

# An installed wheel must bring its migrations, its manual and the page of reports along, and work from any folder.
wheel: $(VENV)/.dev
	folder=$$(mktemp -d) && $(BIN)/pip wheel -q --no-deps --wheel-dir $$folder . \
		&& $(PYTHON) -m zipfile -l $$folder/*.whl | grep -q etl/report/page.html \
		&& $(PYTHON) -m venv $$folder/venv && $$folder/venv/bin/pip install -q $$folder/*.whl \
		&& test -f $$folder/venv/share/man/man1/cdr-sync.1 \
		&& cd $$folder && CDR_SYNC_DATABASE_URL=sqlite:///$$folder/wheel.sqlite3 venv/bin/cdr-sync db upgrade \
		&& CDR_SYNC_DATABASE_URL=sqlite:///$$folder/wheel.sqlite3 venv/bin/cdr-sync db check && rm -r $$folder

# What docs and manual pages say of commands, tables and queries, made from them: tests tell when it is old.
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
