# Two commands: `make demo` trains on the embedded photographs, `make test` runs the tests.
# Both set up everything they need in .venv.
# The first of these that runs.
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$\
	$(shell python$(version) -c 'print("python$(version)")' 2>/dev/null)) python3)
BIN := .venv/bin
# Files of tests that run at the same time; three on two cores took as long as two.
TEST_JOBS ?= 2
# COVERAGE=1 prints what the tests have run.
COVERAGE ?=

.PHONY: demo test slow docs lint web-runtime clean

demo: .venv/ready
	$(BIN)/python cli.py train

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder \
		$(if $(COVERAGE),--cov lisae_tf --cov export)

slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# Into build/site.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# ONNX Runtime Web into the package, before a wheel is built: the desk's page scores by it. Needs npm.
WEB := onnxruntime-web
WEB_VERSION := 1.30.0
web-runtime:
	mkdir -p build
	npm pack --silent --pack-destination build $(WEB)@$(WEB_VERSION)
	tar -xzf build/$(WEB)-$(WEB_VERSION).tgz -C lisae_tf/desk/$(WEB) --strip-components=1 \
		package/package.json package/dist/ort.wasm.bundle.min.mjs \
		package/dist/ort-wasm-simd-threaded.wasm

.venv/ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

clean:
	rm -rf .venv build *.egg-info runs
