# shellcheck shell=bash
# Removal and purge of the .deb.

# shellcheck source=.ci/packages/systemd.sh
. .ci/packages/systemd.sh

# list_traces ROOT: paths with our name, but for the test's own.
list_traces() {
  (cd "$1" && find . -xdev \( -path ./src -o -path ./proc -o -path ./sys -o -path ./sim -o \
    -path ./packages -o -path ./var/log/journal \) -prune -o -path '*pia[-_]*' -print)
}

# test_removal ROOT LOG
test_removal() {
  local root=$1 log=$2 etc=$1/etc/$name
  start_service "$root" "$log"
  check 'packages/removal: apt removes a running service' apt "$log" remove "$name"
  check 'packages/removal: no process is left' refuses inside pgrep -f "^$installed"
  check 'packages/removal: no unit has failed after the removal' is_running
  check 'packages/removal: the binary is gone' refuses test -e "$root$installed"
  check 'packages/removal: the settings stay' cmp "$root/sim/settings" "$etc/config.env"
  check 'packages/removal: the lease stays' test -s "$root/var/lib/private/$name/lease.json"
  check 'packages/removal: apt installs the package again' install_deb "$log" "$version"
  check 'packages/removal: the settings survive the second installation' cmp "$root/sim/settings" "$etc/config.env"
  # The user that install.sh makes on an older systemd.
  inside useradd --system --no-create-home pia-sync
  sc start "$name"
  check 'packages/removal: apt purges a running service' apt "$log" purge "$name"
  check 'packages/removal: no file is left after the purge' eq "$(list_traces "$root")" ''
  check 'packages/removal: no user is left after the purge' refuses grep -q '^pia-sync:' "$root/etc/passwd"
  check 'packages/removal: no unit has failed after the purge' is_running
}
