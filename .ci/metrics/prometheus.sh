# shellcheck shell=bash
# Prometheus and node_exporter, set up by the README, collect the text of a running daemon.

# shellcheck source=.ci/metrics/lib.sh
. .ci/metrics/lib.sh

# readme_block MARK: the first fenced block after <!-- MARK --> in the README.
readme_block() {
  awk -v mark="<!-- $1 -->" '/^```/ && fenced { exit } fenced { print } /^```/ && marked { fenced = 1 } $0 == mark { marked = 1 }' \
    $contrib/README.md
}

# The README's configuration with short intervals, and the node_exporter that a user of a file has already.
print_config() {
  printf 'global: {scrape_interval: 1s, evaluation_interval: 1s}\n'
  readme_block prometheus.yml | sed "s,/etc/prometheus/pia-qbittorrent-sync.yml,$PWD/$contrib/rules.yml,"
  printf '  - job_name: node\n    static_configs:\n      - targets: ["%s"]\n' "$node_exporter"
}

# start_prometheus FOLDER COLLECTED: with the folder of the text, by a pattern as in the README.
start_prometheus() {
  start "$1/node_exporter.log" "$tools/bin/prometheus-node-exporter" --web.listen-address="$node_exporter" \
    --collector.disable-defaults --collector.textfile --collector.textfile.directory="$2*"
  start "$1/prometheus.log" "$tools/bin/prometheus" --web.listen-address="$prometheus" --config.file="$1/prometheus.yml" \
    --storage.tsdb.path="$1/tsdb"
}

# query_api PATH [OPTION...]: of Prometheus.
query_api() { in_namespace curl --silent --show-error --max-time 5 "http://$prometheus/api/v1/$1" "${@:2}"; }
# series_count QUERY: by job.
series_count() {
  query_api query --get --data-urlencode "query=count by (job) ($1)" |
    jq -r '.data.result | map(.metric.job + "=" + .value[1]) | sort | join(" ")'
}
series_count_is() { eq "$(series_count "$1")" "$2"; }
has_result() { query_api query --get --data-urlencode "query=$1" | jq -e '.data.result | length > 0' >/dev/null; }

# all_have_results JOB: every query of the dashboard when that job is chosen, but for peers, since none has connected.
all_have_results() {
  local query
  while read -r query; do
    wait_for 10 has_result "$query" || return 1
  done < <(expressions $contrib/dashboard.json "$1" | grep -v pia_sync_peer_seen)
}

# Of each alert whether it could be evaluated, and its state.
alerts() { query_api rules | jq -r '.data.groups[].rules[] | "\(.name) \(.health) \(.state)"'; }
no_alert_fires() { eq "$(alerts)" $'PiaSyncPortNotHealthy ok inactive\nPiaSyncSilent ok inactive\nPiaSyncNobodyConnects ok inactive'; }

# test_prometheus FOLDER COLLECTED: with the folder of a running daemon's text.
test_prometheus() {
  mkdir "$1"
  print_config >"$1/prometheus.yml"
  check "metrics/prometheus: Prometheus accepts the README's configuration" promtool check config "$1/prometheus.yml"
  start_prometheus "$1" "$2"
  check 'metrics/prometheus: Prometheus collects the text from node_exporter and from the daemon within 20 s' \
    wait_for 20 series_count_is pia_sync_healthy 'node=1 pia-qbittorrent-sync=1'
  check 'metrics/prometheus: node_exporter reports no error in the text' series_count_is 'node_textfile_scrape_error == 0' 'node=1'
  check 'metrics/prometheus: every query of the dashboard has a result from the file' all_have_results node
  check 'metrics/prometheus: every query of the dashboard has a result from the listener' all_have_results pia-qbittorrent-sync
  check 'metrics/prometheus: no alert fires' wait_for 10 no_alert_fires
}
