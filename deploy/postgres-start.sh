#!/bin/sh
# Starts PostgreSQL with TLS. The server wants its key to be its own and nobody else's, which no mounted file is.
set -eu

keys=/run/postgresql-tls
install -d -o postgres -g postgres -m 700 "$keys"
install -o postgres -g postgres -m 600 /run/secrets/timescaledb.key "$keys/server.key"
install -o postgres -g postgres -m 644 /run/secrets/timescaledb.pem "$keys/server.pem"

exec docker-entrypoint.sh postgres "$@" \
  -c ssl=on -c ssl_cert_file="$keys/server.pem" -c ssl_key_file="$keys/server.key" -c ssl_min_protocol_version=TLSv1.2 \
  -c hba_file=/etc/postgresql/pg_hba.conf -c password_encryption=scram-sha-256
