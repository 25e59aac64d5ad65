# Everything a newcomer needs. Variables: YUNTAI_HOME (data folder), API_PORT (8080), YUNTAI_CLUSTER (lab; a second
# cloud needs another name and port), HOSTS and RACKS (up, 1 host; many hosts need a data folder of their own),
# CONFIRM=yes (clean), ARGS (test, bench, bench-storage), CEPH=yes (bench-storage), MINUTES and SEED (thrash), SEEDS and
# FIRST (sim, mutants), MINUTES (fuzz).
.POSIX:
.PHONY: help up down status test sim mutants fuzz thrash bench bench-storage bench-scale bench-control clean

help:
	@echo 'make up      build what is missing, start a whole cloud on this machine, and its first VM'
	@echo 'make status  show the cloud and its processes'
	@echo 'make down    stop it and leave nothing running; the data stays'
	@echo 'make test    install what the tests need and run all of them; ARGS goes to pytest'
	@echo 'make sim     the store in a simulated world of faults; SEEDS (300), FIRST (0): seed N fails alike each time'
	@echo 'make mutants break each rule of the store on purpose and see that the simulator notices; SEEDS (300), ONLY'
	@echo 'make fuzz    feed every parser what a hostile peer, guest or disk would; MINUTES (5)'
	@echo 'make thrash  kill, hang, cut off and fill a block store while it is written; MINUTES (5), SEED'
	@echo 'make bench   measure: API, idle cost, creation, network, disk beside its peers; ARGS chooses'
	@echo 'make bench-storage   the block store beside QEMU (CEPH=yes: and Ceph), its stalls, snapshots, rebuild, memory'
	@echo 'make bench-scale     the master over 1,000 chunk servers and 10 million chunks; the servers are played'
	@echo 'make bench-control   API, scheduler and leader over 1,000 hosts and 50,000 VMs on a real etcd; agents are played'
	@echo 'make clean   stop it and delete its data (asks; CONFIRM=yes for scripts)'

up:
	@bin/setup up

down:
	@bin/setup down

status:
	@bin/yuntai status

test:
	@bin/setup tools
	@YUNTAI_SET_UP=yes bin/check $(ARGS)

sim:
	@SEEDS=$${SEEDS:-300} cargo test --quiet --release -p yuntai-sim --test seeds -- --nocapture

mutants:
	@cargo test --quiet -p yuntai-store -p yuntai-replica -p yuntai-volume --lib -- mutants
	@SEEDS=$${SEEDS:-300} cargo test --quiet -p yuntai-sim --test mutants -- --nocapture --include-ignored

fuzz:
	@MINUTES=$${MINUTES:-5} cargo test --quiet -p yuntai-sim --test fuzz -- --nocapture
	@FUZZ_TIMES=$$((40 * $${MINUTES:-5})) .venv/bin/python -m pytest -q -p no:cacheprovider tests/unit/image/test_qcow2.py

thrash:
	@bin/setup tools
	@.venv/bin/python -m tests.thrash --minutes $${MINUTES:-5} $${SEED:+--seed $$SEED} $(ARGS)

bench:
	@bin/setup tools
	@PYTHONPATH=. .venv/bin/python -m bench $(ARGS)

bench-storage:
	@bin/setup tools
	@bin/bench-storage $(ARGS)

bench-scale:
	@bin/setup tools
	@.venv/bin/python -m bench.scale $(ARGS)

bench-control:
	@bin/setup tools
	@.venv/bin/python -m bench.control $(ARGS)

clean:
	@bin/setup clean
