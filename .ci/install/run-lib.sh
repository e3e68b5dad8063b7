# shellcheck shell=bash disable=SC2034 # other files use the constants
# install.sh on a machine, for .ci/test-install and .ci/test-homes. Definitions only. Their own lib.sh has `enter MACHINE
# COMMAND...`, which runs a command as root in it, and `snapshot MACHINE`, which lists its files. A machine is a folder with
#   root      its root file system, with install.sh and what ships with it in /src
#   output    what install.sh printed last; `status` is how that run ended

name=pia-qbittorrent-sync
# For install.sh: an address of PIA's CA at which no server listens.
nowhere=PIA_CA_URL=http://127.0.0.1:9/

# run_script MACHINE SCRIPT [VARIABLE=VALUE...] [OPTION...]
run_script() {
  local machine=$1 script=$2 variables=("$nowhere") status=0
  shift 2
  while [[ ${1-} =~ ^[A-Z][A-Z0-9_]*= ]]; do
    variables+=("$1")
    shift
  done
  enter "$machine" env "${variables[@]}" sh "$script" "$@" >"$machine/output" 2>&1 || status=$?
  printf '%d\n' "$status" >"$machine/status"
}

# installs MACHINE [VARIABLE=VALUE...] [OPTION...], refuses_with MACHINE STATUS PART [VARIABLE=VALUE...] [OPTION...]
installs() {
  run_script "$1" /src/install.sh "${@:2}"
  has_status "$1" 0
}
refuses_with() {
  run_script "$1" /src/install.sh "${@:4}"
  has_status "$1" "$2" && prints "$1" "$3"
}

# Of the last run of install.sh: has_status MACHINE STATUS, prints MACHINE PART, omits MACHINE PART.
has_status() {
  eq "$(cat "$1/status")" "$2" || {
    cat "$1/output"
    return 1
  }
}
prints() { has "$(cat "$1/output")" "$2"; }
omits() { refuses prints "$@" >/dev/null; }
prints_no_secret() { refuses grep -E '50%|old .*password|web-password' "$1/output"; }

# leaves_unchanged MACHINE COMMAND...
leaves_unchanged() {
  snapshot "$1" >"$1/before"
  "${@:2}" || return 1
  snapshot "$1" >"$1/after"
  diff "$1/before" "$1/after"
}
# changes_nothing MACHINE [VARIABLE=VALUE...] [OPTION...]: install.sh succeeds, but has nothing to do.
changes_nothing() { leaves_unchanged "$1" installs "$@"; }

# Files of a machine, by their path below its root.
has_mode() { eq "$(stat -c '%a %U' "$1/root/$2")" "$3 root"; }
# has_copy MACHINE PATH FILE: of this machine's FILE.
has_copy() { cmp "$3" "$1/root/$2"; }
has_file() { [ -e "$1/root/$2" ] || [ -L "$1/root/$2" ]; }
has_no() { [ ! -e "$1/root/$2" ] && [ ! -L "$1/root/$2" ]; }
