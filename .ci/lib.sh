# shellcheck shell=bash
# What the scripts of this folder share. Source it at the top, after `set -euo pipefail`.
#
# A test is a line of `check`s that ends with `summary`. The first thing that does not hold ends it: what comes after
# would not mean much. Nothing is ever skipped: what a test needs and cannot have is a failure.
# What is kept below $CACHE only makes the next run faster; every reader must be able to make it again.

export DEBIAN_FRONTEND=noninteractive
CACHE=${PIA_SYNC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pia-qbittorrent-sync}

passed=0
# Set once the count is printed.
counted=
cleanups=()

info() { printf '# %s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
# For what keeps a script from doing its work; a check that does not hold is `fail`.
fatal() {
  warn "$*"
  exit 1
}

# own_folder DIR: creates it if it is missing. Root runs programs from it, so it must belong to the user who runs this, and no
# other user may be able to write to it or to replace it.
own_folder() {
  local dir=$1 owner mode
  mkdir -p "$(dirname "$dir")"
  mkdir -m 700 "$dir" 2>/dev/null || [ -d "$dir" ] || fatal "cannot create $dir"
  [ ! -L "$dir" ] || fatal "$dir is a symbolic link; remove it, or set PIA_SYNC_CACHE to a folder of your own"
  read -r owner mode < <(stat -c '%u %a' "$dir")
  [ "$owner" -eq "$(id -u)" ] || fatal "$dir belongs to user $owner; set PIA_SYNC_CACHE to a folder of your own"
  while :; do
    # A sticky folder may be writable by all: only its owner can replace what lies in it.
    if ((8#$mode & 8#022)) && { [ "$dir" = "$1" ] || ! ((8#$mode & 8#1000)); }; then
      fatal "$dir is writable by other users (mode $mode); run: chmod go-w $dir"
    fi
    [ "$dir" != / ] || break
    dir=$(dirname "$(realpath "$dir")")
    read -r owner mode < <(stat -c '%u %a' "$dir")
    [ "$owner" -eq 0 ] || [ "$owner" -eq "$(id -u)" ] || fatal "$dir, above the cache, belongs to user $owner; set PIA_SYNC_CACHE"
  done
}

ok() {
  printf 'ok - %s\n' "$*"
  passed=$((passed + 1))
}

# `finish` counts it.
fail() {
  printf 'not ok - %s\n' "$*"
  exit 1
}

# check WHAT COMMAND...
check() {
  local what=$1
  shift
  if "$@"; then ok "$what"; else fail "$what: $*"; fi
}

# refuses COMMAND...: for check, where `!` cannot stand.
refuses() { ! "$@"; }

# eq GOT WANTED
eq() {
  [ "$1" = "$2" ] || {
    printf '  got    %s\n  wanted %s\n' "$1" "$2"
    return 1
  }
}

# has TEXT PART: TEXT contains PART literally.
has() {
  case $1 in
  *"$2"*) ;;
  *)
    printf '  no %s in: %s\n' "$2" "$1"
    return 1
    ;;
  esac
}

# The last line of a test.
summary() {
  counted=1
  printf '%d passed, 0 failed\n' "$passed"
}

# at_exit COMMAND...: run when the script ends, however it ends; the last one given is run first. For functions that take
# no word from a stranger: it is kept as one line of shell, quoted.
at_exit() { cleanups=("$(printf '%q ' "$@")" "${cleanups[@]}"); }

# Cleanups come before the count: what they say must not hide it.
finish() {
  local status=$? cleanup
  trap - EXIT
  set +e
  for cleanup in "${cleanups[@]}"; do eval "$cleanup"; done
  if [ "$status" -ne 0 ] && [ -z "$counted" ]; then printf '%d passed, 1 failed\n' "$passed"; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for SECONDS COMMAND...: until it succeeds, silently; its last words when it never does.
wait_for() {
  local seconds=$1 end said
  shift
  end=$((SECONDS + seconds))
  until said=$("$@" 2>&1); do
    if ((SECONDS > end)); then
      printf '  not within %d s: %s\n' "$seconds" "$*"
      [ -z "$said" ] || printf '  it said: %s\n' "$said"
      return 1
    fi
    sleep 0.1
  done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# end_process PID [SECONDS]: SIGTERM, and SIGKILL if that is not enough.
end_process() {
  kill "$1" 2>/dev/null || return 0
  wait_for "${2:-20}" gone "$1" || kill -KILL "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

# Milliseconds of a clock that starts somewhere.
now_ms() {
  local seconds=${EPOCHREALTIME/[.,]/}
  printf '%d\n' $((seconds / 1000))
}

need_root() { [ "$(id -u)" -eq 0 ] || fatal 'this needs root: it makes namespaces and installs packages'; }

# locked NAME COMMAND...: one at a time on this machine.
locked() {
  local name=$1
  shift
  (
    flock 9
    "$@"
  ) 9>"$CACHE/.$name.lock"
}

# need PACKAGE...: installs the ones that are missing.
need() {
  local package missing=()
  for package; do is_installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -eq 0 ] || locked apt install_packages "${missing[@]}"
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_packages() {
  info "installing $*"
  apt-get -qq update
  apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "$@" >>"$CACHE/apt.log" 2>&1 || {
    tail -n 20 "$CACHE/apt.log" >&2
    fatal "cannot install $*"
  }
}

# install_wheel DIR NAME VERSION HASH...: a program that comes as a wheel of pip, pinned by the SHA-256 of the wheel for each
# architecture, into a virtual environment of its own: DIR/bin/PROGRAM.
install_wheel() {
  local dir=$1 name=$2 version=$3
  shift 3
  [ ! -x "$dir/bin/python" ] || ! "$dir/bin/python" -m pip show --quiet "$name" 2>/dev/null || return 0
  # Not a python3 that comes first on the PATH, such as pyenv's: the environment would break with it.
  /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
  rm -rf "$dir"
  /usr/bin/python3 -m venv "$dir"
  printf '%s==%s%s\n' "$name" "$version" "$(printf ' --hash=sha256:%s' "$@")" >"$dir/requirements.txt"
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
    --requirement "$dir/requirements.txt"
}

# mirror [security]: the archive that this machine's own apt uses, in either format of its sources.
# shellcheck disable=SC2120 # called with an argument elsewhere
mirror() {
  local pattern='/debian/?$' file
  [ "${1-}" != security ] || pattern='/debian-security/?$'
  for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list; do
    [ ! -r "$file" ] || sed -nE -e 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' \
      -e 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' "$file"
  done | grep -m 1 -E "$pattern" || fatal "no Debian mirror in this machine's apt sources"
}

own_folder "$CACHE"

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# unpack_debs SUITE DIR PACKAGE...: packages of another release, without what they depend on, below DIR; for programs
# that need nothing but libc.
unpack_debs() {
  local suite=$1 dir=$2 apt options deb
  shift 2
  apt=$(mktemp -d "$CACHE/apt.XXXXXX")
  mkdir -p "$apt/none" "$apt/lists/partial" "$apt/archives/partial" "$dir"
  printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$(mirror)" "$suite" >"$apt/sources.list"
  options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=$apt/none" -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt" -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3)
  apt-get "${options[@]}" update
  (cd "$apt/archives" && apt-get "${options[@]}" download "$@") || fatal "cannot download $* of $suite"
  for deb in "$apt"/archives/*.deb; do dpkg-deb -x "$deb" "$dir"; done
  rm -rf "$apt"
}

# Rust's name of the target that .ci/build-musl builds for ARCH.
triple_of() {
  case $1 in
  armv7) printf 'armv7-unknown-linux-musleabihf\n' ;;
  *) printf '%s-unknown-linux-musl\n' "$1" ;;
  esac
}
# musl_binary x86_64|aarch64|armv7: where .ci/build-musl leaves it.
musl_binary() { printf '%s/%s/release/pia-qbittorrent-sync\n' "${CARGO_TARGET_DIR:-target}" "$(triple_of "$1")"; }
