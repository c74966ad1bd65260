#!/usr/bin/env bash
# Everything that is to be shown on a GPU, in one run, with the result as one JSON file.
#
#   scripts/gpu-proof.sh [--unicon PROGRAM] [--device cuda:0] [--titles FOLDER] [--out FILE] [--quick]
#
# Needs the built `unicon`; uses compute-sanitizer, nvidia-smi and python3 with PyTorch where they are, and says
# "waits: ..." for what could not be run. No cargo, no network.
#
#   1. selftest in every mode            4. bench: passes, fit, gradient, beside the device's own product
#   2. memcheck and racecheck on it      5. PyTorch on the same data: values and time (scripts/gpu_reference.py)
#   3. bitwise repeatability (in 1)      6. a fit on CPU and device: recall; n = 1,000,000
#
# --titles names a folder with x_train.npy y_train.npy x_test.npy y_test.npy (pairs row by row): the fit is compared there
# too. Exit code 0 when nothing that ran has failed.
set -uo pipefail
cd "$(dirname "$0")/.."

unicon=target/release/unicon device=cuda:0 titles='' out='' quick=
while [ $# -gt 0 ]; do
  case $1 in
    --unicon) unicon=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --titles) titles=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --quick) quick=--quick; shift ;;
    *) echo "gpu-proof: unknown argument $1" >&2; exit 2 ;;
  esac
done
[ -x "$unicon" ] || { echo "gpu-proof: $unicon is not there; build it first" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/parts"
failed=0

# step NAME FILE COMMAND...: runs it, keeps its standard output as JSON under NAME.
step() {
  local name=$1 file="$work/parts/$2.json" begin=$SECONDS
  shift 2
  if "$@" >"$file" 2>"$work/err"; then
    echo "ok      $name ($((SECONDS - begin)) s)"
  else
    failed=1
    echo "FAILED  $name: $(tail -n 1 "$work/err")"
    # What it printed says what failed; without it, the message is the result.
    [ -s "$file" ] || python3 -c 'import json,sys; print(json.dumps({"failed": sys.argv[1]}))' "$(tail -n 1 "$work/err")" >"$file"
  fi
}
waits() {
  echo "waits:  $1 ($2)"
  printf '%s (%s)\n' "$1" "$2" >>"$work/waits"
}

modes=(fp16 bf16 f32)
[ "$device" = cpu ] && modes=(f32 f64)
for mode in "${modes[@]}"; do
  step "selftest, $mode" "selftest_$mode" "$unicon" selftest $quick --json --device "$device" --precision "$mode"
done

if [ "$device" = cpu ]; then
  waits "memcheck, racecheck" "device is cpu"
elif ! command -v compute-sanitizer >/dev/null; then
  waits "memcheck, racecheck" "no compute-sanitizer"
else
  for tool in memcheck racecheck; do
    step "$tool" "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$unicon" selftest --quick --json --device "$device"
    # The tool writes its own lines around the program's.
    sed -i '/^=====/d' "$work/parts/$tool.json"
  done
fi

sizes=8192,27593,118000 repeat=10
[ -n "$quick" ] && sizes=300 repeat=3
[ "$device" = cpu ] && [ -z "$quick" ] && sizes=2048,8192
# Compute capability 9.0 has kernels of its own beside those for every device: which are faster decides what is default.
kernels=(portable)
if [ "$device" != cpu ] && UNICON_CUDA_KERNELS=hopper "$unicon" bench --device "$device" --n 64 --rank 8 --d1 8 --d2 8 --repeat 1 >/dev/null 2>&1; then
  kernels+=(hopper)
fi
for mode in "${modes[@]}"; do
  for set in "${kernels[@]}"; do
    step "bench, $mode, $set" "bench_${mode}_$set" env UNICON_CUDA_KERNELS="$set" \
      "$unicon" bench --json --device "$device" --precision "$mode" --n "$sizes" --repeat "$repeat"
  done
done

if python3 -c 'import numpy' 2>/dev/null; then
  step "PyTorch or NumPy reference" reference python3 scripts/gpu_reference.py --unicon "$unicon" --device "$device" \
    --precisions "$(IFS=,; echo "${modes[*]}")" $quick
  python3 -c 'import torch' 2>/dev/null || waits "times of dense and chunked PyTorch" "no PyTorch; values were compared with NumPy"
else
  waits "PyTorch reference" "no python3 with numpy"
fi

# A fit on the device against the same fit on the CPU: recall to within 0.002.
if [ -n "$titles" ] && [ "$device" != cpu ]; then
  step "titles: CPU and device" titles python3 scripts/gpu_reference.py --unicon "$unicon" --device "$device" --titles "$titles"
else
  waits "fit of titles, CPU against device" "no --titles, or device is cpu"
fi

# Nothing n x n: a million pairs in the memory of their features and embeddings.
if [ -n "$quick" ] || [ "$device" = cpu ]; then
  waits "n = 1,000,000" "--quick, or device is cpu"
else
  for set in "${kernels[@]}"; do
    step "n = 1,000,000, $set" "million_$set" env UNICON_CUDA_KERNELS="$set" \
      "$unicon" bench --json --device "$device" --n 1000000 --d1 512 --d2 512 --repeat 3 --budget 120
  done
fi

name=$device
version=''
if command -v nvidia-smi >/dev/null && [ "$device" != cpu ]; then
  name=$(nvidia-smi --query-gpu=name --format=csv,noheader -i "${device#cuda:}" | tr ' ' '-')
  version=$(nvidia-smi --query-gpu=driver_version,clocks.sm,clocks.mem --format=csv,noheader -i "${device#cuda:}")
fi
out=${out:-benches/results/${name//[^A-Za-z0-9._-]/-}/$(date -u +%Y-%m-%d).json}
mkdir -p "$(dirname "$out")"
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
python3 - "$work" "$out" "$device" "$name" "$version" "$commit" <<'PY'
import json, pathlib, sys
work, out, device, name, version, commit = sys.argv[1:]
work = pathlib.Path(work)
result = {"device": device, "name": name, "driver, SM clock, memory clock": version, "commit": commit}
for part in sorted((work / "parts").iterdir()):
    text = part.read_text()
    try:
        result[part.stem] = json.loads(text)
    except ValueError:
        result[part.stem] = {"failed": text[-2000:]}
waits = work / "waits"
result["waits"] = waits.read_text().splitlines() if waits.exists() else []
pathlib.Path(out).write_text(json.dumps(result, indent=1) + "\n")
PY
echo "written $out"
exit $failed
