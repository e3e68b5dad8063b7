# shellcheck shell=bash
# The manifests of contrib/kubernetes and the questions that the scenarios of .ci/test-kubernetes ask about them. Source it
# after .ci/lib.sh.

# Constants of the scenarios.
# shellcheck disable=SC2034
{
  # Choices of the user who follows the README.
  account_password='password of PIA'
  web_password='Web UI & pass=word'
  first_port=47047
  second_port=51820
  # PIA's gateway, outside the pod's tunnel.
  gateway=10.7.0.1
  # Native sidecars are on by default since this minor version.
  oldest=29
  validator=kubernetes-validate==1.37.0
  venv=$CACHE/kubernetes
}

install_validator() {
  if [ "$(cat "$venv/installed" 2>/dev/null)" = "$validator" ] && "$venv/bin/python" --version >/dev/null 2>&1; then return; fi
  info "installing $validator"
  rm -rf "$venv"
  # By its path: pyenv or a different python3 that comes first on the PATH would break the venv.
  /usr/bin/python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$validator"
  printf '%s\n' "$validator" >"$venv/installed"
}

# manifest COMMAND ARGUMENT...: see .ci/kubernetes/manifest.py. -B, because the repository is no place for a cache.
manifest() { "$venv/bin/python" -B .ci/kubernetes/manifest.py "$@"; }

# compose_file KIND: its counterpart for Docker.
compose_file() {
  case $1 in
  openvpn) printf 'docker-compose.yml\n' ;;
  wireguard) printf 'contrib/compose/wireguard.yml\n' ;;
  esac
}

# names_match FILE KIND: every name in FILE refers to something; prints those that do not.
names_match() { manifest names "$1" "$(compose_file "$2")"; }

# is_valid FILE MINOR: --strict, because a member that the API does not know is an error.
is_valid() {
  local output
  output=$("$venv/bin/kubernetes-validate" --strict --no-warn -k "1.$2" "$1" 2>&1) || {
    printf '%s\n' "$output"
    return 1
  }
}
# is_invalid FILE MINOR MESSAGE
is_invalid() {
  local output
  if output=$(is_valid "$1" "$2"); then
    printf '  valid for 1.%s\n' "$2"
    return 1
  fi
  has "$output" "$3"
}

# lacks TEXT PART...: TEXT contains none of them.
lacks() {
  local text=$1 part
  shift
  for part; do ! has "$text" "$part" >/dev/null || return 1; done
}

# readme_commands NAME: the first fenced block after <!-- NAME commands -->.
readme_commands() {
  awk -v mark="<!-- $1 commands -->" '/^```/ && fenced { exit } fenced { print } /^```/ && marked { fenced = 1 } $0 == mark { marked = 1 }' \
    contrib/kubernetes/README.md
}

# follow_readme FOLDER NAME: types these commands in a copy of contrib/kubernetes. A program takes the editor's place, and
# kubectl only prints its arguments.
follow_readme() {
  local folder=$1 commands
  commands=$(readme_commands "$2")
  [ -n "$commands" ] || {
    printf '  the README has no commands %s\n' "$2"
    return 1
  }
  cat >"$folder/editor" <<EDITOR
#!/usr/bin/python3
import sys
text = open(sys.argv[1]).read()
text = text.replace("pia_password: its password", "pia_password: '$account_password'")
text = text.replace("qbittorrent_password: the Web UI password", "qbittorrent_password: '$web_password'")
open(sys.argv[1], "w").write(text)
EDITOR
  chmod 755 "$folder/editor"
  (cd "$folder" && EDITOR=./editor bash -euo pipefail -c "kubectl() { printf '%s\n' \"\$*\" >>kubectl-arguments; }
$commands")
}
