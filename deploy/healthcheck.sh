#!/bin/bash
# Exits 0 if the worker of this container is alive. It uses bash because the image has no other HTTP client.
exec 3<>"/dev/tcp/127.0.0.1/${METRICS_LISTEN##*:}" &&
  printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3 &&
  read -r -t 3 _ status _ <&3 &&
  [[ $status == 200 ]]
