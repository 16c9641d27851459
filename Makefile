GO       ?= go
LINT     ?= golangci-lint
OP        = $(GO) test ./e2e -v -count=1 -timeout 0 -args
WITH      = $(if $(POOLS),-pools $(POOLS)) $(ARGS)
FUZZTIME ?= 30s
ACQUISITIONS ?= 300
ANYTHING ?= 10m

.DEFAULT_GOAL := help
.PHONY: help test race lint pools plan status verify diff rebuild reset keep release sweep destroy chaos crash anything faults bench scale fuzz report picture api tidy shellcheck real real-qemu real-keep real-serve govc-suite ci

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: ## Run all tests, on the embedded vCenter unless GOVC_URL is set
	$(GO) test ./...

race: ## Run all tests under the race detector
	$(GO) test -race ./...

lint: ## Run golangci-lint (v2) as .golangci.yml says
	$(LINT) run ./...

pools: ## The main job: build or reuse the con/dis pools and prove them
	$(GO) test ./e2e -run Pools -v -count=1

plan: ## Print what `make pools` would do, and why; change nothing
	$(GO) test ./e2e -run Plan -v -count=1

status: ## Show who uses which pool, and how each stands (POOLS=1-2,4 chooses pools, here to release; ARGS adds flags)
	$(OP) status $(WITH)

verify: ## Run all checks on all hosts
	$(OP) verify $(WITH)

diff: ## Show what changed on the hosts since golden, and since they became ready
	$(OP) diff $(WITH)

rebuild: ## Rebuild ROLE=golden, con or dis, or the pools of POOLS
	$(OP) rebuild $(if $(ROLE),-role $(ROLE)) $(WITH)

reset: ## Put pools back to pool-ready, and prove that they are clean
	$(OP) reset $(WITH)

keep: ## Leave POOLS to a person
	$(OP) keep $(WITH)

release: ## Free POOLS that are kept or quarantined
	$(OP) release $(WITH)

sweep: ## List what the topology no longer has; with ARGS=-yes remove it
	$(OP) sweep $(WITH)

destroy: ## Remove the set, after asking for its name
	$(OP) destroy $(WITH)

chaos: ## Share a set among 8 processes for ACQUISITIONS (300), killed and stopped at random; some minutes
	POOLREADY_ACQUISITIONS=$(ACQUISITIONS) $(GO) test ./pool -run ManyProcessesShareASet -v -count=1 -timeout 30m

crash: ## Kill a process at every moment of a build, a reset, a rebuild and a destroy; some minutes
	POOLREADY_CRASH=1 $(GO) test ./pool -run AKilledProcessIsReplaced -v -count=1 -timeout 60m

anything: ## Call every method of the embedded vCenter with wild arguments, for ANYTHING (10m)
	POOLREADY_ANYTHING=$(ANYTHING) $(GO) test ./vsphere/vspheretest -run NoCallEndsTheServer -v -count=1 -timeout 0

faults: ## Meet every fault at every call of a build and of reuse, some 400 cases; some minutes
	POOLREADY_FAULTS=1 $(GO) test ./vsphere -run FaultMatrix -v -count=1 -timeout 30m

bench: ## Run the benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

scale: ## Print how a set of POOLS (50) does, with counts and ratios of one run; some minutes
	POOLREADY_SCALE=$(or $(POOLS),50) $(GO) test ./pool -run 'Scale$$' -v -count=1 -timeout 2h

fuzz: ## Run every fuzz test for FUZZTIME (30s)
	$(GO) test -list '^Fuzz' ./... | awk '/^Fuzz/ {f[n++] = $$1} /^ok/ {while (n) print $$2, f[--n]}' | while read -r p f; do $(GO) test "$$p" -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) || exit 1; done

report: ## Make report.html of the run whose processes had POOLREADY_DIR=out, in it; DIR is another directory
	$(GO) run ./cmd/poolreport $(or $(DIR),out)

picture: ## Make README's picture of a report, of the main job on the embedded vCenter; needs chromium
	rm -rf _artifacts/picture && env -u GOVC_URL POOLREADY_DIR=$(CURDIR)/_artifacts/picture $(GO) test ./e2e -run Pools -count=1
	$(GO) run ./cmd/poolreport _artifacts/picture
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1100,700 --screenshot=pool/report/report.png file://$(CURDIR)/_artifacts/picture/report.html
	rm -rf _artifacts/picture

api: ## Record the exported API as it is now, after a change of it that is meant
	$(GO) test ./e2e/internal/api -update

tidy: ## Tidy go.mod and format the code
	$(GO) mod tidy && $(LINT) fmt ./...

shellcheck: ## Check the scripts that the hosts run, and CI's own
	find e2e examples -name '*.sh' -exec shellcheck {} + && shellcheck .ci/run

real: ## The main job on real Linux guests, in containers on three network stacks; needs root, see go doc ./e2e/realguests
	cd e2e/realguests && REALGUESTS_NEEDED=1 $(GO) test -v -count=1 -timeout 60m . $(ARGS)

real-qemu: ## The same on machines under QEMU, on one stack, with snapshots of memory; long without KVM
	cd e2e/realguests && REALGUESTS_NEEDED=1 $(GO) test -run 'Pools|VM|Kill' -v -count=1 -timeout 4h . -kind vms -stacks ifupdown $(ARGS)

real-keep: ## Build con1 and dis1 on real guests and leave them to a person until Ctrl-C
	cd e2e/realguests && REALGUESTS_NEEDED=1 $(GO) test -run Pools -v -count=1 -timeout 0 . -keep $(ARGS)

real-serve: ## Serve a vCenter whose guests are real machines, as examples/simlab does with simulated ones
	cd e2e/realguests && $(GO) run ./reallab $(ARGS)

govc-suite: ## Run govmomi's tests of govc on vcsim and on simlab, of GOVMOMI=DIR, a checkout of v0.56.0
	cd vsphere/clients && GOVMOMI=$(if $(GOVMOMI),$(abspath $(GOVMOMI)),$(error GOVMOMI=DIR is missing)) $(GO) test -run GovcSuite -v -count=1 -timeout 60m .

ci: ## All that CI checks
	.ci/run
