# `make` alone lists the targets. STACK defaults to dev. doctor, rights, smoke and the drills take
# KUBECONFIG=FILE where the stack's own is encrypted.
STACK ?= dev
UV_VERSION := 0.13.9
UV := .uv/bin/uv
PY := .venv/bin/python
# The toolchain in Pulumi.yaml calls uv by its name.
export PATH := $(CURDIR)/.uv/bin:$(PATH)
# Use the Python that is installed.
export UV_PYTHON_DOWNLOADS := never

# One word for the shell whatever is in it, and no call of make's own.
quoted = '$(subst ','\'',$(value $(1)))'
stack = $(call quoted,STACK)
# KUBECONFIG of the command line alone: the environment's does not take the place of a stack's own.
kubeconfig = $(if $(filter command,$(origin KUBECONFIG)),--kubeconfig $(call quoted,KUBECONFIG))
# For the environment make would expand them.
unexport STACK DRILL

.DEFAULT_GOAL := help
.PHONY: help setup preview test verify scratch-cluster lint hooks format check clean bench \
	mutants schema outdated live-preview drift up destroy refresh recover vault-renew forward doctor \
	rights smoke drill restore-drill

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

# uv in an environment of its own, then exactly what uv.lock says.
$(UV):
	python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Compiled now, once: otherwise half of each run's processor time goes into compiling the SDKs.
.venv/.locked: uv.lock pyproject.toml | $(UV)
	$(UV) sync --locked --quiet --group dev --compile-bytecode && touch $@

# The rules for Pulumi's engine: policy/__main__.py says why they have an environment of their own.
policy/.venv/.locked: policy/uv.lock policy/pyproject.toml | $(UV)
	$(UV) sync --project policy --locked --quiet --compile-bytecode && touch $@

setup: .venv/.locked policy/.venv/.locked ## install what the uv.lock files name

preview: setup ## show what STACK would hold, offline; manifests in build/preview/STACK
	@$(PY) -m offline $(stack)

test: setup ## the program under Pulumi's test monitor, every switch; CI=true measures coverage too
	@$(PY) -m pytest tests --ignore=tests/real -q -n auto --dist loadfile $(if $(CI),--cov)

lint: setup ## style, types, spelling, scripts, workflows: the checks in .pre-commit-config.yaml
	@.venv/bin/pre-commit run --all-files

hooks: setup ## run those checks on what each commit changes, before it
	@.venv/bin/pre-commit install

format: setup ## rewrite the code in the project's style, with the mends that ruff knows
	@$(PY) -m ruff check --fix-only -q . && $(PY) -m ruff format .

check: ## everything that CI runs
	@.ci/run

clean: ## delete build/ and all caches; .venv and .uv stay
	rm -rf build .pytest_cache .ruff_cache .coverage .coverage.*
	find . -name __pycache__ -not -path './.venv/*' -not -path './.uv/*' -prune -exec rm -rf {} +

verify: setup ## try every object on real parts; SHLINK_TEST_KUBECONFIG names a scratch cluster
	@$(PY) -m pytest tests/real -q

scratch-cluster: setup ## start a Kubernetes API for `make verify`; prints its kubeconfig
	@scripts/scratch_cluster up

bench: setup ## how long a preview takes against bare resources; counts; the longest chain
	@$(PY) -m offline.bench $(stack)

mutants: setup ## break the program on purpose and name the check that notices
	@$(PY) -m tests.mutants

schema: setup ## write Pulumi.schema.json and docs/configuration.md from the settings' models
	@$(PY) -m offline.schema

outdated: setup ## each pin, its newest release, and whether its makers still support it
	@$(PY) -m offline.outdated

# The targets below talk to a cluster. Each preview and each `up` is held to the rules in policy/.
export PULUMI_OPTION_POLICY_PACK := $(CURDIR)/policy
PULUMI = $(shell command -v pulumi)
define need_pulumi
@test -n "$(PULUMI)" || { \
	echo "error: the pulumi command is not installed; https://www.pulumi.com/docs/install/ says how" \
		"(make preview works without it)" >&2; exit 1; }
@$(PULUMI) stack select $(stack) 2>/dev/null || { \
	echo "error: this back end has no stack" $(stack)"; pulumi login, then: pulumi stack init" \
		$(stack) >&2; exit 1; }
endef

live-preview: setup ## the difference between STACK's program and what is running
	$(need_pulumi)
	$(PULUMI) preview --stack $(stack)

drift: setup ## compare what really runs with STACK's program; fails if it differs, changes nothing
	$(need_pulumi)
	$(PULUMI) preview --refresh --run-program --expect-no-changes --stack $(stack)

up: setup ## create or update STACK
	$(need_pulumi)
	$(PULUMI) up --stack $(stack)
	@echo "To see that it works: make smoke doctor STACK="$(stack)

destroy: setup ## delete STACK; Vault and PostgreSQL need not answer for it
	$(need_pulumi)
	@$(PY) -m operate.repair.recover $(stack) --only destroy

# Without the program there is no forward to Vault and PostgreSQL.
refresh: setup ## read what is really there into the state, then mend it
	$(need_pulumi)
	$(PULUMI) up --refresh --run-program --stack $(stack)

recover: setup ## after a killed run: undo what it left half done, adopt what exists, go on
	$(need_pulumi)
	@$(PY) -m operate.repair.recover $(stack)

vault-renew: setup ## make Vault from nothing, if its volume or unseal keys are lost
	$(need_pulumi)
	@$(PY) -m operate.repair.vault_renew $(stack)

forward: setup ## keep the forwards to Vault and PostgreSQL open, for `pulumi refresh` or psql
	@$(PY) -m offline.forward $(stack)

doctor: setup ## find what is wrong with STACK and its remedy; PRE=1 before a first up; JSON=1
	@$(PY) -m operate doctor $(stack) $(kubeconfig) $(if $(PRE),--pre) $(if $(JSON),--json)

rights: setup ## what each ServiceAccount of STACK may do, as the cluster answers
	@$(PY) -m operate.rights $(stack) $(kubeconfig)

smoke: setup ## use STACK: create, follow, delete a short URL; OUTSIDE=1: by the external URL; JSON=1
	@$(PY) -m operate smoke $(stack) $(kubeconfig) $(if $(OUTSIDE),--outside) $(if $(JSON),--json)

drill: setup ## rehearse a failure of STACK and time the recovery: DRILL=redis-failover; asks first
	@$(PY) -m operate drill $(stack) $(kubeconfig) $(call quoted,DRILL)

restore-drill: setup ## restore STACK's latest backup beside the live one, compare, remove; asks first
	@$(PY) -m operate.rehearse.restore_drill $(stack) $(kubeconfig) $(if $(JSON),--json)
