# The targets: bench.

.PHONY: bench
bench:
	scripts/bench.sh
