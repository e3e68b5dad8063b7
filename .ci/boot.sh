# shellcheck shell=bash
# Debian booted in a container of its own, with systemd or with OpenRC and busybox as on Alpine. Source it after lib.sh.
#
# The container has loopback and nothing else for a network. One at a time in a script:
#   make_systemd_root DIR, make_openrc_root DIR    a fresh root, to be furnished before it is booted
#   add_programs DIR BINARY                        the daemon, and the simulator with the settings for it in DIR/sim
#   boot DIR COMMAND...                            --boot, or the program that is to be PID 1
#   inside COMMAND...                              as root in it
#   command_simulator COMMAND, counted NAME VALUE  its next action, and how often it received a request
#   halted                                         that it has ended

nspawn_pid=
init_pid=
simulator_dir=

account_username=p1234567
account_password=the-account-password
webui_username='admin'
webui_password=the-webui-password
# For the container, where all ports are free; a test makes a service of it.
# shellcheck disable=SC2034
simulator_command="/sim/simulator --gateway-port 19999 --login-port 18443 --qbittorrent-port 8080 \
--pia $account_username:$account_password --qbittorrent $webui_username:$webui_password /sim"

# Both init systems in one tree: systemd without its /sbin/init, OpenRC with openrc-init. Kept as a tar file.
make_base() {
  local part=$CACHE/base-$$.tar
  [ ! -s "$CACHE/base.tar" ] || return 0
  info 'making a Debian root'
  # Not in /dev/shm: a container's has 64 MB.
  TMPDIR=/var/tmp mmdebstrap --quiet --variant=minbase --include=systemd,dbus,openrc,iproute2,procps \
    bookworm "$part" "$(mirror)" >"$CACHE/mmdebstrap.log" 2>&1 || {
    tail -n 20 "$CACHE/mmdebstrap.log" >&2
    fatal 'cannot make a Debian root'
  }
  mv "$part" "$CACHE/base.tar"
}

unpack_base() {
  need_root
  need systemd systemd-container mmdebstrap
  locked base make_base
  mkdir -p "$1"
  tar -C "$1" -xf "$CACHE/base.tar"
}

make_systemd_root() {
  local root=$1 unit
  unpack_base "$root"
  # wait-online would hold network-online.target for two minutes, and no user logs in.
  for unit in systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service \
    systemd-resolved.service systemd-timesyncd.service systemd-logind.service apt-daily.timer \
    apt-daily-upgrade.timer getty.target console-getty.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  # Without one systemd-firstboot runs, and fails.
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
}

# As much of Debian as OpenRC itself needs, dash, and for everything else busybox, as on Alpine: what an init script calls
# is an applet, /bin/sh is ash.
make_openrc_root() {
  local root=$1 name
  need_root
  need systemd-container mmdebstrap
  locked base make_base
  "$(dirname "${BASH_SOURCE[0]}")/build-busybox" "$CACHE/busybox"
  mkdir -p "$root"/{dev,proc,sys,run,tmp,root,home,etc/conf.d,etc/pam.d,usr/bin,usr/local/bin,var/lib,var/log,var/empty}
  ln -s bin "$root/usr/sbin"
  ln -s ../run "$root/var/run"
  tar -C "$root" -xf "$CACHE/base.tar" --keep-directory-symlink --no-recursion --wildcards --files-from=<(
    printf './%s\n' bin sbin lib lib64 'usr/lib64/*' usr/bin/dash \
      'usr/lib/*-linux-gnu/'{ld-linux,libc.so,libm.so,libgcc_s.so,libpam,libaudit.so,libcap-ng.so,libselinux.so,libpcre2-8.so,librc.so,libeinfo.so}'*' \
      'usr/lib/*-linux-gnu/security/pam_permit.so'
    # The package says where things are, the tree where they went when /bin moved into /usr.
    tar -xOf "$CACHE/base.tar" ./var/lib/dpkg/info/openrc.list |
      sed -nE -e 's,^/(s?bin|lib)(/.*),./usr/\1\2,p' -e 's,^/etc/.*,.&,p'
  )
  cp "$CACHE/busybox" "$root/bin/busybox"
  # What is there already is OpenRC's own.
  "$CACHE/busybox" --list | while read -r name; do ln -s busybox "$root/bin/$name" 2>/dev/null || true; done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  printf 'root:*:19000::::::\n' >"$root/etc/shadow"
  printf 'ID=test\n' >"$root/etc/os-release"
  # Alpine's OpenRC knows no PAM, Gentoo's and Debian's ask it to change the user.
  printf '%s required pam_permit.so\n' auth account session >"$root/etc/pam.d/other"
  # Services that Alpine and Gentoo have, and Debian's package has not.
  for name in localmount net; do service_script "$root" "$name" 'start() { :; }' 'stop() { :; }'; done
  # Debian's OpenRC asks for them.
  mkdir "$root/etc/insserv.conf.d"
  : >"$root/etc/insserv.conf"
  # None of the package's own may touch this machine.
  find "$root/etc/runlevels" -mindepth 2 -delete
  printf 'rc_sys="systemd-nspawn"\n' >>"$root/etc/rc.conf"
}

# service_script ROOT NAME LINE...
service_script() {
  local script=$1/etc/init.d/$2
  shift 2
  printf '%s\n' '#!/sbin/openrc-run' "$@" >"$script"
  chmod 755 "$script"
}

# add_programs ROOT BINARY: the settings have no passwords in them.
add_programs() {
  local root=$1
  [ -x "$2" ] || fatal "no $2: .ci/build-musl makes it"
  cargo build --quiet --locked --example simulator
  install -D -m 755 "$2" "$root/usr/local/bin/pia-qbittorrent-sync"
  install -D -m 755 "${CARGO_TARGET_DIR:-target}/debug/examples/simulator" "$root/sim/simulator"
  simulator_dir=$root/sim
  cat >"$root/sim/settings" <<'SETTINGS'
PIA_GATEWAY=127.0.0.1
PIA_HOSTNAME=Sandbox-409-1a
PIA_CA_CERT=/sim/gateway-ca.pem
PIA_LOGIN_URL=https://127.0.0.1:18443/api/client/v2/token
PIA_LOGIN_CA_CERT=/sim/login-ca.pem
QBITTORRENT_HOST=http://127.0.0.1:8080
SETTINGS
}

command_simulator() { printf '%s\n' "$*" >>"$simulator_dir/commands"; }

# What the simulator was asked for so far, by the names in its help. It writes them every 20 ms.
count_of() {
  sleep 0.2
  sed -n "s/^$1=//p" "$simulator_dir/counts"
}
# counted NAME VALUE, counted_over NAME VALUE
counted() { eq "$(count_of "$1")" "$2"; }
counted_over() { [ "$(count_of "$1")" -gt "$2" ]; }

# The hierarchies that nspawn needs a group in: cgroup2, and beside it systemd's own where the old ones are mounted.
cgroup_hierarchies() {
  if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    printf '/sys/fs/cgroup\n'
  else
    printf '/sys/fs/cgroup/%s\n' systemd unified
  fi
}

# boot DIR ARGUMENTS...: of systemd-nspawn. Sets init_pid, the container's PID 1 as this machine counts.
boot() {
  local root=$1 name=pia-sync-test-$$ hierarchy
  shift
  for hierarchy in $(cgroup_hierarchies); do mkdir -p "$hierarchy/$name"; done
  at_exit clean_container "$name" "$root"
  (
    # --keep-unit puts the container's groups below the one that it is started in.
    for hierarchy in $(cgroup_hierarchies); do printf '%d\n' "$BASHPID" >"$hierarchy/$name/cgroup.procs"; done
    # cgroup2 alone inside: systemd 252 does with it whatever this machine has mounted.
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
    exec systemd-nspawn --quiet --machine="$name" --directory="$root" --private-network --register=no --keep-unit \
      --console=pipe --link-journal=no --resolv-conf=off --timezone=off "$@" </dev/null >"$root.console" 2>&1
  ) &
  nspawn_pid=$!
  wait_for 20 pgrep -P "$nspawn_pid" || fail 'the container starts'
  init_pid=$(pgrep -P "$nspawn_pid" | head -n 1)
}

inside() { inside_of "$init_pid" "$@"; }
# inside_of PID COMMAND...: in the container with this PID 1.
inside_of() {
  local pid=$1
  shift
  nsenter --target "$pid" --mount --uts --ipc --net --pid --cgroup --wd=/ \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

halted() { gone "$nspawn_pid"; }

clean_container() {
  local name=$1 root=$2 hierarchy
  if ! halted; then
    tail -n 20 "$root.console"
    kill -KILL "$init_pid" 2>/dev/null
    wait_for 10 halted || kill -KILL "$nspawn_pid"
  fi
  wait "$nspawn_pid" 2>/dev/null
  for hierarchy in $(cgroup_hierarchies); do
    find "$hierarchy/$name" -depth -type d -exec rmdir {} \; 2>/dev/null
  done
  rm -rf "/run/systemd/nspawn/propagate/$name"
}

# Lines as users write them into the settings, and whether they work: on systemd and on OpenRC, whose shell reads them.
odd_settings=(
  'yes yes export CHECK_INTERVAL=60'
  'yes yes   CHECK_INTERVAL=60'
  "yes yes CHECK_INTERVAL='60' # a minute"
  'yes yes CHECK_INTERVAL="60"'
  $'yes yes CHECK_INTERVAL=60\r'
  'yes yes CHECK_INTERVAL='
  'no no CHECK_INTERVAL = 60'
  'no no CHECK_INTERVAL=60s'
  'no no CHECK_INTERVAL=60 70'
  'no no CHECK_INTERVAL="60'
  'no no CHECK_INTERVAL'
  'yes no ; a comment of systemd'
  'yes yes PIA_USERNAM=p1234567'
  'yes yes TZ=Europe/Berlin'
  "yes yes QBITTORRENT_USERNAME='a\$b;c'"
  'yes no QBITTORRENT_USERNAME=a$b;c'
  'yes yes LOG_FILE=/nonexistent/log'
  'no no QBITTORRENT_PASSWORD_FILE=/root/secret'
  'no no QBITTORRENT_PASSWORD_FILE=/etc'
  'no no PIA_GATEWAY=https://10.7.0.1'
)

# check_odd_settings SCENARIO PLACE MACHINE WRITE CHECK START: `WRITE MACHINE LINE` puts a line into the settings, CHECK runs
# the program's own check on them and START the service. PLACE is the word of a line that counts here, 1 or 2.
check_odd_settings() {
  local scenario=$1 place=$2 machine=$3 write=$4 check=$5 start=$6 odd words line wanted checked started output
  for odd in "${odd_settings[@]}"; do
    read -r -a words <<<"${odd%%$'\r'}"
    wanted=${words[place - 1]}
    line=${odd#* }
    line=${line#* }
    "$write" "$machine" "$line"
    checked=yes
    output=$("$check" 2>&1) || checked=no
    started=yes
    "$start" >/dev/null 2>&1 || started=no
    info "${line%$'\r'}: ${output//$'\n'/ | }"
    check "$scenario: the check command and the service agree on the line: ${line%$'\r'}" \
      eq "$checked $started" "$wanted $wanted"
  done
}
