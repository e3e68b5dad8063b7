# shellcheck shell=bash
# When systemd takes the service as started, and when it restarts it.
# shellcheck source=.ci/systemd/lib.sh
. .ci/systemd/lib.sh

test_supervision() {
  check_readiness "$1"
  check_watchdog "$1"
  check_busy_folder "$1"
  restore "$1"
}

check_readiness() {
  local root=$1/root
  sc stop "$unit"
  rm "$root/$state/status.json"
  sc start "$unit"
  check 'systemd/supervision: a start completes only when the port is bound' daemon healthcheck
  sc stop "$unit"
  rm "$root/$state/lease.json"
  command_simulator gateway down
  command_simulator qbittorrent down
  wait_for 10 refuses_connections 8080
  check 'systemd/supervision: a start completes when neither gateway nor qBittorrent answers' sc start "$unit"
  check 'systemd/supervision: the status text reports that neither answers' is_like StatusText refused
  command_simulator gateway up
  command_simulator qbittorrent up
}

check_watchdog() {
  drop_in "$1" WatchdogSec=2s RestartSec=100ms
  sc restart "$unit"
  sleep 5
  check 'systemd/supervision: the watchdog does not restart a running service' is NRestarts 0
  inside kill -STOP "$(prop MainPID)"
  check 'systemd/supervision: systemd restarts a service that hangs' wait_for 20 restarted 1
  check 'systemd/supervision: the watchdog is the reason for that restart' wait_for 5 failed_by_watchdog
}
failed_by_watchdog() { has "$(inside journalctl --unit="$unit" --no-pager)" "Failed with result 'watchdog'"; }

# A stand-in for a second daemon, which exits with 75 because its folder is in use. systemd's own limit is five starts in
# 10 s.
check_busy_folder() {
  drop_in "$1"
  check 'systemd/supervision: systemd pauses for 5 s before a restart' is RestartUSec 5s
  drop_in "$1" RestartSec=100ms ExecStart= 'ExecStart=/bin/sh -c "exit 75"'
  sc --quiet --no-block restart "$unit"
  check 'systemd/supervision: systemd keeps restarting a service that exits with 75' wait_for 20 restarted_over 6
  drop_in "$1"
  sc stop "$unit"
}
restarted_over() { [ "$(prop NRestarts)" -gt "$1" ]; }
