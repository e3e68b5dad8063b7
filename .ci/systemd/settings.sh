# shellcheck shell=bash
# Settings that are wrong, odd, missing, or that need the sandbox's consent.
# shellcheck source=.ci/systemd/lib.sh
. .ci/systemd/lib.sh

test_settings() {
  check_refusals "$1"
  check_agreement "$1"
  check_credentials "$1"
  check_log_file "$1"
  restore "$1"
}

check_refusals() {
  local machine=$1 folder=$1/root/$etc cursor
  cursor=$(journal_cursor)
  add_settings "$machine" CHECK_INTERVAL=never
  check 'systemd/settings: a service with a wrong setting does not start' refuses sc --quiet restart "$unit"
  check 'systemd/settings: systemd does not restart a service with a wrong setting' failed_with 78
  check 'systemd/settings: the journal names the wrong setting' wait_for 5 logged_since "$cursor" CHECK_INTERVAL=never
  add_settings "$machine"
  drop_in "$machine" ExecStart= 'ExecStart=/usr/local/bin/pia-qbittorrent-sync nonsense'
  check 'systemd/settings: a service with wrong usage does not start' refuses sc --quiet restart "$unit"
  check 'systemd/settings: systemd does not restart a service with wrong usage' failed_with 64
  drop_in "$machine"
  mv "$folder" "$folder.away"
  check 'systemd/settings: a service without a configuration does not start' refuses sc --quiet restart "$unit"
  check 'systemd/settings: the missing configuration is the only reason' failed_with 78
  mv "$folder.away" "$folder"
}

check_agreement() {
  install -D -m 600 /dev/null "$1/root/root/secret"
  printf 'secret\n' >"$1/root/root/secret"
  check_odd_settings systemd/settings 1 "$1" add_settings check_settings starts
  add_settings "$1"
}
check_settings() { daemon check --config-only; }

# As with systemd before 247.
check_credentials() {
  local cursor
  cursor=$(journal_cursor)
  drop_in "$1" LoadCredential= SetCredential=
  check 'systemd/settings: a service without credentials does not start' refuses starts
  check 'systemd/settings: the journal gives the age of systemd as the reason' \
    wait_for 5 logged_since "$cursor" 'this systemd is older than 247'
  drop_in "$1"
}

check_log_file() {
  add_settings "$1" LOG_FILE=/var/log/pia-qbittorrent-sync/daemon.log
  sc restart "$unit"
  check 'systemd/settings: the service can write a log file' \
    grep -q 'qBittorrent listens on port 47047' "$1/root/var/log/$unit/daemon.log"
}
