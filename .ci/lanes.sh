# shellcheck shell=bash
# Runs steps in lanes. Source it after `set -euo pipefail`.
#
# Lanes run side by side, the steps of a lane one after the other, and phase 2 begins when every lane of phase 1 has ended. A
# failure ends all lanes. A step's output goes to a file of its own.
#
#   add_step PHASE LANE NAME COMMAND...     COMMAND may be a function
#   run_steps DIR                           runs them; logs and results go to DIR. Prints the table, and `N passed, N failed`

phases=() lanes=() names=() commands=()
# Seconds that a lane gets to clean up when it is ended.
goodbye=6

add_step() {
  phases+=("$1") lanes+=("$2") names+=("$3")
  commands+=("$(printf '%q ' "${@:4}")")
}

# log_of DIR NAME
log_of() { printf '%s/%s.log\n' "$1" "${2//[^a-zA-Z0-9]/-}"; }

# run_lane DIR PHASE LANE: its steps in order, up to the first failure. Runs in a process group of its own.
run_lane() {
  local dir=$1 i begin status
  # What a step starts stays in the lane's process group.
  set +m
  for i in "${!names[@]}"; do
    [ "${phases[i]} ${lanes[i]}" = "$2 $3" ] || continue
    begin=$EPOCHSECONDS status=0
    printf '%s: begins\n' "${names[i]}"
    : >"$(log_of "$dir" "${names[i]}")"
    # A shell of its own: in a condition `set -e` would not hold.
    (
      set -euo pipefail
      eval "${commands[i]}"
    ) >"$(log_of "$dir" "${names[i]}")" 2>&1 </dev/null &
    wait $! || status=$?
    printf '%s\t%s\t%s\n' "${names[i]}" "$status" $((EPOCHSECONDS - begin)) >>"$dir/results.tsv"
    report_step "$dir" "${names[i]}" "$status" $((EPOCHSECONDS - begin))
    [ "$status" -eq 0 ] || return "$status"
  done
}

# report_step DIR NAME STATUS SECONDS: with the lines of its log that count something.
report_step() {
  local result=ok counted='^test result: |^[0-9]+ passed, [0-9]+ failed| driven: |^soak: '
  [ "$3" -eq 0 ] || result="FAILED (exit code $3)"
  printf '%s: %s, %d s\n' "$2" "$result" "$4"
  grep -aE "$counted" "$(log_of "$1" "$2")" | sed 's/^/    /' || true
}

# end_lanes PID...: ends each lane with all that it started.
end_lanes() {
  local pid until=$((SECONDS + goodbye))
  for pid; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for pid; do
    while kill -0 -- "-$pid" 2>/dev/null && ((SECONDS < until)); do sleep 0.1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
}

# run_phase DIR PHASE: leaves the exit code of its first failure in `status`. To be called outside of any condition, as `set -e` would
# not hold in its steps otherwise.
run_phase() {
  local dir=$1 phase=$2 lane pid left=()
  # Job control gives each lane a process group of its own.
  set -m
  for lane in $(for i in "${!lanes[@]}"; do [ "${phases[i]}" != "$phase" ] || printf '%s\n' "${lanes[i]}"; done | awk '!seen[$0]++'); do
    run_lane "$dir" "$phase" "$lane" &
    running+=($!)
  done
  set +m
  while [ ${#running[@]} -gt 0 ]; do
    wait -n -p pid "${running[@]}" || status=$?
    left=()
    for lane in "${running[@]}"; do [ "$lane" = "$pid" ] || left+=("$lane"); done
    running=("${left[@]}")
    if [ "$status" -ne 0 ]; then
      end_lanes "${running[@]}"
      running=()
    fi
  done
}

# print_table DIR: step, result, minutes; then the end of a failed step's log.
print_table() {
  local dir=$1 i status seconds result passed=0 failed=0 failures=()
  printf '\n%-45s %-10s %s\n' step result minutes
  for i in "${!names[@]}"; do
    IFS=$'\t' read -r _ status seconds < <(grep -F -- "${names[i]}"$'\t' "$dir/results.tsv" 2>/dev/null) || status=
    case $status in
    '')
      result='not run' seconds=0
      [ ! -e "$(log_of "$dir" "${names[i]}")" ] || result=ended
      ;;
    0) result=ok passed=$((passed + 1)) ;;
    *) result=FAILED failed=$((failed + 1)) failures+=("${names[i]}") ;;
    esac
    printf '%-45s %-10s %4d.%d\n' "${names[i]}" "$result" $((seconds / 60)) $((seconds % 60 / 6))
  done
  for i in "${failures[@]}"; do
    printf '\n%s failed; its output is in %s and ends with:\n' "$i" "$(log_of "$dir" "$i")"
    tail -n 40 "$(log_of "$dir" "$i")" | sed 's/^/    /'
  done
  printf '\n%d min %d s in all\n%d passed, %d failed\n' $((SECONDS / 60)) $((SECONDS % 60)) "$passed" "$failed"
}

run_steps() {
  local dir=$1 phase
  status=0 running=()
  rm -rf "$dir"
  mkdir -p "$dir"
  dir=$(realpath "$dir")
  trap 'end_lanes "${running[@]}"; exit 143' TERM
  trap 'end_lanes "${running[@]}"; exit 130' INT
  for phase in 1 2; do
    run_phase "$dir" "$phase"
    [ "$status" -eq 0 ] || break
  done
  print_table "$dir"
  return "$status"
}
