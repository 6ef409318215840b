# Two commands are all a newcomer needs: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BUILD ?= build

BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TENSORRT := $(BUILD)/tensorrt
TENSORRT_SOURCES := $(wildcard agp_edge/engines/tensorrt*.py) agp_edge/engines/timing_cache.py

.DEFAULT_GOAL := help
.PHONY: help demo test format lint types contracts unit types-tensorrt wheel venv clean

# $(call part,NAME,COMMAND): run a command, and say how long it took.
define part
@printf '%s\n' '== $(1)'; start=$$(date +%s); $(2) && printf '%s\n' "== $(1): $$(($$(date +%s) - start)) s"
endef

help: ## This list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## The whole chain on sample data: from good parts to verdicts on a video, in demo/.
	$(BIN)/agp-edge demo --out demo

test: format lint types types-tensorrt contracts unit ## Everything that is checked, in this order.

format: $(INSTALLED) ## Is the code formatted?
	$(call part,format,$(BIN)/ruff format --check .)

lint: $(INSTALLED) ## Ruff's rules.
	$(call part,lint,$(BIN)/ruff check .)

types: $(INSTALLED) ## mypy --strict over every package and the tests.
	$(call part,types,$(BIN)/mypy)

contracts: $(INSTALLED) ## The direction of imports.
	$(call part,contracts,$(BIN)/lint-imports)

# Many tests wait for something, so two at a time. Those of a group, as of the one port that a GigE camera has, are not.
unit: $(INSTALLED) ## The tests.
	$(call part,unit,$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup)

# TensorRT cannot be installed without a GPU, its bindings can: what they say of themselves is what our calls are held
# against.
types-tensorrt: $(INSTALLED) ## mypy --strict over the TensorRT builder with NVIDIA's bindings of 10.3 and 11.
	$(BIN)/python tests/stand_ins/tensorrt_bindings.py $(TENSORRT)
	@for stubs in $(TENSORRT)/*/stubs; do \
		[ -d "$$stubs" ] || continue; \
		printf '%s: ' "$$stubs"; \
		MYPYPATH=$$stubs $(BIN)/mypy --follow-imports=silent \
			--cache-dir $$stubs.cache $(TENSORRT_SOURCES) || exit 1; \
	done

wheel: $(INSTALLED) ## What a device installs, in dist/.
	$(BIN)/python -m build --wheel --no-isolation

venv: $(INSTALLED) ## The virtual environment alone: everything that a host needs, and the tests.

# Made anew when the dependencies change. constraints.txt pins every version, and so torch too: nothing that is
# installed beside it can bring another one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) -V): agp-edge needs 3.10 to 3.13, as in: make PYTHON=python3.11"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[host,dev,tensorrt-rtx]'
	@touch $@

clean: ## Remove what make has made, but for demo/.
	rm -rf $(VENV) $(BUILD) dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
