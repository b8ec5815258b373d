# The README's commands. Everything is set up on the way, in .venv; needs Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

# The types are checked while the tests run: mypy takes one processor, and says at the end what it found.
define with_types
	@mkdir -p build
	@$(BIN)/mypy > build/types.log 2>&1 & types=$$!; $(1); tests=$$?; \
	wait $$types; types=$$?; cat build/types.log; exit $$((tests ? tests : types))
endef

.PHONY: demo demo-convert test test-full check lint format docs first-hour dist device-tests bench fuzz fuzz-kills soak clean

demo: .venv/demo.stamp            ## the built-in model: inspect, export, verify, generate
	$(BIN)/edgeqkv demo

demo-convert: .venv/demo.stamp    ## an ordinary model converted to an eighth of its state: convert, export, verify
	$(BIN)/edgeqkv demo --convert

test: lint                        ## what CI runs: formatting, lint, types, every test; of large matrices a few members
	$(call with_types,$(BIN)/python -m pytest $(PARALLEL))

test-full: lint                   ## the same with all members of all matrices: half an hour
	$(call with_types,$(BIN)/python -m pytest $(PARALLEL) -m '')

check: lint                       ## formatting, lint, types
	$(BIN)/mypy

lint: .venv/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

device-tests: .venv/dev.stamp     ## the sample apps, and what stands in for devices: a browser, an emulated arm64
	$(BIN)/python -m device_tests

docs: .venv/dev.stamp             ## the documentation as a site, in build/site; fails on a warning or a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

first-hour: .venv/dev.stamp       ## the ten-minute page from a wheel, with everything installed anew
	EDGEQKV_FRESH=1 $(BIN)/python -m pytest tests/first_hour

dist: .venv/dev.stamp             ## the source distribution and the wheel, in dist/
	$(BIN)/hatchling build

format: .venv/dev.stamp           ## mend what check complains of, where that is mechanical
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev.stamp            ## the figures in docs/: minutes to an hour, several GB of disk
	$(BIN)/python -m benchmarks

fuzz: .venv/dev.stamp             ## 10,000 commands with damaged or malicious inputs: a quarter of an hour
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/campaign.py --cases 10000

fuzz-kills: .venv/dev.stamp       ## 200 exports that are killed or run out of disk: an hour or more
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/kills.py --cases 200

soak: .venv/dev.stamp             ## 100,000 decode steps in each runtime and 1,000 opens: memory stays flat
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/soak.py --steps 100000 --opens 1000

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgeqkv needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[onnx]'
	touch $@

# Without its dependencies: tosa-tools asks for an older NumPy than ONNX does, and works with this one.
.venv/dev.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[all,dev]'
	$(BIN)/pip install --quiet --no-deps 'ethos-u-vela>=5.1,<6' 'tosa-tools>=2026.5' || echo 'no compiler for Ethos-U here: its tests are skipped'
	$(BIN)/pip install --quiet --editable '.[hexagon]' || echo 'no compiler for Hexagon here: its tests are skipped'
	touch $@ .venv/demo.stamp
