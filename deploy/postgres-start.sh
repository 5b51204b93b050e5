#!/bin/sh
# Starts PostgreSQL with TLS. The server refuses a key that another user owns or may read, as is the case for a mounted
# file, so the key is copied.
set -eu

keys=/run/postgresql-tls
install -d -o postgres -g postgres -m 700 "$keys"
install -o postgres -g postgres -m 600 /run/secrets/timescaledb.key "$keys/server.key"
install -o postgres -g postgres -m 644 /run/secrets/timescaledb.pem "$keys/server.pem"

exec docker-entrypoint.sh postgres "$@" \
  -c ssl=on -c ssl_cert_file="$keys/server.pem" -c ssl_key_file="$keys/server.key" -c ssl_min_protocol_version=TLSv1.2 \
  -c hba_file=/etc/postgresql/pg_hba.conf -c password_encryption=scram-sha-256
