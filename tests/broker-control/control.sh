#!/usr/bin/env bash
# One private RabbitMQ (an instance of rabbitmq.sh in DIR), by the verbs of AMQP_TEST_CTL.
# It is what the live suite calls for its own brokers, and a pattern for other brokers:
#
#   AMQP_TEST_URL=$(tests/broker-control/rabbitmq.sh url DIR) \
#   AMQP_TEST_CTL="tests/broker-control/control.sh DIR" cargo test -p lavinmq-tests --test live
#
#   control.sh DIR destroy             end it, and remove DIR (not a verb of AMQP_TEST_CTL)
#   control.sh DIR stop                clean stop; queues, durable ones, survive
#   control.sh DIR start               start it again; returns when it answers
#   control.sh DIR kill                SIGKILL
#   control.sh DIR block               a memory alarm: publishers are blocked
#   control.sh DIR unblock             ends it
#   control.sh DIR close-connections   close every client's connection (320)
#   control.sh DIR depth QUEUE         prints how many messages QUEUE holds, unacknowledged ones
#                                      included; fails if there is no such queue
#   control.sh DIR unacked QUEUE       of these, the unacknowledged ones. Optional: where it is
#                                      missing (any non-zero exit), the suite goes by what is ready
#   control.sh DIR sync                what was declared so far is on disk. Optional. RabbitMQ 3.10 answers
#                                      a declare before that: killed within the next two seconds, it may
#                                      not know the queue any more, nor the messages that it confirmed
#   control.sh DIR connections NAME    prints how many connections of this name there are, and how many
#                                      channels they have. Optional: the chaos then does not check them
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -ge 2 ]] || { sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
dir=$1 verb=$2
shift 2
# With few variables: rabbitmq.sh looks for its own name among those of the broker's process, and in
# more than a page of them it may not see it (grep -q ends first, and pipefail takes that for a no).
rabbitmq() {
  env -i PATH="$PATH" HOME="${HOME:-/}" TMPDIR="${TMPDIR:-/tmp}" ${RABBITMQ_BIN:+RABBITMQ_BIN="$RABBITMQ_BIN"} \
    bash "$here/rabbitmq.sh" "$@"
}
column() {
  rabbitmq ctl "$dir" list_queues --quiet --no-table-headers name "$1" |
    awk -F '\t' -v queue="$2" '$1 == queue { print $2; found = 1 } END { exit !found }'
}
# A process counts as ended a moment before the kernel has closed the sockets that its last threads
# hold; started then, the broker would find its own ports taken.
released() {
  local port until=$((SECONDS + 20))
  # shellcheck disable=SC1091
  . "$dir/instance"
  for port in $PORT $TLS_PORT $MGMT_PORT $DIST_PORT; do
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
      ((SECONDS < until)) || { echo "control.sh: port $port is still open" >&2; return 1; }
      sleep 0.05
    done
  done
}
case $verb in
  stop | kill) rabbitmq "$verb" "$dir" && released ;;
  start | destroy) rabbitmq "$verb" "$dir" ;;
  block) rabbitmq ctl "$dir" --quiet set_vm_memory_high_watermark 0 ;;
  unblock) rabbitmq ctl "$dir" --quiet set_vm_memory_high_watermark 0.4 ;;
  close-connections) rabbitmq ctl "$dir" --quiet close_all_connections "the live suite closes all connections" ;;
  depth) column messages "$1" ;;
  unacked) column messages_unacknowledged "$1" ;;
  sync) rabbitmq ctl "$dir" --quiet eval 'mnesia:sync_log().' ;;
  connections)
    rabbitmq ctl "$dir" list_connections --quiet --no-table-headers channels client_properties |
      awk -F '\t' -v name="\"connection_name\",\"$1\"" \
        'index($2, name) { count++; channels += $1 } END { print count + 0, channels + 0 }' ;;
  *) echo "control.sh: unknown verb $verb" >&2; exit 2 ;;
esac
