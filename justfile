# What a change needs, by hand. `.ci/run` holds the commands themselves, so that both agree.

# Lists the recipes.
default:
    @just --list

# Every test, doctests included.
test:
    cargo test

# Formatting and clippy, warnings as errors.
lint:
    .ci/run format lint

# The documentation, warnings as errors.
docs:
    .ci/run docs

# The functional tests with the backends that are not the defaults.
backends:
    .ci/run backends

# The loom models of ring and doorbell.
loom:
    .ci/run loom

# The instructions of a call, against the figures that are kept.
instructions:
    .ci/run instructions

# The library's own tests under valgrind.
memcheck:
    .ci/run memcheck

# Every fuzz target, for so many seconds.
fuzz seconds="60":
    .ci/fuzz {{seconds}}

# Tests with LLVM's address and thread sanitizers.
sanitize:
    .ci/run sanitize

# What is published, built from what was packed.
package:
    .ci/run package

# Each benchmark once, unmeasured.
bench-smoke:
    .ci/run bench_smoke

# Every example.
examples:
    .ci/run examples

# All that must hold before a change lands.
ci:
    .ci/run
