"""Plays a script of the conformance suite with pika, and prints what pika saw.

Reads steps from standard input, a line each: the verb, its words, "--", its options (`name=value`,
flags without a value), with tabs between. Prints one line for each step, and flushes it.

    player.py DIRECTORY URL    DIRECTORY is where pika is installed
"""

import datetime
import decimal
import sys
import time
import urllib.parse
import zlib

sys.path.insert(0, sys.argv[1])

import pika  # noqa: E402
from pika import compat, exceptions  # noqa: E402


def parse(text):
    kind, _, value = text.partition(":")
    elements = [element for element in value.split(",") if element]
    if kind == "bool":
        return value == "true"
    if kind == "i32":
        return int(value)
    if kind == "i64":
        return compat.long(value)
    if kind == "str":
        return value
    if kind == "bytes":
        return value.encode()
    if kind == "timestamp":
        return datetime.datetime.fromtimestamp(int(value), datetime.timezone.utc)
    if kind == "void":
        return None
    if kind == "decimal":
        return decimal.Decimal(value)
    if kind == "list":
        return [parse(element) for element in elements]
    if kind == "table":
        fields = (element.split("~", 1) for element in elements)
        return {name: parse(field) for name, field in fields}
    raise ValueError("pika cannot send " + text)


def show_value(value):
    if value is None:
        return "void"
    if isinstance(value, bool):
        return "bool:" + str(value).lower()
    # It does not tell of which width an integer is.
    if isinstance(value, int):
        return "int:%d" % value
    if isinstance(value, str):
        return "str:" + value
    if isinstance(value, bytes):
        return "bytes:" + value.decode()
    if isinstance(value, datetime.datetime):
        return "timestamp:%d" % value.timestamp()
    if isinstance(value, decimal.Decimal):
        exponent = value.as_tuple().exponent
        return "decimal:%de%d" % (value.scaleb(-exponent), exponent)
    if isinstance(value, list):
        return "list:[%s]" % ", ".join(map(show_value, value))
    if isinstance(value, dict):
        return "table:" + show_table(value)
    return repr(value)


def show_table(table):
    return "{%s}" % ", ".join("%s=%s" % (name, show_value(table[name])) for name in sorted(table))


def body_of(word):
    if word.startswith("size:"):
        return bytes(at % 251 for at in range(int(word[5:])))
    return word.encode()


def show_body(body):
    if len(body) <= 64:
        return '"%s"' % body.decode()
    return "%d bytes, checksum %d" % (len(body), zlib.adler32(body))


PROPERTIES = {
    "app-id": str,
    "content-encoding": str,
    "content-type": str,
    "correlation-id": str,
    "delivery-mode": int,
    "expiration": str,
    "message-id": str,
    "priority": int,
    "reply-to": str,
    "timestamp": int,
    "type": str,
    "user-id": str,
}


def show_message(exchange, routing_key, properties, body):
    line = '%s from "%s" by "%s"' % (show_body(body), exchange, routing_key)
    for name in PROPERTIES:
        value = getattr(properties, name.replace("-", "_"))
        if value is not None:
            line += ", %s=%s" % (name, value)
    if properties.headers is not None:
        line += ", headers=" + show_table(properties.headers)
    return line


def show_delivery(method, properties, body):
    again = ", redelivered" if method.redelivered else ""
    message = show_message(method.exchange, method.routing_key, properties, body)
    return "#%d%s, %s" % (method.delivery_tag, again, message)


def show_return(method, properties, body):
    message = show_message(method.exchange, method.routing_key, properties, body)
    return "returned: %d %s, %s" % (method.reply_code, method.reply_text, message)


class Lane:
    """A channel, and what came on it."""

    def __init__(self, connection):
        self.connection = connection
        self.channel = connection.channel()
        self.confirming = False
        self.outcomes = []
        self.returned = []
        self.cancelled = []
        self.deliveries = {}
        self.channel.add_on_return_callback(
            lambda _, method, properties, body: self.returned.append(
                show_return(method, properties, body)
            )
        )
        self.channel.add_on_cancel_callback(
            lambda frame: self.cancelled.append(frame.method.consumer_tag)
        )

    def wait_for(self, there):
        while not there():
            self.connection.process_data_events(time_limit=1)

    def delivered(self, _channel, method, properties, body):
        self.deliveries[method.consumer_tag].append(show_delivery(method, properties, body))


class Player:
    def __init__(self, url):
        self.url = url
        self.connections = {}
        self.lanes = {}
        self.names = {}

    def name(self, word):
        if word.startswith("$"):
            return self.names[word[1:]]
        return "" if word == "?" else word

    def connect(self, name, options):
        url = urllib.parse.urlsplit(self.url)
        user = options.get("user", url.username)
        password = options.get("password", url.password)
        vhost = options.get("vhost", urllib.parse.unquote(url.path[1:]) if url.path else "/")
        parameters = pika.ConnectionParameters(
            host=url.hostname,
            port=url.port or 5672,
            virtual_host=vhost,
            credentials=pika.PlainCredentials(user, password),
        )
        self.connections[name] = pika.BlockingConnection(parameters)
        return "connected"

    def step(self, verb, words, options):
        if verb == "connect":
            try:
                return self.connect(words[0], options)
            except exceptions.AMQPConnectionError as error:
                return "not connected: %s" % error
        if verb == "channel":
            on = options.get("on", "main")
            if on not in self.connections:
                self.connect(on, options)
            self.lanes[words[0]] = Lane(self.connections[on])
            return "ok"
        if verb == "disconnect":
            self.connections.pop(words[0]).close()
            return "ok"
        lane = self.lanes[words[0]]
        return getattr(self, verb.replace("-", "_"))(lane, words, options)

    def close(self, lane, _words, _options):
        lane.channel.close()
        return "ok"

    def declare(self, lane, words, options):
        ok = lane.channel.queue_declare(
            self.name(words[1]),
            passive="passive" in options,
            durable="transient" not in options,
            exclusive="exclusive" in options,
            auto_delete="auto-delete" in options,
            arguments=arguments(options),
        ).method
        if "as" in options:
            self.names[options["as"]] = ok.queue
        counts = "%d messages, %d consumers" % (ok.message_count, ok.consumer_count)
        return "%s: %s" % (ok.queue, counts)

    def delete(self, lane, words, options):
        ok = lane.channel.queue_delete(
            self.name(words[1]), if_unused="if-unused" in options, if_empty="if-empty" in options
        )
        return "%d messages" % ok.method.message_count

    def purge(self, lane, words, _options):
        return "%d messages" % lane.channel.queue_purge(self.name(words[1])).method.message_count

    def bind(self, lane, words, options):
        lane.channel.queue_bind(self.name(words[1]), words[2], words[3], arguments(options))
        return "ok"

    def unbind(self, lane, words, options):
        lane.channel.queue_unbind(self.name(words[1]), words[2], words[3], arguments(options))
        return "ok"

    def exchange(self, lane, words, options):
        lane.channel.exchange_declare(
            words[1],
            words[2],
            passive="passive" in options,
            durable="transient" not in options,
            auto_delete="auto-delete" in options,
            internal="internal" in options,
            arguments=arguments(options),
        )
        return "ok"

    def exchange_delete(self, lane, words, options):
        lane.channel.exchange_delete(words[1], if_unused="if-unused" in options)
        return "ok"

    def exchange_bind(self, lane, words, options):
        lane.channel.exchange_bind(words[1], words[2], words[3], arguments(options))
        return "ok"

    def exchange_unbind(self, lane, words, options):
        lane.channel.exchange_unbind(words[1], words[2], words[3], arguments(options))
        return "ok"

    def confirm_select(self, lane, _words, _options):
        lane.channel.confirm_delivery()
        lane.confirming = True
        return "ok"

    def tx_select(self, lane, _words, _options):
        lane.channel.tx_select()
        return "ok"

    def tx_commit(self, lane, _words, _options):
        lane.channel.tx_commit()
        return "ok"

    def tx_rollback(self, lane, _words, _options):
        lane.channel.tx_rollback()
        return "ok"

    def publish(self, lane, words, options):
        properties = pika.BasicProperties()
        for name, convert in PROPERTIES.items():
            if name in options:
                setattr(properties, name.replace("-", "_"), convert(options[name]))
        headers = {
            name[2:]: parse(value) for name, value in options.items() if name.startswith("h.")
        }
        if headers:
            properties.headers = headers
        outcome = "ack"
        try:
            lane.channel.basic_publish(
                words[1],
                self.name(words[2]),
                body_of(words[3]),
                properties,
                mandatory="mandatory" in options,
            )
        except exceptions.UnroutableError as error:
            message = error.messages[0]
            shown = show_return(message.method, message.properties, message.body)
            outcome = shown + ", then ack"
        except exceptions.NackError as error:
            outcome = "nack"
            for message in error.messages:
                shown = show_return(message.method, message.properties, message.body)
                outcome = shown + ", then nack"
        except exceptions.ChannelClosedByBroker as error:
            # With confirms, pika waits for the outcome here; it is told when it is asked for.
            outcome = error
        if lane.confirming:
            lane.outcomes.append(outcome)
        return "published"

    def confirm(self, lane, _words, _options):
        outcome = lane.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def returned(self, lane, _words, _options):
        lane.wait_for(lambda: lane.returned)
        return lane.returned.pop(0)

    def get(self, lane, words, options):
        method, properties, body = lane.channel.basic_get(
            self.name(words[1]), auto_ack="no-ack" in options
        )
        if method is None:
            return "empty"
        return "%s, %d left" % (show_delivery(method, properties, body), method.message_count)

    def until(self, lane, words, options):
        wanted = int(options["messages"])
        while True:
            state = lane.channel.queue_declare(self.name(words[1]), passive=True)
            if state.method.message_count == wanted:
                return "%d messages" % wanted
            time.sleep(0.002)

    def qos(self, lane, words, options):
        lane.channel.basic_qos(
            prefetch_size=int(options.get("size", 0)),
            prefetch_count=int(words[1]),
            global_qos="global" in options,
        )
        return "ok"

    def consume(self, lane, words, options):
        tag = self.name(words[2])
        lane.deliveries[tag] = []
        tag = lane.channel.basic_consume(
            self.name(words[1]),
            lane.delivered,
            auto_ack="no-ack" in options,
            exclusive="exclusive" in options,
            consumer_tag=tag,
            arguments=arguments(options),
        )
        return "consumer " + tag

    def deliver(self, lane, words, _options):
        deliveries = lane.deliveries[self.name(words[1])]
        lane.wait_for(lambda: deliveries)
        return deliveries.pop(0)

    def idle(self, lane, words, _options):
        lane.connection.process_data_events(time_limit=0)
        deliveries = lane.deliveries[self.name(words[1])]
        return deliveries.pop(0) if deliveries else "nothing"

    def ack(self, lane, words, options):
        return sent(lambda: lane.channel.basic_ack(int(words[1]), "multiple" in options))

    def nack(self, lane, words, options):
        multiple, requeue = "multiple" in options, "requeue" in options
        return sent(lambda: lane.channel.basic_nack(int(words[1]), multiple, requeue))

    def reject(self, lane, words, options):
        return sent(lambda: lane.channel.basic_reject(int(words[1]), "requeue" in options))

    def cancel(self, lane, words, _options):
        lane.channel.basic_cancel(self.name(words[1]))
        return "ok"

    def cancelled(self, lane, words, _options):
        tag = self.name(words[1])
        lane.wait_for(lambda: tag in lane.cancelled)
        lane.cancelled.remove(tag)
        return "cancelled by the server"

    def recover(self, lane, _words, options):
        lane.channel.basic_recover(requeue="requeue" in options)
        return "ok"

    def flow(self, lane, words, _options):
        return "flow " + ("on" if lane.channel.flow(words[1] == "on") else "off")

    def closed(self, lane, _words, _options):
        lane.wait_for(lambda: lane.channel.is_closed)
        # There is no public way to learn why a channel was closed while nobody waited on it.
        raise lane.channel._closing_reason


def sent(send):
    try:
        send()
    except exceptions.ChannelClosedByBroker:
        # So soon: "closed" tells why.
        pass
    return "sent"


def arguments(options):
    return {
        name[2:] if name.startswith("a.") else name: parse(value)
        for name, value in options.items()
        if name.startswith(("a.", "x-"))
    }


def main():
    player = Player(sys.argv[2])
    for line in sys.stdin:
        verb, *rest = line.rstrip("\n").split("\t")
        at = rest.index("--")
        options = dict(option.partition("=")[::2] for option in rest[at + 1 :])
        try:
            seen = player.step(verb, rest[:at], options)
        except exceptions.ChannelClosedByBroker as error:
            seen = "channel closed: %d %s" % (error.reply_code, error.reply_text)
        except exceptions.ConnectionClosedByBroker as error:
            seen = "connection closed: %d %s" % (error.reply_code, error.reply_text)
        except Exception as error:
            seen = "error: %r" % (error,)
        print(seen, flush=True)
    for connection in player.connections.values():
        if connection.is_open:
            connection.close()


main()
