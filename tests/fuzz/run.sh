#!/usr/bin/env bash
# Fuzzes one target, those of one crate, or all of them one after the other: run.sh [target|proxy|collector|all] [seconds]
# The compiler's own coverage pass is switched on by flags that stable Rust has; no tool beside cargo is needed.
set -euo pipefail
cd "$(dirname "$0")"
target=${1:-all} seconds=${2:-120}
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
proxy="call reply error profile route"
collector="otlp grpc log manifest mapping forward"
case "$target" in
  all) targets="$proxy $collector" ;;
  proxy) targets=$proxy ;;
  collector) targets=$collector ;;
  *) targets=$target ;;
esac
for name in $targets; do
  crate=collector
  case " $proxy " in *" $name "*) crate=proxy ;; esac
  mkdir -p "found/$name"
  cargo build --release --target "$host" --features "$crate" --bin "$name"
  "${CARGO_TARGET_DIR:-target}/$host/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
    -artifact_prefix="found/$name-" "found/$name" "corpus/$name"
done
