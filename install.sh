#!/bin/sh
# Installs, upgrades and removes pia-qbittorrent-sync: `sh install.sh --help`.
#
# For any POSIX shell, busybox ash and dash among them. It is all in functions, so that half a download does nothing.
# Every file is written beside its place and then renamed, and what is not finished is remembered in $unfinished: an
# interrupted run is mended by running it again.

show_help() {
  cat <<EOF
Usage: sh install.sh [OPTION...]

Installs pia-qbittorrent-sync, or upgrades it. A configuration that is there is never overwritten.

  --init INIT                 what starts the service; found out by what is running unless given: systemd (235 or later, with
                              credentials from 247 on), openrc, procd (OpenWrt), unraid, dsm (Synology), none (binary and
                              configuration only). procd, unraid and dsm were tried on stand-ins, not on a real one
  --prefix DIR                all of it into DIR, a folder of its own (bin, etc, state, and run.sh to start it), where the
                              system cannot be written or forgets at an update what was: TrueNAS, DSM. Goes with --init
                              none, unraid, dsm
  --binary PATH               install this binary. Without it the first of these is taken: one beside install.sh,
                              one that cargo built in this folder, the release for this machine. What lies beside
                              install.sh is taken only where none but root and you (sudo) can write
  --url URL                   download the binary from there; needs --sha256
  --sha256 SUM                the binary's SHA-256. The install.sh of a release knows those of its own
  --uninstall                 stop the service and remove it; configuration and lease are kept
  --purge                     with --uninstall: remove those, too
  --dry-run                   tell what would be done, change nothing and send nothing
  --help

PIA's CA certificate is fetched where the service needs it. PIA_CA_URL and PIA_CA_SHA256 in the environment go before
those in the configuration; the service has only the latter.
EOF
}

info() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: %s\n' "$*" >&2; }
fatal() {
  warn "$*"
  exit 1
}
refuse_usage() {
  warn "$*; see --help"
  exit 64
}

# In the install.sh of a release: its version, and the sums of what it downloads, a line each.
release_version=''
release_sums=''

set_constants() {
  name=pia-qbittorrent-sync
  user=pia-sync
  repository=pia-qbittorrent-sync/pia-qbittorrent-sync
  releases=https://github.com/$repository/releases

  binary=/usr/local/bin/$name
  # The templates as they were last installed: only a new one is worth a .new file.
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
  # For systemd before 247, which hands over no credentials.
  without_credentials=$unit.d/before-247.conf
  # What OpenWrt keeps over an upgrade of the firmware.
  keep=/lib/upgrade/keep.d/$name
  go=/boot/config/go
  rc_d=/usr/local/etc/rc.d/$name.sh
  service_files="systemd/$name.service systemd/config.env openrc/$name.initd openrc/$name.confd
    contrib/procd/$name.init contrib/appliance/run.sh contrib/man/$name.1"
  manual=/usr/local/share/man/man1/$name.1
  # The user behind sudo, who may do all that root may.
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
      [ -n "${2-}" ] || refuse_usage "$1 needs a value"
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
    *) refuse_usage "unknown option: $1" ;;
    esac
  done
  case $init in
  '' | systemd | openrc | procd | unraid | dsm | none) ;;
  *) refuse_usage "--init is systemd, openrc, procd, unraid, dsm or none, not $init" ;;
  esac
  # It goes into scripts and settings as it is.
  case $prefix in
  '') ;;
  /*[!/]*) prefix=${prefix%/} ;;
  *) refuse_usage '--prefix is an absolute path, and not /' ;;
  esac
  case $prefix in
  *[!A-Za-z0-9._/-]*) refuse_usage "--prefix has letters, digits and . _ - / only, not $prefix" ;;
  esac
  [ -z "$url" ] || [ -n "$sha256" ] || refuse_usage '--url needs the --sha256 of what is there'
  [ -z "$given_binary" ] || [ -z "$url" ] || refuse_usage '--binary and --url exclude each other'
  [ -z "$purge" ] || [ -n "$uninstall" ] || refuse_usage '--purge goes with --uninstall'
  if [ -n "$sha256" ]; then
    sha256=$(printf '%s' "$sha256" | tr 'A-F' 'a-f')
    is_sha256 "$sha256" || refuse_usage '--sha256 is 64 hexadecimal digits'
  fi
}

# Everything that is checked lies in here and is installed from here, so nobody else may be able to swap the folder.
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
  fatal 'cannot make a temporary folder of its own: set TMPDIR to a folder to which only root can write'
}

# --- whom a file is from

# is_guarded PATH [sticky]: it belongs to root or to the user behind sudo, and nobody else can write to it; a sticky
# folder where others can add files but cannot touch those of ours is enough only if that is said. Else $why tells.
is_guarded() {
  if [ -L "$1" ]; then
    why="$1 is a symbolic link"
  elif [ -z "$(find "$1" -prune \( -user 0 -o -user "$sudo_uid" \))" ]; then
    why="$1 belongs to another user"
  elif [ -n "$(find "$1" -prune ! -perm -020 ! -perm -002)" ]; then
    return 0
  elif [ -n "${2-}" ] && [ -n "$(find "$1" -prune -perm -1000)" ]; then
    return 0
  else
    why="others can write to $1"
  fi
  return 1
}

# is_safe_folder FOLDER: what is in it is ours alone, and nobody else can put another folder in its place. Its real path
# is in $real, and only there is this true: what links lead to may change.
is_safe_folder() {
  why="$1 cannot be entered"
  real=$(CDPATH='' cd -P -- "$1" 2>/dev/null && pwd -P) || return 1
  is_guarded "$real" || return 1
  above=$real
  while [ -n "$above" ]; do
    above=${above%/*}
    is_guarded "${above:-/}" sticky || return 1
  done
}

# Which init system runs, not which ones are installed: a machine may have both.
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
    warn "$init is not running here: the service is installed and enabled, but not started"
  fi
  case $init in
  unraid) prefix=${prefix:-/boot/config/plugins/$name} ;;
  dsm) prefix=${prefix:-/usr/local/$name} ;;
  procd) binary=/usr/bin/$name templates=/usr/share/$name state=$etc/state ;;
  esac
  runs=$binary
  if [ -n "$prefix" ]; then
    case $init in
    systemd | openrc | procd) refuse_usage "--prefix does not go with --init $init" ;;
    esac
    binary=$prefix/bin/$name templates=$prefix/share etc=$prefix/etc config=$prefix/etc/config.env
    ca=$etc/ca.rsa.4096.crt state=$prefix/state unfinished=$prefix/.unfinished
    # Unraid runs nothing from its flash drive.
    if [ "$init" = unraid ]; then runs=/usr/local/bin/$name; else runs=$binary; fi
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
    [ -n "$dry_run" ] || check_writable "$binary"
  }
}

# nearest_folder PATH: it, or the first one above it that is there.
nearest_folder() {
  folder=$1
  while [ ! -d "${folder:-/}" ]; do
    case $folder in
    */*) folder=${folder%/*} ;;
    *) folder=. ;;
    esac
  done
  printf '%s\n' "${folder:-/}"
}

# Root runs what is in there, and --uninstall removes it.
check_prefix() {
  is_own_prefix || fatal "$prefix has other things in it: give it a folder of its own, e.g. --prefix $prefix/$name"
  # Unraid's flash drive knows no owners.
  [ "$init" = unraid ] || is_safe_folder "$(nearest_folder "$prefix")" ||
    fatal "$why: root would run what they put there. Choose a --prefix to which only root can write"
}

# What was left unfinished counts as nothing, and what --uninstall keeps as ours.
is_own_prefix() {
  grep -qsE "$name|PIA_|QBITTORRENT_" "$config" || [ -e "$unfinished" ] || [ -z "$(find "$prefix" ! -type d ! -name '.*.part' 2>/dev/null | head -n 1)" ]
}

# check_writable PLACE: a read-only /usr is found before anything is done.
check_writable() {
  folder=$(nearest_folder "${1%/*}")
  probe=${folder%/}/.$name.probe
  (umask 077 && : >"$probe") 2>/dev/null ||
    fatal "$folder cannot be written: choose another place with --prefix, e.g. --prefix /mnt/POOL/$name"
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

# Sets $files and $source to copies of what lies beside install.sh. Whoever can write there would be root: what is not
# safe counts as not there.
look_beside() {
  files='' source='' folders='' program='' refused=''
  [ -n "$here" ] || return 0
  if has_service_files "$here"; then
    folders=' systemd openrc contrib'
    files=$stage/beside
    for file in $service_files; do
      mkdir -p "$files/${file%/*}"
      take_beside "$file" "$files/$file" || {
        files=''
        break
      }
    done
  fi
  if [ -z "$given_binary$url" ]; then
    for file in "$name" "$name-$target" "target/$target/release/$name" "target/release/$name"; do
      [ -f "$here/$file" ] || continue
      program=${program:-" $file"}
      if take_beside "$file" "$stage/binary"; then
        source=$stage/binary origin=$here/$file
        break
      fi
    done
  fi
  [ -z "$refused" ] || warn "not taken:$refused; $why_refused. If you trust them, type:" \
    "umask 22; cd '$here' && mkdir -p ~/pia && cp -RL install.sh$folders$program ~/pia && sh ~/pia/install.sh"
}

# take_beside FILE COPY
take_beside() {
  if is_guarded "$here" && is_safe_folder "$(dirname "$here/$1")" && is_guarded "$real/${1##*/}"; then
    cp "$real/${1##*/}" "$2" || fatal "cannot copy $here/$1"
    return 0
  fi
  why_refused=$why
  case $1 in
  systemd/* | openrc/* | contrib/*) refused="$refused systemd openrc contrib" ;;
  *) refused="$refused $1" ;;
  esac
  return 1
}

# Sets $source, a file in $stage, whose sum is right if one was given.
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
  [ -n "$target" ] || fatal "there is no release for $machine: build it with cargo and use --binary"
  fetch_release "$name-$target" "$source"
  released=yes
}

# fetch_release ASSET FILE: of the release that this install.sh belongs to. A sum from where the file comes from would prove
# nothing.
fetch_release() {
  [ -n "$release_version" ] ||
    fatal "this install.sh is of no release and knows no sums: take that of $releases/latest, or use --binary PATH"
  info "from the release $release_version: $1"
  fetch "$releases/download/v$release_version/$1" "$2"
  check_sum "$2" "$(printf '%s\n' "$release_sums" | awk -v asset="$1" '$2 == asset { print $1 }')" "$1"
}

# From https nothing leads to http. wget cannot be told so, but whatever comes has to have the right sum.
fetch() {
  if command -v curl >/dev/null; then
    protocols='=https'
    case $1 in http://*) protocols='=http,https' ;; esac
    curl --fail --silent --show-error --location --proto "$protocols" --proto-redir "$protocols" --tlsv1.2 --retry 2 \
      --max-time 300 --output "$2" "$1" || fatal "cannot download $1"
  elif command -v wget >/dev/null; then
    wget -q -O "$2" "$1" || fatal "cannot download $1"
  else
    fatal "neither curl nor wget is here to download $1"
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
    fatal 'neither sha256sum nor openssl is here to check what is installed'
  fi
  [ "${sum%% *}" = "$2" ] || fatal "wrong SHA-256 of $3, nothing was installed: ${sum%% *}, expected $2"
}

# --- changes

run() {
  if [ -n "$dry_run" ]; then
    info "would run: $*"
  else
    "$@"
  fi
}

# Before every change that the service has to notice. The plan outlives an interruption, when what is on disk no longer
# tells that the service has yet to be restarted.
note_change() {
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
    info "would make $1"
  else
    # Folders above it are for everybody, whatever the umask.
    (umask 022 && mkdir -p "$1")
    set_mode "$2" "$1"
  fi
}

# A flash drive's file system knows no modes.
is_installed() { cmp -s "$1" "$2" && { [ "$init" = unraid ] || [ -n "$(find "$2" -prune -user 0 -perm "$3")" ]; }; }
set_mode() { chmod "$1" "$2" 2>/dev/null || [ "$init" = unraid ]; }

# stage_file FILE PLACE MODE: a copy beside PLACE, in $part.
stage_file() {
  make_folder "${2%/*}" 755
  part=${2%/*}/.${2##*/}.part
  rm -f "$part"
  cp "$1" "$part"
  set_mode "$3" "$part"
}

# place_file PLACE: what is staged becomes it, at once or not at all.
place_file() {
  mv -f "$part" "$1"
  part=''
}

# install_file FILE PLACE MODE, unless it is there already.
install_file() {
  ! is_installed "$@" || return 0
  if [ -n "$dry_run" ]; then
    info "would install $2"
    return
  fi
  stage_file "$@"
  place_file "$2"
  info "installed $2"
}

# strip_returns FILE: its text without a Windows editor's carriage returns, in $stripped.
strip_returns() {
  stripped=$stage/text.${1##*/}
  tr -d '\r' <"$1" >"$stripped"
}

remove() {
  for path; do
    if [ -e "$path" ] || [ -L "$path" ]; then
      run rm -rf "$path"
      info "${dry_run:+would have }removed $path"
    fi
  done
}

# --- installing

# ours, python (the daemon that this one replaces), other or none. Sets $plan: what becomes of the service.
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
    info 'going on where the last run was interrupted'
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
    # One that has yet to report that it is ready runs, too.
    case $(systemctl show --property ActiveState "$name.service") in
    *=active | *=activating | *=reloading) ;;
    *) return 1 ;;
    esac
    ;;
  openrc) rc-service --quiet "$name" status >/dev/null 2>&1 ;;
  none) return 1 ;;
  esac
}

# The folders systemd and openrc: those beside install.sh, or, for an install.sh alone, of the release.
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
    note_change
    info "would install $binary"
    return
  fi
  # Tried where it is not installed: not every drive runs programs.
  cp "$source" "$stage/program"
  chmod 755 "$stage/program"
  stage_file "$source" "$binary" 755
  version=$("$stage/program" --version 2>&1) || fatal "this binary does not run on this machine ($machine): $version"
  case $version in
  "$name "*) ;;
  *) fatal "this binary is not $name: it says $version" ;;
  esac
  note_change
  place_file "$binary"
  info "installed $binary ($version)"
}

# Where it is to be run from another place than the one that keeps it.
install_copy() { [ "$runs" = "$binary" ] || install_file "$source" "$runs" 755; }

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
    warn "no program to create users here: run $name as a user of your choice"
    return
  else
    fatal "neither useradd nor adduser is here: create the user and group $user"
  fi
  info "${dry_run:+would have }created user $user"
}

# install_config TEMPLATE PLACE: never over one that is there; beside it only if the template is new.
install_config() {
  known=$templates/${1##*/}
  strip_returns "$1"
  if [ ! -e "$2" ]; then
    note_change
    install_file "$stripped" "$2" 600
  elif ! cmp -s "$stripped" "$2" && ! cmp -s "$stripped" "$known"; then
    offer_config "$stripped" "$2"
  fi
  install_file "$stripped" "$known" 644
}

# offer_config FILE PLACE
offer_config() {
  ! cmp -s "$1" "$2.new" || return 0
  install_file "$1" "$2.new" 600
  info "kept your $2; the new version is beside it, $2.new"
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
  note_change
  install_file "$stripped" "$service" "$mode"
}

# For `man`, where there may be one.
install_manual() {
  strip_returns "$files/contrib/man/$name.1"
  make_folder "${manual%/*}" 755
  install_file "$stripped" "$manual" 644
}

install_all() {
  detect_target
  look_beside
  find_service_files
  find_binary
  detect_previous
  install_binary
  install_copy
  # Appliances run everything as root, and forget users.
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
      take_over_unit
    else
      install_config "$files/systemd/config.env" "$config"
    fi
    ;;
  openrc)
    [ "$previous" != python ] || take_over_confd
    install_config "$files/openrc/$name.confd" "$confd"
    make_state
    ;;
  procd | unraid | dsm | none)
    [ ! -d "$python/venv" ] || warn "the Python daemon in $python is left alone: stop it"
    write_own_places
    install_config "$stage/config.env" "$config"
    make_state
    ;;
  esac
  warn_about_ram_disk
  # While what is to be replaced still runs: this may take a while.
  fetch_ca
  case $previous in
  python | other) retire_previous ;;
  esac
  install_service
  case $init in
  systemd | openrc) install_manual ;;
  esac
  case $init in
  systemd) serve_old_systemd ;;
  procd) keep_over_upgrades ;;
  unraid) start_from_go ;;
  dsm) start_from_rc_d ;;
  esac
  if [ -n "$dry_run" ]; then
    [ -z "$changed" ] || [ "$init" = none ] || [ "$plan" = leave ] || info "would $plan the service"
  else
    finish_service
    show_next_steps
  fi
}

# The template, with the places that are others here.
write_own_places() {
  strip_returns "$files/systemd/config.env"
  {
    cat "$stripped"
    if [ "$state" != "/var/lib/$name" ]; then
      printf '\n# Where lease and CA survive a reboot here.\nSTATE_DIR=%s\n' "$state"
    fi
    [ -z "$prefix" ] || printf 'LOG_FILE=/var/log/pia_qbittorrent_sync.log\n'
  } >"$stage/config.env"
}

# What is on it is gone at the next boot.
warn_about_ram_disk() {
  kind=$(awk -v folder="$(nearest_folder "$(state_folder)")" '
    { place = $2 == "/" ? "" : $2 }
    index(folder "/", place "/") == 1 && length(place) >= length(best) { best = place; kind = $3 }
    END { print kind }
  ' /proc/mounts 2>/dev/null)
  case $kind in
  tmpfs | ramfs | rootfs) warn "STATE_DIR $(state_folder) is on a RAM disk: each boot will cost a login and give another port" ;;
  esac
}

# --- systemd before 247

is_old_systemd() {
  version=$(systemctl --version 2>/dev/null | sed -nE '1s/^systemd ([0-9]+).*/\1/p')
  [ -n "$version" ] && [ "$version" -lt 247 ]
}

# It ignores LoadCredential=: the service gets a user of its own, who may read the files themselves.
serve_old_systemd() {
  if ! is_old_systemd; then
    [ -e "$without_credentials" ] || return 0
    note_change
    remove "$without_credentials"
    run chmod -R go-rwx "$etc/credentials" "$config"
    return
  fi
  warn "systemd $version hands over no credentials (247 does): the service runs as $user, who may read $etc"
  printf '[Service]\nDynamicUser=no\nUser=%s\nGroup=%s\n' "$user" "$user" >"$stage/before-247.conf"
  if ! is_installed "$stage/before-247.conf" "$without_credentials" 644; then
    note_change
    install_file "$stage/before-247.conf" "$without_credentials" 644
  fi
  run chgrp -R "$user" "$etc/credentials" "$config"
  run chmod 640 "$config"
  run chmod -R g+rX,o-rwx "$etc/credentials"
}

# --- appliances

keep_over_upgrades() {
  printf '%s\n' "$etc/" "$binary" "$initd" "/etc/rc.d/S95$name" "/etc/rc.d/K10$name" >"$stage/keep"
  is_installed "$stage/keep" "$keep" 644 || install_file "$stage/keep" "$keep" 644
}

# Unraid's system is made anew at each boot, by way of this file.
start_from_go() {
  # shellcheck disable=SC2016 # for the file
  line="sh $prefix/run.sh start # $name"
  ! grep -qxF "$line" "$go" 2>/dev/null || return 0
  if [ -n "$dry_run" ]; then
    info "would add to $go: $line"
    return
  fi
  note_change
  { grep -v " # $name\$" "$go" 2>/dev/null || printf '#!/bin/bash\n'; } >"$stage/go"
  printf '%s\n' "$line" >>"$stage/go"
  install_file "$stage/go" "$go" 600
}

# DSM runs what is there with `start` and `stop`.
start_from_rc_d() {
  printf '#!/bin/sh\nexec sh %s/run.sh "$@"\n' "$prefix" >"$stage/rc.d"
  is_installed "$stage/rc.d" "$rc_d" 755 && return 0
  note_change
  install_file "$stage/rc.d" "$rc_d" 755
}

# OpenRC makes it itself, but takes nothing that is in it for the service's user. systemd does.
make_state() {
  folder=$(state_folder)
  [ ! -d "$folder" ] || return 0
  make_folder "$folder" 700
  ! id -u "$user" >/dev/null 2>&1 || run chown "$user:$user" "$folder"
}

state_folder() {
  folder=$(setting STATE_DIR)
  printf '%s\n' "${folder:-$state}"
}

# setting NAME: what the service has for it, or would have after what --dry-run only tells. Not for secrets.
setting() {
  file=$settings
  [ -e "$file" ] || file=$stage/taken
  [ -e "$file" ] || return 0
  sed -nE "s/[[:space:]]+\$//; s/^[[:space:]]*(export[[:space:]]+)?$1=[\"']?([^\"']*).*/\\2/p" "$file" | tail -n 1
}

# PIA's CA to where the service looks for it, if it needs it. It would fetch it itself, but here somebody is looking.
fetch_ca() {
  case $(setting PORT_SOURCE) in
  '' | pia) ;;
  *) return 0 ;;
  esac
  [ -z "$(setting PIA_CA_CERT)" ] || return 0
  if [ -n "$dry_run" ]; then
    [ -e "$(state_folder)/ca.rsa.4096.crt" ] || info "would fetch PIA's CA certificate"
    return
  fi
  set --
  [ -z "${PIA_CA_URL-}" ] || set -- "PIA_CA_URL=$PIA_CA_URL"
  [ -z "${PIA_CA_SHA256-}" ] || set -- "$@" "PIA_CA_SHA256=$PIA_CA_SHA256"
  set -- env -i "$@" "$runs" --config "$settings" fetch-ca
  if "$@" >"$stage/said" 2>&1; then
    # One that was there already is nothing to tell.
    ! grep 'is now in' "$stage/said" || fetched=yes
    case ${PIA_CA_SHA256-} in
    '' | "$(setting PIA_CA_SHA256)") ;;
    *) warn "the service believes that certificate only with PIA_CA_SHA256=$PIA_CA_SHA256 in $settings, too" ;;
    esac
  else
    warn "PIA's CA certificate is not here yet; $name fetches it when it needs it. $(sed "s/^$name: //" "$stage/said")"
  fi
}

# --- taking over from the Python daemon

# read_unit FILE: NAME=value for each variable of ours that the unit sets, Environment= and EnvironmentFile= read as
# systemd does: words, quotes, C escapes, %% for %, continued lines. Values go through files only, because everybody
# can read a command line.
read_unit() {
  LC_ALL=C awk '
    function keep(word,   at) {
      at = index(word, "=")
      if (substr(word, 1, at - 1) !~ /^(PIA_(USERNAME|PASSWORD|TOKEN_FILE|GATEWAY|HOSTNAME|CA_CERT)|QBITTORRENT_(HOST|USERNAME|PASSWORD)|CHECK_INTERVAL|LOG_LEVEL|LOG_FILE)$/) return
      value[substr(word, 1, at - 1)] = substr(word, at + 1)
    }
    function digit(text, at) { return index("0123456789abcdef", tolower(substr(text, at, 1))) - 1 }
    function take_words(text,   i, c, word, quote, begun) {
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
      keep(word)
    }
    function take_file(path,   line, at, text) {
      sub(/^-/, "", path)
      while ((getline line < path) > 0) {
        sub(/^[ \t]+/, "", line)
        sub(/[ \t\r]+$/, "", line)
        at = index(line, "=")
        text = substr(line, at + 1)
        if (text ~ /^\047.*\047$/) text = substr(text, 2, length(text) - 2)
        else if (text ~ /^".*"$/) text = unquote(substr(text, 2, length(text) - 2))
        keep(substr(line, 1, at) text)
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
    service && match(line, /^[ \t]*Environment[ \t]*=[ \t]*/) { take_words(substr(line, RLENGTH + 1)) }
    service && match(line, /^[ \t]*EnvironmentFile[ \t]*=[ \t]*/) { files[++count] = substr(line, RLENGTH + 1) }
    END {
      # Wherever the line stands, the files win.
      for (i = 1; i <= count; i++) take_file(files[i])
      for (name in value) print name "=" value[name]
    }
  ' "$1" | sort
}

# value_of NAME: not for secrets that then go anywhere but into a file.
value_of() { sed -n "s/^$1=//p" "$stage/old"; }

take_over_unit() {
  info "the Python daemon's unit is $unit"
  read_unit "$unit" >"$stage/old"
  taken='' dropped=''
  while IFS='=' read -r variable _; do
    case $variable in
    PIA_USERNAME | PIA_PASSWORD | QBITTORRENT_USERNAME | QBITTORRENT_PASSWORD)
      take_over_secret "$variable"
      dropped="$dropped $variable"
      ;;
    PIA_CA_CERT) take_over_ca ;;
    PIA_TOKEN_FILE)
      # The service may write where its own variable says, and not in this default of old.
      [ "$(value_of PIA_TOKEN_FILE)" != /var/run/pia_token ] || dropped="$dropped $variable"
      ;;
    PIA_GATEWAY)
      # Unset it is this as well, and looked for when this is not the gateway.
      [ "$(value_of PIA_GATEWAY)" != 10.0.0.1 ] || dropped="$dropped $variable"
      ;;
    LOG_FILE)
      case $(value_of LOG_FILE) in
      "/var/log/$name/"*) ;;
      *)
        warn "LOG_FILE is not taken over: the journal has the log, or a file below /var/log/$name"
        dropped="$dropped $variable"
        ;;
      esac
      ;;
    esac
    case " $dropped " in
    *" $variable "*) ;;
    *) taken="$taken $variable" ;;
    esac
  done <"$stage/old"
  write_config
  info "${dry_run:+would have }taken over into $config:$taken"
  for file in "$unit".d/*.conf; do
    [ ! -e "$file" ] || warn "$file goes on applying: remove what was for the Python daemon only"
  done
}

# take_over_secret VARIABLE: a file of its own, which the service gets as a credential.
take_over_secret() {
  file=$etc/credentials/$1
  if [ -s "$file" ]; then
    info "kept your $file"
    return
  fi
  value_of "$1" >"$stage/secret"
  # An empty one is as good as none.
  grep -q . "$stage/secret" || return 0
  note_change
  install_file "$stage/secret" "$file" 600
}

# The service sees no home folder, and /opt/... is about to be deleted.
take_over_ca() {
  file=$(value_of PIA_CA_CERT)
  if [ ! -f "$file" ]; then
    warn "PIA_CA_CERT=$file: no such file"
    return
  fi
  if [ ! -e "$ca" ]; then
    strip_returns "$file"
    note_change
    install_file "$stripped" "$ca" 644
  fi
  sed "s|^PIA_CA_CERT=.*|PIA_CA_CERT=$ca|" "$stage/old" >"$stage/new"
  mv "$stage/new" "$stage/old"
}

# The template, and below it what was taken over.
write_config() {
  strip_returns "$files/systemd/config.env"
  {
    cat "$stripped"
    printf "\n# Taken over from the Python daemon's unit.\n"
    # Single quotes, because systemd, shells and the daemon agree on them; a value that has one needs the others.
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
  } >"$stage/taken"
  if [ ! -e "$config" ]; then
    note_change
    install_file "$stage/taken" "$config" 600
  elif ! cmp -s "$stage/taken" "$config"; then
    offer_config "$stage/taken" "$config"
  fi
  install_file "$stripped" "$templates/config.env" 644
}

# Its conf.d file has the lines that ours has, so it stays; but it held the password for everybody to read.
take_over_confd() {
  info "the Python daemon's settings are $confd"
  [ -e "$confd" ] || return 0
  strip_returns "$confd"
  if ! is_installed "$stripped" "$confd" 600; then
    note_change
    install_file "$stripped" "$confd" 600
  fi
  ! grep -q "$python/" "$confd" || warn "$confd names files below $python: move them before you delete that folder"
}

# Stops the service whose place ours takes, if ours can take it, and keeps its file, which may hold what was not taken over.
retire_previous() {
  note_change
  if is_active; then
    if [ -z "$dry_run" ]; then
      check_config
      [ -n "$is_valid" ] || fatal 'so far the old service goes on running: mend that and run this again'
      info 'stopping the service that is replaced'
    fi
    case $init in
    systemd) run systemctl stop "$name.service" ;;
    openrc) run rc-service "$name" stop ;;
    esac || fatal 'the service that is to be replaced does not stop: stop it and run this again'
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

# A running service is worth more than a stopped one with the latest configuration.
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

# start_service COMMAND...: which restarts it, too.
start_service() {
  check_config
  if [ -z "$changed" ] || [ "$plan" = leave ] || ! is_init_running; then
    return 0
  elif [ -z "$is_valid" ]; then
    warn "the service is not ${plan}ed before the configuration is right"
  else
    info "${plan}ing the service"
    "$@" || warn "the service did not start: see its log"
  fi
}

# What the service would say to its configuration. Without this shell's variables, because the service has none of them.
check_config() {
  case $init in
  systemd) set -- env -i "$binary" --config "$config" check --config-only ;;
  openrc) set -- env -i "$binary" --config "$confd" check --config-only ;;
  *) set -- env -i "$runs" --config "$settings" check --config-only ;;
  esac
  is_valid=yes
  if "$@" >"$stage/said" 2>&1; then
    sed -n 's/^warning: /install.sh: /p' "$stage/said" >&2
    return
  fi
  is_valid=''
  warn "the configuration ($settings) is not complete:"
  sed 's/^/  /' "$stage/said" >&2
}

show_next_steps() {
  # By its name, if that leads to it.
  program=$name hint='' at_boot=''
  cmp -s "$(command -v "$name" || true)" "$runs" || program=$runs
  case $init in
  systemd)
    hint=", and each secret in a file of its own in $etc/credentials, named PIA_USERNAME, PIA_PASSWORD, ..."
    by_hand=$program
    start="systemctl start $name"
    log="journalctl -u $name"
    ;;
  openrc)
    by_hand=$program
    start="rc-service $name start"
    log="/var/log/pia_qbittorrent_sync.log"
    ;;
  procd)
    by_hand=$program
    start="$initd start"
    log="logread -e $name"
    ;;
  unraid | dsm)
    by_hand="$program --config $config"
    start="sh $service start"
    log=/var/log/pia_qbittorrent_sync.log
    [ "$init" != unraid ] || hint='; the flash drive knows no owners: whoever can read it, its share or a backup can read what is in there'
    ;;
  none)
    by_hand=$program
    start="$program, by whatever starts programs here; to run it as $user make the settings its own: chown $user $config"
    log='its standard output, or LOG_FILE'
    if [ -n "$prefix" ]; then
      by_hand="$program --config $config"
      start="sh $service start"
      at_boot="nothing starts it yet: have this system run \`sh $service start\` (TrueNAS: System, Advanced, Init/Shutdown Scripts, Post Init)"
      log=/var/log/pia_qbittorrent_sync.log
    fi
    ;;
  esac
  info '
Next steps:'
  info "  - settings: $settings$hint
  - see whether everything works: $by_hand check"
  is_active || info "  - start: $start"
  [ -z "$at_boot" ] || info "  - at boot: $at_boot"
  info "  - log: $log
  - state: $by_hand status"
  [ -z "$released" ] || ! command -v gh >/dev/null ||
    info "  - where the binary was built: gh attestation verify $binary --repo $repository"
  [ ! -e "$python/venv" ] || [ "$previous" != python ] || info "  - the Python daemon is stopped; when you miss nothing: rm -r $python"
}

# --- uninstalling

uninstall_all() {
  if [ -n "$prefix" ]; then
    uninstall_prefix
    return
  fi
  for file in "$unit" "$initd"; do
    [ ! -e "$file" ] || grep -q "bin/$name" "$file" || fatal "$file is not ours, nothing was removed"
  done
  if [ -e "$unit" ]; then
    [ "$running_init" != systemd ] || run systemctl --quiet disable --now "$name.service"
    remove "$unit" "${unit%/*}"/*.wants/"$name.service"
    [ "$running_init" != systemd ] || run systemctl daemon-reload
  fi
  if [ "$init" = procd ] && [ -e "$initd" ]; then
    run "$initd" stop
    run "$initd" disable
    remove "$initd" "$keep"
  elif [ -e "$initd" ]; then
    [ "$running_init" != openrc ] || run rc-service --quiet --ifstarted "$name" stop
    remove /etc/runlevels/*/"$name" "$initd"
  fi
  remove "$binary" "$manual" "$templates" "$unfinished"
  name_what_stays >"$stage/stays"
  if [ -n "$purge" ]; then
    remove "$etc" "$confd" "$confd.new" "$unit.d" "$state" "/var/lib/private/$name" /run/pia /var/run/pia_token \
      "/var/log/$name" "/var/log/private/$name" /var/log/pia_qbittorrent_sync.log
    delete_user
    show_what_stays
  else
    for path in "$etc" "$confd" "$state"; do [ ! -e "$path" ] || info "kept $path"; done
  fi
}

# By name and not the folder as a whole. Another installation on this machine is not touched.
uninstall_prefix() {
  is_own_prefix || fatal "$prefix is not ours, nothing was removed"
  [ ! -e "$service" ] || run sh "$service" stop
  case $init in
  unraid)
    ! grep -q " # $name\$" "$go" 2>/dev/null || remove_from_go
    remove "$runs"
    ;;
  dsm) remove "$rc_d" ;;
  esac
  remove "$service" "$prefix/bin" "$templates" "$unfinished"
  name_what_stays >"$stage/stays"
  if [ -n "$purge" ]; then
    remove "$etc" "$state" /var/run/pia_token /var/log/pia_qbittorrent_sync.log
    [ -n "$(find "$prefix" ! -type d 2>/dev/null | head -n 1)" ] || remove "$prefix"
    printf '%s\n' "$prefix" >>"$stage/stays"
    show_what_stays
  else
    for path in "$etc" "$state"; do [ ! -e "$path" ] || info "kept $path"; done
  fi
}

remove_from_go() {
  if [ -n "$dry_run" ]; then
    info "would take our line out of $go"
    return
  fi
  grep -v " # $name\$" "$go" >"$stage/go" || true
  install_file "$stage/go" "$go" 600
}

# What the settings name in places of the user's own.
name_what_stays() {
  for variable in STATE_DIR LOG_FILE PORT_FILE METRICS_FILE PIA_TOKEN_FILE PIA_CA_CERT PIA_LOGIN_CA_CERT \
    QBITTORRENT_CA_CERT TRANSMISSION_CA_CERT DELUGE_CA_CERT NOTIFY_CA_CERT; do
    setting "$variable"
  done
  for variable in $secrets; do setting "${variable}_FILE"; done
}

show_what_stays() {
  [ -z "$dry_run" ] || return 0
  while read -r path; do [ ! -e "$path" ] || info "left alone, for you to remove: $path"; done <"$stage/stays"
}

delete_user() {
  if ! id -u "$user" >/dev/null 2>&1 || [ -d "$python" ]; then
    return 0
  fi
  if command -v userdel >/dev/null; then
    run userdel "$user"
  elif command -v deluser >/dev/null; then
    run deluser "$user"
  fi
  info "${dry_run:+would have }removed user $user"
}

main() {
  set -eu
  set_constants
  parse_options "$@"
  [ "$(id -u)" -eq 0 ] || fatal 'run it as root'
  # Beside itself only if it is run as a file: with `curl | sh` that would be any folder.
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
