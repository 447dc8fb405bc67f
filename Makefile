# `make demo` and `make test` set up their own environment in .venv; nothing else has to be installed first.
PYTHON ?= python3
BIN := .venv/bin
# A file's tests stay in one process, for they share what was set up for the first.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test fast versions lint bench docs pictures dist clean

demo: .venv/done
	$(BIN)/python examples/demo.py

test: .venv/done
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term:skip-covered --cov-fail-under=90

fast: .venv/done
	$(BIN)/pytest $(PARALLEL) -m "not slow"

# On Python 3.10 with the oldest versions allowed, and on 3.11, 3.12 and 3.13 with those of constraints.txt: each Python has
# to be on the PATH, and each gets a torch of its own. One alone: make versions TOX=-e3.12
versions: .venv/done
	$(BIN)/tox run $(TOX) -- $(PARALLEL) -m "not slow"

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

# An sdist, and a wheel that is built from it, in dist/.
dist: .venv/done
	$(BIN)/python -m build --no-isolation

.venv/done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf .venv .tox demo dist exps site
