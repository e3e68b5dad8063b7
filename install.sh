#!/bin/sh
# Installs, upgrades and removes pia-qbittorrent-sync: `sh install.sh --help`.
#
# Runs in any POSIX shell, including busybox ash and dash. Everything is in functions, so that a truncated download does
# nothing. Each file is written next to its destination and then renamed, and $unfinished records that a run has begun: to
# recover from an interrupted run, run the script again.

show_help() {
  cat <<EOF
Usage: sh install.sh [OPTION...]

Installs or upgrades pia-qbittorrent-sync. Never overwrites an existing configuration.

  --init INIT                 init system that starts the service (default: the one that is running): systemd (235 or later;
                              credentials need 247), openrc, procd (OpenWrt), unraid, dsm (Synology), none (binary and
                              configuration only). procd, unraid and dsm were tested on stand-ins, not on real devices
  --prefix DIR                install everything into DIR, a folder of its own that only root can write to (bin, etc, state,
                              and run.sh to start the service), for systems that are read-only or reset by updates: TrueNAS,
                              DSM. Works with --init none, unraid or dsm
  --binary PATH               install this binary. Default: the first one found of: a binary next to install.sh, a cargo
                              build in this folder, the release for this machine. Files next to install.sh are used only
                              if no user but root and you (sudo) can write to them
  --url URL                   download the binary from URL; requires --sha256
  --sha256 SUM                SHA-256 of the binary. The install.sh of a release contains the sums of its own files
  --uninstall                 stop and remove the service; keep configuration and lease
  --purge                     with --uninstall: remove configuration and lease as well
  --dry-run                   show what would be done; change nothing and send nothing
  --help                      show this help

PIA's CA certificate is fetched if the service needs it. PIA_CA_URL and PIA_CA_SHA256 in the environment override the
configuration here, but the service reads only its configuration.
EOF
}

info() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: %s\n' "$*" >&2; }
fatal() {
  warn "$*"
  exit 1
}
reject_usage() {
  warn "$*; see --help"
  exit 64
}

# Filled in by .ci/make-release: the version, and one line with the checksum of each file to download.
release_version=''
release_sums=''

set_constants() {
  name=pia-qbittorrent-sync
  user=pia-sync
  repository=pia-qbittorrent-sync/pia-qbittorrent-sync
  releases=https://github.com/$repository/releases

  binary=/usr/local/bin/$name
  # The templates as last installed: a .new file is written only if a template has changed since.
  templates=/usr/local/share/$name
  etc=/etc/$name
  config=$etc/config.env
  ca=$etc/ca.rsa.4096.crt
  state=/var/lib/$name
  unit=/etc/systemd/system/$name.service
  initd=/etc/init.d/$name
  confd=/etc/conf.d/$name
  unfinished=$etc/.unfinished
  python=/opt/$name
  secrets='PIA_USERNAME PIA_PASSWORD QBITTORRENT_USERNAME QBITTORRENT_PASSWORD QBITTORRENT_API_KEY GLUETUN_API_KEY'
  secrets="$secrets TRANSMISSION_USERNAME TRANSMISSION_PASSWORD DELUGE_PASSWORD PORT_CHANGE_URL HEARTBEAT_URL"
  # For systemd before 247, which has no credentials.
  old_systemd_drop_in=$unit.d/before-247.conf
  # List of the files that OpenWrt keeps across a firmware upgrade.
  keep_list=/lib/upgrade/keep.d/$name
  go=/boot/config/go
  rc_d=/usr/local/etc/rc.d/$name.sh
  service_files="systemd/$name.service systemd/config.env openrc/$name.initd openrc/$name.confd
    contrib/procd/$name.init contrib/appliance/run.sh contrib/man/$name.1"
  manual=/usr/local/share/man/man1/$name.1
  # The user who runs sudo, and therefore can do anything that root can.
  case ${SUDO_UID-} in
  '' | *[!0-9]*) sudo_uid=0 ;;
  *) sudo_uid=$SUDO_UID ;;
  esac
}

parse_options() {
  init='' prefix='' given_binary='' url='' sha256='' uninstall='' purge='' dry_run=''
  while [ $# -gt 0 ]; do
    case $1 in
    --*=*)
      option=$1
      shift
      set -- "${option%%=*}" "${option#*=}" "$@"
      continue
      ;;
    --init | --prefix | --binary | --url | --sha256)
      [ -n "${2-}" ] || reject_usage "$1 needs a value"
      case $1 in
      --init) init=$2 ;;
      --prefix) prefix=$2 ;;
      --binary) given_binary=$2 ;;
      --url) url=$2 ;;
      --sha256) sha256=$2 ;;
      esac
      shift 2
      ;;
    --uninstall) uninstall=yes && shift ;;
    --purge) purge=yes && shift ;;
    --dry-run) dry_run=yes && shift ;;
    --help | -h)
      show_help
      exit 0
      ;;
    *) reject_usage "unknown option: $1" ;;
    esac
  done
  case $init in
  '' | systemd | openrc | procd | unraid | dsm | none) ;;
  *) reject_usage "--init must be systemd, openrc, procd, unraid, dsm or none, not $init" ;;
  esac
  case $prefix/ in
  / | /*[!/]*) prefix=${prefix%/} ;;
  *) reject_usage '--prefix must be an absolute path other than /' ;;
  esac
  case $prefix/ in
  */../*) reject_usage "--prefix may not contain .., as $prefix does" ;;
  esac
  check_prefix_name
  [ -z "$url" ] || [ -n "$sha256" ] || reject_usage '--url needs the --sha256 of that file'
  [ -z "$given_binary" ] || [ -z "$url" ] || reject_usage 'use either --binary or --url, not both'
  [ -z "$purge" ] || [ -n "$uninstall" ] || reject_usage '--purge needs --uninstall'
  if [ -n "$sha256" ]; then
    sha256=$(printf '%s' "$sha256" | tr 'A-F' 'a-f')
    is_sha256 "$sha256" || reject_usage '--sha256 must be 64 hexadecimal digits'
  fi
}

# The prefix is copied unquoted into scripts and settings.
check_prefix_name() {
  case $prefix in
  *[!A-Za-z0-9._/-]*) reject_usage "--prefix may contain only letters, digits and . _ - /, not $prefix" ;;
  esac
}

# Files are checked in this folder and installed from it, so no other user may be able to swap the folder.
prepare_stage() {
  umask 077
  part='' stage=''
  trap '[ -z "$stage" ] || rm -rf "$stage" ${part:+"$part"}' EXIT
  trap 'warn "interrupted; run it again to finish"; exit 130' INT
  trap 'warn "interrupted; run it again to finish"; exit 143' TERM HUP
  for folder in "${TMPDIR:-/tmp}" /tmp /run; do
    stage=$(mktemp -d "$folder/$name.XXXXXX") || continue
    ! is_safe_folder "$stage" || return 0
    rm -rf "$stage"
  done
  fatal 'cannot create a private temporary folder: set TMPDIR to a folder that only root can write to'
}

# --- can other users change a file?

# is_protected PATH [sticky]: only root and the user who runs sudo own PATH and can write to it; otherwise sets $reason. With
# `sticky` a sticky folder is enough: other users can add files there, but not touch ours.
is_protected() {
  if [ -L "$1" ]; then
    reason="$1 is a symbolic link"
  elif [ -z "$(find "$1" -prune \( -user 0 -o -user "$sudo_uid" \))" ]; then
    reason="$1 belongs to another user"
  elif [ -n "$(find "$1" -prune ! -perm -020 ! -perm -002)" ]; then
    return 0
  elif [ -n "${2-}" ] && [ -n "$(find "$1" -prune -perm -1000)" ]; then
    return 0
  else
    reason="others can write to $1"
  fi
  return 1
}

# is_safe_folder FOLDER: no other user can write to FOLDER or replace it. Sets $real to the real path, the only one for which
# this holds: other users may be able to change a link.
is_safe_folder() {
  reason="cannot enter $1"
  real=$(CDPATH='' cd -P -- "$1" 2>/dev/null && pwd -P) || return 1
  is_protected "$real" || return 1
  above=$real
  while [ -n "$above" ]; do
    above=${above%/*}
    is_protected "${above:-/}" sticky || return 1
  done
}

# is_roots FOLDER: is_safe_folder for files that root uses later, e.g. at boot.
is_roots() { is_on_flash "$1" || trust_root_alone is_safe_folder "$1"; }

# trust_root_alone COMMAND...: without the user who runs sudo.
trust_root_alone() {
  caller=$sudo_uid sudo_uid=0 safe=''
  ! "$@" || safe=yes
  sudo_uid=$caller
  [ -n "$safe" ]
}

# Root acts on the settings: it creates STATE_DIR, for example. A link in a folder of root's is root's.
are_settings_roots() {
  [ -e "$settings" ] || return 0
  is_roots "${settings%/*}" || return 1
  file=$(readlink -f "$settings")
  is_roots "${file%/*}" && { is_on_flash "${file%/*}" || trust_root_alone is_protected "$file"; }
}

# Without an init system the service's user must still be able to read the settings.
check_settings() {
  ! are_settings_roots || return 0
  remedy="chown root $settings && chmod go-w $settings"
  [ "$init$prefix" != none ] || remedy="chown root:$user $settings && chmod 640 $settings"
  fatal "$reason: only root may change the settings, because root uses them, too. Run: $remedy"
}

# Unraid's flash drive has no file owners: a user who can write to it can change all of Unraid.
is_on_flash() {
  [ "$init" = unraid ] || return 1
  case $(CDPATH='' cd -P -- "$1" && pwd -P)/ in
  /boot/*) ;;
  *) return 1 ;;
  esac
}

# Finds the init system that is running, because several may be installed.
detect_init() {
  if [ -e /etc/openwrt_release ]; then
    running_init=procd
  elif [ -e /etc/unraid-version ]; then
    running_init=unraid
  elif [ -e /etc/synoinfo.conf ]; then
    running_init=dsm
  elif [ -n "$prefix" ]; then
    running_init=none
  elif [ -d /run/systemd/system ]; then
    running_init=systemd
  elif [ -e /run/openrc/softlevel ]; then
    running_init=openrc
  else
    running_init=none
  fi
  if [ -z "$init" ]; then
    init=$running_init
    info "init system: $init"
  elif [ "$init" != none ] && [ "$init" != "$running_init" ]; then
    warn "$init is not running here: the service will be installed and enabled, but not started"
  fi
  default_prefix=''
  case $init in
  unraid)
    prefix=${prefix:-/boot/config/plugins/$name}
    default_prefix='; the default is on the flash drive'
    ;;
  dsm) prefix=${prefix:-/usr/local/$name} ;;
  procd) binary=/usr/bin/$name templates=/usr/share/$name state=$etc/state ;;
  esac
  executable=$binary
  if [ -n "$prefix" ]; then
    resolve_prefix
    case $init in
    systemd | openrc | procd) reject_usage "--prefix does not work with --init $init" ;;
    esac
    binary=$prefix/bin/$name templates=$prefix/share etc=$prefix/etc config=$prefix/etc/config.env
    ca=$etc/ca.rsa.4096.crt state=$prefix/state unfinished=$prefix/.unfinished
    # Unraid cannot run programs from its flash drive.
    if [ "$init" = unraid ]; then executable=/usr/local/bin/$name; else executable=$binary; fi
  fi
  case $init in
  systemd) service=$unit settings=$config ;;
  openrc) service=$initd settings=$confd ;;
  procd) service=$initd settings=$config ;;
  unraid | dsm) service=$prefix/run.sh settings=$config ;;
  none) service=${prefix:+$prefix/run.sh} settings=$config ;;
  esac
  [ -n "$uninstall" ] || {
    [ -z "$prefix" ] || check_prefix
    check_settings
    [ -n "$dry_run" ] || check_writable "$binary"
  }
}

# find_nearest_folder PATH: PATH, or the closest folder above it that exists.
find_nearest_folder() {
  folder=$1
  while [ ! -d "${folder:-/}" ]; do
    case $folder in
    */*) folder=${folder%/*} ;;
    *) folder=. ;;
    esac
  done
  printf '%s\n' "${folder:-/}"
}

# Replaces links in the prefix, because another user may be able to change one later.
resolve_prefix() {
  nearest=$(find_nearest_folder "$prefix")
  prefix=$(CDPATH='' cd -P -- "$nearest" && pwd -P)${prefix#"$nearest"}
  check_prefix_name
}

check_prefix() {
  is_own_prefix || fatal "$prefix contains other files: choose a folder of its own, e.g. --prefix $prefix/$name"
  is_roots_prefix ||
    fatal "$reason: root would run any file placed there. ${remedy:-Choose a --prefix that only root can write to$default_prefix}"
}

# Root runs the files in the prefix, and --uninstall removes them, so only root may be able to change them. Otherwise sets $reason,
# and $remedy if the folder itself is root's.
is_roots_prefix() {
  remedy=''
  nearest=$(find_nearest_folder "$prefix")
  is_roots "$nearest" || return 1
  ! is_on_flash "$nearest" || return 0
  open=$(find "$prefix" \( ! -user 0 -o ! -type l \( -perm -020 -o -perm -002 \) \) 2>/dev/null | head -n 1 | tr -c 'A-Za-z0-9._/\n-' '?')
  reason="users other than root can change $open"
  remedy="If you trust these files, run: chown -hR 0:0 $prefix; chmod -R go-w $prefix"
  [ -z "$open" ]
}

# Leftovers of an interrupted run do not count as other files, and a configuration kept by --uninstall counts as ours.
is_own_prefix() {
  grep -qsE "$name|PIA_|QBITTORRENT_" "$config" || [ -e "$unfinished" ] || [ -z "$(find "$prefix" ! -type d ! -name '.*.part' 2>/dev/null | head -n 1)" ]
}

# check_writable FILE: detects a read-only /usr before anything is changed.
check_writable() {
  folder=$(find_nearest_folder "${1%/*}")
  probe=$(mktemp "${folder%/}/.$name.XXXXXX" 2>/dev/null) ||
    fatal "cannot write to $folder: choose a different folder with --prefix, e.g. --prefix /mnt/POOL/$name"
  rm -f "$probe"
}

is_init_running() { [ "$init" = "$running_init" ] || [ "$init" = none ]; }

# --- the binary

detect_target() {
  machine=$(uname -m)
  case $machine in
  x86_64 | amd64) target=x86_64-unknown-linux-musl ;;
  aarch64 | arm64) target=aarch64-unknown-linux-musl ;;
  armv7* | armv8l) target=armv7-unknown-linux-musleabihf ;;
  *) target='' ;;
  esac
}

# Sets $files and $source to copies of the files next to install.sh. A user who can write to those files could become root,
# so unprotected files are ignored.
find_adjacent_files() {
  files='' source='' folders='' program='' refused=''
  [ -n "$here" ] || return 0
  if has_service_files "$here"; then
    folders=' systemd openrc contrib'
    files=$stage/adjacent
    for file in $service_files; do
      mkdir -p "$files/${file%/*}"
      copy_adjacent_file "$file" "$files/$file" || {
        files=''
        break
      }
    done
  fi
  if [ -z "$given_binary$url" ]; then
    for file in "$name" "$name-$target" "target/$target/release/$name" "target/release/$name"; do
      [ -f "$here/$file" ] || continue
      program=${program:-" $file"}
      if copy_adjacent_file "$file" "$stage/binary"; then
        source=$stage/binary origin=$here/$file
        break
      fi
    done
  fi
  [ -z "$refused" ] || warn "not used:$refused; $refused_reason. If you trust these files, run:" \
    "umask 22; cd '$here' && mkdir -p ~/pia && cp -RL install.sh$folders$program ~/pia && sh ~/pia/install.sh"
}

# copy_adjacent_file FILE COPY
copy_adjacent_file() {
  if is_protected "$here" && is_safe_folder "$(dirname "$here/$1")" && is_protected "$real/${1##*/}"; then
    cp "$real/${1##*/}" "$2" || fatal "cannot copy $here/$1"
    return 0
  fi
  refused_reason=$reason
  case $1 in
  systemd/* | openrc/* | contrib/*) refused="$refused systemd openrc contrib" ;;
  *) refused="$refused $1" ;;
  esac
  return 1
}

# Sets $source to a file in $stage, whose checksum was compared with --sha256 if given.
find_binary() {
  released=''
  if [ -n "$given_binary" ]; then
    [ -f "$given_binary" ] || fatal "$given_binary: no such file"
    source=$stage/binary origin=$given_binary
    cp -- "$given_binary" "$source"
  elif [ -z "$source" ]; then
    download_binary
    return
  fi
  info "binary: $origin"
  [ -z "$sha256" ] || check_sum "$source" "$sha256" "$origin"
}

download_binary() {
  source=$stage/$name
  if [ -n "$url" ]; then
    info "binary: $url"
    fetch "$url" "$source"
    check_sum "$source" "$sha256" "$url"
    return
  fi
  [ -n "$target" ] || fatal "there is no release for $machine: build the binary with cargo and use --binary"
  fetch_release "$name-$target" "$source"
  released=yes
}

# fetch_release ASSET FILE: downloads from the release of this install.sh. The checksum is built in, because one from the same
# server as the file would prove nothing.
fetch_release() {
  [ -n "$release_version" ] ||
    fatal "this install.sh is not from a release, so it has no checksums: use the one from $releases/latest, or --binary PATH"
  info "from release $release_version: $1"
  fetch "$releases/download/v$release_version/$1" "$2"
  check_sum "$2" "$(printf '%s\n' "$release_sums" | awk -v asset="$1" '$2 == asset { print $1 }')" "$1"
}

# curl follows no redirect from https to http. wget has no such option, but the checksum must match anyway.
fetch() {
  if command -v curl >/dev/null; then
    protocols='=https'
    case $1 in http://*) protocols='=http,https' ;; esac
    curl --fail --silent --show-error --location --proto "$protocols" --proto-redir "$protocols" --tlsv1.2 --retry 2 \
      --max-time 300 --output "$2" "$1" || fatal "cannot download $1"
  elif command -v wget >/dev/null; then
    wget -q -O "$2" "$1" || fatal "cannot download $1"
  else
    fatal "cannot download $1: install curl or wget"
  fi
}

is_sha256() {
  case $1 in
  *[!0-9a-f]*) return 1 ;;
  esac
  [ ${#1} -eq 64 ]
}

# check_sum FILE SUM ORIGIN
check_sum() {
  if command -v sha256sum >/dev/null; then
    sum=$(sha256sum <"$1")
  elif command -v openssl >/dev/null; then
    sum=$(openssl dgst -sha256 -r <"$1")
  else
    fatal 'cannot check the SHA-256 of files: install sha256sum or openssl'
  fi
  [ "${sum%% *}" = "$2" ] || fatal "wrong SHA-256 of $3; nothing was installed: received ${sum%% *}, expected $2"
}

# --- changes

run() {
  if [ -n "$dry_run" ]; then
    info "would run: $*"
  else
    "$@"
  fi
}

# Called before each change that needs a restart of the service. The plan is stored, because after an interruption the files
# no longer show that the restart is still to come.
record_change() {
  changed=yes
  if [ -z "$dry_run" ] && [ ! -e "$unfinished" ]; then
    make_folder "$etc" 755
    printf '%s\n' "$plan" >"$unfinished.part"
    mv "$unfinished.part" "$unfinished"
  fi
}

make_folder() {
  [ ! -d "$1" ] || return 0
  if [ -n "$dry_run" ]; then
    info "would create $1"
  else
    # Parent folders get the usual mode, regardless of the umask.
    (umask 022 && mkdir -p "$1")
    set_mode "$2" "$1"
  fi
}

# The file system of Unraid's flash drive has no modes.
is_installed() { cmp -s "$1" "$2" && { [ "$init" = unraid ] || [ -n "$(find "$2" -prune -user 0 -perm "$3")" ]; }; }
set_mode() { chmod "$1" "$2" 2>/dev/null || [ "$init" = unraid ]; }

# stage_file FILE DESTINATION MODE: copies FILE next to DESTINATION and sets $part to the copy.
stage_file() {
  make_folder "${2%/*}" 755
  part=${2%/*}/.${2##*/}.part
  rm -f "$part"
  # noclobber: never through a link.
  (set -C && cat "$1" >"$part")
  set_mode "$3" "$part"
}

# commit_file DESTINATION: moves the staged file into place atomically.
commit_file() {
  mv -f "$part" "$1"
  part=''
}

# install_file FILE DESTINATION MODE: does nothing if DESTINATION is up to date.
install_file() {
  ! is_installed "$@" || return 0
  if [ -n "$dry_run" ]; then
    info "would install $2"
    return
  fi
  stage_file "$@"
  commit_file "$2"
  info "installed $2"
}

# strip_returns FILE: sets $stripped to a copy of FILE without carriage returns, which Windows editors add.
strip_returns() {
  stripped=$stage/text.${1##*/}
  tr -d '\r' <"$1" >"$stripped"
}

remove() {
  for path; do
    if [ -e "$path" ] || [ -L "$path" ]; then
      if [ -z "$dry_run" ] && is_users_folder "$path"; then
        remove_as_user "$path" || continue
      else
        run rm -rf "$path"
      fi
      info "${dry_run:+would have }removed $path"
    fi
  done
}

is_users_folder() { id -u "$user" >/dev/null 2>&1 && [ -n "$(find "$1" -prune -type d -user "$user")" ]; }

# remove_as_user FOLDER: the service's user empties its own folder. Busybox's rm follows a link that a live process of that user
# swaps in for a folder, so rm by root could delete any file. setsid, because that user must not reach root's terminal.
remove_as_user() {
  setsid su -s /bin/sh "$user" -c "rm -rf '$1'" </dev/null >"$stage/output" 2>&1 || true
  rmdir "$1" || {
    left=yes
    warn "$1 was not removed: end all processes of $user and run this again"
    return 1
  }
}

# --- installing

# Sets $previous to ours, python (the daemon that this one replaces), other or none, and $plan to start, restart or leave.
detect_previous() {
  previous=none
  if [ -z "$service" ] || [ ! -e "$service" ]; then
    :
  elif grep -q "$python/" "$service"; then
    previous=python
  elif grep -q "$binary" "$service"; then
    previous=ours
  elif grep -q "^# Keeps $name running" "$service"; then
    previous=ours
  elif [ -d "$python/venv" ]; then
    previous=python
  else
    previous=other
  fi
  changed='' fetched=''
  if [ -e "$unfinished" ]; then
    plan=$(cat "$unfinished")
    changed=yes
    info 'continuing the interrupted run'
  elif [ "$previous" != ours ]; then
    plan=start
  elif is_active; then
    plan=restart
  else
    plan=leave
  fi
}

is_active() {
  if [ -n "$prefix" ]; then
    [ -e "$service" ] && sh "$service" pid >/dev/null
    return
  fi
  is_init_running || return 1
  case $init in
  procd) "$initd" running >/dev/null 2>&1 ;;
  systemd)
    # A service that is still starting counts as active.
    case $(systemctl show --property ActiveState "$name.service") in
    *=active | *=activating | *=reloading) ;;
    *) return 1 ;;
    esac
    ;;
  openrc) rc-service --quiet "$name" status >/dev/null 2>&1 ;;
  none) return 1 ;;
  esac
}

# Sets $files to the folder with the service files: those next to install.sh, otherwise those of the release.
find_service_files() {
  [ -z "$files" ] || return 0
  fetch_release "$name-services.tar.gz" "$stage/services.tar.gz"
  files=$stage/services
  mkdir "$files"
  tar -xzf "$stage/services.tar.gz" -C "$files"
  has_service_files "$files" || fatal 'the release lacks service files'
}

# has_service_files FOLDER
has_service_files() {
  for file in $service_files; do
    [ -f "$1/$file" ] || return 1
  done
}

install_binary() {
  ! is_installed "$source" "$binary" 755 || return 0
  if [ -n "$dry_run" ]; then
    record_change
    info "would install $binary"
    return
  fi
  # Run from the temporary folder: the destination may be on a drive that cannot run programs.
  cp "$source" "$stage/program"
  chmod 755 "$stage/program"
  stage_file "$source" "$binary" 755
  version=$("$stage/program" --version 2>&1) || fatal "this binary does not run on this machine ($machine): $version"
  case $version in
  "$name "*) ;;
  *) fatal "this binary is not $name: its --version prints $version" ;;
  esac
  record_change
  commit_file "$binary"
  info "installed $binary ($version)"
}

# Copies the binary to the folder that it runs from, if that differs from the one that stores it.
install_copy() { [ "$executable" = "$binary" ] || install_file "$source" "$executable" 755; }

create_user() {
  ! id -u "$user" >/dev/null 2>&1 || return 0
  shell=/bin/false
  for file in /usr/sbin/nologin /sbin/nologin; do [ ! -x "$file" ] || shell=$file; done
  # The group first: an interrupted run may have left it.
  if command -v useradd >/dev/null; then
    grep -q "^$user:" /etc/group || run groupadd --system "$user"
    run useradd --system --gid "$user" --no-create-home --home-dir /nonexistent --shell "$shell" "$user"
  elif command -v adduser >/dev/null && command -v addgroup >/dev/null; then
    grep -q "^$user:" /etc/group || run addgroup -S "$user"
    run adduser -S -D -H -h /nonexistent -s "$shell" -G "$user" "$user"
  elif [ "$init" = none ]; then
    warn "cannot create users here: run $name as a user of your choice"
    return
  else
    fatal "cannot create users (no useradd or adduser): create user and group $user, then run this again"
  fi
  info "${dry_run:+would have }created user $user"
}

# install_config TEMPLATE DESTINATION: never overwrites; writes a .new file next to an existing one if the template has changed.
install_config() {
  known=$templates/${1##*/}
  strip_returns "$1"
  if [ ! -e "$2" ]; then
    record_change
    install_file "$stripped" "$2" 600
  elif ! cmp -s "$stripped" "$2" && ! cmp -s "$stripped" "$known"; then
    offer_config "$stripped" "$2"
  fi
  install_file "$stripped" "$known" 644
}

# offer_config FILE DESTINATION
offer_config() {
  ! cmp -s "$1" "$2.new" || return 0
  install_file "$1" "$2.new" 600
  info "kept your $2; the new version is $2.new"
}

install_service() {
  case $init in
  systemd) strip_returns "$files/systemd/$name.service" && mode=644 ;;
  openrc) strip_returns "$files/openrc/$name.initd" && mode=755 ;;
  procd) strip_returns "$files/contrib/procd/$name.init" && mode=755 ;;
  unraid | dsm | none)
    [ -n "$service" ] || return 0
    strip_returns "$files/contrib/appliance/run.sh" && mode=755
    ;;
  esac
  ! is_installed "$stripped" "$service" "$mode" || return 0
  record_change
  install_file "$stripped" "$service" "$mode"
}

install_manual() {
  strip_returns "$files/contrib/man/$name.1"
  make_folder "${manual%/*}" 755
  install_file "$stripped" "$manual" 644
}

install_all() {
  detect_target
  find_adjacent_files
  find_service_files
  find_binary
  detect_previous
  install_binary
  install_copy
  # Appliances run everything as root, and lose users at a reboot.
  case $init in
  systemd) ! is_old_systemd || create_user ;;
  openrc) create_user ;;
  none) [ -n "$prefix" ] || create_user ;;
  esac
  make_folder "$etc" 755
  case $init in
  systemd)
    make_folder "$etc/credentials" 700
    if [ "$previous" = python ]; then
      migrate_unit
    else
      install_config "$files/systemd/config.env" "$config"
    fi
    ;;
  openrc)
    [ "$previous" != python ] || migrate_confd
    install_config "$files/openrc/$name.confd" "$confd"
    make_state_folder
    ;;
  procd | unraid | dsm | none)
    [ ! -d "$python/venv" ] || warn "the Python daemon in $python was not touched: stop it before starting this service"
    write_default_config
    install_config "$stage/config.env" "$config"
    make_state_folder
    ;;
  esac
  warn_about_ram_disk
  # Before the old service is stopped, because this may take a while.
  fetch_ca
  case $previous in
  python | other) stop_previous ;;
  esac
  install_service
  case $init in
  systemd | openrc) install_manual ;;
  esac
  case $init in
  systemd) support_old_systemd ;;
  procd) keep_across_upgrades ;;
  unraid) add_to_go ;;
  dsm) install_rc_d_script ;;
  esac
  if [ -n "$dry_run" ]; then
    [ -z "$changed" ] || [ "$init" = none ] || [ "$plan" = leave ] || info "would $plan the service"
  else
    finish_service
    show_next_steps
  fi
}

# Writes the template with the paths of this system.
write_default_config() {
  strip_returns "$files/systemd/config.env"
  {
    cat "$stripped"
    if [ "$state" != "/var/lib/$name" ]; then
      printf '\n# Lease and CA certificate survive a reboot here.\nSTATE_DIR=%s\n' "$state"
    fi
    [ -z "$prefix" ] || printf 'LOG_FILE=/var/log/pia_qbittorrent_sync.log\n'
  } >"$stage/config.env"
}

# A RAM disk is empty after each boot.
warn_about_ram_disk() {
  kind=$(awk -v folder="$(find_nearest_folder "$(find_state_folder)")" '
    { place = $2 == "/" ? "" : $2 }
    index(folder "/", place "/") == 1 && length(place) >= length(best) { best = place; kind = $3 }
    END { print kind }
  ' /proc/mounts 2>/dev/null)
  case $kind in
  tmpfs | ramfs | rootfs) warn "STATE_DIR $(find_state_folder) is on a RAM disk: each boot will need a login and get a different port" ;;
  esac
}

# --- systemd before 247

is_old_systemd() {
  version=$(systemctl --version 2>/dev/null | sed -nE '1s/^systemd ([0-9]+).*/\1/p')
  [ -n "$version" ] && [ "$version" -lt 247 ]
}

# systemd before 247 ignores LoadCredential=: the service runs as a user of its own, which can read the files directly.
support_old_systemd() {
  if ! is_old_systemd; then
    [ -e "$old_systemd_drop_in" ] || return 0
    record_change
    remove "$old_systemd_drop_in"
    run chmod -R go-rwx "$etc/credentials" "$config"
    return
  fi
  warn "systemd $version has no credentials (247 does): the service runs as user $user, which can read $etc"
  printf '[Service]\nDynamicUser=no\nUser=%s\nGroup=%s\n' "$user" "$user" >"$stage/before-247.conf"
  if ! is_installed "$stage/before-247.conf" "$old_systemd_drop_in" 644; then
    record_change
    install_file "$stage/before-247.conf" "$old_systemd_drop_in" 644
  fi
  run chgrp -hR "$user" "$etc/credentials" "$config"
  run chmod 640 "$config"
  run chmod -R g+rX,o-rwx "$etc/credentials"
}

# --- appliances

keep_across_upgrades() {
  printf '%s\n' "$etc/" "$binary" "$initd" "/etc/rc.d/S95$name" "/etc/rc.d/K10$name" >"$stage/keep"
  is_installed "$stage/keep" "$keep_list" 644 || install_file "$stage/keep" "$keep_list" 644
}

# Unraid builds its system again at each boot and then runs this file.
add_to_go() {
  # shellcheck disable=SC2016 # expanded when the go file runs
  line="sh $prefix/run.sh start # $name"
  ! grep -qxF "$line" "$go" 2>/dev/null || return 0
  if [ -n "$dry_run" ]; then
    info "would add to $go: $line"
    return
  fi
  record_change
  { grep -v " # $name\$" "$go" 2>/dev/null || printf '#!/bin/bash\n'; } >"$stage/go"
  printf '%s\n' "$line" >>"$stage/go"
  install_file "$stage/go" "$go" 600
}

# DSM runs the scripts in rc.d with `start` and `stop`.
install_rc_d_script() {
  printf '#!/bin/sh\nexec sh %s/run.sh "$@"\n' "$prefix" >"$stage/rc.d"
  is_installed "$stage/rc.d" "$rc_d" 755 && return 0
  record_change
  install_file "$stage/rc.d" "$rc_d" 755
}

# OpenRC's checkpath creates the folder as well, but does not change the owner of files already in it; systemd does.
make_state_folder() {
  folder=$(find_state_folder)
  [ ! -d "$folder" ] || return 0
  is_roots "$(find_nearest_folder "$folder")" || {
    warn "$reason, so root does not create STATE_DIR $folder there; create it for the service's user"
    return 0
  }
  make_folder "$folder" 700
  ! id -u "$user" >/dev/null 2>&1 || run chown -h "$user:$user" "$folder"
}

find_state_folder() {
  folder=$(read_setting STATE_DIR)
  printf '%s\n' "${folder:-$state}"
}

# read_setting NAME: the value in the service's settings, or the one that --dry-run would write. Not for secrets.
read_setting() {
  file=$settings
  [ -e "$file" ] || file=$stage/migrated
  [ -e "$file" ] || return 0
  sed -nE "s/[[:space:]]+\$//; s/^[[:space:]]*(export[[:space:]]+)?$1=[\"']?([^\"']*).*/\\2/p" "$file" | tail -n 1
}

# Fetches PIA's CA certificate if the service needs it. The service would, too, but here the user sees an error.
fetch_ca() {
  case $(read_setting PORT_SOURCE) in
  '' | pia) ;;
  *) return 0 ;;
  esac
  [ -z "$(read_setting PIA_CA_CERT)" ] || return 0
  if [ -n "$dry_run" ]; then
    [ -e "$(find_state_folder)/ca.rsa.4096.crt" ] || info "would fetch PIA's CA certificate"
    return
  fi
  set --
  [ -z "${PIA_CA_URL-}" ] || set -- "PIA_CA_URL=$PIA_CA_URL"
  [ -z "${PIA_CA_SHA256-}" ] || set -- "$@" "PIA_CA_SHA256=$PIA_CA_SHA256"
  set -- env -i "$@" "$executable" --config "$settings" fetch-ca
  if "$@" >"$stage/output" 2>&1; then
    # A certificate that is already there is not mentioned.
    ! grep 'is now in' "$stage/output" || fetched=yes
    case ${PIA_CA_SHA256-} in
    '' | "$(read_setting PIA_CA_SHA256)") ;;
    *) warn "the service will reject this certificate until PIA_CA_SHA256=$PIA_CA_SHA256 is also in $settings" ;;
    esac
  else
    warn "PIA's CA certificate is still missing; the service will fetch it. $(sed "s/^$name: //" "$stage/output")"
  fi
}

# --- migrating from the Python daemon

# read_unit FILE: prints NAME=value for each of our variables in the unit. Reads Environment= and EnvironmentFile= as systemd
# does: words, quotes, C escapes, %% for %, continued lines. Values pass through files only, because every user can read a
# command line.
read_unit() {
  LC_ALL=C awk '
    function store(word,   at) {
      at = index(word, "=")
      if (substr(word, 1, at - 1) !~ /^(PIA_(USERNAME|PASSWORD|TOKEN_FILE|GATEWAY|HOSTNAME|CA_CERT)|QBITTORRENT_(HOST|USERNAME|PASSWORD)|CHECK_INTERVAL|LOG_LEVEL|LOG_FILE)$/) return
      value[substr(word, 1, at - 1)] = substr(word, at + 1)
    }
    function digit(text, at) { return index("0123456789abcdef", tolower(substr(text, at, 1))) - 1 }
    function read_words(text,   i, c, word, quote, begun) {
      if (text == "") split("", value)
      for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (c == "\\") {
          c = substr(text, ++i, 1)
          if (c == "x") {
            c = sprintf("%c", 16 * digit(text, i + 1) + digit(text, i + 2))
            i += 2
          } else if (substr(text, i, 3) ~ /^[0-3][0-7][0-7]$/) {
            c = sprintf("%c", 64 * digit(text, i) + 8 * digit(text, i + 1) + digit(text, i + 2))
            i += 2
          } else if (c == "s") c = " "
          else if (c == "t") c = "\t"
          word = word c
          begun = 1
        } else if (quote != "") {
          if (c == quote) quote = ""
          else word = word c
        } else if (c == "\"" || c == "\047") {
          quote = c
          begun = 1
        } else if (c == " " || c == "\t") {
          if (begun) end_word(word)
          word = ""
          begun = 0
        } else {
          word = word c
          begun = 1
        }
      }
      if (begun) end_word(word)
    }
    function end_word(word) {
      gsub(/%%/, "%", word)
      store(word)
    }
    function read_env_file(path,   line, at, text) {
      sub(/^-/, "", path)
      while ((getline line < path) > 0) {
        sub(/^[ \t]+/, "", line)
        sub(/[ \t\r]+$/, "", line)
        at = index(line, "=")
        text = substr(line, at + 1)
        if (text ~ /^\047.*\047$/) text = substr(text, 2, length(text) - 2)
        else if (text ~ /^".*"$/) text = unquote(substr(text, 2, length(text) - 2))
        store(substr(line, 1, at) text)
      }
      close(path)
    }
    function unquote(text,   i, c, out) {
      for (i = 1; i <= length(text); i++) {
        c = substr(text, i, 1)
        if (c == "\\" && index("\"\\$`", substr(text, i + 1, 1))) c = substr(text, ++i, 1)
        out = out c
      }
      return out
    }
    { sub(/\r$/, "") }
    /^[ \t]*[#;]/ { next }
    {
      line = held $0
      held = ""
    }
    line ~ /\\$/ {
      held = substr(line, 1, length(line) - 1) " "
      next
    }
    line ~ /^[ \t]*\[/ { service = line ~ /^[ \t]*\[Service\]/ }
    service && match(line, /^[ \t]*Environment[ \t]*=[ \t]*/) { read_words(substr(line, RLENGTH + 1)) }
    service && match(line, /^[ \t]*EnvironmentFile[ \t]*=[ \t]*/) { files[++count] = substr(line, RLENGTH + 1) }
    END {
      # Files override Environment=, regardless of the order of the lines.
      for (i = 1; i <= count; i++) read_env_file(files[i])
      for (name in value) print name "=" value[name]
    }
  ' "$1" | sort
}

# read_old_value NAME: redirect secrets into a file, never into a variable or an argument.
read_old_value() { sed -n "s/^$1=//p" "$stage/old"; }

migrate_unit() {
  info "the Python daemon's unit is $unit"
  read_unit "$unit" >"$stage/old"
  migrated='' dropped=''
  while IFS='=' read -r variable _; do
    case $variable in
    PIA_USERNAME | PIA_PASSWORD | QBITTORRENT_USERNAME | QBITTORRENT_PASSWORD)
      migrate_secret "$variable"
      dropped="$dropped $variable"
      ;;
    PIA_CA_CERT) migrate_ca ;;
    PIA_TOKEN_FILE)
      # The service can write to its own default, but not to that of the Python daemon.
      [ "$(read_old_value PIA_TOKEN_FILE)" != /var/run/pia_token ] || dropped="$dropped $variable"
      ;;
    PIA_GATEWAY)
      # An unset PIA_GATEWAY covers this address as well, and finds the gateway if it has a different one.
      [ "$(read_old_value PIA_GATEWAY)" != 10.0.0.1 ] || dropped="$dropped $variable"
      ;;
    LOG_FILE)
      case $(read_old_value LOG_FILE) in
      "/var/log/$name/"*) ;;
      *)
        warn "LOG_FILE was not copied: the journal has the log; to log to a file, choose one below /var/log/$name"
        dropped="$dropped $variable"
        ;;
      esac
      ;;
    esac
    case " $dropped " in
    *" $variable "*) ;;
    *) migrated="$migrated $variable" ;;
    esac
  done <"$stage/old"
  write_config
  info "${dry_run:+would have }copied into $config:$migrated"
  for file in "$unit".d/*.conf; do
    [ ! -e "$file" ] || warn "$file still applies: remove the lines that were for the Python daemon only"
  done
}

# migrate_secret VARIABLE: writes the secret into a file of its own, which the service receives as a credential.
migrate_secret() {
  file=$etc/credentials/$1
  if [ -s "$file" ]; then
    info "kept your $file"
    return
  fi
  read_old_value "$1" >"$stage/secret"
  # An empty value counts as unset.
  grep -q . "$stage/secret" || return 0
  record_change
  install_file "$stage/secret" "$file" 600
}

# Copies the CA certificate, because the service cannot read home folders and the user will delete /opt/....
migrate_ca() {
  file=$(read_old_value PIA_CA_CERT)
  if [ ! -f "$file" ]; then
    warn "PIA_CA_CERT=$file: no such file; remove it from $config or correct it"
    return
  fi
  if [ ! -e "$ca" ]; then
    strip_returns "$file"
    # Only certificates, because every user can read the copy, and the file may be a link to a secret of root's.
    sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' "$stripped" >"$stage/ca"
    [ -s "$stage/ca" ] || {
      warn "PIA_CA_CERT=$file: contains no certificate; remove it from $config or correct it"
      return 0
    }
    record_change
    install_file "$stage/ca" "$ca" 644
  fi
  sed "s|^PIA_CA_CERT=.*|PIA_CA_CERT=$ca|" "$stage/old" >"$stage/new"
  mv "$stage/new" "$stage/old"
}

# Writes the template, followed by the Python daemon's settings.
write_config() {
  strip_returns "$files/systemd/config.env"
  {
    cat "$stripped"
    printf "\n# Copied from the Python daemon's unit.\n"
    # Single quotes, because systemd, shells and the daemon agree on them; a value that contains one needs double quotes.
    LC_ALL=C awk -v dropped=" $dropped " '
      {
        at = index($0, "=")
        name = substr($0, 1, at - 1)
        value = substr($0, at + 1)
        if (index(dropped, " " name " ")) next
        if (index(value, "\047")) {
          gsub(/["\\$`]/, "\\\\&", value)
          print name "=\"" value "\""
        } else print name "=\047" value "\047"
      }
    ' "$stage/old"
  } >"$stage/migrated"
  if [ ! -e "$config" ]; then
    record_change
    install_file "$stage/migrated" "$config" 600
  elif ! cmp -s "$stage/migrated" "$config"; then
    offer_config "$stage/migrated" "$config"
  fi
  install_file "$stripped" "$templates/config.env" 644
}

# The Python daemon's conf.d file has the format of ours, so it stays; only its mode changes, because every user could read the
# password in it.
migrate_confd() {
  info "the Python daemon's settings are $confd"
  [ -e "$confd" ] || return 0
  strip_returns "$confd"
  if ! is_installed "$stripped" "$confd" 600; then
    record_change
    install_file "$stripped" "$confd" 600
  fi
  ! grep -q "$python/" "$confd" || warn "$confd uses files below $python: move them before you delete that folder"
}

# Stops the service that ours replaces, if our configuration is valid, and keeps its file for settings that were not copied.
stop_previous() {
  record_change
  if is_active; then
    if [ -z "$dry_run" ]; then
      check_config
      [ -n "$is_valid" ] || fatal 'the old service keeps running: correct the configuration and run this again'
      info 'stopping the old service'
    fi
    case $init in
    systemd) run systemctl stop "$name.service" ;;
    openrc) run rc-service "$name" stop ;;
    esac || fatal 'cannot stop the old service: stop it and run this again'
  fi
  [ -e "$etc/replaced-${service##*/}" ] || install_file "$service" "$etc/replaced-${service##*/}" 600
}

# --- starting

finish_service() {
  case $init in
  systemd) finish_systemd ;;
  openrc) finish_openrc ;;
  procd)
    [ "$plan" != start ] || "$initd" enable
    start_service "$initd" restart
    ;;
  unraid | dsm | none)
    if [ -n "$prefix" ]; then start_service sh "$service" restart; else check_config; fi
    ;;
  esac
  rm -f "$unfinished"
  [ -n "$changed$fetched" ] || info 'nothing has changed'
}

finish_systemd() {
  if [ -n "$changed" ] && is_init_running; then
    systemctl daemon-reload
  fi
  [ "$plan" != start ] || systemctl --quiet enable "$name.service"
  start_service systemctl restart "$name.service"
}

finish_openrc() {
  [ "$plan" != start ] || rc-update --quiet add "$name" default
  start_service rc-service "$name" restart
}

# start_service COMMAND...: COMMAND starts or restarts the service. With an invalid configuration a running service is left
# alone: a running service is worth more than a stopped one with the latest configuration.
start_service() {
  check_config
  if [ -z "$changed" ] || [ "$plan" = leave ] || ! is_init_running; then
    return 0
  elif [ -z "$is_valid" ]; then
    warn "service not ${plan}ed: correct the configuration first"
  else
    info "${plan}ing the service"
    "$@" || warn "the service did not start: see its log"
  fi
}

# Checks the configuration as the service would, without the variables of this shell.
check_config() {
  case $init in
  systemd) set -- env -i "$binary" --config "$config" check --config-only ;;
  openrc) set -- env -i "$binary" --config "$confd" check --config-only ;;
  *) set -- env -i "$executable" --config "$settings" check --config-only ;;
  esac
  is_valid=yes
  if "$@" >"$stage/output" 2>&1; then
    sed -n 's/^warning: /install.sh: /p' "$stage/output" >&2
    return
  fi
  is_valid=''
  warn "the configuration ($settings) is not valid yet:"
  sed 's/^/  /' "$stage/output" >&2
}

show_next_steps() {
  # The name alone is enough if the PATH leads to this binary.
  program=$name hint='' at_boot=''
  cmp -s "$(command -v "$name" || true)" "$executable" || program=$executable
  case $init in
  systemd)
    hint="; secrets: one file each in $etc/credentials, named PIA_USERNAME, PIA_PASSWORD, ..."
    invocation=$program
    start="systemctl start $name"
    log="journalctl -u $name"
    ;;
  openrc)
    invocation=$program
    start="rc-service $name start"
    log="/var/log/pia_qbittorrent_sync.log"
    ;;
  procd)
    invocation=$program
    start="$initd start"
    log="logread -e $name"
    ;;
  unraid | dsm)
    invocation="$program --config $config"
    start="sh $service start"
    log=/var/log/pia_qbittorrent_sync.log
    [ "$init" != unraid ] || hint='; the flash drive has no file owners: any user who can read it, its share or a backup can read your secrets'
    ;;
  none)
    invocation=$program
    start="$program, from the init system of this machine; to run it as $user: chgrp $user $config && chmod 640 $config"
    log='standard output, or LOG_FILE'
    if [ -n "$prefix" ]; then
      invocation="$program --config $config"
      start="sh $service start"
      at_boot="nothing starts it yet: let the system run \`sh $service start\` (TrueNAS: System, Advanced, Init/Shutdown Scripts, Post Init)"
      log=/var/log/pia_qbittorrent_sync.log
    fi
    ;;
  esac
  info '
Next steps:'
  info "  - settings: $settings$hint
  - test everything: $invocation check"
  is_active || info "  - start: $start"
  [ -z "$at_boot" ] || info "  - at boot: $at_boot"
  info "  - log: $log
  - state: $invocation status"
  [ -z "$released" ] || ! command -v gh >/dev/null ||
    info "  - verify where the binary was built: gh attestation verify $binary --repo $repository"
  [ ! -e "$python/venv" ] || [ "$previous" != python ] || info "  - the Python daemon is stopped; once you no longer need it: rm -r $python"
}

# --- uninstalling

uninstall_all() {
  left=''
  if [ -n "$prefix" ]; then
    uninstall_prefix
    return
  fi
  for file in "$unit" "$initd"; do
    [ ! -e "$file" ] || grep -q "bin/$name" "$file" || fatal "$file was not installed by this script; nothing was removed"
  done
  if [ -e "$unit" ]; then
    [ "$running_init" != systemd ] || run systemctl --quiet disable --now "$name.service"
    remove "$unit" "${unit%/*}"/*.wants/"$name.service"
    [ "$running_init" != systemd ] || run systemctl daemon-reload
  fi
  if [ "$init" = procd ] && [ -e "$initd" ]; then
    run "$initd" stop
    run "$initd" disable
    remove "$initd" "$keep_list"
  elif [ -e "$initd" ]; then
    [ "$running_init" != openrc ] || run rc-service --quiet --ifstarted "$name" stop
    remove /etc/runlevels/*/"$name" "$initd"
  fi
  remove "$binary" "$manual" "$templates" "$unfinished"
  list_external_files >"$stage/external"
  if [ -n "$purge" ]; then
    remove "$etc" "$confd" "$confd.new" "$unit.d" "$state" "/var/lib/private/$name" /run/pia /var/run/pia_token \
      "/var/log/$name" "/var/log/private/$name" /var/log/pia_qbittorrent_sync.log
    delete_user
    show_external_files
  else
    for path in "$etc" "$confd" "$state"; do [ ! -e "$path" ] || info "kept $path"; done
  fi
}

# Removes files by name, not the whole folder. Other installations on this machine are not touched.
uninstall_prefix() {
  is_own_prefix || fatal "$prefix was not installed by this script; nothing was removed"
  is_roots_prefix || fatal "$reason; nothing was removed." \
    "${remedy:-End the process in /var/run/$name.pid, remove what starts it at boot, and delete $prefix yourself}"
  [ ! -e "$service" ] || run sh "$service" stop
  case $init in
  unraid)
    ! grep -q " # $name\$" "$go" 2>/dev/null || remove_from_go
    remove "$executable"
    ;;
  dsm) remove "$rc_d" ;;
  esac
  remove "$service" "$prefix/bin" "$templates" "$unfinished"
  list_external_files >"$stage/external"
  if [ -n "$purge" ]; then
    remove "$etc" "$state" /var/run/pia_token /var/log/pia_qbittorrent_sync.log
    [ -n "$(find "$prefix" ! -type d 2>/dev/null | head -n 1)" ] || remove "$prefix"
    printf '%s\n' "$prefix" >>"$stage/external"
    show_external_files
  else
    for path in "$etc" "$state"; do [ ! -e "$path" ] || info "kept $path"; done
  fi
}

remove_from_go() {
  if [ -n "$dry_run" ]; then
    info "would remove our line from $go"
    return
  fi
  grep -v " # $name\$" "$go" >"$stage/go" || true
  install_file "$stage/go" "$go" 600
}

# Lists the paths in the settings, which may be outside our folders.
list_external_files() {
  are_settings_roots || return 0
  for variable in STATE_DIR LOG_FILE PORT_FILE METRICS_FILE PIA_TOKEN_FILE PIA_CA_CERT PIA_LOGIN_CA_CERT \
    QBITTORRENT_CA_CERT TRANSMISSION_CA_CERT DELUGE_CA_CERT NOTIFY_CA_CERT; do
    read_setting "$variable"
  done
  for variable in $secrets; do read_setting "${variable}_FILE"; done
}

show_external_files() {
  [ -z "$dry_run" ] || return 0
  while read -r path; do [ ! -e "$path" ] || info "not removed, delete it yourself if it is no longer needed: $path"; done <"$stage/external"
}

delete_user() {
  if ! id -u "$user" >/dev/null 2>&1 || [ -d "$python" ] || [ -n "$left" ]; then
    return 0
  fi
  if command -v userdel >/dev/null; then
    set -- userdel "$user"
  elif command -v deluser >/dev/null; then
    set -- deluser "$user"
  else
    return 0
  fi
  run "$@" || {
    warn "user $user was not removed: end its processes, then run: $*"
    return 0
  }
  info "${dry_run:+would have }removed user $user"
}

main() {
  set -eu
  set_constants
  parse_options "$@"
  [ "$(id -u)" -eq 0 ] || fatal 'run this as root: sudo sh install.sh'
  # Only if run as a file: with `curl | sh` the current folder could be any folder.
  here=''
  case $0 in
  */install.sh | install.sh) here=$(CDPATH='' cd -P -- "$(dirname -- "$0")" && pwd -P) ;;
  esac
  prepare_stage
  detect_init
  if [ -n "$uninstall" ]; then
    uninstall_all
  else
    install_all
  fi
}

main "$@"
