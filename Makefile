# make quickstart   set up, train a small sweep on real digits, print and save its tables
# make test         set up, run the tests
# make fuzz         many more random mistakes of users than the tests try: make fuzz FUZZ=400 TESTS="-k folders"
# make mutants      change a module in one place after another, and print what its tests don't notice:
#                   make mutants MODULE=FILE TESTS="FILE FOLDER" (default: those in the mirrored place) MOST=40 (default: all)
# make check        set up, lint, type-check, hold packages to their layers and links of pages to their targets
# make docs         set up, build the documentation into site/, without a network; a broken link is an error
# make docs-serve   set up, show it at a local address while its pages change

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
OUT ?= runs/quickstart
# Processes that run tests: one more than two cores, since tests of queues and kills mostly wait.
# Each has one thread: those of PyTorch would wait for each other in a loop, on the cores that the other processes need.
TEST_PROCESSES ?= 3
FUZZ ?= 400
export UV_COMPILE_BYTECODE := 1
# Big wheels over slow lines: uv's own limit is 30 seconds.
export UV_HTTP_TIMEOUT := 300

.PHONY: quickstart test fuzz mutants check docs docs-serve setup clean

quickstart: setup
	$(BIN)/python -m dgbench launch $(OUT) --sweep quickstart --skip_confirmation $(FLAGS)
	$(BIN)/python -m dgbench collect $(OUT) --format markdown --output $(OUT)/tables.md
	$(BIN)/python -m dgbench collect $(OUT) --output $(OUT)/tables.txt
	@cat $(OUT)/tables.txt

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal $(TESTS)

fuzz: setup
	FUZZ=$(FUZZ) $(BIN)/python -m pytest -n $(TEST_PROCESSES) tests/test_fuzz.py $(TESTS)

mutants: setup
	$(BIN)/python tests/support/mutants.py $(MODULE) $(if $(TESTS),--tests $(TESTS)) $(if $(MOST),--most $(MOST)) $(FLAGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_words.py tests/test_docs.py -m "not slow"

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

docs-serve: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --livereload

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
