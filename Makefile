# For those who are used to ACRN's build: make BOARD=board.xml SCENARIO=scenario.xml. All work is done by
# cargo xtask; "cargo xtask --help" shows what else there is.

BOARD ?=
SCENARIO ?=
scenario = $(if $(and $(BOARD),$(SCENARIO)),--board "$(BOARD)" --scenario "$(SCENARIO)")

.PHONY: all hypervisor tools kernel clean

# All Debian packages, that of the scenario among them.
all:
	cargo xtask deb $(scenario)

hypervisor:
	cargo xtask deb hypervisor $(scenario)

tools:
	cargo xtask deb tools

kernel:
	cargo xtask deb kernel

clean:
	cargo clean
