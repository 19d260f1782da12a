# No absolute path stands here: make cannot cope with a space in one, and the folder may have a space in its name.

PYTHON ?= python3
# The version that was tested. For a machine without a GPU there is a CPU build, a tenth of the size; how to ask for it
# stands on PyTorch's installation page, and goes in here: make demo TORCH="torch==2.13.0 ..."
TORCH ?= torch==2.13.0

PIP = .venv/bin/python -m pip --disable-pip-version-check install

# Waiting threads spin for a moment only: beside another busy process, spinning makes PyTorch many times slower.
export GOMP_SPINCOUNT = 2000

.PHONY: demo play test slow fuzz docs lint format clean

demo: .venv/installed
	.venv/bin/python -m phenaki demo

play: .venv/installed-play
	.venv/bin/python -m phenaki play rooms-64

test: lint
	.venv/bin/python -m pytest -n auto --dist worksteal

slow: .venv/installed-dev
	.venv/bin/python -m pytest -m slow

# 10,000 broken inputs, about half an hour of one core: tests/fuzz
fuzz: .venv/installed-dev
	PYTHONPATH=tests .venv/bin/python -m fuzz --count 10000

# The site, in out/site: a broken link is an error
docs: .venv/installed-docs
	.venv/bin/zensical build --clean --strict

lint: .venv/installed-dev
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .

format: .venv/installed-dev
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

.venv/torch:
	@$(PYTHON) -c "import sys; sys.exit('phenaki needs Python 3.11 or newer: make PYTHON=python3.12 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	touch $@

.venv/installed: .venv/torch pyproject.toml
	$(PIP) --editable .
	touch $@

.venv/installed-play: .venv/installed
	$(PIP) --editable ".[play]"
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable ".[dev]"
	touch $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable ".[docs]"
	touch $@

clean:
	rm -rf .venv build dist out/site .cache .pytest_cache .ruff_cache
