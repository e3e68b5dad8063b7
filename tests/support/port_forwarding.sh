#!/bin/sh
# Sends what PIA's own port_forwarding.sh sends: getSignature once, then bindPort twice.
#
# usage: PIA_TOKEN=TOKEN port_forwarding.sh NAME ADDRESS CA
#
# NAME is the server's name, ADDRESS the gateway's address, CA a file. Differences from PIA's script: HTTP/1.1, because the simulator does
# not speak HTTP/2; and a request to the host name of a region, whose certificate must be refused.
# TOKEN_OPTION=--data sends the token without encoding it.
set -eu
name=$1 address=$2 ca=$3
region=de-frankfurt.privacy.network

# ask SERVER CALL OPTION...
ask() {
  server=$1 call=$2
  shift 2
  curl --silent --show-error --http1.1 --noproxy '*' --max-time 20 --connect-to "$server::$address:" --cacert "$ca" --get "$@" \
    "https://$server:19999/$call"
}

# field NAME JSON: prints a field of an indented reply.
field() { printf '%s\n' "$2" | sed -n "s/^    \"$1\": \"\(.*\)\",\{0,1\}\$/\1/p"; }

# expect_ok CALL JSON
expect_ok() {
  [ "$(field status "$2")" = OK ] && return
  echo "$1: $(field message "$2")"
  exit 1
}

lease=$(ask "$name" getSignature "${TOKEN_OPTION:---data-urlencode}" "token=$PIA_TOKEN")
expect_ok getSignature "$lease"
payload=$(field payload "$lease")
signature=$(field signature "$lease")
contents=$(printf %s "$payload" | base64 -d)
port=$(printf '%s\n' "$contents" | sed -n 's/.*"port":\([0-9]*\),.*/\1/p')
expires_at=$(printf '%s\n' "$contents" | sed -n 's/.*"expires_at":"\([^"]*\)"}$/\1/p')
echo "getSignature: port $port"

code=0
ask "$region" ping >/dev/null 2>&1 || code=$?
# Exit code 60 of curl: the certificate cannot be verified.
[ "$code" -eq 60 ] || {
  echo "$region: curl ended with $code"
  exit 1
}
echo "$region: refused"

for _ in 1 2; do
  reply=$(ask "$name" bindPort --data-urlencode "payload=$payload" --data-urlencode "signature=$signature")
  expect_ok bindPort "$reply"
  echo "bindPort: $(field message "$reply")"
done
echo "port $port is bound; its lease ends at $expires_at"
