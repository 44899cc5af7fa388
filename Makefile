# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Needs python3 (3.11 or later) with venv, and a package index that pip is set up for.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
GRPC   ?= 127.0.0.1:8001
HTTP   ?= 127.0.0.1:8000

.PHONY: demo test gpu debian check unit newest coverage bench protos breaking dashboards manifests reference docs pictures serve format \
        dist release clean

# Bytecode is kept, whatever the environment says: each of some hundred processes would compile the same 400 modules,
# and each worker of pytest would rewrite the same 400 test files.
export PYTHONDONTWRITEBYTECODE :=

demo: $(STAMP)
	$(BIN)/python examples/magika/demo.py

# Quick ones first, several at once. Those on a GPU are a run of their own: any other hides it from the process.
test: debian $(STAMP)
	$(BIN)/python -m pytest -n auto --ignore=tests/gpu
	$(BIN)/python -m pytest tests/gpu

# On a machine with a CUDA device: the tests that need one, and whether all starts that benchmarks/gpu.py measures.
gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu
	$(BIN)/python benchmarks/gpu.py start

debian:
	PYTHON=$(PYTHON) tests/setup_debian.sh

# The quick loop: seconds, not minutes.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python protos/generate.py --check
	$(BIN)/python protos/lint.py
	$(BIN)/python client/unasync.py --check
	$(BIN)/python deploy/grafana/generate.py --check
	$(BIN)/python deploy/kubernetes/render.py --check
	$(BIN)/python docs/reference/generate.py --check
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m pytest -n auto tests/unit tests/property -m "not slow"

# What runs on macOS, too.
unit: $(STAMP)
	$(BIN)/python -c "import turnout.app.server, turnout.cli.main, turnout_client"
	$(BIN)/python -m pytest -n auto tests/unit tests/property -m "not slow"

# With the newest packages, which users get by `pip install` and constraints.txt holds back. `make clean` goes back.
newest: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable .
	$(BIN)/python -m pytest -n auto tests/unit tests/property tests/integration -m "not slow"

# The floor is in pyproject.toml, [tool.coverage.report].
coverage: $(STAMP)
	$(BIN)/python -m pytest -n auto tests/unit tests/property -m "not slow" --cov --cov-report=term

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

protos: $(STAMP)
	$(BIN)/python protos/generate.py

# Whether clients that were built from the protos of AGAINST still work: make breaking AGAINST=v0.1.0
breaking: $(STAMP)
	$(BIN)/python protos/breaking.py $(AGAINST)

dashboards: $(STAMP)
	$(BIN)/python deploy/grafana/generate.py

manifests: $(STAMP)
	$(BIN)/python deploy/kubernetes/render.py

reference: $(STAMP)
	$(BIN)/python docs/reference/generate.py

# mkdocs-material prints a notice about its successor otherwise.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The pictures of docs/console.md; needs Chromium and four minutes.
pictures: $(STAMP)
	$(BIN)/python tests/support/docs/console_pictures.py

serve: $(STAMP)
	$(BIN)/turnout serve --grpc $(GRPC) --http $(HTTP)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The wheels of both distributions, and the source: dist/
dist: $(STAMP)
	$(BIN)/hatchling build --directory dist
	cd client && ../$(BIN)/hatchling build --target wheel --directory ../dist

# Writes the version everywhere, cuts the changelog, commits and tags: make release VERSION=1.2.3
release: $(STAMP)
	$(BIN)/python deploy/release.py cut $(VERSION)

clean:
	rm -rf $(VENV) build dist

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
