# shellcheck shell=bash
# The service's end and the machine's. Last of all scenarios.
# shellcheck source=.ci/systemd/lib.sh
. .ci/systemd/lib.sh

test_stop() {
  sc stop "$unit"
  check 'systemd/stop: the service stops within a second' test \
    $(($(prop InactiveEnterTimestampMonotonic) - $(prop ActiveExitTimestampMonotonic))) -lt 1000000
  check 'systemd/stop: the service exits with 0' eq "$(prop ActiveState) $(prop Result) $(prop ExecMainStatus)" 'inactive success 0'
  check 'systemd/stop: the status command exits with 3 when the service is stopped' exits 3 daemon status
  check 'systemd/stop: the healthcheck command exits with 3 when the service is stopped' exits 3 daemon healthcheck
  check 'systemd/stop: a stop keeps the lease' test -s "$1/root/$state/lease.json"
  check 'systemd/stop: a stop removes the token' refuses inside test -e /run/pia
  check 'systemd/stop: the simulator received no invalid request' counted complaints 0
  # shellcheck disable=SC2154 # from boot.sh
  kill -s RTMIN+4 "$init_pid"
  check 'systemd/stop: the machine shuts down' wait_for 30 halted
}
