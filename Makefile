# The front door. Meson and ninja do the work; `make help` tells what there is.

# The system's own tools first: Meson, its Python and pytest belong together.
export PATH := /usr/sbin:/usr/bin:/sbin:/bin:$(PATH)

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600

.PHONY: all run check bench bench-full faults fuzz soak install uninstall dist dist-check deb deb-test clean format lint help
.DEFAULT_GOAL := all

all: deps build/build.ninja
	@ninja -C build --quiet

# Configures once; from then on ninja sees for itself when meson.build has changed.
build/build.ninja: | deps
	@meson setup build --prefix='$(PREFIX)'

# Installs what is missing; costs some hundredths of a second when nothing is.
.PHONY: deps
deps:
	@tools/deps build

run: all
	@tools/deps build run
	@tools/run-demo build/kaiso $(PORT)

check:
	@tools/deps build test
	@tools/check $(BUILDS)

bench bench-full: all
	@tools/deps build bench
	@ninja -C build --quiet tests/bench/load
	@tests/bench/bench.py build/kaiso build/tests/bench/load --json build/bench.json \
		$(if $(filter bench-full,$@),--full) $(BENCH)
	@tests/bench/plot.py build/bench.json build/bench
	@echo 'Figures: build/bench.json; plots: build/bench/*.svg'

faults: all
	@tools/deps build test
	@meson configure build -Dtests=enabled
	@ninja -C build --quiet all
	@tests/faults/run.py $(FAULTS)

fuzz:
	@tools/deps build fuzz
	@tools/fuzz $(FUZZ_SECONDS) $(TARGETS)

# Chaos. The same choices again with the SEED that it prints.
soak: all
	@tools/deps build soak
	@tests/soak/soak.py build/kaiso --seconds $(SOAK_SECONDS) $(if $(SEED),--seed '$(SEED)') $(SOAK)

install: all
	@meson configure build --prefix='$(PREFIX)'
	@ninja -C build --quiet
	@meson install -C build --no-rebuild $(if $(DESTDIR),--destdir '$(abspath $(DESTDIR))')
	@[ -n '$(DESTDIR)' ] || ldconfig 2>/dev/null || true # so that libkaiso is found; not for a package

# What the last `make install` from here has laid out, wherever that was.
uninstall:
	@ninja -C build uninstall

dist:
	@tools/dist

dist-check:
	@tools/deps build test
	@tools/dist-check

deb:
	@tools/deps build deb test
	@tools/deb

deb-test: deb
	@tools/deb-test

clean:
	@rm -rf build build-address build-thread build-fuzz

format:
	@tools/deps format
	@tools/format

lint: all
	@tools/deps build lint
	@tools/lint --self-test
	@tools/lint

help:
	@sed -n 's/^#: //p' Makefile

#: make            builds build/kaiso (and installs the Debian packages that this needs)
#: make run        a router with some services on 127.0.0.1:37812, to try out    [PORT=37812]
#: make check      all tests, in a normal build and under sanitizers  [BUILDS="normal address thread"]
#: make bench      kaiso beside HAProxy, nginx and others, some minutes  [BENCH="--rounds 5 --peers nginx"]
#: make bench-full the same with every size and number of clients
#: make faults     every call that the router makes fails, at every place, with every errno  [FAULTS="--part start"]
#: make fuzz       fuzzes every target for a while                    [FUZZ_SECONDS=60 TARGETS="request …"]
#: make soak       chaos, ten minutes and one more                     [SOAK_SECONDS=600 SEED= SOAK="--chaos none"]
#: make lint       static analysis: clang-tidy, cppcheck, gcc -fanalyzer
#: make format     brings the source into its form
#: make install    installs the program                               [PREFIX=/usr/local DESTDIR=]
#: make uninstall  removes what the last of these has installed
#: make dist       a release tarball of the last commit, in build/dist
#: make dist-check the same, and its tests run from the tarball alone
#: make deb        Debian packages in build/deb, looked at by lintian
#: make deb-test   installs, uses and purges them in a small Debian, which it also boots (as root)      [MIRROR=http://… SUITE=bookworm]
#: make clean      removes what was built
