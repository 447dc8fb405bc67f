# `make demo` and `make test` set up their own environment in .venv; nothing else has to be installed first.
PYTHON ?= python3
BIN := .venv/bin
# A file's tests stay in one process, for they share what was set up for the first.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test fast lint bench docs pictures clean

demo: .venv/done
	$(BIN)/python examples/demo.py

test: .venv/done
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term:skip-covered --cov-fail-under=90

fast: .venv/done
	$(BIN)/pytest $(PARALLEL) -m "not slow"

lint: .venv/done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/done
	$(BIN)/pytest tests/benchmarks --benchmark-enable --benchmark-columns=min,median,rounds

# The site, in site/: open site/index.html.
docs: .venv/done
	$(BIN)/mkdocs build --strict

pictures: .venv/done
	$(BIN)/python examples/views.py

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv demo exps
