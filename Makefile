# The front door. Meson and ninja do the work; `make help` tells what there is.

# The system's own tools first: Meson, its Python and pytest belong together.
export PATH := /usr/sbin:/usr/bin:/sbin:/bin:$(PATH)

PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60

.PHONY: all run check bench fuzz install clean format lint help
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

bench: all
	@tools/deps build run
	@ninja -C build --quiet tests/bench/load
	@tests/bench/wrap.py build/kaiso build/tests/bench/load $(ROUNDS)

fuzz:
	@tools/deps build fuzz
	@tools/fuzz $(FUZZ_SECONDS) $(TARGETS)

install: all
	@meson configure build --prefix='$(PREFIX)'
	@ninja -C build --quiet
	@meson install -C build --no-rebuild $(if $(DESTDIR),--destdir '$(abspath $(DESTDIR))')
	@[ -n '$(DESTDIR)' ] || ldconfig 2>/dev/null || true # so that libkaiso is found; not for a package

clean:
	@rm -rf build build-address build-thread build-fuzz

format:
	@tools/deps format
	@tools/format

lint: all
	@tools/deps lint
	@tools/lint

help:
	@sed -n 's/^#: //p' Makefile

#: make            builds build/kaiso (and installs the Debian packages that this needs)
#: make run        a router with some services on 127.0.0.1:37812, to try out    [PORT=37812]
#: make check      all tests, in a normal build and under sanitizers  [BUILDS="normal address thread"]
#: make bench      what wrapping a program costs, what handing over brings  [ROUNDS=5]
#: make fuzz       fuzzes every target for a while                    [FUZZ_SECONDS=60 TARGETS="request …"]
#: make lint       static analysis
#: make format     brings the source into its form
#: make install    installs the program                               [PREFIX=/usr/local DESTDIR=]
#: make clean      removes what was built
