# shellcheck shell=bash
# dashboard.json against Grafana's types, and its queries against promtool's parser.

# shellcheck source=.ci/metrics/lib.sh
. .ci/metrics/lib.sh

# write_dashboard FILE FILTER: the dashboard, changed by a filter of jq, as a constant of TypeScript.
write_dashboard() {
  {
    printf "import type { Dashboard } from './types.js';\nexport const dashboard: Dashboard = "
    jq "$2" $contrib/dashboard.json
    printf ';\n'
  } >"$1"
}

compile() { without_network "$tools/node_modules/.bin/tsc" --project "$1" --pretty false; }

# Pairs: a kind of mistake that Grafana would accept silently, and a filter of jq that makes it.
dashboard_mistakes=(
  'a value of the wrong type' '.panels[0].gridPos.w = "4"'
  'an unknown member' '.uidd = .uid'
  'a missing member' 'del(.schemaVersion)'
  'an unknown kind of panel' '.panels[0].type = "status"'
  'an unknown option' '.panels[0].options.graph = "none"'
  'a wrong value of an option' '.panels[0].options.colorMode = "backgrounds"'
  'a missing option' 'del(.panels[0].options.reduceOptions)'
  'a missing query' 'del(.panels[0].targets[0].expr)'
  'an unknown field setting' '(.panels[] | select(.type == "timeseries")).fieldConfig.defaults.custom.fill = 1'
  'a wrong mode of thresholds' '.panels[0].fieldConfig.defaults.thresholds.mode = "relative"'
  'a wrong type of a variable' '.templating.list[0].type = "datasources"'
)

# check_types FOLDER
check_types() {
  local folder=$1 errors i
  mkdir "$folder"
  cp .ci/metrics/types.ts .ci/metrics/tsconfig.json "$folder/"
  ln -s "$tools/node_modules" "$folder/node_modules"
  write_dashboard "$folder/unchanged.ts" .
  check "metrics/dashboard: the dashboard has Grafana's types" compile "$folder"
  # In one run of the compiler: reading the types takes most of its time.
  for ((i = 0; i < ${#dashboard_mistakes[@]}; i += 2)); do write_dashboard "$folder/mistake-$i.ts" "${dashboard_mistakes[i + 1]}"; done
  if errors=$(compile "$folder"); then fail 'metrics/dashboard: the compiler finds mistakes'; fi
  check 'metrics/dashboard: the unchanged dashboard has no error next to those with a mistake' \
    refuses grep -qF '/unchanged.ts(' <<<"$errors"
  for ((i = 0; i < ${#dashboard_mistakes[@]}; i += 2)); do
    check "metrics/dashboard: ${dashboard_mistakes[i]} is detected" has "$errors" "/mistake-$i.ts("
  done
}

# as_rules: the queries of standard input as rules, because `check rules` parses without a server.
as_rules() {
  jq --raw-input --slurp '
    (rtrimstr("\n") / "\n" | to_entries | map({record: "query\(.key)", expr: .value})) as $rules | {groups: [{name: "dashboard", $rules}]}'
}
# queries_parse FILE RULES
queries_parse() {
  expressions "$1" any | as_rules >"$2"
  promtool check rules "$2"
}
# queries_are_filtered FILE: each metric has both variables as a filter, and no other filter.
queries_are_filtered() {
  local rest
  rest=$(jq -r '.panels[].targets[].expr' "$1" | sed -E 's/pia_sync_[a-z_]+\{job=~"\$job", instance=~"\$instance"\}//g')
  refuses grep -E 'pia_sync|[{}$]' <<<"$rest"
}
# detects_syntax_error FOLDER FILTER, detects_unfiltered FOLDER FILTER: of the dashboard after a change by a filter of jq.
detects_syntax_error() {
  jq "$2" $contrib/dashboard.json >"$1/changed.json"
  refuses queries_parse "$1/changed.json" "$1/queries.yml" >/dev/null
}
detects_unfiltered() {
  jq "$2" $contrib/dashboard.json >"$1/changed.json"
  refuses queries_are_filtered "$1/changed.json" >/dev/null
}

# test_dashboard FOLDER
test_dashboard() {
  local folder=$1
  mkdir "$folder"
  check_types "$folder/types"
  check 'metrics/dashboard: every query parses' queries_parse $contrib/dashboard.json "$folder/queries.yml"
  check 'metrics/dashboard: a syntax error in a query is detected' detects_syntax_error "$folder" '.panels[0].targets[0].expr += ")"'
  check 'metrics/dashboard: a syntax error in a variable is detected' \
    detects_syntax_error "$folder" '(.templating.list[] | select(.name == "job")).query.query = "label_values(a b, job)"'
  check 'metrics/dashboard: every query has the chosen job and instance as its filter' queries_are_filtered $contrib/dashboard.json
  check 'metrics/dashboard: a query without a filter is detected' \
    detects_unfiltered "$folder" '.panels[0].targets[0].expr = "pia_sync_healthy"'
}
