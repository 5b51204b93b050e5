#!/bin/sh
# Manages the users of Redis inside its container: rights from users.acl, passwords from files. Redis receives only
# their SHA-256.
#
#   redis-users.sh start ARGUMENT...   starts redis-server with the users
#   redis-users.sh load                reads the password files again; only these passwords are valid from now on
#   redis-users.sh add USER            accepts the password on standard input for USER too, until `load`
#
# A user without a password file cannot log in. No password is ever an argument of a program.
set -eu

RIGHTS=${REDIS_RIGHTS:-/etc/redis/users.acl}
SECRETS=${REDIS_SECRETS:-/run/secrets}
USERS=${REDIS_USERS:-/run/redis/users.acl}

# Hashes standard input without its line break.
sha256() { tr -d '\r\n' | sha256sum | cut -d ' ' -f 1; }

render() {
  while read -r line; do
    name=${line#user }
    name=${name%% *}
    file=$SECRETS/redis-$name
    if [ -s "$file" ]; then line="$line #$(sha256 <"$file")"; fi
    printf '%s\n' "$line"
  done <"$RIGHTS"
}

write() {
  umask 077
  render >"$USERS.new"
  mv "$USERS.new" "$USERS"
}

# Runs a command as the operator; $REDIS_CLI holds the options to reach the server.
ask() {
  REDISCLI_AUTH=$(cat "$SECRETS/redis-operator")
  export REDISCLI_AUTH
  # shellcheck disable=SC2086 # several words
  answer=$(redis-cli ${REDIS_CLI:-} --user operator --no-auth-warning "$@")
  if [ "$answer" != OK ]; then
    echo "$answer" >&2
    exit 1
  fi
}

command=${1:-}
[ $# -eq 0 ] || shift
case $command in
  start)
    write
    exec "${REDIS_SERVER:-redis-server}" "$@" --aclfile "$USERS"
    ;;
  load)
    write
    ask ACL LOAD
    ;;
  add) ask ACL SETUSER "$1" "#$(sha256)" ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0" >&2
    exit 64
    ;;
esac
