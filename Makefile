# Two commands do everything: `make quickstart` and `make test`.  `make check` is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Of pytest: what several processes start together fills two cores.
WORKERS ?= 2

.PHONY: install quickstart test check clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

quickstart: install
	$(BIN)/pretrain quickstart

test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m 'not slow'

clean:
	rm -rf quickstart runs .pytest_cache .mypy_cache .ruff_cache
