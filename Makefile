# The only build file. `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.

CC := $(if $(filter default undefined,$(origin CC)),gcc,$(CC))
CXX := $(if $(filter default undefined,$(origin CXX)),g++,$(CXX))
BUILD ?= build/release
OPTIMISE ?= -O2 -g
SANITIZE ?=
JOBS ?= $(shell nproc)

WARNINGS := -Wall -Wextra -Wshadow -Werror
PACKAGES := libmicrohttpd libcurl libcjson sqlite3 gsl libcrypto
CPPFLAGS += -D_GNU_SOURCE -Isrc -MMD -MP
CFLAGS = -std=c17 $(WARNINGS) $(OPTIMISE) $(SANITIZE) -pthread
CXXFLAGS = -std=c++17 $(WARNINGS) $(OPTIMISE) $(SANITIZE) -pthread
LDLIBS = $(shell pkg-config --libs $(PACKAGES)) -lm
LINK = $(CXX) $(OPTIMISE) $(SANITIZE) -pthread

SOURCES := $(filter-out src/main.c,$(wildcard src/*.c src/*/*.c))
CXX_SOURCES := $(wildcard src/*/*.cpp)
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o) $(CXX_SOURCES:%.cpp=$(BUILD)/%.o)
LIBRARY := $(BUILD)/libself-improve.a
PROGRAM := $(BUILD)/self-improve

TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/*/test_*.c tests/fault/test_*.c tests/fuzz/fuzz_*.c))
PROOFS := $(patsubst tests/sim/%.c,$(BUILD)/%,$(wildcard tests/sim/prove_*.c))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
FORMATTED := $(wildcard src/*.[ch] src/*/*.[ch] src/*/*.cpp tests/*/*.[ch] tests/*/*/*.[ch] bench/*.[ch])

SANITIZERS := asan tsan ubsan
asan_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
ubsan_FLAGS := -fsanitize=undefined -fno-sanitize-recover=all
tsan_FLAGS := -fsanitize=thread

.DEFAULT_GOAL := build
.PHONY: build tests proofs benches run test help clean install-run install-test \
  $(SANITIZERS) valgrind tidy fmt fmt-check ranks docs docs-check bench
.SECONDARY:

build: $(PROGRAM) ## build the daemon

tests: $(TESTS) ## build the unit, fault and fuzz tests

proofs: $(PROOFS) ## build the proofs that run in the simulator

benches: $(BENCHES) ## build the benchmarks

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | column -t -s '	'

run: install-run ## install what is missing, build, start the daemon
	@$(MAKE) --no-print-directory -s -j$(JOBS) build
	@exec $(PROGRAM) run --config data/self-improve.toml

test: install-test ## install what is missing, build, run everything that must pass
	@exec scripts/run-tests

install-run install-test: install-%:
	@scripts/install $*

clean: ## remove what was built
	rm -rf build

# Checks of the sources

ranks: ## check that every include looks down
	@scripts/check-ranks

fmt: ## format the sources
	@clang-format-14 -i $(FORMATTED)

fmt-check: ## check that the sources are formatted
	@clang-format-14 --dry-run --Werror $(FORMATTED) && echo "fmt: every file is formatted"

tidy: install-test ## run clang-tidy over the sources
	@printf '%s\n' $(SOURCES) src/main.c | xargs -P $(JOBS) -n 4 sh -c \
	  'clang-tidy-14 --quiet "$$@" -- -std=c17 -D_GNU_SOURCE -Isrc' tidy && echo "tidy: nothing found"

docs: $(PROGRAM) ## write the tables of tunables and metrics
	@$(PROGRAM) docs tunables > docs/tunables.md
	@$(PROGRAM) docs metrics > docs/metrics.md

docs-check: $(PROGRAM) ## check that those tables are current
	@$(PROGRAM) docs tunables | cmp - docs/tunables.md && $(PROGRAM) docs metrics | cmp - docs/metrics.md && \
	  echo "docs: the tables are current"

# Checks while running

$(SANITIZERS): install-test ## build with AddressSanitizer, ThreadSanitizer or UBSan; run all test programs
	@scripts/run-tests --only programs --build build/$@ --make 'OPTIMISE=-O1 -g' 'SANITIZE=$($@_FLAGS)'

valgrind: install-test ## run the test programs under valgrind
	@scripts/run-tests --only programs --build build/valgrind --make 'OPTIMISE=-O1 -g' \
	  --under 'valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite'

# Proofs and benchmarks: a program (tests/sim/prove_NAME.c) or a script (tests/integration/prove-NAME, bench/NAME)

prove-%: install-test ## prove-NAME: run a proof, print its table, write build/figures/NAME.json
	@scripts/prove $* $(PROVE)

bench-%: install-test ## bench-NAME: run a benchmark, print its table, write build/figures/NAME.json
	@$(MAKE) --no-print-directory -j$(JOBS) build benches
	@mkdir -p build/figures
	@exec bench/$* $(PROVE)

bench: bench-gateway ## run the benchmark against nginx

# Rules

$(PROGRAM): $(BUILD)/src/main.o $(LIBRARY)
	@echo "link $@"
	@$(LINK) -o $@ $^ $(LDLIBS)

$(LIBRARY): $(OBJECTS)
	@rm -f $@
	@ar rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	@echo "cc   $<"
	@$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "c++  $<"
	@$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c -o $@ $<

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(LIBRARY)
	@echo "link $@"
	@$(LINK) -o $@ $^ -lcmocka $(LDLIBS)

$(BUILD)/prove_%: $(BUILD)/tests/sim/prove_%.o $(LIBRARY)
	@echo "link $@"
	@$(LINK) -o $@ $^ $(LDLIBS)

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(LIBRARY)
	@echo "link $@"
	@$(LINK) -o $@ $^ $(LDLIBS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
