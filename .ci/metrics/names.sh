# shellcheck shell=bash
# The names of metrics and labels in contrib/metrics against those of a real text.

# shellcheck source=.ci/metrics/lib.sh
. .ci/metrics/lib.sh

# types_in_readme FILE: `NAME TYPE` of each row of the table.
types_in_readme() { sed -nE 's/^\| `(pia_sync_[a-z_]+)(\{[a-z, ]+\})?` \| ([a-z]+) \|.*/\1 \3/p' "$1" | sort; }
names_in() { grep -ohE 'pia_sync_[a-z_]+' "$@" | sort -u; }
labels_in_text() { grep -v '^#' "$1" | grep -oE '[a-z]+="' | tr -d '="' | sort -u; }
labels_in_legends() { jq -r '.panels[].targets[].legendFormat' "$1" | grep -oE '\{\{[^}]*' | tr -d '{ ' | sort -u; }

# names_exist FILE NAMES: every metric in FILE is in the sorted list NAMES.
names_exist() { eq "$(names_in "$1" | comm -23 - "$2")" ''; }
# legends_exist FILE TEXT: every label in a legend is in the text, or is one that Prometheus adds.
legends_exist() { eq "$(labels_in_legends "$1" | comm -23 - <({ printf 'instance\njob\n' && labels_in_text "$2"; } | sort))" ''; }

# detects_name FOLDER NAMES FILE OLD NEW: NEW in the place of OLD is not in NAMES.
detects_name() {
  sed "s/$4/$5/" "$3" >"$1/renamed"
  refuses names_exist "$1/renamed" "$2" >/dev/null
}
# detects_label FOLDER TEXT OLD NEW: NEW in the place of OLD is not in TEXT.
detects_label() {
  sed "s/{{$3}}/{{$4}}/" $contrib/dashboard.json >"$1/renamed"
  refuses legends_exist "$1/renamed" "$2" >/dev/null
}

# test_names FOLDER TEXT: the text of a daemon that leases a port.
test_names() {
  local folder=$1 text=$2 names=$1/names file
  mkdir "$folder"
  types_of "$text" | cut -d ' ' -f 1 >"$names"
  check 'metrics/names: the rows of the README are the metrics with their types' \
    eq "$(types_in_readme $contrib/README.md)" "$(types_of "$text")"
  for file in dashboard.json rules.yml rules_test.yml README.md; do
    check "metrics/names: the daemon has every metric in $file" names_exist "$contrib/$file" "$names"
  done
  check 'metrics/names: the dashboard shows every metric' \
    eq "$(jq -r '.panels[].targets[].expr' $contrib/dashboard.json | names_in)" "$(cat "$names")"
  check 'metrics/names: the daemon has every label in a legend' legends_exist $contrib/dashboard.json "$text"
  check 'metrics/names: an unknown metric in the dashboard is detected' \
    detects_name "$folder" "$names" $contrib/dashboard.json pia_sync_peer_seen pia_sync_peers_seen
  check 'metrics/names: an unknown metric in the rules is detected' \
    detects_name "$folder" "$names" $contrib/rules.yml pia_sync_healthy pia_sync_health
  check 'metrics/names: an unknown label in a legend is detected' detects_label "$folder" "$text" peer with
}
