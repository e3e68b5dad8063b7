# shellcheck shell=bash
# The unit as it ships, from the boot on. First of all scenarios, because it counts logins and leases since the boot.
# shellcheck source=.ci/systemd/lib.sh
. .ci/systemd/lib.sh

test_service() {
  local machine=$1 uid
  check_unit_file "$machine"
  check_boot
  uid=$(inside stat -c %u "/proc/$(prop MainPID)")
  check_sandbox "$uid"
  check_journal
  check_reload
  check_commands "$uid"
  check_restarts "$machine"
}

check_unit_file() {
  # systemd warns about an unknown key, and succeeds.
  check 'systemd/service: systemd-analyze verify prints no warning about the unit' \
    eq "$(systemd-analyze --root="$1/root" verify --man=no "$unit.service" 2>&1)" ''
  check 'systemd/service: the exposure of the unit is at most 1.2' exposed_at_most 12
}
# exposed_at_most TENTHS
exposed_at_most() { systemd-analyze security --offline=true --threshold="$1" --no-pager "$unit_file" | tail -n 1; }

check_boot() {
  check 'systemd/service: the service is active after the boot without a restart' restarted 0
  check 'systemd/service: the status text has the port and its expiry' is_like StatusText 'port 47047 until 2'
  check 'systemd/service: qBittorrent listens on the port' counted qbittorrent_listens 47047
  check 'systemd/service: the first start takes one login' counted logins 1
}

# check_sandbox UID
check_sandbox() {
  local pid uid=$1
  pid=$(prop MainPID)
  check 'systemd/service: the process has no capabilities, cannot gain any, and its system calls are filtered' eq \
    "$(inside grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' "/proc/$pid/status" | tr '\t\n' '= ')" \
    'CapEff:=0000000000000000 CapBnd:=0000000000000000 NoNewPrivs:=1 Seccomp:=2 '
  check 'systemd/service: the process runs as a dynamic user' test "$uid" -ge 61184
  check 'systemd/service: the process cannot write to /etc' \
    has "$(inside nsenter --target "$pid" --mount touch /etc/x 2>&1)" 'Read-only file system'
  check 'systemd/service: the process can read the types of network devices' \
    eq "$(inside nsenter --target "$pid" --mount cat /sys/class/net/lo/type)" 772
  # shellcheck disable=SC2154 # from boot.sh
  check "systemd/service: the process's environment contains no password" refuses \
    inside grep -qaE "$account_password|$webui_password" "/proc/$pid/environ"
  check 'systemd/service: only the service can read lease and token' eq "$(owners)" "600 $uid"$'\n'"600 $uid"
}

check_journal() {
  check 'systemd/service: lines in the journal have no timestamp of their own' has "$(journal)" $'\nlogged in to PIA\n'
  command_simulator gateway down
  wait_for 10 refuses_connections 19999
  sc reload "$unit"
  check 'systemd/service: the status text reports an outage' wait_for 10 is_like StatusText refused
  check 'systemd/service: the journal has the outage as an error' wait_for 5 logged refused --priority=err..err
  command_simulator gateway up
}

check_reload() {
  local binds
  binds=$(count_of binds)
  sc reload "$unit"
  check 'systemd/service: a reload binds the port at once' wait_for 4 counted_over binds "$binds"
  check 'systemd/service: a reload ends in the running state' wait_for 10 is SubState running
}

# check_commands UID: typed by root.
check_commands() {
  local uid=$1
  check "systemd/service: the healthcheck command finds the service's state" daemon healthcheck
  check "systemd/service: the status command finds the service's port" has "$(daemon status)" 'port 47047 until'
  check 'systemd/service: the status command exits with 0' exits 0 daemon status
  check "systemd/service: the check command uses the service's settings, secrets and token" has "$(daemon check)" 'all is well'
  check 'systemd/service: the commands need no login' counted logins 1
  check 'systemd/service: the commands do not change the owner of lease and token' eq "$(owners)" "600 $uid"$'\n'"600 $uid"
}

check_restarts() {
  local binds
  binds=$(count_of binds)
  inside kill -KILL "$(prop MainPID)"
  check 'systemd/service: systemd restarts the service after SIGKILL' wait_for 20 restarted 1
  check 'systemd/service: the restarted service binds the port' wait_for 10 counted_over binds "$binds"
  check 'systemd/service: the restarted service keeps its lease' counted signatures 1
  rm "$1/root/$state/lease.json"
  sc restart "$unit"
  check 'systemd/service: a service without a lease requests one' counted signatures 2
  check 'systemd/service: a service without a lease still has its token' counted logins 1
}
