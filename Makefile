# `make demo` and `make test` set up .venv and do the rest; see README.md.
PYTHON ?= python3
CRAWL ?=
BIN := .venv/bin
PYTEST_JOBS ?= -n 2
export OMP_NUM_THREADS ?= 1

BENCHMARKS ?= outputs/benchmarks
GPU_SECONDS ?= 540

.PHONY: setup demo flagship test test-all test-cluster bench gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                       from a sample crawl to a trained, evaluated encoder and a report"
	@echo "make demo CRAWL=some.warc.gz    the same on a crawl of yours"
	@echo "make flagship CRAWL=... LABELLED=... PHOTOGRAPHS=... UNSEEN=..."
	@echo "                                from crawls and photographs of yours to an encoder, codec, lossless coder and restorer (docs/flagship.md)"
	@echo "make test                       the tests (make test-all: the long ones too)"
	@echo "make test-cluster               the same on two hosts, made here of network namespaces; root and Debian packages needed (cluster/README.md)"
	@echo "make bench                      what packing saves, and how costs grow, on this machine; half an hour on a CPU (docs/benchmarks.md)"
	@echo "make gpu                        every figure that needs a CUDA GPU, in slices of $(GPU_SECONDS) s: run it again for the rest"
	@echo "make gpu CRAWL=... ...          and last the flagship chain, with what make flagship takes"
	@echo "make setup                      only the virtual environment in .venv"

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "error: git is missing; install it (Debian: apt install git)"; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is missing; install Python 3.11 or newer, or say make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; say make PYTHON=python3.12 or the like"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) cannot make virtual environments (Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,fasttext,test]'
	@touch $@

demo: setup
	$(BIN)/lcl demo $(if $(CRAWL),--crawl "$(CRAWL)")

flagship: setup
	@test -n "$(CRAWL)" -a -n "$(LABELLED)" -a -n "$(PHOTOGRAPHS)" -a -n "$(UNSEEN)" || { echo "error: say CRAWL='crawls/*.warc.gz' LABELLED=pictures.tar PHOTOGRAPHS=folder UNSEEN=folder (docs/flagship.md)"; exit 1; }
	$(BIN)/lcl flagship --crawl $(CRAWL) --labelled "$(LABELLED)" --photographs "$(PHOTOGRAPHS)" --unseen "$(UNSEEN)" $(if $(SCALE),--scale $(SCALE))

test: setup
	$(BIN)/python -m pytest $(PYTEST_JOBS)

test-all: setup
	$(BIN)/python -m pytest $(PYTEST_JOBS) -m '(slow or not slow) and not cluster'

# Two hosts in network namespaces; root, and: apt install openssh-server pdsh slurm-wlm munge
test-cluster: setup
	$(BIN)/python -m pytest -m cluster -v tests/test_cluster_lab.py

bench: setup
	$(BIN)/python benchmarks/packing.py --output $(BENCHMARKS)/packing_window.json --rounds 0
	$(BIN)/python benchmarks/packing.py --output $(BENCHMARKS)/packing_window_3.json --rounds 0 --documents.images 3 --windows 32 --lanes 1
	$(BIN)/python benchmarks/packing.py --output $(BENCHMARKS)/packing_3_to_6.json --fill-documents 0
	$(BIN)/python benchmarks/packing.py --output $(BENCHMARKS)/packing_3.json --fill-documents 0 --documents.images 3
	$(BIN)/python benchmarks/growth.py --output $(BENCHMARKS)/growth.json --parts row_length documents contrastive
	$(BIN)/python benchmarks/growth.py --output $(BENCHMARKS)/growth_ranks.json --parts ranks
	$(BIN)/python benchmarks/plots.py --results $(BENCHMARKS)

# On a machine without network there is no .venv: its own Python must find what docs/benchmarks.md lists.
gpu:
	PYTHONPATH=".:$$PYTHONPATH" $(if $(wildcard .venv/installed),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --output outputs/gpu --seconds $(GPU_SECONDS) \
		$(if $(CRAWL),--crawl $(CRAWL) --labelled "$(LABELLED)" --photographs "$(PHOTOGRAPHS)" --unseen "$(UNSEEN)")

clean:
	rm -rf .venv demo demo-*
