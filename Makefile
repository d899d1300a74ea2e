# The only build file. `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.

CC ?= gcc
CXX ?= g++
BUILD ?= build/release
OPTIMISE ?= -O2 -g
SANITIZE ?=

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

UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/*/test_*.c))

.DEFAULT_GOAL := build
.PHONY: build help

build: $(PROGRAM) ## build the daemon

help: ## list the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s '	'

$(PROGRAM): $(BUILD)/src/main.o $(LIBRARY)
	$(LINK) -o $@ $^ $(LDLIBS)

$(LIBRARY): $(OBJECTS)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

$(BUILD)/%.o: %.cpp
	@mkdir -p $(@D)
	$(CXX) $(CPPFLAGS) $(CXXFLAGS) -c -o $@ $<

$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(LIBRARY)
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ -lcmocka $(LDLIBS)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
