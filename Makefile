# nbdelta: what can be made. Logic lives in scripts/; `make help` prints this table.
.DEFAULT_GOAL := help
NODE ?= node
.PHONY: help run test check build docs interop kill-points kill-mirrors chaos interop-fs interop-snapshots interop-kernel interop-new demo-replication demo-restore fuzz groups mutants models sim sim-long bench coverage clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: build       ## serve a 1 GiB volume from ./data on a unix socket and 127.0.0.1:10809; Ctrl-C drains
	@exec $(NODE) scripts/run.mjs

test: deps build ## everything a change must pass: type check, tidy, units, conformance, crash states, real clients
	@$(NODE) scripts/test.mjs

check: node_modules ## type check only: src, native-free, test and scripts
	@npx --no-install tsc -p . --noEmit

build: node_modules ## compile to dist/ (type errors fail it)
	@npx --no-install tsc -p . --noEmitOnError

docs: build      ## write docs/cli.md anew from the command table
	@$(NODE) dist/scripts/generate-cli-docs.js

interop: deps build ## real clients: libnbd, qemu, fio, nbd-client, kill -9 under load
	@$(NODE) scripts/test.mjs interop

kill-points: deps build ## 50 kill -9 of a server with snapshots, restores, clones and deletions under load (KILLS=n SEED=n)
	@KILLS=$(or $(KILLS),50) $(NODE) dist/test/interop/kill-points.test.js

kill-mirrors: deps build ## 30 kill -9 of a server with mirrors, or of its peer, under load; each target kind and mode (KILLS=n SEED=n)
	@KILLS=$(or $(KILLS),30) $(NODE) dist/test/interop/mirror-kills.test.js

chaos: deps build ## random commands, clients, kills and full disks against three real servers, as root (MINUTES=n STEPS=n SEED=n KEEP=folder)
	@MINUTES=$(or $(MINUTES),30) $(NODE) dist/test/interop/chaos.test.js

interop-fs: deps build ## ext4, xfs and btrfs over nbdfuse and a loop device
	@$(NODE) dist/scripts/interop/filesystems.js

interop-snapshots: deps build ## ext4 and xfs written to under snapshots and restores; every snapshot mounted from a clone
	@$(NODE) dist/scripts/interop/snapshots.js

interop-kernel: deps build ## the Linux kernel's client in a QEMU guest (KERNEL='--suite trixie' for a newer one)
	@$(NODE) dist/scripts/interop/kernel.js $(KERNEL)

interop-new: deps build ## the real-client tests with a newer Debian's libnbd and qemu (extended headers)
	@$(NODE) dist/scripts/interop/newer-clients.js

demo-replication: deps build ## watch it: mirrors to another server and to a volume, split, resync both ways
	@$(NODE) dist/scripts/demo-replication.js

demo-restore: deps build ## watch it: a restore of a volume while it replicates, and its undoing
	@$(NODE) dist/scripts/demo-restore.js

fuzz: build      ## 1,000,000 mutated inputs against the NBD parser (SEED=n INPUTS=n)
	@$(NODE) dist/test/fuzz/run.js --inputs $(or $(INPUTS),1000000) $(if $(SEED),--seed $(SEED))

groups: build    ## 10,000 group snapshots under dependent writes, and how long 1, 16 and 256 volumes are held
	@ROUNDS=10000 $(NODE) dist/test/volume/groups.test.js && $(NODE) dist/scripts/group-holds.js

mutants: build   ## plants faults in the code of snapshots, one at a time; each must be seen by its test (MUTANTS=word SEED=n)
	@$(NODE) dist/scripts/mutants.js

models: build    ## every state of the two replication models, and their 24 wrong variants (MODELS=word)
	@$(NODE) dist/test/models/long.js

sim: build       ## 2,000 simulated lives of mirrored volumes on two machines (SEED=n replays one; SEEDS=n STEPS=n MINUTES=n)
	@$(NODE) dist/test/sim/mirrors.js

sim-long: build  ## crash states and sequences for hours (HOURS=n STATES=n SEED=n)
	@$(NODE) dist/test/sim/long.js

bench: build     ## side by side with nbdkit, qemu-nbd and nbd-server; writes docs/bench-results.md
	@$(NODE) scripts/deps.mjs bench && $(NODE) dist/scripts/bench/main.js $(BENCH)

coverage: build  ## tests without real clients, with a coverage report
	@npx --no-install tap --no-disable-coverage --show-full-coverage 'dist/test/{native-free,device,store,volume,nbd,control}/**/*.test.js'

clean:           ## remove what was built (never ./data)
	rm -rf dist node_modules .tap .cache

.PHONY: deps
deps:
	@$(NODE) scripts/deps.mjs tests kernel

node_modules: package.json package-lock.json
	@npm ci --no-audit --no-fund --loglevel=error && touch node_modules
