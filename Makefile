# Two commands are all a newcomer needs: `make demo` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
VENV ?= .venv
BUILD ?= build

BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
TENSORRT_STUBS := tensorrt-stubs==10.13.0.35.1
TENSORRT_SOURCES := agp_edge/engines/tensorrt.py agp_edge/engines/tensorrt_callbacks.py

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

test: format lint types contracts unit ## Everything that is checked, in this order.

format: $(INSTALLED) ## Is the code formatted?
	$(call part,format,$(BIN)/ruff format --check .)

lint: $(INSTALLED) ## Ruff's rules.
	$(call part,lint,$(BIN)/ruff check .)

types: $(INSTALLED) ## mypy --strict over every package and the tests.
	$(call part,types,$(BIN)/mypy)

contracts: $(INSTALLED) ## The direction of imports.
	$(call part,contracts,$(BIN)/lint-imports)

unit: $(INSTALLED) ## The tests.
	$(call part,unit,$(BIN)/python -m pytest)

# The stubs of TensorRT 10 need two repairs before mypy reads them: a parameter called `in`, and one without a default
# after one with. What mypy finds in the stubs themselves is theirs: only what it says of our files counts.
types-tensorrt: $(INSTALLED) ## mypy --strict over the TensorRT builder with TensorRT's own stubs.
	rm -rf $(BUILD)/types && mkdir -p $(BUILD)/types
	$(BIN)/pip install --quiet --no-deps --target $(BUILD)/types/stubs $(TENSORRT_STUBS)
	sed -i -E 's/\bin: list/in_: list/; s/channel_axis: int\)/channel_axis: int = 0)/' \
		$(BUILD)/types/stubs/tensorrt_bindings/tensorrt.pyi
	MYPYPATH=$(BUILD)/types/stubs $(BIN)/mypy --follow-imports=silent --cache-dir $(BUILD)/types/cache \
		$(TENSORRT_SOURCES) > $(BUILD)/types/report || true
	@grep -q 'checked 2 source files' $(BUILD)/types/report || { cat $(BUILD)/types/report; exit 1; }
	@! grep '^agp_edge/' $(BUILD)/types/report
	@echo "the TensorRT builder fits $(TENSORRT_STUBS)"

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
