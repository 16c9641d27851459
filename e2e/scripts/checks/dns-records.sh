#!/bin/sh
# Every record of the pool, asked of every address that serves names; those that are wrong.
set -eu
wrong=
for server in 127.0.0.1 "$CON_LAB_ADDR" "$CON_VLAN_ADDR"; do
	for record in $DNS_RECORDS; do
		name=${record%%=*}
		case $name in '*.'*) name=any.${name#\*.} ;; esac
		got=$(dig +short +time=3 +tries=1 "@$server" "$name" || true)
		[ "$got" = "${record#*=}" ] || wrong="$wrong; @$server $name: got \"$got\", want ${record#*=}"
	done
done
wrong=${wrong#; }
echo "${wrong:-all answer}"
