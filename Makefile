# Everything a contributor or CI runs. `make` alone lists it.
#
# Stamps inside the virtual environments say what is installed; they depend on the lock files, so a second run has nothing
# to install. A run that was cut off leaves no stamp, and the next one starts that environment anew.

PYTHON ?= python3
ARGS ?=
UPGRADE ?=
# Tests wait for processes and networks more than they compute: one worker more than there are processors.
WORKERS ?= $(shell expr $$(nproc) + 1)

export PYTHON
# mosquitto and ip live in /usr/sbin on Debian, which ordinary users do not have on their PATH.
export PATH := $(PATH):/usr/sbin:/sbin

RUN := .venv/.installed-run
DEV := .venv/.installed-dev
AZURE := .venv-azure/.installed
JUDGES := .venv-judges/.installed
NODE := .node-azure/.installed
UV := .tools/uv/.installed

TEST_PROGRAMS := ca-certificates curl dbus-daemon faketime gnutls-bin iproute2 libstrongswan-extra-plugins \
	libstrongswan-standard-plugins libtpm2-pkcs11-1 libtpm2-pkcs11-tools libtss2-tcti-tabrmd0 mosquitto mosquitto-clients nodejs npm \
	opensc openssl procps softhsm2 strace strongswan-pki swtpm tpm2-abrmd tpm2-tools

NPM_QUIET = --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error

UV_COMPILE = .tools/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' $(UPGRADE)

.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help demo test check bench fuzz soak systemd coverage docs prerequisites install compiled lock clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 22

demo: compiled ## the whole story on this machine: hub, gateway, sensor, intruders, an outage (ARGS="--json --keep")
	@tools/prerequisites openssl
	.venv/bin/edgetrust demo $(ARGS)

test: prerequisites $(AZURE) $(NODE) $(JUDGES) check compiled ## lint, types, layers and all tests (ARGS="-k pattern")
	PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=15 $(ARGS)

check: $(DEV) ## lint, types and layers only
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: $(DEV) compiled ## measure against mosquitto and others, in one run; prints ratios
	@tools/prerequisites mosquitto openssl
	.venv/bin/python -m bench $(ARGS)

fuzz: $(DEV) ## damaged input for every parser that a peer can reach, 10 s each (ARGS="--target tls --seconds 60")
	.venv/bin/python -m fuzz $(ARGS)

soak: $(DEV) compiled ## a thousand devices under renewals, a new root, cuts and kills (ARGS="--minutes 15 --json")
	.venv/bin/python tests/soak.py $(ARGS)

systemd: $(DEV) ## the units of a gateway under a systemd booted in namespaces; as root
	@tools/prerequisites systemd
	.venv/bin/python tests/booted.py

coverage: $(DEV) ## branch coverage of the packages that decide
	.venv/bin/coverage run --branch --source=edgetrust.pki,edgetrust.protocol,edgetrust.trust,edgetrust.broker \
		-m pytest -q tests/unit tests/property tests/dialogue $(ARGS)
	.venv/bin/coverage report --show-missing --skip-covered

docs: $(DEV) ## write the generated pages of docs/reference
	.venv/bin/python tools/generate_docs.py

prerequisites: ## programs that the tests drive; installed through apt-get as root, else named
	@tools/prerequisites $(TEST_PROGRAMS)

install: $(DEV) compiled ## the development environment, without running anything

lock: $(UV) ## resolve dependencies into requirements/*.txt (UPGRADE=--upgrade for newer versions)
	$(UV_COMPILE) pyproject.toml requirements/build.in --all-extras --group dev -o requirements/dev.txt >/dev/null
	$(UV_COMPILE) pyproject.toml --all-extras --constraint requirements/dev.txt -o requirements/run.txt >/dev/null
	$(UV_COMPILE) requirements/build.in --constraint requirements/dev.txt -o requirements/build.txt >/dev/null
	$(UV_COMPILE) requirements/azure.in --emit-build-options -o requirements/azure.txt >/dev/null
	$(UV_COMPILE) requirements/judges.in -o requirements/judges.txt >/dev/null
	echo uv | $(UV_COMPILE) - -o requirements/uv.txt >/dev/null
	@tools/prerequisites nodejs npm
	cd tests/interop/node && $(if $(UPGRADE),rm -f package-lock.json && ,)npm install $(NPM_QUIET) --package-lock-only --omit-lockfile-registry-resolved

clean: ## remove environments and caches; the demo's folder too
	rm -rf .venv .venv-azure .venv-judges .node-azure .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist edgetrust-demo
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): requirements/run.txt requirements/build.txt pyproject.toml
	tools/environment .venv requirements/run.txt requirements/build.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Byte code for what was changed, as pip makes it for all that is not editable: where Python is told to write none, each start
# of a process would compile everything again, which is a third of the start.
compiled: $(RUN)
	@.venv/bin/python -m compileall -q src tests/support

$(DEV): requirements/dev.txt $(RUN)
	tools/environment .venv requirements/dev.txt
	@touch $@

$(AZURE): requirements/azure.txt
	tools/environment .venv-azure requirements/azure.txt
	@touch $@

# `npm ci` removes what is there before it installs.
$(NODE): tests/interop/node/package.json tests/interop/node/package-lock.json
	@tools/prerequisites nodejs npm
	@mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci $(NPM_QUIET) </dev/null
	@touch $@

$(JUDGES): requirements/judges.txt
	tools/environment .venv-judges requirements/judges.txt
	@touch $@

$(UV):
	tools/environment .tools/uv requirements/uv.txt
	@touch $@
