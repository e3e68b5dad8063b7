# shellcheck shell=bash
# The text of real daemons: one that leases a port, by file and by listener, and one that follows a port. TEXTS is a folder
# with leasing.prom, listener.prom and following.prom.

# shellcheck source=.ci/metrics/lib.sh
. .ci/metrics/lib.sh

# start_daemon TEXTS NAME BINARY VARIABLE=VALUE...: with a folder for its text, because the texts contain the same series.
start_daemon() {
  local folder=$1/$2
  mkdir "$folder" "$folder/collected"
  # shellcheck disable=SC2046 # words on purpose: no value contains a space
  start "$folder/log" env -i $(cat "$1/simulator/env") PIA_TOKEN_FILE="$folder/token" STATE_DIR="$folder/state" \
    METRICS_FILE="$folder/collected/$text_file" "${@:4}" "$3"
}

# becomes_healthy TEXTS NAME: and copies the text to TEXTS/NAME.prom.
becomes_healthy() {
  local folder=$1/$2 text=$1/$2/collected/$text_file
  wait_for 20 grep -qx 'pia_sync_healthy 1' "$text" || {
    [ ! -e "$text" ] || cat "$text"
    tail -n 20 "$folder/log"
    return 1
  }
  cp "$text" "$1/$2.prom"
}

# fetch_text FILE: from the listener.
fetch_text() { in_namespace curl --silent --show-error --fail --max-time 5 "http://$status_address/metrics" >"$1"; }

# start_daemons TEXTS BINARY: they run until the script ends.
start_daemons() {
  local texts=$1 binary=$2
  mkdir "$texts"
  make_namespace
  start "$texts/simulator.log" "$(simulator_binary)" --qbittorrent-port 0 "$texts/simulator"
  wait_for 20 test -s "$texts/simulator/env" || fail 'metrics/text: the simulator starts within 20 s'
  start_daemon "$texts" leasing "$binary" STATUS_ADDRESS="$status_address"
  check 'metrics/text: a daemon that leases a port reports in METRICS_FILE within 20 s that it is healthy' becomes_healthy "$texts" leasing
  check 'metrics/text: the daemon answers at STATUS_ADDRESS within 10 s' wait_for 10 fetch_text "$texts/listener.prom"
  # The client's port by now.
  printf '47047\n' >"$texts/port"
  start_daemon "$texts" following "$binary" PORT_SOURCE="file:$texts/port"
  check 'metrics/text: a daemon that follows a port reports in METRICS_FILE within 20 s that it is healthy' becomes_healthy "$texts" following
}

# passes_linter FILE: promtool reads only standard input; it fails for bad style, too.
passes_linter() { promtool check metrics <"$1"; }
# fails_linter TEXTS SCRIPT: the text of `leasing` after a change by sed.
fails_linter() {
  sed -E "$2" "$1/leasing.prom" >"$1/changed.prom"
  refuses cmp --silent "$1/leasing.prom" "$1/changed.prom" && refuses passes_linter "$1/changed.prom" >/dev/null
}
has_no_sample() { refuses grep -qE "^$2[ {]" "$1"; }

# test_text TEXTS
test_text() {
  local texts=$1 name
  for name in leasing listener following; do
    check "metrics/text: promtool accepts the text of '$name'" passes_linter "$texts/$name.prom"
  done
  check 'metrics/text: a metric without help is detected' fails_linter "$texts" '/^# HELP pia_sync_port /d'
  check 'metrics/text: a counter whose name does not end in _total is detected' \
    fails_linter "$texts" 's/pia_sync_binds_total/pia_sync_binds/'
  check 'metrics/text: file and listener have the same metrics' eq "$(types_of "$texts/listener.prom")" "$(types_of "$texts/leasing.prom")"
  check 'metrics/text: the metrics are the same with and without a lease' \
    eq "$(types_of "$texts/following.prom")" "$(types_of "$texts/leasing.prom")"
  for name in pia_sync_lease_expiry_timestamp_seconds pia_sync_last_bind_timestamp_seconds; do
    check "metrics/text: without a lease, $name has no sample" has_no_sample "$texts/following.prom" "$name"
  done
}
