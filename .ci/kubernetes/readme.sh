# shellcheck shell=bash
# The commands of contrib/kubernetes/README.md.

# shellcheck source=.ci/kubernetes/lib.sh
. .ci/kubernetes/lib.sh

# namespaces FILE: every namespace that the manifest names, once.
namespaces() { sed -n 's/^  namespace: //p' "$1" | sort -u; }

# test_readme FOLDER
test_readme() {
  local kind folder
  mkdir "$1"
  for kind in openvpn wireguard; do
    folder=$1/$kind
    cp -R contrib/kubernetes "$folder"
    check "kubernetes/readme: the commands for $kind work" follow_readme "$folder" "$kind"
    check "kubernetes/readme: the commands for $kind pass the manifest to kubectl" \
      eq "$(cat "$folder/kubectl-arguments")" 'apply --server-side -f mine.yaml'
    check "kubernetes/readme: the manifest for $kind is valid for Kubernetes 1.$oldest" is_valid "$folder/mine.yaml" "$oldest"
    check "kubernetes/readme: every name in the manifest for $kind refers to something" names_match "$folder/mine.yaml" "$kind"
    check "kubernetes/readme: only its owner can read the manifest for $kind" eq "$(stat -c %a "$folder/mine.yaml")" 600
    check "kubernetes/readme: the commands for a second pod of $kind work" follow_readme "$folder" second
    check "kubernetes/readme: every name of the second pod of $kind refers to something" names_match "$folder/second.yaml" "$kind"
    check "kubernetes/readme: the second pod of $kind has its own namespace" \
      eq "$(namespaces "$folder/second.yaml")" "$(namespaces "$folder/mine.yaml")-2"
  done
  check 'kubernetes/readme: the manifest for openvpn has a random key, twice' \
    eq "$(grep -cE '(gluetun_api_key: |apikey = ")[0-9a-f]{48}"?$' "$1/openvpn/mine.yaml")" 2
}
