# `make` alone lists the targets.
STACK ?= dev
UV_VERSION := 0.13.9
UV := .uv/bin/uv
PY := .venv/bin/python
# The toolchain in Pulumi.yaml calls uv by its name.
export PATH := $(CURDIR)/.uv/bin:$(PATH)
# Use the Python that is installed.
export UV_PYTHON_DOWNLOADS := never
# Each preview and each `up` is held to the rules in policy/.
export PULUMI_OPTION_POLICY_PACK := $(CURDIR)/policy

# One word for the shell whatever is in it, and no call of make's own.
quoted = '$(subst ','\'',$(value $(1)))'
stack = $(call quoted,STACK)
# KUBECONFIG of the command line alone: the environment's does not take the place of a stack's own.
kubeconfig = $(if $(filter command,$(origin KUBECONFIG)),--kubeconfig $(call quoted,KUBECONFIG))
json = $(if $(JSON),--json)
operate = @$(PY) -m operate $@ $(stack)
# For the environment make would expand them.
unexport STACK DRILL FROM ORIGIN FILE

TARGETS := help setup preview new test verify scratch-cluster lint hooks format check clean bench mutants \
	schema outdated live-preview drift up destroy refresh recover vault-renew forward doctor rights smoke \
	drill restore-drill import-links export-links

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

# Make would run what it knows, for STACK's default, before it comes to the word that it does not.
UNKNOWN := $(filter-out $(TARGETS) $(UV) %.locked,$(MAKECMDGOALS))
ifneq ($(UNKNOWN),)
$(error there is no target $(firstword $(UNKNOWN)), so nothing was run. make help lists them; a \
	stack is named like this: make $(firstword $(filter $(TARGETS),$(MAKECMDGOALS)) preview) STACK=$(firstword $(UNKNOWN)))
endif

help: ## list the targets
	@echo "make TARGET STACK=NAME, of a file Pulumi.NAME.yaml; without STACK it is dev"
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '%s\n' "" "make ends with 2 at every failure. The exit codes themselves (0 well, 1 to mend," \
		"2 not done) come from the command behind a target that needs the cluster:" \
		"  .venv/bin/python -m operate doctor NAME"

# uv in an environment of its own, then exactly what uv.lock says.
$(UV):
	@scripts/set_up "uv $(UV_VERSION)" sh -c 'python3 -m venv .uv && \
		.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)'

# Compiled now, once: otherwise half of each run's processor time goes into compiling the SDKs.
.venv/.locked: uv.lock pyproject.toml | $(UV)
	@scripts/set_up "the packages in uv.lock, one or two minutes at first" \
		$(UV) sync --locked --group dev --compile-bytecode
	@touch $@

# The rules for Pulumi's engine: policy/__main__.py says why they have an environment of their own.
policy/.venv/.locked: policy/uv.lock policy/pyproject.toml | $(UV)
	@scripts/set_up "the packages in policy/uv.lock" \
		$(UV) sync --project policy --locked --compile-bytecode
	@touch $@

##@ Without a cluster

setup: .venv/.locked policy/.venv/.locked ## install what the uv.lock files name

preview: setup ## what STACK would hold; manifests in build/preview/STACK
	@$(PY) -m offline $(stack)

new: setup ## write Pulumi.STACK.yaml, like that of FROM; asks what differs
	@$(PY) -m offline.new $(stack) $(if $(FROM),--like $(call quoted,FROM))

##@ With STACK's cluster and the pulumi command

live-preview: setup ## what an update would change
	$(operate)

up: setup ## create or update STACK
	$(operate)
	@echo "To see that it works: make smoke doctor STACK="$(stack)

drift: setup ## fail where what runs differs from the program
	$(operate)

refresh: setup ## read what is there into the state, then mend it
	$(operate)

recover: setup ## after a killed run: undo what it left half done, and go on
	$(operate)

vault-renew: setup ## make Vault from nothing, if its volume or keys are lost
	$(operate)

destroy: setup ## delete STACK; Vault and PostgreSQL need not answer
	$(operate)

##@ With STACK's cluster (KUBECONFIG=FILE where its own is encrypted)

doctor: setup ## what is wrong, and its remedy; PRE=1: before an up; JSON=1
	$(operate) $(kubeconfig) $(if $(PRE),--pre) $(json)

smoke: setup ## use Shlink: create, follow, delete; OUTSIDE=1; JSON=1
	$(operate) $(kubeconfig) $(if $(OUTSIDE),--outside) $(json)

rights: setup ## what each ServiceAccount may do, as the cluster answers
	$(operate) $(kubeconfig)

drill: setup ## rehearse a failure: DRILL=NAME; without it, list them
	$(operate) $(kubeconfig) $(if $(DRILL),$(call quoted,DRILL))

restore-drill: setup ## restore the latest backup beside the live one; JSON=1
	$(operate) $(kubeconfig) $(json)

import-links: setup ## bring links along: FROM=csv|shlink|... ORIGIN=FILE|URL
	$(operate) $(kubeconfig) $(call quoted,FROM) $(call quoted,ORIGIN)

export-links: setup ## write all links into a CSV: FILE=links.csv
	$(operate) $(kubeconfig) $(call quoted,FILE)

forward: setup ## keep the forwards to Vault and PostgreSQL open
	$(operate)

##@ To work on the program

test: setup ## the program under Pulumi's test monitor; CI=true: coverage
	@$(PY) -m pytest tests --ignore=tests/real -q -n auto --dist loadfile $(if $(CI),--cov)

verify: setup ## try every object on real parts: SHLINK_TEST_KUBECONFIG=FILE
	@$(PY) -m pytest tests/real -q

scratch-cluster: setup ## start a Kubernetes API for `make verify`
	@scripts/scratch_cluster up

lint: setup ## style, types, spelling, scripts, workflows
	@.venv/bin/pre-commit run --all-files

format: setup ## rewrite the code in the project's style
	@$(PY) -m ruff check --fix-only -q . && $(PY) -m ruff format .

hooks: setup ## run lint's checks on what each commit changes
	@.venv/bin/pre-commit install

check: ## everything that CI runs
	@.ci/run

bench: setup ## what a preview costs against bare resources
	@$(PY) -m offline.bench $(stack)

mutants: setup ## break the program on purpose; name the check that notices
	@$(PY) -m tests.mutants

schema: setup ## write Pulumi.schema.json and docs/configuration.md
	@$(PY) -m offline.schema

outdated: setup ## each pin, its newest release, whether it is supported
	@$(PY) -m offline.outdated

clean: ## delete build/ and all caches; .venv and .uv stay
	rm -rf build .pytest_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +
