# shellcheck shell=bash
# The names in the manifests against each other, against the compose files and against the binary's variables.

# shellcheck source=.ci/kubernetes/lib.sh
. .ci/kubernetes/lib.sh

# detects FOLDER KIND MESSAGE OLD NEW: with NEW in the place of OLD the names do not match, and the error contains MESSAGE.
detects() {
  local folder=$1 kind=$2 message=$3 output
  python3 -c '
import sys
source, target, old, new = sys.argv[1:]
text = open(source).read()
if old not in text:
    sys.exit("the manifest does not contain " + old)
open(target, "w").write(text.replace(old, new))' "contrib/kubernetes/$kind.yaml" "$folder/broken.yaml" "$4" "$5" || return 1
  if output=$(names_match "$folder/broken.yaml" "$kind" 2>&1); then
    printf '  not detected: %s in the place of %s\n' "$5" "$4"
    return 1
  fi
  has "$output" "$message"
}

# test_names FOLDER BINARY: the folder is for broken manifests.
test_names() {
  local folder=$1 binary=$2 kind
  mkdir "$folder"
  "$binary" --help >"$folder/help"
  for kind in openvpn wireguard; do
    check "kubernetes/names: every name in $kind.yaml refers to something" names_match "contrib/kubernetes/$kind.yaml" "$kind"
    check "kubernetes/names: the binary knows every variable in $kind.yaml" \
      manifest variables "contrib/kubernetes/$kind.yaml" "$folder/help"
  done
  check_references "$folder"
  check_rules "$folder"
  sed 's/QBITTORRENT_USERNAME/QBITTORRENT_USER/' contrib/kubernetes/openvpn.yaml >"$folder/variable.yaml"
  check 'kubernetes/names: a variable that the binary does not know is detected' \
    has "$(manifest variables "$folder/variable.yaml" "$folder/help" 2>&1 || true)" 'does not know QBITTORRENT_USER'
}

# check_references FOLDER
check_references() {
  local folder=$1
  check 'kubernetes/names: a mount of a missing volume is detected' detects "$folder" openvpn \
    'volume tunnel does not exist' $'- name: tun\n              mountPath' $'- name: tunnel\n              mountPath'
  check 'kubernetes/names: a missing claim is detected' detects "$folder" openvpn \
    'no PersistentVolumeClaim stat' 'claimName: state' 'claimName: stat'
  check 'kubernetes/names: a key that the Secret lacks is detected' detects "$folder" openvpn \
    'with the key pia_user' 'key: pia_username' 'key: pia_user'
  check 'kubernetes/names: a missing Secret is detected' detects "$folder" wireguard \
    'no Secret pia2' 'secretName: pia' 'secretName: pia2'
  check 'kubernetes/names: a selector of different pods is detected' detects "$folder" openvpn \
    'the pod is' $'selector:\n    app.kubernetes.io/name: torrent' $'selector:\n    app.kubernetes.io/name: torrents'
  check 'kubernetes/names: a Service of a port that no container has is detected' detects "$folder" openvpn \
    'no container has a port webui' 'targetPort: web' 'targetPort: webui'
  check 'kubernetes/names: a file that is not mounted is detected' detects "$folder" openvpn \
    'no /run/secrets/key' 'value: /run/secrets/gluetun_api_key' 'value: /run/secrets/key'
  check 'kubernetes/names: a second key for gluetun is detected' detects "$folder" openvpn \
    'different keys' 'gluetun_api_key: the key' 'gluetun_api_key: a key'
  check 'kubernetes/names: a second namespace is detected' detects "$folder" wireguard \
    'is not in the namespace' $'name: state\n  namespace: pia-wireguard' $'name: state\n  namespace: pia'
}

# check_rules FOLDER
check_rules() {
  local folder=$1
  check 'kubernetes/names: a firewall that drops the probes of the kubelet is detected' detects "$folder" wireguard \
    'drops packets to port 8080' 'value: "8080"' 'value: "8081"'
  check 'kubernetes/names: an init container that never ends is detected' detects "$folder" openvpn \
    'restartPolicy: Alwayss' 'restartPolicy: Always' 'restartPolicy: Alwayss'
  check 'kubernetes/names: an update that waits for a pod that is not ready is detected' detects "$folder" openvpn \
    'podManagementPolicy' 'Policy: Parallel' 'Policy: OrderedReady'
  check 'kubernetes/names: a startup probe that waits for qBittorrent is detected' detects "$folder" openvpn \
    'keeps qBittorrent from starting' $'readinessProbe:\n            exec' $'startupProbe: {}\n          readinessProbe:\n            exec'
  check 'kubernetes/names: a liveness probe is detected' detects "$folder" openvpn \
    'a liveness probe' 'startupProbe:' 'livenessProbe:'
  check 'kubernetes/names: a writable root file system is detected' detects "$folder" wireguard \
    'securityContext is' 'readOnlyRootFilesystem: true' 'readOnlyRootFilesystem: false'
  check 'kubernetes/names: a setting that differs from the compose file is detected' detects "$folder" wireguard \
    'differs from' 'value: 25s' 'value: 0s'
  check 'kubernetes/names: a firewall rule that differs from the compose file is detected' detects "$folder" wireguard \
    'not the rules of' '1024:65535' '1:65535'
}
