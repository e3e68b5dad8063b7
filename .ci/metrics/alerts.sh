# shellcheck shell=bash
# The alerts of rules.yml: promtool runs their tests, and each part of a rule is needed by a test.

# shellcheck source=.ci/metrics/lib.sh
. .ci/metrics/lib.sh

# tests_pass FOLDER: a whole copy of contrib/metrics, because the tests name the rules by a relative path.
tests_pass() { promtool test rules "$1/rules_test.yml"; }
# detects FOLDER OLD NEW: with NEW in the place of OLD the rules are valid, and a test fails.
detects() {
  rm -rf "$1"
  cp -R $contrib "$1"
  sed -i "s/$2/$3/" "$1/rules.yml"
  refuses cmp --silent $contrib/rules.yml "$1/rules.yml" && promtool check rules "$1/rules.yml" &&
    refuses tests_pass "$1" >/dev/null
}

# test_alerts FOLDER: for broken rules.
test_alerts() {
  local folder=$1
  check 'metrics/alerts: promtool accepts the rules' promtool check rules $contrib/rules.yml
  check 'metrics/alerts: the tests of the rules pass' tests_pass $contrib
  check "metrics/alerts: a test of 'not healthy' detects the opposite condition" detects "$folder" 'healthy == 0' 'healthy == 1'
  check "metrics/alerts: a test of 'not healthy' detects an alert during a restart" detects "$folder" 'for: 15m' 'for: 9m'
  check "metrics/alerts: a test of 'not healthy' detects a late alert" detects "$folder" 'for: 15m' 'for: 16m'
  check "metrics/alerts: a test of 'silent' detects an alert for a long interval" detects "$folder" '> 2 \*' '> 0.9 *'
  check "metrics/alerts: a test of 'silent' detects a late alert" detects "$folder" '+ 60' '+ 120'
  check "metrics/alerts: a test of 'silent' detects an alert that ends when the text is gone" \
    detects "$folder" 'last_over_time(pia_sync_written_timestamp_seconds\[2d\])' pia_sync_written_timestamp_seconds
  check "metrics/alerts: a test of 'silent' detects an alert that needs a text" detects "$folder" '^ *or absent_over_time.*' ''
  check "metrics/alerts: a test of 'silent' detects a second alert about an unhealthy port" detects "$folder" '^ *unless.*' ''
  check "metrics/alerts: a test of 'silent' detects an alert without a delay" detects "$folder" 'for: 5m' 'for: 0m'
  check "metrics/alerts: a test of 'no peer connects' detects an alert after two days" detects "$folder" '> 3 \*' '> 2 *'
  check "metrics/alerts: a test of 'no peer connects' detects a late alert" detects "$folder" '> 3 \*' '> 3.1 *'
  check "metrics/alerts: a test of 'no peer connects' detects an alert that needs a peer" \
    detects "$folder" ' or pia_sync_client_port_set_timestamp_seconds' ''
}
