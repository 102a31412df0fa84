# Everything a user runs. Each target is complete on a fresh machine with Python 3.9 to 3.12:
#   make quickstart   watch a small model learn from real text, merge it, let it generate (needs no GPU)
#   make test         run the tests
# PYTHON=/path/to/python3.11 chooses the interpreter; without it the first suitable one on the PATH is taken.

.PHONY: help quickstart test parallel parity parity-table bench docs lint clean

VENV := .venv
PARITY_VENV := .venv-parity
# On a machine with a GPU this may be a +cpu build, so that the reference environment stays small.
TORCH ?= torch==2.13.0
REFERENCES := 'transformers>=5,<6' peft sentencepiece protobuf 'bitsandbytes>=0.50,<0.51'

help:
	@sed -n 's/^#   //p' Makefile
	@echo "make parallel     compare every layout of several ranks with one process"
	@echo "make parity       compare with Hugging Face transformers, PEFT and bitsandbytes (needs Python 3.10 or later)"
	@echo "make parity-table the same, and write what was measured into docs/models.md"
	@echo "make bench        training speed beside Hugging Face's and PaddleNLP's trainers (about an hour on two cores)"
	@echo "make docs         write the generated pages of docs/"
	@echo "make lint         check the style"
	@echo "make clean        remove the environments, caches and the quickstart's output"

quickstart: $(VENV)/.installed
	$(VENV)/bin/python tools/quickstart.py

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest tests --ignore=tests/parity -q

# Every layout of several ranks against one process, faults, two machines, elastic ones: minutes, so `make test` has a
# core of it only. The files are those that ask for the variable.
parallel: $(VENV)/.installed
	PADDLE_SFT_PARALLEL=1 $(VENV)/bin/python -m pytest -q $$(grep -rl --include='test_*.py' PADDLE_SFT_PARALLEL tests)

# The tests run where paddle is; the reference runs in its own environment, because paddlenlp needs older tokenizers.
parity: $(VENV)/.installed $(PARITY_VENV)/.installed
	PADDLE_SFT_REFERENCE_PYTHON="$(CURDIR)/$(PARITY_VENV)/bin/python" $(VENV)/bin/python -m pytest tests/parity -q

# Measures every family anew and writes the numbers into paddle_sft/models/verified.json and docs/models*.md.
parity-table: $(VENV)/.installed $(PARITY_VENV)/.installed
	PADDLE_SFT_WRITE_VERIFIED=1 PADDLE_SFT_REFERENCE_PYTHON="$(CURDIR)/$(PARITY_VENV)/bin/python" $(VENV)/bin/python -m pytest tests/parity -q
	$(VENV)/bin/python tools/make_models_table.py

# Measures this suite, PaddleNLP's trainer and Hugging Face's in turns; the results stand in outputs/bench.json.
bench: $(VENV)/.installed $(PARITY_VENV)/.installed
	@mkdir -p outputs
	PADDLE_SFT_REFERENCE_PYTHON="$(CURDIR)/$(PARITY_VENV)/bin/python" $(VENV)/bin/python tools/bench/run.py --output outputs/bench.json

docs: $(VENV)/.installed
	$(VENV)/bin/python tools/make_arguments.py
	$(VENV)/bin/python tools/make_models_table.py

lint: $(VENV)/.installed
	$(VENV)/bin/python -m ruff check .

clean:
	rm -rf $(VENV) $(PARITY_VENV) build .pytest_cache .ruff_cache .hypothesis outputs/quickstart paddle_sft.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an installation that was interrupted starts again, a finished one is kept until setup.py
# changes.
$(VENV)/.installed: setup.py
	@$(call create_venv,$(VENV),3.9)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,dev,elastic]'
	@touch $@

# torch goes first and alone: installed together, a resolver may take another build of it.
$(PARITY_VENV)/.installed: Makefile
	@$(call create_venv,$(PARITY_VENV),3.10)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PARITY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(REFERENCES)
	@touch $@

# $(1): folder, $(2): smallest Python. A candidate must answer and have venv with ensurepip, which Debian packs apart.
define create_venv
	chosen=; \
	check='import sys, venv, ensurepip; low = tuple(map(int, "$(2)".split("."))); sys.exit(not low <= sys.version_info[:2] <= (3, 12))'; \
	for candidate in $(or $(PYTHON),python3 python3.12 python3.11 python3.10 python3.9 python); do \
	    if "$$candidate" -c "$$check" >/dev/null 2>&1; then chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	    echo "No suitable Python: $(or $(PYTHON),python3, python3.12 ... python3.9, python) is not Python $(2) to 3.12 with its venv module." >&2; \
	    echo "Install one (on Debian and Ubuntu also the package python3-venv), or name one: make $@ PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Creating $(1) with $$("$$chosen" --version) ($$chosen); installing takes a few minutes the first time."; \
	rm -rf $(1) && "$$chosen" -m venv $(1)
endef
