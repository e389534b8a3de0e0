# make demo   set up and show the whole product with a simulated wearer (SECONDS=0: until Ctrl-C)
# make test   set up and run all checks and tests
# make fuzz   damage streams of every kind of board at random for SECONDS=60 and see what must hold (SEED=1: repeat)
# make chaos   kill broker, service and network at random and see that nothing is lost (ROUNDS=50 SEED=1)
# make lint   ruff and mypy only        make bench   measure        make picture   draw the README's picture anew
# make accuracy   what is found, and what is not, beside other detectors: writes docs/accuracy.md
# make firmware   build the board's program (CHANNELS=4 and other options)   make test-firmware   run it in an emulator
# make test-asyncapi   what AsyncAPI's own parser makes of docs/asyncapi.yaml (needs Node.js 18; 60 MB from npm)
# make test-homeassistant   what Home Assistant makes of us, in a real one (1 GB to install; needs Python 3.13)
# make bench-heavy   the speed part with everything: all lengths, LibEMG too (1.2 GB to install), a day of text

PYTHON ?= python3
SECONDS ?= 110
BIN := .venv/bin

.PHONY: demo test fuzz chaos lint bench bench-heavy accuracy picture mosquitto-wanted mosquitto-needed clean
.PHONY: firmware test-firmware test-homeassistant test-asyncapi avr-needed emulator-needed

demo: .venv/.runtime mosquitto-wanted
	$(BIN)/unshrug demo $(if $(filter-out 0,$(SECONDS)),--seconds $(SECONDS))

test: lint mosquitto-needed avr-needed emulator-needed
	$(BIN)/python -m pytest

fuzz: .venv/.dev
	$(BIN)/python -m tests.fuzz --seconds $(if $(filter file,$(origin SECONDS)),60,$(SECONDS)) $(if $(SEED),--seed $(SEED))

chaos: .venv/.dev mosquitto-needed
	CHAOS_ROUNDS=$(or $(ROUNDS),50) CHAOS_SEED=$(or $(SEED),1) $(BIN)/python -m pytest -q -s -o timeout=0 tests/services/test_chaos.py

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.dev .venv-bench/.ready mosquitto-needed
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.delivery --write
	.venv-bench/bin/python -m benchmarks.decoding --write
	.venv-bench/bin/python -m benchmarks.speed --write

bench-heavy: .venv-bench-heavy/.ready
	.venv-bench-heavy/bin/python -m benchmarks.speed --full --day --write

accuracy: .venv-bench/.ready
	.venv-bench/bin/python -m benchmarks.accuracy
	.venv-bench/bin/python -m benchmarks.ecg > docs/heartbeat.md

picture: .venv/.dev
	$(BIN)/python docs/picture.py

# Options such as CHANNELS=4 reach it as they are.
firmware: avr-needed
	@$(MAKE) --no-print-directory -C firmware_bridge/firmware

test-firmware: .venv/.dev avr-needed emulator-needed
	$(BIN)/python -m pytest tests/firmware

# It ends in one line where there is no Python 3.13; the shims of pyenv may name one that they do not start.
test-homeassistant: .venv-homeassistant/.ready mosquitto-needed
	.venv-homeassistant/bin/python -m pytest -W ignore::DeprecationWarning tests/homeassistant/checks.py

test-asyncapi: .venv-asyncapi/.ready
	NODE_PATH=.venv-asyncapi/node_modules node tests/asyncapi.cjs docs/asyncapi.yaml

.venv/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unshrug needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# The real EMG of the tests comes with a package whose own dependencies are not needed.
.venv/.dev: .venv/.runtime
	$(BIN)/python -m pip install --quiet --group dev
	$(BIN)/python -m pip install --quiet --no-deps biosignalsnotebooks==0.6.14
	@touch $@

# The libraries that the speed is compared with stay out of the development environment.
.venv-%/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade pip
	.venv-$*/bin/python -m pip install --quiet --editable . --group $*
	.venv-$*/bin/python -m pip install --quiet --no-deps biosignalsnotebooks==0.6.14 bitalino==1.2.6 chordspy==0.2.2
	@touch $@

# What Home Assistant installs by itself while it starts is pinned with it.
.venv-homeassistant/.ready: pyproject.toml
	@python=; for candidate in python3.13 "$$HOME"/.pyenv/versions/3.13.*/bin/python3.13; do \
	  "$$candidate" -c '' 2>/dev/null && python=$$candidate && break; done; \
	[ -n "$$python" ] || { echo "Home Assistant 2025.4 needs Python 3.13: install python3.13, or pyenv install 3.13"; exit 1; }; \
	"$$python" -m venv .venv-homeassistant
	.venv-homeassistant/bin/python -m pip install --quiet --upgrade pip
	.venv-homeassistant/bin/python -m pip install --quiet --editable . --group homeassistant
	@touch $@

.venv-asyncapi/.ready:
	@command -v npm >/dev/null || { echo "AsyncAPI's parser needs Node.js with npm: install nodejs and npm"; exit 1; }
	npm install --silent --no-audit --no-fund --prefix .venv-asyncapi @asyncapi/parser@3.6.3
	@touch $@

# Cues work without a broker, so a demonstration goes on without one; the tests do not.
mosquitto-wanted:
	@$(MAKE) --no-print-directory mosquitto-needed || echo "Going on without MQTT."

mosquitto-needed:
	@PATH="$$PATH:/usr/sbin" command -v mosquitto >/dev/null && command -v mosquitto_sub >/dev/null || { \
	  echo "Installing mosquitto and mosquitto-clients with apt"; \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -q -y --no-install-recommends mosquitto mosquitto-clients; }

avr-needed:
	@command -v avr-gcc >/dev/null && command -v avr-size >/dev/null && \
	  echo '#include <avr/io.h>' | avr-gcc -mmcu=atmega328p -E - >/dev/null 2>&1 || { \
	  echo "Installing gcc-avr, binutils-avr and avr-libc with apt"; \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -q -y --no-install-recommends gcc-avr binutils-avr avr-libc; }

emulator-needed:
	@command -v gcc >/dev/null && \
	  printf '#include <simavr/sim_avr.h>\n#include <libelf.h>\n' | gcc -E - >/dev/null 2>&1 || { \
	  echo "Installing libsimavr-dev, libelf-dev, gcc and libc6-dev with apt"; \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive \
	    apt-get install -q -y --no-install-recommends libsimavr-dev libelf-dev gcc libc6-dev; }

clean:
	rm -rf .venv .venv-bench .venv-bench-heavy .venv-homeassistant .venv-asyncapi dist firmware_bridge/firmware/build
