# `make quickstart` and `make test` set everything up on a machine that has nothing but Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# TensorRT-RTX builds engines without a GPU; NVIDIA has it for x86-64 Linux (and Windows, where there is no make).
ifeq ($(shell uname -s)-$(shell uname -m),Linux-x86_64)
EXTRAS := openvino,tensorrt-rtx,dev
else
EXTRAS := openvino,dev
endif

.PHONY: quickstart test lint pytest install clean

quickstart: install
	@$(BIN)/iresnet-export quickstart

test: lint pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pytest: install
	GOMP_SPINCOUNT=10000 $(BIN)/pytest -n 2 --dist loadfile $(PYTEST_OPTIONS)

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (some 6.5 GB with NVIDIA's libraries; once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache quickstart
