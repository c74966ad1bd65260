#!/usr/bin/env bash
# Everything that is to be shown on a GPU, in one call of at most nine minutes: each stage with a time limit of its own, and
# one line of OUT/log.jsonl as soon as it ends. What stops midway has lost nothing that was finished.
#
#   scripts/gpu-proof.sh --pack FOLDER [--titles FOLDER] [--wheels FOLDER]
#                                                           # where it was built: stripped programs, scripts, Python package,
#                                                           # test data, and the wheels of others (inf_cl, cut_cross_entropy)
#   scripts/gpu-proof.sh OUT [--device cuda:0] [--commit HASH] [--titles FOLDER] [--budget 540] [--only WORDS]
#   scripts/gpu-proof.sh --rehearse OUT [--standins FOLDER] # all of it on the stand-ins for the CUDA libraries
#
# Build before packing with
#   UNICON_REQUIRE_CUDA=1 UNICON_CUDA_ARCHS=90a cargo build --release -p unicon -p unicon-c
#
# Uses nvidia-smi, ncu, compute-sanitizer and python3 with NumPy and PyTorch where they are; what cannot run is a line with
# "waits". Whatever is found in the Python packages of NVIDIA is put before the system's libraries. No cargo, no network.
# OUT gets at most eight files of at most 16 MiB: log.jsonl, errors.txt, ncu.txt, sanitizer-*.txt.
# --only runs the stages whose name holds one of the words. Exit code 0 when nothing that ran has failed.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

out='' unicon='' device=cuda:0 commit='' titles='' budget=540 only='' pack='' rehearse='' standins='' wheels='' patience=1
while [ $# -gt 0 ]; do
  case $1 in
    --unicon) unicon=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --commit) commit=$2; shift 2 ;;
    --titles) titles=$2; shift 2 ;;
    --budget) budget=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --pack) pack=$2; shift 2 ;;
    --wheels) wheels=$2; shift 2 ;;
    --rehearse) rehearse=1; shift ;;
    --standins) standins=$2; shift 2 ;;
    -*) echo "gpu-proof: unknown argument $1" >&2; exit 2 ;;
    *) out=$1; shift ;;
  esac
done
for folder in "$here" "$here/target/release"; do
  [ -n "$unicon" ] || [ ! -x "$folder/unicon" ] || unicon=$folder/unicon
done
[ -x "$unicon" ] || { echo "gpu-proof: no unicon; build it, or name it with --unicon" >&2; exit 2; }
[ -n "$commit" ] || commit=$(cat "$here/COMMIT" 2>/dev/null || git -C "$here" rev-parse HEAD 2>/dev/null || echo unknown)

if [ -n "$pack" ]; then
  mkdir -p "$pack/scripts" "$pack/python" || exit 2
  strip -o "$pack/unicon" "$unicon" || exit 1
  library=$(dirname "$unicon")/libunicon.so
  [ ! -f "$library" ] || strip --strip-unneeded -o "$pack/libunicon.so" "$library" || exit 1
  cp "$here/scripts/gpu-proof.sh" "$here/scripts/gpu_reference.py" "$pack/scripts/"
  cp -r "$here/python/unicon_align" "$pack/python/"
  [ -z "$titles" ] || cp -r "$titles" "$pack/titles"
  # Unpacked, for what compiles its own sources (Triton) reads them as files.
  for wheel in ${wheels:+"$wheels"/*.whl}; do python3 -m zipfile -e "$wheel" "$pack/python" || exit 1; done
  printf '%s\n' "$commit" >"$pack/COMMIT"
  du -sh "$pack"
  exit 0
fi
[ -n "$out" ] || { echo "gpu-proof: name the folder for the results" >&2; exit 2; }
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
: >"$out/log.jsonl"
: >"$out/errors.txt"
[ -n "$titles" ] || [ ! -d "$here/titles" ] || titles=$here/titles

# Libraries of Python packages, those of CUDA 13 before others.
libraries=$(python3 - 2>/dev/null <<'PY'
import glob, site, sys
folders = [f for root in [*site.getsitepackages(), site.getusersitepackages()] for f in sorted(glob.glob(root + "/nvidia/*/lib"))]
print(":".join(sorted(folders, key=lambda f: "/cu13/" not in f)))
PY
)
if [ -n "$rehearse" ]; then
  [ -n "$standins" ] || standins=$(ls -dt "$here"/target/tmp/cuda_standin-*[0-9a-f] 2>/dev/null | head -n 1)
  [ -e "$standins/libcuda.so.1" ] || { echo "gpu-proof: no stand-ins; make them with cargo test --test all standin::mistakes" >&2; exit 2; }
  libraries=$standins
  patience=10 budget=$((budget * 10)) # processors are slow
fi
export LD_LIBRARY_PATH="$libraries${libraries:+:}${LD_LIBRARY_PATH:-}"
export UNICON_LIBRARY=${UNICON_LIBRARY:-$(dirname "$unicon")/libunicon.so}
export PYTHONDONTWRITEBYTECODE=1
[ ! -d "$here/python" ] || export PYTHONPATH="$here/python${PYTHONPATH:+:$PYTHONPATH}"

# What stdin says as a JSON string.
text() {
  tail -c 12000 | LC_ALL=C tr -d '\000-\010\013-\037\177-\377' |
    sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | awk 'BEGIN { printf "\"" } NR > 1 { printf "\\n" } { printf "%s", $0 } END { printf "\"" }'
}
wanted() {
  [ -z "$only" ] && return 0
  local word
  for word in $only; do [[ $1 == *"$word"* ]] && return 0; done
  return 1
}
# waits NAME WHY: what could not run.
waits() {
  wanted "$1" || return 0
  echo "waits   $1: $2"
  printf '{"stage": %s, "waits": %s}\n' "$(printf %s "$1" | text)" "$(printf %s "$2" | text)" >>"$out/log.jsonl"
}
failed=0
# stage NAME SECONDS COMMAND...: runs it within its limit and what is left of the budget; its line holds what it printed,
# as JSON where that is JSON, and its errors where it failed.
stage() {
  local name=$1 limit=$(($2 * patience)) begin=$SECONDS code=0 result=text
  shift 2
  wanted "$name" || return 0
  [ "$limit" -le $((budget - SECONDS)) ] || limit=$((budget - SECONDS))
  if [ "$limit" -lt 5 ]; then
    waits "$name" "no time left"
    return
  fi
  local said=$work/said errors=$work/errors
  timeout -k 5 "$limit" "$@" >"$said" 2>"$errors" </dev/null || code=$?
  { echo "== $name: $code"; tail -c 200000 "$errors"; } >>"$out/errors.txt"
  local file
  for file in "$out"/*; do
    [ "$(stat -c %s "$file")" -le 16777216 ] || truncate -s 16777216 "$file"
  done
  if [ "$code" = 0 ]; then echo "ok      $name ($((SECONDS - begin)) s)"; else
    failed=1
    echo "FAILED  $name: exit code $code after $((SECONDS - begin)) s: $(tail -n 1 "$errors" | cut -c 1-200)"
  fi
  # A program that was stopped has written a part.
  if [ "$code" != 124 ] && [ "$code" != 137 ] && [ "$(tr -d ' \n' <"$said" | head -c 1)" = '{' ] && [ "$(tr -d ' \n' <"$said" | tail -c 1)" = '}' ]; then
    result=raw
  fi
  {
    printf '{"stage": %s, "code": %s, "seconds": %s, "limit": %s, "result": ' "$(printf %s "$name" | text)" "$code" $((SECONDS - begin)) "$limit"
    if [ "$result" = raw ]; then tr '\n' ' ' <"$said"; else text <"$said"; fi
    [ "$code" = 0 ] || printf ', "errors": %s' "$(text <"$errors")"
    printf '}\n'
  } >"$work/line"
  cat "$work/line" >>"$out/log.jsonl"
  return "$code"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
has() { command -v "$1" >/dev/null; }
on_device() { [ "$device" != cpu ]; }

# Sizes and modes; a rehearsal is about the script.
modes=(bf16 f32) first=fp16 quick='' sizes=27593,118000 repeat=10 pairs=27593
if [ -n "$rehearse" ]; then
  quick=--quick sizes=150 repeat=1 pairs=150
elif ! on_device; then
  modes=(f64) first=f32 quick=--quick sizes=300 repeat=3 pairs=300
fi
small=() wide=(--d1 512 --d2 512) million=1000000 checked=(--n 700 --rank 128 --d1 64 --d2 64)
if [ -n "$rehearse" ]; then
  small=(--rank 16 --d1 24 --d2 20)
  wide=("${small[@]}") million=300 checked=(--n 150 "${small[@]}")
fi

machine() {
  echo "commit $commit"
  "$unicon" info
  ldd "$unicon" || true
  echo "LD_LIBRARY_PATH $LD_LIBRARY_PATH"
  ! has nvidia-smi || nvidia-smi -q -d CLOCK,POWER,PERFORMANCE,MEMORY,ECC
}
export -f machine has
export commit unicon
stage machine 15 bash -c machine

# Compute capability 9.0 has kernels of its own beside those for every device; both are run.
sets=(portable)
if on_device && UNICON_CUDA_KERNELS=hopper timeout -k 5 $((20 * patience)) "$unicon" bench --device "$device" --n 64 --rank 8 --d1 8 --d2 8 --repeat 1 >/dev/null 2>&1; then
  sets+=(hopper)
fi
for set in "${sets[@]}"; do
  stage "selftest, $first, quick, $set" 30 env UNICON_CUDA_KERNELS="$set" "$unicon" selftest --quick --json --device "$device" --precision "$first"
done
python=''
! python3 -c 'import numpy' 2>/dev/null || python=1
torch=''
! python3 -c 'import torch' 2>/dev/null || torch=1
reference=(python3 "$here/scripts/gpu_reference.py" --unicon "$unicon" --device "$device")
if [ -n "$torch" ] && [ -z "$rehearse" ] && on_device; then
  stage "roofs" 25 "${reference[@]}" --roofs
else
  waits "roofs" "no PyTorch, or no device; bench has the sustained rate of its own product"
fi
for set in "${sets[@]}"; do
  stage "bench, $first, $set" 60 env UNICON_CUDA_KERNELS="$set" "$unicon" bench --json --device "$device" --precision "$first" --n "$sizes" --repeat "$repeat" "${small[@]}"
done

# One launch of each kernel that carries the work.
one_bench=("$unicon" bench --device "$device" --n "$pairs" --repeat 1 "${small[@]}")
if on_device && has ncu; then
  for kernel in hopper_stats hopper_weights hopper_fused clip_stats; do
    set=portable
    [[ $kernel != hopper_* ]] || set=hopper
    [[ " ${sets[*]} " == *" $set "* ]] || { waits "ncu, $kernel" "no such kernels here"; continue; }
    stage "ncu, $kernel" 20 env UNICON_CUDA_KERNELS="$set" ncu --clock-control none --kernel-name "regex:^$kernel" --launch-count 1 \
      --section SpeedOfLight --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis --section SchedulerStats \
      --section WarpStateStats --section Occupancy --log-file "$work/ncu" "${one_bench[@]}"
    cat "$work/ncu" >>"$out/ncu.txt" 2>/dev/null
    rm -f "$work/ncu"
  done
else
  waits "ncu" "no ncu, or no device"
fi

if [ -n "$python" ]; then
  stage "PyTorch or NumPy beside it" 75 "${reference[@]}" --precisions "$first" --sizes "$pairs" --repeat "$repeat" ${rehearse:+--record}
  [ -n "$torch" ] || waits "times of peers" "no PyTorch; values were compared with NumPy"
  # On the stand-ins a fit of this size takes minutes.
  if on_device && [ -z "$rehearse" ]; then
    stage "fit of 512 and 384 features, CPU and device" 30 "${reference[@]}" --fit
  else
    waits "fit of 512 and 384 features, CPU and device" "no device"
  fi
  if [ -n "$titles" ] && on_device; then
    stage "titles, CPU and device" 60 "${reference[@]}" --titles "$titles"
  else
    waits "titles, CPU and device" "no --titles, or no device"
  fi
else
  waits "PyTorch or NumPy beside it" "no python3 with NumPy"
fi
for mode in "${modes[@]}"; do
  # Without a choice of kernels both sets are checked where there are two.
  stage "selftest, $mode" 40 "$unicon" selftest $quick --json --device "$device" --precision "$mode"
done

# Nothing n x n: a million pairs in the memory of their features and embeddings.
if on_device; then
  for set in "${sets[@]}"; do
    stage "n = 1,000,000, $set" 60 env UNICON_CUDA_KERNELS="$set" "$unicon" bench --json --device "$device" --n "$million" "${wide[@]}" --repeat 1 --budget 45
  done
else
  waits "n = 1,000,000" "no device"
fi

# Last, for they are slow and one may hang.
if on_device && has compute-sanitizer; then
  for tool in synccheck racecheck memcheck initcheck; do
    stage "compute-sanitizer, $tool" 35 env UNICON_CUDA_KERNELS="${sets[-1]}" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --kernel-regex "kns=hopper_" --kernel-regex "kns=clip_" --log-file "$out/sanitizer-$tool.txt" \
      "$unicon" bench --device "$device" "${checked[@]}" --repeat 1
  done
else
  waits "compute-sanitizer" "no compute-sanitizer, or no device"
fi
echo "written $out/log.jsonl"
exit $failed
