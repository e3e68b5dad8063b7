# shellcheck shell=bash
# Programs, files and pages by which the service reports its port, and the command that requests a new one.
# shellcheck source=.ci/systemd/lib.sh
. .ci/systemd/lib.sh

test_outputs() {
  local machine=$1
  add_settings "$machine" "PORT_CHANGE_COMMAND='/bin/sh -c \"echo user \$(id -u) received port \$PORT\"'" \
    METRICS_FILE=/var/lib/pia-qbittorrent-sync/metrics.prom STATUS_ADDRESS=127.0.0.1:9849
  sc restart "$unit"
  check "systemd/outputs: PORT_CHANGE_COMMAND runs inside the service's sandbox" wait_for 10 logged 'received port 47047'
  check 'systemd/outputs: PORT_CHANGE_COMMAND does not run as root' refuses logged 'user 0 received'
  check 'systemd/outputs: the metrics file reports a healthy service' \
    wait_for 10 grep -q '^pia_sync_healthy 1' "$machine/root/$state/metrics.prom"
  check 'systemd/outputs: the status server reports a healthy service' page_has healthz 'HTTP/1.1 200 OK'
  # Repeated until the simulator has read its commands.
  command_simulator port 50002
  check 'systemd/outputs: the renew command gets a new port' wait_for 10 renews_to 50002
  check 'systemd/outputs: PORT_CHANGE_COMMAND receives the new port' wait_for 10 logged 'received port 50002'
  command_simulator port 47047
  check 'systemd/outputs: the renew command gets the former port again' wait_for 10 renews_to 47047
  restore "$machine"
}

renews_to() { has "$(daemon renew 2>&1)" " -> $1"; }

# page_has PATH PART: of the status server.
page_has() {
  has "$(inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/9849; printf "GET /%s HTTP/1.1\r\n\r\n" "$0" >&3; cat <&3' "$1")" "$2"
}
