#!/usr/bin/env bash
# Creates and rotates the passwords and certificates of the deployment, files in deploy/secrets (or DEPLOY_SECRETS_DIR).
#
#   deploy/passwords.sh make                  creates missing passwords, the authority and the stores' certificates
#   deploy/passwords.sh rotate redis USER     gives a user of Redis a new password; no client is locked out meanwhile
#   deploy/passwords.sh rotate postgres ROLE  gives a role of PostgreSQL a new password; connections stay open
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

SECRETS=${DEPLOY_SECRETS_DIR:-$PWD/secrets}
# One for each `user` of redis/users.acl except `default`, each role of postgres/roles.sql, the superuser and Grafana.
PASSWORDS=(redis-{hot-writer,warm-syncer,aggregator-admin,backup-runner,feed-handler,strategy,reader,operator}
  postgres-{aggregator-admin,warm-syncer,backup-runner,reader,superuser} grafana-admin)
DAYS=825

die() { printf '%s\n' "$*" >&2 && exit 1; }
password() { openssl rand -base64 33 | tr '+/' '-_' | tr -d '\n'; }

# Only the owner may enter the folder on this machine; the users inside the containers may read the files.
make() {
  local name
  mkdir -p "$SECRETS"
  chmod 700 "$SECRETS"
  umask 022
  for name in "${PASSWORDS[@]}"; do
    [[ -s $SECRETS/$name ]] || password >"$SECRETS/$name"
  done
  [[ -s $SECRETS/ca.pem ]] ||
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=storage layer" \
      -keyout "$SECRETS/ca.key" -out "$SECRETS/ca.pem" 2>/dev/null
  for name in redis timescaledb; do
    [[ -s $SECRETS/$name.pem ]] || certificate "$name"
  done
}

# A Redis that is a replica uses its certificate as a client certificate too, hence clientAuth.
certificate() {
  local path=$SECRETS/$1
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" \
    -keyout "$path.key" -out "$path.csr" 2>/dev/null
  openssl x509 -req -in "$path.csr" -CA "$SECRETS/ca.pem" -CAkey "$SECRETS/ca.key" -CAcreateserial -days "$DAYS" \
    -extfile <(printf 'subjectAltName=DNS:%s,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' "$1") \
    -out "$path.pem" 2>/dev/null
  rm "$path.csr"
  chmod 644 "$path.key"
}

# Writes the file in place, because the containers hold the file itself, not its name.
replace() { cat >"$SECRETS/$1"; }

rotate() {
  local store=$1 name=$1-$2 new
  [[ -s $SECRETS/$name ]] || die "$SECRETS/$name does not exist; run: deploy/passwords.sh make"
  new=$(password)
  case $store in
    redis)
      docker compose exec -T redis redis-users.sh add "$2" <<<"$new"
      replace "$name" <<<"$new"
      docker compose exec -T redis redis-users.sh load
      ;;
    postgres)
      [[ $2 != superuser ]] ||
        die "to set the superuser's password, run: docker compose exec -u postgres timescaledb psql -c '\\password'"
      replace "$name" <<<"$new"
      docker compose run --rm roles
      ;;
  esac
}

case ${1:-} in
  make) make ;;
  rotate)
    [[ ${2:-} =~ ^(redis|postgres)$ && -n ${3:-} ]] || die "usage: $0 rotate redis|postgres NAME"
    rotate "$2" "$3"
    ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" >&2
    exit 64
    ;;
esac
