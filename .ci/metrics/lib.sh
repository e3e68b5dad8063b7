# shellcheck shell=bash
# The tools of .ci/test-metrics and the network namespace in which everything runs. Source it after .ci/lib.sh.

# Constants of the scenarios.
# shellcheck disable=SC2034
{
  contrib=contrib/metrics
  # The last Debian whose package of prometheus contains promtool.
  suite=bookworm
  node_packages=(@grafana/schema@13.2.3 typescript@5.9.3)
  tools=$CACHE/metrics
  namespace=pia-sync-metrics-$$
  status_address=127.0.0.1:9849
  node_exporter=127.0.0.1:9100
  prometheus=127.0.0.1:9090
  text_file=pia-qbittorrent-sync.prom
}

install_tools() {
  local wanted="prometheus and prometheus-node-exporter of $suite, ${node_packages[*]}"
  if [ "$(cat "$tools/installed" 2>/dev/null)" = "$wanted" ] && "$tools/bin/promtool" --version >/dev/null 2>&1; then return; fi
  type -P npm >/dev/null || need nodejs npm
  info "fetching $wanted"
  rm -rf "$tools"
  unpack_debs "$suite" "$tools/root" prometheus prometheus-node-exporter
  mv "$tools/root/usr/bin" "$tools/bin"
  rm -rf "$tools/root"
  npm install --silent --no-fund --no-audit --ignore-scripts --prefix "$tools" "${node_packages[@]}"
  printf '%s\n' "$wanted" >"$tools/installed"
}

# without_network COMMAND...: prints its output only if it fails.
without_network() {
  local output
  output=$(unshare --net "$@" 2>&1) || {
    printf '%s\n' "$output"
    return 1
  }
}
promtool() { without_network "$tools/bin/promtool" "$@"; }

make_namespace() {
  ip netns add "$namespace"
  at_exit ip netns delete "$namespace"
  ip -n "$namespace" link set lo up
  # With only lo, a daemon that follows a port would take its container for dead. This device leads nowhere.
  ip -n "$namespace" link add nowhere type veth peer name back
  ip -n "$namespace" link set nowhere up
}

in_namespace() { nsenter --net="/run/netns/$namespace" "$@"; }
# start LOG COMMAND...: in the background, until the script ends. Not through in_namespace: a function in the background is a
# process of its own, and a signal to that process would not end the command.
start() {
  nsenter --net="/run/netns/$namespace" "${@:2}" >"$1" 2>&1 &
  at_exit end_process $!
}

# types_of TEXT: `NAME TYPE` of every metric that the text may contain, with or without a sample.
types_of() { sed -nE 's/^# TYPE (pia_sync_[a-z_]+) ([a-z]+)$/\1 \2/p' "$1" | sort; }

# expressions FILE JOB: the dashboard's queries with that job chosen, those of its variables included.
expressions() {
  jq -r --arg job "$2" '
    (.templating.list[] | select(.type == "query") | .query.query | capture("^label_values\\((?<asked>.*), [a-z]+\\)$").asked),
      .panels[].targets[].expr
    | gsub("\\$job"; $job) | gsub("\\$instance"; ".*")' "$1"
}
