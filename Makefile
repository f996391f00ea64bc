# make demo    label text with the bundled teacher, train a student, listen to it (5 minutes)
# make test    the tests
# make check   formatting, lint and types
# make eval    how good the demo's student and its teacher are, in figures
# make lock    resolve constraints.txt anew
# make clean-demo    forget the demo's labels and student
#
# Everything is installed into .venv and cached there; nothing outside this folder is touched.
# PYTHON: the Python (3.10 or newer) to build .venv with.
# TORCH_INDEX: where PyTorch's small CPU build comes from; where it cannot be reached, and with
# TORCH_INDEX= (empty), pip's own index serves, whose build for Linux brings gigabytes of CUDA.

PYTHON ?= python3
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export XDG_CACHE_HOME := $(CURDIR)/.venv/cache
export MPLCONFIGDIR := $(CURDIR)/.venv/cache/matplotlib
export NUMBA_CACHE_DIR := $(CURDIR)/.venv/cache/numba

RUN := .venv/bin/python

.PHONY: demo test check lock eval clean-demo

demo: .venv/.core
	@echo "1/3  The teacher reads the sentences of data/corpus.txt"
	$(RUN) preprocess.py --prenet-dropout 0 --out demo/store
	@echo "2/3  A student learns from it"
	$(RUN) train.py --store demo/store --out demo/run --config quick \
		$$(ls demo/run/*.safetensors >/dev/null 2>&1 && echo --resume)
	@echo "3/3  Both, and the bundled voice, which learned for longer, read sentences that neither has seen"
	$(RUN) synthesize.py --voice demo/run --beside lightspeech/pretrained --out results

test: .venv/.dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto $(TESTS)

check: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

eval: .venv/.dev
	$(RUN) -m lightspeech.evaluate demo/run

clean-demo:
	rm -rf demo

# PyTorch comes first and by itself: its index holds nothing else that we need.
.venv/.core: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "error: LightSpeech needs Python 3.10 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv (once; several hundred megabytes)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "error: this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -z "$(TORCH_INDEX)" || .venv/bin/pip install --quiet --no-deps --retries 0 --timeout 30 \
		--index-url "$(TORCH_INDEX)" $(TORCH) 2>/dev/null || \
		echo "The CPU build of $(TORCH) could not be installed from $(TORCH_INDEX); trying pip's own index"
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@

.venv/.dev: .venv/.core
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[train,dev,eval,tensorboard,export,runtime]'
	@touch $@

# The CUDA packages are left out: PyTorch's own wheel names the exact ones that it needs.
# PocketSphinx 5.0.4 is the last that needs no compiler on Python 3.10.
lock: .venv/.dev
	.venv/bin/pip install --quiet uv
	{ echo "# Exact versions of everything that is installed; made by: make lock"; \
	  printf '%s\n' $(TORCH) librosa==0.11.0 pocketsphinx==5.0.4 | .venv/bin/uv pip compile --quiet --universal \
	    --python-version 3.10 --all-extras --no-header --no-annotate --constraint - pyproject.toml \
	  | grep -Ev '^(nvidia-|cuda-|triton)'; } > .venv/constraints.new
	mv .venv/constraints.new constraints.txt
